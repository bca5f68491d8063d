"""Planning: which weights are rounded with knowledge of their input, and what is to be known of it.

The second moments of the input of a layer (ops/numerics/second_moments.h) are gathered while the batches stream.
Layers that see the same tensor in the same way share them. Layers that share their weights get one rounding, which
suits the inputs of all.

Left out, with the reason:

1. The kernel covers more than 1024 positions: the second moments of a single channel would be too large.
2. The number of input channels, or of a batch of weights that of the parts of the data, is not known.
3. The moments do not fit into the memory that there is for those of all layers, and those of no layer take more.

Memory: the moments of a layer of K inputs an output take K * min(K, B) floats, where B is 1024, or half of that, and
so on to 64, until those of all layers fit into 256 MB. What is left out then is what inputs of different blocks have to
do with each other; a channel's block has all its taps, however many they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping

from amct_tensorflow.config import WeightParams
from amct_tensorflow.graph_passes.workspace import Layer
from amct_tensorflow.stencils import Stencil, WeightLayout

_MOST_BYTES = 256 * 2**20
_MOST_BLOCK, _LEAST_BLOCK = 1024, 64
_MOST_TAPS = 1024


@dataclasses.dataclass(frozen=True)
class RoundingPlan:
    """Weights, of one layer or of several that share them, that are rounded with knowledge of their input.

    Attributes:
        layers: the layers.
        layout: where the weights are in their tensor.
        moments: the name of the moments of the input of each.
        compensate: whether later weights make up for the errors of the earlier; else they become the nearest integers.
        correct_bias: whether the bias takes what the mean of the input makes of the errors.
    """

    layers: list[Layer]
    layout: WeightLayout
    moments: list[str]
    compensate: bool
    correct_bias: bool


@dataclasses.dataclass(frozen=True)
class InputMoments:
    """Moments that are gathered of the input of layers.

    Attributes:
        name: that of the first layer.
        layers: the layers.
        layout: of the weights of any of them.
        stencil: how these go over the input; None for products of matrices.
    """

    name: str
    layers: list[Layer]
    layout: WeightLayout
    stencil: Stencil | None


@dataclasses.dataclass(frozen=True)
class Rounding:
    """What is planned.

    Attributes:
        plans: of weights.
        moments: of inputs.
        most_block: as many rows have a diagonal block of the second moments at most.
        reasons: why layers that want it are left out, by name.
    """

    plans: list[RoundingPlan]
    moments: list[InputMoments]
    most_block: int
    reasons: dict[str, str]


def plan_rounding(layers: Iterable[Layer], params: Callable[[str], WeightParams]) -> Rounding:
    """Runs the pass, with the final weights; `params` returns what a layer of a name wants."""
    wanting = {}
    reasons = {}
    for layer in layers:
        if layer.row.has_weights and params(layer.name).needs_moments:
            reason = _reason_against(layer)
            if reason is None:
                wanting[layer] = layer.row.weight_layout(layer.op)
            else:
                reasons[layer.name] = reason
    by_input = _grouped(wanting, lambda layer: _input_key(layer, wanting[layer]))
    for layer in _too_large(by_input, wanting):
        reasons[layer.name] = "the second moments of its input would be too large"
        del wanting[layer]
    by_input = [layers for layers in by_input if layers[0] in wanting]
    together = _grouped(wanting, lambda layer: _weights_key(layer, wanting[layer], params(layer.name)))
    moments = [InputMoments(of[0].name, of, wanting[of[0]], of[0].row.stencil(of[0].op)) for of in by_input]
    names = {layer: gathered.name for gathered in moments for layer in gathered.layers}
    plans = [_plan(sharing, wanting[sharing[0]], names, params) for sharing in together]
    return Rounding(plans, moments, _most_block(moments), reasons)


def _plan(
    sharing: list[Layer], layout: WeightLayout, names: Mapping[Layer, str], params: Callable[[str], WeightParams]
) -> RoundingPlan:
    wanted = params(sharing[0].name)
    can_correct = all(_can_take_bias(layer, layout) for layer in sharing)
    return RoundingPlan(
        sharing,
        layout,
        [names[layer] for layer in sharing],
        wanted.weight_rounding == "compensated",
        wanted.bias_correction and can_correct,
    )


def _can_take_bias(layer: Layer, layout: WeightLayout) -> bool:
    """Tells whether a correction can go into a bias of the layer.

    A batch of matrices has one for all its parts. A grouped convolution does not get one that it has not: TensorFlow's
    CPU optimizer refuses the two together.
    """
    if layout.batched:
        return False
    return layer.bias is not None or layout.groups == 1 or layout.width == 1


def _reason_against(layer: Layer) -> str | None:
    if not layer.row.groups_are_known(layer.op):
        return "the number of its input channels is not known"
    layout = layer.row.weight_layout(layer.op)
    if layout.taps > _MOST_TAPS:
        return f"its kernel has {layout.taps} taps, at most {_MOST_TAPS} are supported"
    if layout.batched and not _is_batch_of_data(layer):
        return "the data are not a batch of as many parts as its weights"
    return None


def _is_batch_of_data(layer: Layer) -> bool:
    """Tells whether the axes of the data before the last two end with those of the weights."""
    of_weights = layer.row.weight_shape(layer.op)[:-2]
    if layer.data.shape.rank is None:
        return False
    shape = layer.data.shape.as_list()
    if layer.row.product is not None:
        shape = [shape[axis] for axis in layer.row.product.data_order]
        return shape[: layer.row.product.batch] == of_weights
    return shape[-2 - len(of_weights) : -2] == of_weights


def _grouped(layers: Iterable[Layer], key_of: Callable[[Layer], Hashable]) -> list[list[Layer]]:
    groups: dict[Hashable, list[Layer]] = {}
    for layer in layers:
        groups.setdefault(key_of(layer), []).append(layer)
    return list(groups.values())


def _weights_key(layer: Layer, layout: WeightLayout, params: WeightParams) -> Hashable:
    """Returns what layers have in common that are rounded as one."""
    if layer.balance is not None or layer.scale_w is None:  # the weights are its own, or an op finds their scales
        return layer.name
    stencil = layer.row.stencil(layer.op)
    wanted = (params.weight_rounding, params.bias_correction and _can_take_bias(layer, layout))
    return (layer.weights_key, layer.channel_axes, layer.op.type, layer.data_format, layout, stencil, wanted)


def _input_key(layer: Layer, layout: WeightLayout) -> Hashable:
    """Returns what layers have in common that see the same in their input."""
    seen = (layout.groups, layout.width, layout.kernel, layout.batched)
    balanced = layer.name if layer.balance is not None else None
    stencil = layer.row.stencil(layer.op)
    return (layer.data.name, layer.row.product, layer.data_format, stencil, seen, balanced)


def _too_large(by_input: Iterable[list[Layer]], layouts: Mapping[Layer, WeightLayout]) -> list[Layer]:
    """Returns layers that are left out for the moments of the others to fit, in the smallest blocks."""
    sizes = [(_bytes(layouts[layers[0]], _LEAST_BLOCK), layers) for layers in by_input]
    sizes.sort(key=lambda item: item[0])
    total = sum(size for size, _ in sizes)
    left_out: list[Layer] = []
    while total > _MOST_BYTES:
        size, layers = sizes.pop()
        total -= size
        left_out.extend(layers)
    return left_out


def _most_block(moments: Iterable[InputMoments]) -> int:
    most = _MOST_BLOCK
    while most > _LEAST_BLOCK and sum(_bytes(gathered.layout, most) for gathered in moments) > _MOST_BYTES:
        most //= 2
    return most


def _bytes(layout: WeightLayout, most_block: int) -> int:
    block = max(min(layout.inputs, most_block), layout.taps)
    return 4 * layout.groups * layout.inputs * block
