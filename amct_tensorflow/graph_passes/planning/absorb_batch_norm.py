"""Planning: a batch norm behind layers is folded into their weights and bias.

    BN(y) = gamma * (y - mean) / sqrt(variance + eps) + beta,   y = x * W + b
    =>  W' = W * f,   b' = (b - mean) * f + beta,   f = gamma / sqrt(variance + eps) per output channel

Cases, for layers that may be fused:

1. Their results (with bias) go to FusedBatchNorm, V2 or V3 and nowhere else: folded, if the batch norm is in
   inference mode, works along their channels, and gamma, beta, mean and variance are parameters.
2. The same behind ops that only move the results, see `pass_movers`, and behind a Concat, see `join_layers`: folded,
   those ops stay.
3. A bias that the layers could not absorb, or an op that moves the channels elsewhere, stands between: left alone.
4. The results have other consumers or are fetched themselves, the batch norm is in training mode, has other outputs in
   use, computed parameters or other channels, or its fold is not finite (a variance of 0 without epsilon): left
   alone, and `Layer.unfused_because` says why.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from amct_tensorflow.graph.constants import is_parameter
from amct_tensorflow.graph.edit import consumers
from amct_tensorflow.graph.values import Value, sqrt, value_of
from amct_tensorflow.graph_passes.planning.absorb_multiply import reason_against_layers, reason_against_use
from amct_tensorflow.graph_passes.planning.along_channels import scale_outputs
from amct_tensorflow.graph_passes.planning.front import Front
from amct_tensorflow.graph_passes.planning.join_layers import CONCATS
from amct_tensorflow.graph_passes.planning.pass_movers import MOVERS
from amct_tensorflow.graph_passes.workspace import Workspace
from amct_tensorflow.layers import BATCH_NORMS, TABLE, data_format, is_bias

_FARTHEST = 4  # ops between layers and a batch norm that is worth a line


@dataclasses.dataclass(frozen=True)
class _BatchNorm:
    op: tf.Operation
    between: tuple[tf.Operation, ...]  # what stands in the way

    def parameter(self, index: int) -> Value:
        return value_of(self.op.inputs[index])


def absorb_batch_norm(workspace: Workspace, front: Front) -> bool:
    """Runs the pass; tells whether the layers have absorbed something."""
    found = _find(front) if front.fusing else None
    if found is None:
        return False
    reason = _reason_against(workspace, front, found) or _fold(front, found)
    if reason:
        front.not_fused(f"batch norm {found.op.name} is not folded: {reason}")
    return reason is None


def _find(front: Front) -> _BatchNorm | None:
    paths: list[tuple[tf.Tensor, tuple[tf.Operation, ...]]] = [(front.tensor, ())]
    for tensor, between in paths:
        for op, index in consumers(tensor):
            if op.type in BATCH_NORMS and index == 0:
                return _BatchNorm(op, between)
            if len(between) < _FARTHEST and (is_bias(op, index) or _moves(op, index)):
                paths.append((op.outputs[0], (*between, op)))
    return None


def _moves(op: tf.Operation, index: int) -> bool:
    if op.type in CONCATS:
        return all(_comes_from_a_layer(data) for data in op.inputs if data.dtype.is_floating)
    return op.type in MOVERS and index == 0


def _comes_from_a_layer(tensor: tf.Tensor) -> bool:
    while tensor.op.type in MOVERS or is_bias(tensor.op, 0):
        tensor = tensor.op.inputs[0]
    return tensor.op.type in TABLE


def _reason_against(workspace: Workspace, front: Front, found: _BatchNorm) -> str | None:
    op = found.op
    for before in (front.tensor, *(stands.outputs[0] for stands in found.between)):
        reason = reason_against_use(workspace, before)
        if reason is not None:
            return reason
    if op.get_attr("is_training"):
        return "it is in training mode"
    if any(consumers(output) for output in op.outputs[1:]):
        return "its statistics are used elsewhere"
    if not all(is_parameter(used) for used in list(op.inputs)[1:5]):
        return "its parameters are computed, not constants or variables"
    for stands in found.between[:1]:
        if stands.type in MOVERS:
            return f"the {stands.type} {stands.name} before it moves the channels"
        if stands.type in CONCATS:
            return f"the {stands.type} {stands.name} before it joins results of which not all can be folded into"
        return f"{stands.name} before it is not part of the layer"
    return reason_against_layers(front) or _reason_against_axis(front, op)


def _reason_against_axis(front: Front, op: tf.Operation) -> str | None:
    """Returns why it does not work along the channels of the layers, or None."""
    axis = 1 if data_format(op) == "NCHW" else op.inputs[0].shape.rank - 1
    if front.span is None:
        return "the axis of the channels before it is not known"
    if front.axis is None:
        return f"the channels before it are along {len(front.span.sizes)} axes"
    if front.axis != axis:
        return f"its data_format is {data_format(op)}, but the channels before it are along axis {front.axis}"
    return None


def _fold(front: Front, found: _BatchNorm) -> str | None:
    """Folds and returns None, or returns why not."""
    gamma, beta, mean, variance = map(found.parameter, range(1, 5))
    with np.errstate(all="ignore"):  # scale_outputs refuses what is not finite
        factor = gamma / sqrt(variance + found.op.get_attr("epsilon"))
        bias = ((0.0 if front.bias is None else front.bias) - mean) * factor + beta
    reason = scale_outputs(front, factor, bias)
    if reason is None:
        front.fold(found.op)
    return reason
