"""The configuration file of the calibration, config.json: what to quantize, and with which parameters."""

from amct_tensorflow.config.defaults import default_config
from amct_tensorflow.config.quant_config import (
    ActivationParams,
    LayerConfig,
    LayerTraits,
    QuantConfig,
    WeightParams,
)
from amct_tensorflow.config.reader import read_config
from amct_tensorflow.config.writer import write_config

__all__ = [
    "ActivationParams",
    "LayerConfig",
    "LayerTraits",
    "QuantConfig",
    "WeightParams",
    "default_config",
    "read_config",
    "write_config",
]
