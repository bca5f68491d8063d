"""What config.json says, and what it is checked against, as plain data."""

from __future__ import annotations

from dataclasses import dataclass

from amct_tensorflow.config.fields import ASCEND, ONNXRUNTIME


@dataclass(frozen=True)
class LayerTraits:
    """What the configuration must know of a quantizable layer of the graph.

    Attributes:
        op_type: type of the operation.
        has_weights: whether it has weights to quantize.
        channel_wise: whether it has one weight scale per output channel unless the configuration says otherwise.
        fusable: whether its type can take a batch norm.
        symmetric: whether its activations can only be quantized without offset, being two.
        one_scale: whether its weights get one scale whatever is said.
    """

    op_type: str
    has_weights: bool
    channel_wise: bool
    fusable: bool
    symmetric: bool = False
    one_scale: bool = False


@dataclass(frozen=True)
class IfmrParams:
    """How activations are quantized by IFMR; the fields are those of ``activation_quant_params``."""

    num_bits: int
    act_algo: str
    max_percentile: float
    min_percentile: float
    search_range: tuple[float, float]
    search_step: float
    asymmetric: bool


@dataclass(frozen=True)
class HfmgParams:
    """How activations are quantized by HFMG; the fields are those of ``activation_quant_params``."""

    num_bits: int
    act_algo: str
    num_of_bins: int
    asymmetric: bool


ActivationParams = IfmrParams | HfmgParams


@dataclass(frozen=True)
class WeightParams:
    """How the weights of a layer are quantized; the fields are those of ``weight_quant_params``."""

    num_bits: int
    wts_algo: str
    channel_wise: bool
    weight_rounding: str
    bias_correction: bool

    @property
    def needs_moments(self) -> bool:
        """Whether something is to be known of the layer's input but its factors."""
        return self.bias_correction or self.weight_rounding == "compensated"


@dataclass(frozen=True)
class LayerConfig:
    """How a layer is quantized.

    Attributes:
        quant_enable: whether it is quantized at all.
        activation: how its input is quantized.
        weights: how its weights are quantized; None where its type has none.
        dmq_balancer_param: migration strength of the DMQ balancer; None where it is off.
    """

    quant_enable: bool
    activation: ActivationParams
    weights: WeightParams | None
    dmq_balancer_param: float | None = None


@dataclass(frozen=True)
class TensorConfig:
    """How an input of an op is quantized alone; the fields are those of an item of ``tensor_quantize``."""

    layer_name: str
    input_index: int
    activation: ActivationParams


@dataclass(frozen=True)
class BnUpdateConfig:
    """How batch norms get new statistics; the fields are those of ``bn_update_config``."""

    bn_update_iterations: int
    bn_moving_average_fraction: float
    bn_dump_dir: str | None = None


@dataclass(frozen=True)
class QuantConfig:
    """A whole config.json; `layers` are in graph order, and a layer that is not there is not quantized."""

    version: int
    batch_num: int
    target: str
    activation_offset: bool
    joint_quant: bool
    shift_n: bool
    do_fusion: bool
    weight_rounding: str
    bias_correction: bool
    update_bn: bool
    bn_update_config: BnUpdateConfig
    skip_fusion_layers: tuple[str, ...]
    tensor_quantize: tuple[TensorConfig, ...]
    layers: dict[str, LayerConfig]

    @property
    def searches_shifts(self) -> bool:
        """Whether SearchN looks for a shift of each layer's result; only the chip has shifts."""
        return self.shift_n and self.target == ASCEND

    @property
    def quantizes_results(self) -> bool:
        """Whether the results of convolutions that meet in an Add are quantized, too.

        onnxruntime makes an integer kernel of a convolution only where integers come out.
        """
        return self.target == ONNXRUNTIME

    def weights_of(self, layer: str) -> WeightParams:
        """Returns how the weights of a layer are quantized that has some."""
        weights = self.layers[layer].weights
        assert weights is not None
        return weights
