"""Planning: a batch norm behind a layer is folded into its weights and bias.

    BN(y) = gamma * (y - mean) / sqrt(variance + eps) + beta,   y = x * W + b
    =>  W' = W * f,   b' = (b - mean) * f + beta,   f = gamma / sqrt(variance + eps) per output channel

Cases, for a layer that may be fused:

1. Its output (with bias) goes to FusedBatchNorm, V2 or V3 and nowhere else: folded, if the batch norm is in
   inference mode and gamma, beta, mean and variance are parameters.
2. The same behind a MatMul and a Reshape that keeps the channels last: folded, the Reshape stays.
3. A bias that the layer could not absorb stands between them: left alone.
4. The output has other consumers or is fetched itself, the batch norm is in training mode, has other outputs in
   use, computed parameters or other channels, or its fold is not finite (a variance of 0 without epsilon): left
   alone, and `Layer.unfused_because` says why.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import tensorflow as tf

from amct_tensorflow.graph.edit import consumers, sole_consumer
from amct_tensorflow.graph.values import Value, constant_value, is_parameter, sqrt, value_of
from amct_tensorflow.graph_passes.along_channels import scale_outputs
from amct_tensorflow.graph_passes.workspace import Layer, Workspace
from amct_tensorflow.layers import data_format, is_bias

BATCH_NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")


@dataclasses.dataclass(frozen=True)
class _BatchNorm:
    op: tf.Operation
    between: tf.Operation | None  # the op between it and what the layer has absorbed

    def parameter(self, index: int) -> Value:
        return value_of(self.op.inputs[index])


def absorb_batch_norm(workspace: Workspace, layer: Layer) -> bool:
    """Runs the pass on a layer; tells whether it has absorbed something."""
    found = _find(layer) if layer.fuse and layer.row.takes_batch_norm else None
    if found is None or found.op.name in layer.absorbed:
        return False
    reason = _reason_against(workspace, layer, found) or _fold(layer, found)
    if reason:
        layer.unfused_because = f"batch norm {found.op.name} is not folded: {reason}"
    return reason is None


def _find(layer: Layer) -> _BatchNorm | None:
    for op, index in consumers(layer.end):
        if op.type in BATCH_NORMS and index == 0:
            return _BatchNorm(op, None)
        if _may_stand_between(layer, op, index):
            for behind, at in consumers(op.outputs[0]):
                if behind.type in BATCH_NORMS and at == 0:
                    return _BatchNorm(behind, op)
    return None


def _may_stand_between(layer: Layer, op: tf.Operation, index: int) -> bool:
    if op.type == "Reshape":
        return index == 0 and layer.row.reshapes_before_batch_norm
    return is_bias(op, index)


def _reason_against(workspace: Workspace, layer: Layer, found: _BatchNorm) -> str | None:
    for before in (layer.end, *(found.between.outputs if found.between else ())):
        if workspace.is_output(before):
            return f"{before.op.name} is an output of the model"
        if sole_consumer(before) is None:
            return f"{before.op.name} is used elsewhere too"
    op = found.op
    if op.get_attr("is_training"):
        return "it is in training mode"
    if any(consumers(output) for output in op.outputs[1:]):
        return "its statistics are used elsewhere"
    if not all(is_parameter(used) for used in list(op.inputs)[1:5]):
        return "its parameters are computed, not constants or variables"
    if found.between is not None and found.between.type != "Reshape":
        return f"{found.between.name} before it is not part of the layer"
    if found.between is not None:
        return _reason_against_reshape(workspace, layer, found.between, op)
    if data_format(op) != layer.data_format:
        return f"its data_format is {data_format(op)}, the layer's {layer.data_format}"
    return None


def _reason_against_reshape(workspace: Workspace, layer: Layer, reshaped: tf.Operation, op: tf.Operation) -> str | None:
    shape = constant_value(reshaped.inputs[1])
    if shape is None or shape[-1] != layer.channels or data_format(op) != "NHWC":
        return f"the Reshape {reshaped.name} before it moves the channels"
    if workspace.is_output(op.outputs[0]):
        return f"it is an output of the model, with the Reshape {reshaped.name} before it"
    return None


def _fold(layer: Layer, found: _BatchNorm) -> str | None:
    """Folds and returns None, or returns why not."""
    gamma, beta, mean, variance = map(found.parameter, range(1, 5))
    with np.errstate(all="ignore"):  # scale_outputs refuses what is not finite
        factor = gamma / sqrt(variance + found.op.get_attr("epsilon"))
        bias = ((0.0 if layer.bias is None else layer.bias) - mean) * factor + beta
    reason = scale_outputs(layer, factor, bias)
    if reason is not None:
        return reason
    layer.folded = found.op.name
    if found.between is None:
        layer.absorb(found.op)
    else:
        layer.absorbed.append(found.op.name)
        layer.bypassed.append(found.op)
    return None
