"""Planning: a BiasAdd or an Add of a parameter behind a layer becomes the layer's bias.

The bias can then be quantized with the layer. Cases, for a layer whose output has one consumer and is not fetched
itself:

1. BiasAdd(y, b), b a constant or variable, along the layer's channels: b.
2. Add or AddV2 of y and a parameter, in either order, or Sub of a parameter from y, the parameter along the channels
   only: that value for each channel.
3. Anything else, such as the sum of two branches: left alone. If it is a bias, `Layer.bias_stays` tells.

A layer takes a second bias only where a Mul stands between the two, as in a batch norm of small ops. Any other Add,
such as the 3 of a hard sigmoid, says nothing of the scale of the layer's results and might not fit into its int32.
"""

from __future__ import annotations

import tensorflow as tf

from amct_tensorflow.graph.edit import consumers, sole_consumer
from amct_tensorflow.graph.values import Value, is_parameter, value_of
from amct_tensorflow.graph_passes.absorb_multiply import MULTIPLICATIONS
from amct_tensorflow.graph_passes.along_channels import along_channels
from amct_tensorflow.graph_passes.workspace import Layer, Workspace
from amct_tensorflow.layers import data_format, is_bias


def absorb_bias(workspace: Workspace, layer: Layer) -> bool:
    """Runs the pass on a layer; tells whether it has absorbed something."""
    if layer.weights is None:
        return False
    if layer.bias is not None and layer.end.op.type not in MULTIPLICATIONS:
        return False
    use = sole_consumer(layer.end)
    bias = None if use is None or workspace.is_output(layer.end) else _bias_of(layer, *use)
    if use is None or bias is None:
        layer.bias_stays = any(is_bias(op, index) for op, index in consumers(layer.end))
        return False
    layer.bias = bias if layer.bias is None else layer.bias + bias
    layer.absorb(use[0])
    return True


def _bias_of(layer: Layer, op: tf.Operation, index: int) -> Value | None:
    if op.type == "Sub" and index == 0 and is_parameter(op.inputs[1]):
        subtrahend = along_channels(layer, op.inputs[1])
        return None if subtrahend is None else subtrahend * -1.0
    if not is_bias(op, index):
        return None
    if op.type == "BiasAdd":
        same_channels = layer.end.shape.rank == 2 or data_format(op) == layer.data_format
        return value_of(op.inputs[1]) if same_channels else None
    return along_channels(layer, op.inputs[1 - index])
