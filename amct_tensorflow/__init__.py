"""amct_tensorflow: int8 post-training quantization of TensorFlow graphs for Ascend SoCs.

Importing it registers the deployment ops, so that a quantized .pb loads with ``tf.import_graph_def``.
"""

from amct_tensorflow._version import __version__
from amct_tensorflow.analysis.compare_models import compare_models
from amct_tensorflow.data import DataFiles
from amct_tensorflow.errors import AmctError
from amct_tensorflow.export.to_onnx import export_onnx
from amct_tensorflow.export.to_tensorflow import export_tensorflow
from amct_tensorflow.export.to_tflite import export_tflite
from amct_tensorflow.load import load_graph
from amct_tensorflow.log import LOGGER, set_logging_level
from amct_tensorflow.ops import set_log_sink
from amct_tensorflow.post_training.calibrate import calibrate
from amct_tensorflow.post_training.convert import convert_model
from amct_tensorflow.post_training.convert_qat import convert_qat_model
from amct_tensorflow.post_training.create_config import create_quant_config
from amct_tensorflow.post_training.one_call import quantize
from amct_tensorflow.post_training.preprocess import quantize_preprocess
from amct_tensorflow.post_training.quantize import quantize_model
from amct_tensorflow.post_training.save import save_model
from amct_tensorflow.post_training.update_batch_norms import update_batch_norms

__all__ = [
    "AmctError",
    "DataFiles",
    "__version__",
    "calibrate",
    "compare_models",
    "convert_model",
    "convert_qat_model",
    "create_quant_config",
    "export_onnx",
    "export_tensorflow",
    "export_tflite",
    "load_graph",
    "quantize",
    "quantize_model",
    "quantize_preprocess",
    "quantized_preprocess",
    "save_model",
    "set_logging_level",
    "update_batch_norms",
]

quantized_preprocess = quantize_preprocess  # the vendor's documentation has both names

set_log_sink(LOGGER.push_op_message)
