"""Calibration data: raw .bin files, NumPy arrays, image folders and TFRecords, as batches for a session.

Everything is read with tf.data in private graphs, so it works with eager mode on or off and in any default graph.
"""

from amct_tensorflow.data.calibration_data import CalibrationData, load_data
from amct_tensorflow.data.data_files import DataFiles
from amct_tensorflow.data.images import Preprocessing
from amct_tensorflow.data.inputs import InputSpec, input_specs

__all__ = ["CalibrationData", "DataFiles", "InputSpec", "Preprocessing", "input_specs", "load_data"]
