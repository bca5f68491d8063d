"""Planning: a BiasAdd or an Add of a parameter behind layers becomes their bias.

The bias can then be quantized with the layer. Cases, for results that have one consumer and are not fetched
themselves:

1. BiasAdd(y, b), b a constant or variable, along the layer's channels: b.
2. Add or AddV2 of y and a parameter, in either order, or Sub of a parameter from y, the parameter along the channels
   only: that value for each channel. The channels may be spread over several axes, as the heads of attention are.
3. Anything else, such as the sum of two branches or an Add whose input is to be quantized: left alone. If it is a
   bias, `Layer.bias_stays` tells.

A layer takes a second bias only where a Mul stands before it, or a Mul or batch norm behind it, as in batch norms of
small ops. Any other Add, such as the 3 of a hard sigmoid, says nothing of the scale of the layer's results and might
not fit into its int32.
"""

from __future__ import annotations

import tensorflow as tf

from amct_tensorflow.graph.constants import is_parameter
from amct_tensorflow.graph.edit import consumers, sole_consumer
from amct_tensorflow.graph.values import Value, value_of
from amct_tensorflow.graph_passes.planning.absorb_multiply import MULTIPLICATIONS
from amct_tensorflow.graph_passes.planning.along_channels import along_channels
from amct_tensorflow.graph_passes.planning.front import Front
from amct_tensorflow.graph_passes.workspace import Workspace
from amct_tensorflow.layers import BATCH_NORMS, data_format, is_bias


def absorb_bias(workspace: Workspace, front: Front) -> bool:
    """Runs the pass; tells whether the layers have absorbed something."""
    before = front.bias
    use = sole_consumer(front.tensor)
    if before is not None and not (front.tensor.op.type in MULTIPLICATIONS or _is_of_a_norm(use)):
        return False
    stays = use is None or workspace.is_output(front.tensor) or workspace.is_alone(use[0])
    bias = None if use is None or stays else _bias_of(front, *use)
    if use is None or bias is None:
        for layer in front.layers:
            layer.bias_stays = any(is_bias(op, index) for op, index in consumers(front.tensor))
        return False
    for layer, part in zip(front.layers, front.parts(bias if before is None else before + bias), strict=True):
        layer.bias = part
        if use[0].type == "BiasAdd" and not front.passed and _is_of_layer(front, use[0]):
            layer.bias_add = use[0]
    front.absorb(use[0])
    return True


def _is_of_a_norm(use: tuple[tf.Operation, int] | None) -> bool:
    """Tells whether what is behind the next op can be folded, too."""
    behind = None if use is None or not use[0].outputs else sole_consumer(use[0].outputs[0])
    if behind is None:
        return False
    op, index = behind
    if op.type in MULTIPLICATIONS:
        return (index == 0 or op.type == "Mul") and is_parameter(op.inputs[1 - index])
    return op.type in BATCH_NORMS and index == 0


def _bias_of(front: Front, op: tf.Operation, index: int) -> Value | None:
    if op.type == "Sub" and index == 0 and is_parameter(op.inputs[1]):
        subtrahend = along_channels(front, op.inputs[1])
        return None if subtrahend is None else subtrahend * -1.0
    if not is_bias(op, index):
        return None
    if op.type == "BiasAdd" and _adds_along_channels(front, op):
        return value_of(op.inputs[1])
    if op.type == "BiasAdd" and data_format(op) == "NCHW":
        return None
    return along_channels(front, op.inputs[1 - index])


def _is_of_layer(front: Front, op: tf.Operation) -> bool:
    """Tells whether a BiasAdd may go on behind the clone of a layer, whose channels may be elsewhere."""
    return _adds_along_channels(front, op) and data_format(op) == front.layers[0].data_format


def _adds_along_channels(front: Front, op: tf.Operation) -> bool:
    rank = front.tensor.shape.rank
    if rank is None:  # its channels are where the layer has them
        as_they_are = not front.passed and front.layers[0].row.product is None
        return as_they_are and data_format(op) == front.layers[0].data_format
    return front.axis == (1 if data_format(op) == "NCHW" else rank - 1)
