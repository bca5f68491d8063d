"""What config.json says, and what it is checked against, as plain data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerTraits:
    """What the configuration must know of a quantizable layer of the graph.

    Attributes:
        op_type: type of the operation.
        has_weights: whether it has weights to quantize.
        channel_wise: whether one weight scale per output channel is right for it.
        channel_wise_capable: whether its type can have one weight scale per output channel.
        fusable: whether its type can take a batch norm.
    """

    op_type: str
    has_weights: bool
    channel_wise: bool
    channel_wise_capable: bool
    fusable: bool


@dataclass(frozen=True)
class ActivationParams:
    """How the activations of a layer are quantized; the fields are those of ``activation_quant_params``."""

    num_bits: int
    act_algo: str
    max_percentile: float
    min_percentile: float
    search_range: tuple[float, float]
    search_step: float
    asymmetric: bool


@dataclass(frozen=True)
class WeightParams:
    """How the weights of a layer are quantized; the fields are those of ``weight_quant_params``."""

    num_bits: int
    wts_algo: str
    channel_wise: bool


@dataclass(frozen=True)
class LayerConfig:
    """How a layer is quantized; `weights` is None where its type has none."""

    quant_enable: bool
    activation: ActivationParams
    weights: WeightParams | None


@dataclass(frozen=True)
class QuantConfig:
    """A whole config.json; `layers` are in graph order, and a layer that is not there is not quantized."""

    version: int
    batch_num: int
    activation_offset: bool
    joint_quant: bool
    shift_n: bool
    do_fusion: bool
    skip_fusion_layers: tuple[str, ...]
    layers: dict[str, LayerConfig]
