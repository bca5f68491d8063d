"""Planning: a BiasAdd or an Add of a parameter behind a layer becomes the layer's bias.

The bias can then be quantized with the layer. Cases, for a layer whose output has one consumer and is not fetched
itself:

1. BiasAdd(y, b), b a constant or variable, along the layer's channels: b.
2. Add or AddV2 of y and a parameter, in either order, whose shape broadcasts along the channels only: a scalar,
   [C], or C at the channel axis and 1 at all others: that value for each channel.
3. Anything else, such as the sum of two branches: left alone. If it is a bias, `Layer.bias_stays` tells.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from amct_tensorflow.graph.edit import consumers, sole_consumer
from amct_tensorflow.graph.values import Value, broadcast_to, reshape, value_of
from amct_tensorflow.graph_passes.workspace import Layer, Workspace
from amct_tensorflow.layers import data_format, is_bias


def absorb_bias(workspace: Workspace) -> None:
    """Runs the pass."""
    for layer in workspace.layers:
        if layer.weights is None:
            continue
        use = sole_consumer(layer.end)
        bias = None if use is None or workspace.is_output(layer.end) else _bias_of(layer, *use)
        if use is not None and bias is not None:
            layer.bias = bias
            layer.absorb(use[0])
        else:
            layer.bias_stays = any(is_bias(op, index) for op, index in consumers(layer.end))


def _bias_of(layer: Layer, op: tf.Operation, index: int) -> Value | None:
    if not is_bias(op, index):
        return None
    if op.type == "BiasAdd":
        same_channels = layer.end.shape.rank == 2 or data_format(op) == layer.data_format
        return value_of(op.inputs[1]) if same_channels else None
    return _addend(layer, op.inputs[1 - index])


def _addend(layer: Layer, addend: tf.Tensor) -> Value | None:
    rank = layer.end.shape.rank
    if rank is None or not addend.shape.is_fully_defined():
        return None
    channel_axis = 1 if layer.data_format == "NCHW" else rank - 1
    if not _lies_along(addend.shape.as_list(), channel_axis, rank, layer.channels):
        return None
    return broadcast_to(reshape(value_of(addend), [-1]), [layer.channels])


def _lies_along(shape: Sequence[int], axis: int, rank: int, channels: int) -> bool:
    """Tells whether a tensor of this shape broadcasts to `rank` axes without varying beyond `axis`."""
    if len(shape) > rank:
        return False
    padded = [1] * (rank - len(shape)) + list(shape)
    return all(size == 1 or (at == axis and size == channels) for at, size in enumerate(padded))
