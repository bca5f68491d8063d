"""The record file: the quantization factors of each layer, as protobuf text.

Written by the calibration kernels or by the user, read by save_model and convert_model. `rounding` reads
the file beside it, of what the kernels found that has no field in a record.
"""

from amct_tensorflow.record.checks import check_activation, check_layer
from amct_tensorflow.record.layer_record import LayerRecord
from amct_tensorflow.record.rounding import (
    BatchNormStatistics,
    DamagedRounding,
    InputStatistics,
    LayerRounding,
    has_rounding,
    is_foreign,
    read_batch_norms,
    read_rounding,
    rounding_path,
)
from amct_tensorflow.record.text import read_balance_factors, read_record, record_text

__all__ = [
    "BatchNormStatistics",
    "DamagedRounding",
    "InputStatistics",
    "LayerRecord",
    "LayerRounding",
    "check_activation",
    "check_layer",
    "has_rounding",
    "is_foreign",
    "read_balance_factors",
    "read_batch_norms",
    "read_record",
    "read_rounding",
    "record_text",
    "rounding_path",
]
