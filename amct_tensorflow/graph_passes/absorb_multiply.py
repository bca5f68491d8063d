"""Planning: a Mul by a parameter behind a layer is folded into its weights and bias.

    (x * W + b) * m  =>  W' = W * m,   b' = b * m

Together with `absorb_bias` this folds a batch norm of small ops, as Keras writes it and `tf.nn.batch_normalization`:
y * (gamma * rsqrt(variance + eps)) + (beta - mean * gamma * rsqrt(variance + eps)), with or without gamma and beta.

Cases, for a layer that may be fused and whose output goes nowhere else and is not fetched itself:

1. Mul, in either order, or RealDiv by a parameter along the layer's channels, or a scalar: folded.
2. A parameter that varies along other axes, or a result that is not finite: left alone.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from amct_tensorflow.graph.edit import consumers, sole_consumer
from amct_tensorflow.graph.values import Value, is_parameter
from amct_tensorflow.graph_passes.along_channels import along_channels, scale_outputs
from amct_tensorflow.graph_passes.workspace import Layer, Workspace

MULTIPLICATIONS = ("Mul", "RealDiv")


def absorb_multiply(workspace: Workspace, layer: Layer) -> bool:
    """Runs the pass on a layer; tells whether it has absorbed something."""
    found = _find(layer) if layer.fuse and layer.row.takes_batch_norm else None
    if found is None:
        return False
    reason = _reason_against(workspace, layer) or _fold(layer, *found)
    if reason:
        layer.unfused_because = f"{found[0].type} {found[0].name} is not folded: {reason}"
    return reason is None


def _find(layer: Layer) -> tuple[tf.Operation, tf.Tensor] | None:
    """Returns the op and its parameter."""
    for op, index in consumers(layer.end):
        may_be = op.type in MULTIPLICATIONS and (index == 0 or op.type == "Mul")
        if may_be and is_parameter(op.inputs[1 - index]):
            return op, op.inputs[1 - index]
    return None


def _reason_against(workspace: Workspace, layer: Layer) -> str | None:
    if workspace.is_output(layer.end):
        return f"{layer.end.op.name} is an output of the model"
    if sole_consumer(layer.end) is None:
        return f"{layer.end.op.name} is used elsewhere too"
    return None


def _fold(layer: Layer, op: tf.Operation, parameter: tf.Tensor) -> str | None:
    """Folds and returns None, or returns why not."""
    factor: Value | None = along_channels(layer, parameter)
    if factor is None:
        return "its parameter does not lie along the channels"
    with np.errstate(all="ignore"):  # scale_outputs refuses what is not finite
        if op.type == "RealDiv":
            factor = 1.0 / factor
        bias = None if layer.bias is None else layer.bias * factor
    reason = scale_outputs(layer, factor, bias)
    if reason is None:
        layer.folded = op.name
        layer.absorb(op)
    return reason
