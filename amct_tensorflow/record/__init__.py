"""The record file: the quantization factors of each layer, as protobuf text.

Written by the calibration kernels or by the user, read by save_model and convert_model.
"""

from amct_tensorflow.record.checks import check_activation, check_layer
from amct_tensorflow.record.layer_record import LayerRecord
from amct_tensorflow.record.text import read_balance_factors, read_record, record_text

__all__ = ["LayerRecord", "check_activation", "check_layer", "read_balance_factors", "read_record", "record_text"]
