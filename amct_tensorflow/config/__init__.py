"""The configuration of the calibration, config.json or simplified: what to quantize, with which parameters."""

from amct_tensorflow.config.assemble import default_activation
from amct_tensorflow.config.defaults import default_config
from amct_tensorflow.config.quant_config import (
    ActivationParams,
    BnUpdateConfig,
    HfmgParams,
    IfmrParams,
    LayerConfig,
    LayerTraits,
    QuantConfig,
    TensorConfig,
    WeightParams,
)
from amct_tensorflow.config.reader import read_config
from amct_tensorflow.config.simplified import simplified_config
from amct_tensorflow.config.writer import write_config

__all__ = [
    "ActivationParams",
    "BnUpdateConfig",
    "HfmgParams",
    "IfmrParams",
    "LayerConfig",
    "LayerTraits",
    "QuantConfig",
    "TensorConfig",
    "WeightParams",
    "default_activation",
    "default_config",
    "read_config",
    "simplified_config",
    "write_config",
]
