"""Preparing: takes the fake-quant ops of quantization-aware training from the layers of a graph, with their factors.

What remains is a float graph and a record for the layers that were trained to be quantized. Cases, for a fake-quant
op of 8 bits with a constant range:

1. It leads to the data input of a layer, straight or through ops that only move or select values: its factors are
   scale_d and offset_d, and the layer gets the float tensor.
2. It leads to the weights of a layer, straight or through ops that only move values: its scale is scale_w, and the
   weights become the constants that it puts out. A zero point, but for the one that rounding
   gives a symmetric range, or scales that the layer cannot have, cannot be deployed: the weights are then quantized
   once more, with the least scale that reaches as far, and `TakenOut.requantized` tells.
3. It leads to something else, such as a residual Add or an output of the model, besides or instead: it stays for
   that, and `deploy_fake_quants` puts the pair of AscendQuant and AscendAntiQuant in its place, which computes the
   same.

Fake-quant ops of other bit widths, or whose range is computed, stay in the graph, and the layers behind them float.
What the outputs do not need is as if it were not there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container

import numpy as np
import tensorflow as tf

from amct_tensorflow.graph.constants import constant_value
from amct_tensorflow.graph.edit import consumers, set_input, upstream
from amct_tensorflow.graph.fake_quant import FAKE_QUANT_TYPES, FakeQuant, FloatArray, make_computable, read_fake_quant
from amct_tensorflow.graph.fold import fold_constants
from amct_tensorflow.graph_passes.workspace import in_form_of_layer
from amct_tensorflow.layers import TABLE, OpType, find_layers
from amct_tensorflow.record import LayerRecord

# Their results are among their inputs, or zero: values on a grid of steps stay on it.
_MOVES_VALUES = (
    *("Identity", "StopGradient", "Reshape", "Squeeze", "ExpandDims", "Transpose", "Slice", "StridedSlice"),
    *("Pad", "MirrorPad", "SpaceToBatchND", "BatchToSpaceND", "SpaceToDepth", "DepthToSpace"),
    *("MaxPool", "Relu"),
)

# The same for weights: how their scales, in the shape of the weights, move along.
_MOVES_WEIGHTS: dict[str, Callable[[tf.Operation, FloatArray], FloatArray]] = {
    "Identity": lambda op, scales: scales,
    **dict.fromkeys(
        ("Reshape", "Squeeze", "ExpandDims"), lambda op, scales: np.reshape(scales, op.outputs[0].shape.as_list())
    ),
    "Transpose": lambda op, scales: np.transpose(scales, constant_value(op.inputs[1])),
}


@dataclasses.dataclass
class TakenOut:
    """What was found.

    Attributes:
        records: the factors of the layers that were trained to be quantized, by name, in graph order.
        reasons: why others are not quantized, by name.
        failed: names of those of them that have fake-quant ops, which cannot be deployed.
        remaining: the fake-quant ops that still lead to something, by name.
        unusable: why fake-quant ops have no factors, by name.
        requantized: why the weights of a layer are quantized with other factors than in training, by layer name.
        nothing_found: whether there are no fake-quant ops.
    """

    records: dict[str, LayerRecord] = dataclasses.field(default_factory=dict)
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)
    failed: set[str] = dataclasses.field(default_factory=set)
    remaining: dict[str, FakeQuant] = dataclasses.field(default_factory=dict)
    unusable: dict[str, str] = dataclasses.field(default_factory=dict)
    requantized: dict[str, str] = dataclasses.field(default_factory=dict)
    nothing_found: bool = False


@dataclasses.dataclass(frozen=True)
class _Model:
    """The names of its output ops, and of the ops that these need."""

    outputs: frozenset[str]
    needed: set[str]

    @classmethod
    def of(cls, graph: tf.Graph, outputs: frozenset[str]) -> _Model:
        return cls(outputs, upstream(graph.get_operation_by_name(name) for name in outputs))

    def uses(self, tensor: tf.Tensor) -> list[tuple[tf.Operation, int]]:
        return [(op, index) for op, index in consumers(tensor) if op.name in self.needed]

    def needs(self, tensor: tf.Tensor) -> bool:
        return tensor.op.name in self.outputs or bool(self.uses(tensor))


def take_out_fake_quants(graph: tf.Graph, outputs: frozenset[str]) -> TakenOut:
    """Runs the pass on a graph that belongs to the caller; `outputs` are names of its output ops."""
    model = _Model.of(graph, outputs)
    ops = [op for op in graph.get_operations() if op.name in model.needed]
    fake_quants = [op for op in ops if op.type in FAKE_QUANT_TYPES]
    if not fake_quants:
        return TakenOut(nothing_found=True)
    taken = TakenOut()
    fold_constants(graph, model.needed, up_to=FAKE_QUANT_TYPES)  # their ranges, and weights from which they take it
    found = {op.name: read_fake_quant(op) for op in fake_quants}
    for op in ops:
        if op.type in TABLE:
            _read_layer(op, TABLE[op.type].of(op), found, taken)
    for quant in found.values():
        if isinstance(quant, FakeQuant):
            make_computable(quant)
    model = _Model.of(graph, outputs)
    fold_constants(graph, model.needed)  # fake-quantized weights become constants, as layers want them
    quantizable = {layer.op.name for layer in find_layers(graph) if layer.reason is None}
    taken.records = {name: record for name, record in taken.records.items() if name in quantizable}
    model = _Model.of(graph, outputs)  # without what is folded now
    for op in fake_quants:
        _take_out(op, found[op.name], model, taken)
    return taken


def _take_out(op: tf.Operation, quant: FakeQuant | str, model: _Model, taken: TakenOut) -> None:
    """Leads the layers around a fake-quant op; notes what becomes of it if it is needed for more."""
    if isinstance(quant, FakeQuant):
        for user, index in model.uses(op.outputs[0]):
            if _is_for_layers_only(user, index, model, taken):
                set_input(user, index, op.inputs[0])
    if model.needs(op.outputs[0]):
        reason = quant if isinstance(quant, str) else quant.reason_against_activations()
        if reason is not None:
            taken.unusable[op.name] = reason
        elif isinstance(quant, FakeQuant):
            taken.remaining[op.name] = quant


def _read_layer(op: tf.Operation, row: OpType, found: dict[str, FakeQuant | str], taken: TakenOut) -> None:
    """Notes the factors of a layer, or why it has none."""
    if row.second_input is not None:
        taken.reasons[op.name] = "of its two inputs none is weights, and such layers are only calibrated"
        return
    data = _nearest(op.inputs[row.data_input], found, _MOVES_VALUES)
    weights = _nearest(row.weights(op), found, _MOVES_WEIGHTS) if row.has_weights else None
    against_data = data.reason_against_activations() if isinstance(data, FakeQuant) else data
    for what, reason in (("input", against_data), ("weights", weights)):
        if isinstance(reason, str):
            taken.reasons[op.name] = f"the fake-quant op of its {what} cannot be deployed: {reason}"
            taken.failed.add(op.name)
            return
    if not isinstance(data, FakeQuant) or (row.has_weights and not isinstance(weights, FakeQuant)):
        taken.reasons[op.name] = f"no fake-quant op leads to its {'weights' if data else 'input'}"
        return
    if row.has_weights and not row.weights(op).shape.is_fully_defined():
        return  # they are computed, so that the layer is not quantizable
    scale_w = _weight_scales(op, row, weights, taken) if isinstance(weights, FakeQuant) else ()
    taken.records[op.name] = LayerRecord(
        scale_d=float(data.scale[0]),
        offset_d=int(data.offset[0]),
        scale_w=tuple(map(float, scale_w)),
        offset_w=(0,) * len(scale_w),
        # A product that was trained with one scale keeps it, which no batch norm can be folded into.
        skip_fusion=row.takes_batch_norm and not row.channel_wise and len(scale_w) == 1,
    )


def _nearest(tensor: tf.Tensor, found: dict[str, FakeQuant | str], through: Container[str]) -> FakeQuant | str | None:
    """Returns what is known of the nearest fake-quant op above, or None if there is none."""
    while tensor.op.type in through:
        tensor = tensor.op.inputs[0]
    return found.get(tensor.op.name)


def _weight_scales(op: tf.Operation, row: OpType, weights: FakeQuant, taken: TakenOut) -> FloatArray:
    """Returns scale_w, and notes if it is not that of the training."""
    scales = weights.symmetric_scale()
    if not weights.is_symmetric:
        taken.requantized[op.name] = "they were trained with a zero point, which int8 weights do not have"
    if weights.axis is None:
        return scales
    of_weights = in_form_of_layer(row, op, _moved(row.weights(op), weights, scales))
    assert isinstance(of_weights, np.ndarray)
    others = tuple(axis for axis in range(of_weights.ndim) if axis not in row.channel_axes)
    of_channels = of_weights.max(axis=others)
    if (of_weights.min(axis=others) < of_channels).any():
        taken.requantized[op.name] = "they were trained with scales that do not lie along its output channels"
    return of_channels.reshape(-1)


def _moved(tensor: tf.Tensor, weights: FakeQuant, scales: FloatArray) -> FloatArray:
    """Returns the scale of every value of a tensor that a fake-quant op leads to."""
    if tensor.op.name == weights.op.name:
        return weights.along_axis(scales)
    return _MOVES_WEIGHTS[tensor.op.type](tensor.op, _moved(tensor.op.inputs[0], weights, scales))


def _is_for_layers_only(user: tf.Operation, index: int, model: _Model, taken: TakenOut) -> bool:
    """Tells whether behind a use of a tensor there is nothing but the inputs of layers with factors."""
    if user.name in taken.records:
        return index == TABLE[user.type].of(user).data_input
    if user.type not in _MOVES_VALUES or index != 0 or user.name in model.outputs:
        return False
    uses = model.uses(user.outputs[0])
    return bool(uses) and all(_is_for_layers_only(*use, model, taken) for use in uses)
