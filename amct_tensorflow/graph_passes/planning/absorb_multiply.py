"""Planning: a Mul by a parameter behind layers is folded into their weights and bias.

    (x * W + b) * m  =>  W' = W * m,   b' = b * m

Together with `absorb_bias` this folds a batch norm of small ops, as Keras writes it and `tf.nn.batch_normalization`:
y * (gamma * rsqrt(variance + eps)) + (beta - mean * gamma * rsqrt(variance + eps)), with or without gamma and beta.

Cases, for layers that may be fused and whose results go nowhere else and are not fetched themselves:

1. Mul, in either order, or RealDiv by a parameter along the layer's channels, or a scalar: folded.
2. A parameter that varies along other axes, or a result that is not finite: left alone.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from amct_tensorflow.graph.constants import is_parameter
from amct_tensorflow.graph.edit import consumers, sole_consumer
from amct_tensorflow.graph.values import Value
from amct_tensorflow.graph_passes.planning.along_channels import along_channels, scale_outputs
from amct_tensorflow.graph_passes.planning.front import Front
from amct_tensorflow.graph_passes.workspace import Workspace

MULTIPLICATIONS = ("Mul", "RealDiv")


def absorb_multiply(workspace: Workspace, front: Front) -> bool:
    """Runs the pass; tells whether the layers have absorbed something."""
    found = _find(front) if front.fusing else None
    if found is None:
        return False
    reason = reason_against_use(workspace, front.tensor) or reason_against_layers(front) or _fold(front, *found)
    if reason:
        front.not_fused(f"{found[0].type} {found[0].name} is not folded: {reason}")
    return reason is None


def reason_against_layers(front: Front) -> str | None:
    """Returns why nothing can be folded into layers of which one is not to be fused, in words, or None."""
    kept = next((layer for layer in front.layers if not layer.may_fuse), None)
    return None if kept is None else f"{kept.name}, which is joined with it, is not to be fused"


def reason_against_use(workspace: Workspace, tensor: tf.Tensor) -> str | None:
    """Returns why what comes behind a tensor cannot be folded into what is before it, in words, or None."""
    if workspace.is_output(tensor):
        return f"{tensor.op.name} is an output of the model"
    if sole_consumer(tensor) is None:
        return f"{tensor.op.name} is used elsewhere too"
    return None


def _find(front: Front) -> tuple[tf.Operation, tf.Tensor] | None:
    """Returns the op and its parameter."""
    for op, index in consumers(front.tensor):
        may_be = op.type in MULTIPLICATIONS and (index == 0 or op.type == "Mul")
        if may_be and is_parameter(op.inputs[1 - index]):
            return op, op.inputs[1 - index]
    return None


def _fold(front: Front, op: tf.Operation, parameter: tf.Tensor) -> str | None:
    """Folds and returns None, or returns why not."""
    factor: Value | None = along_channels(front, parameter)
    if factor is None:
        return "its parameter does not lie along the channels"
    with np.errstate(all="ignore"):  # scale_outputs refuses what is not finite
        if op.type == "RealDiv":
            factor = 1.0 / factor
        bias = None if front.bias is None else front.bias * factor
    reason = scale_outputs(front, factor, bias)
    if reason is None:
        front.fold(op)
    return reason
