"""Planning: which batch norms of a graph can be given other statistics.

    BN(x) = gamma * (x - mean) / sqrt(variance + eps) + beta

Cases:

1. FusedBatchNorm, V2 or V3 in inference mode.
2. The small ops of `tf.nn.batch_normalization`, which Keras 3 writes: x * f + (beta - mean * f), with
   f = gamma * rsqrt(variance + eps), with or without gamma and beta. It goes by the name of the Mul that multiplies x.
3. A batch norm in training mode, in control flow or in a function, whose statistics are not stored as constants, or are
   used elsewhere, or whose input has an unknown number of axes: left as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import tensorflow as tf

from amct_tensorflow.graph.constants import is_parameter, stored_constant
from amct_tensorflow.graph.control_flow import ops_in_control_flow, ops_in_functions
from amct_tensorflow.graph.edit import consumers, sole_consumer
from amct_tensorflow.layers import ADDITIONS, BATCH_NORMS, INSIDE, channel_axis

_MEAN, _VARIANCE = 3, 4  # inputs of the batch norms of one op


@dataclasses.dataclass(frozen=True)
class BatchNorm:
    """A batch norm whose statistics can be replaced.

    Attributes:
        name: the op's name.
        data: what it normalizes.
        channels: how many channels that has.
        axes: the axes of `data` that its statistics are taken over.
        mean: the Const of its mean, which nothing else uses.
        variance: that of its variance.
    """

    name: str
    data: tf.Tensor
    channels: int
    axes: list[int]
    mean: tf.Operation
    variance: tf.Operation


@dataclasses.dataclass(frozen=True)
class _Found:
    """The tensors of a batch norm; `axis` is that of the channels, None if there is but one channel."""

    op: tf.Operation
    data: tf.Tensor
    axis: int | None
    mean: tf.Tensor
    variance: tf.Tensor


def find_batch_norms(graph: tf.Graph) -> tuple[list[BatchNorm], dict[str, str]]:
    """Returns the batch norms of 1 and 2, and the reasons of those of 3 by name."""
    inside = ops_in_control_flow(graph)
    batch_norms: list[BatchNorm] = []
    reasons: dict[str, str] = {}
    for found in _find(graph):
        reason = INSIDE if found.op.name in inside else _reason_against(found)
        if reason is None:
            batch_norms.append(_batch_norm(found))
        else:
            reasons[found.op.name] = reason
    for function, name, _ in ops_in_functions(graph, BATCH_NORMS):
        reasons[f"{function}/{name}"] = f"it is inside the function {function}"
    return batch_norms, reasons


def _find(graph: tf.Graph) -> Iterator[_Found]:
    for op in graph.get_operations():
        if op.type in BATCH_NORMS:
            yield _Found(op, op.inputs[0], channel_axis(op), op.inputs[_MEAN], op.inputs[_VARIANCE])
        elif op.type == "Rsqrt":
            found = _of_small_ops(op)
            if found is not None:
                yield found


def _of_small_ops(rsqrt: tf.Operation) -> _Found | None:
    """Returns the batch norm of which this is the reciprocal square root, None if it is of something else."""
    variance = _beside_epsilon(rsqrt.inputs[0].op)
    if variance is None or not is_parameter(variance):
        return None
    factor = rsqrt.outputs[0]
    gamma = sole_consumer(factor)
    if gamma is not None and gamma[0].type == "Mul" and is_parameter(gamma[0].outputs[0]):
        factor = gamma[0].outputs[0]
    users = consumers(factor)
    if len(users) != 2 or any(op.type != "Mul" for op, _ in users):
        return None
    (shift, at), (scale, other) = sorted(users, key=lambda user: not is_parameter(user[0].outputs[0]))
    mean, data = shift.inputs[1 - at], scale.inputs[1 - other]
    sizes = {tensor.shape.num_elements() for tensor in (mean, variance, factor)}
    if is_parameter(data) or sizes == {None} or len(sizes) > 1 or not _are_subtracted(shift, scale):
        return None
    return _Found(scale, data, _varying_axis(factor), mean, variance)


def _beside_epsilon(added: tf.Operation) -> tf.Tensor | None:
    """Returns what a scalar is added to."""
    if added.type not in ADDITIONS or len(added.inputs) != 2:
        return None
    return next((added.inputs[1 - at] for at in (1, 0) if added.inputs[at].shape.rank == 0), None)


def _are_subtracted(shift: tf.Operation, scale: tf.Operation) -> bool:
    """Tells whether mean * f is subtracted from x * f, be it from beta first, or negative itself."""
    negative = any(used.op.type == "Neg" for used in shift.inputs)
    user = sole_consumer(shift.outputs[0])
    if user is not None and user[0].type == "Sub" and user[1] == 1 and is_parameter(user[0].inputs[0]):
        negative, user = not negative, sole_consumer(user[0].outputs[0])
    return negative and user is not None and user[0].type in ADDITIONS and user[0].inputs[1 - user[1]].op is scale


def _varying_axis(factor: tf.Tensor) -> int | None:
    """Returns the axis, counted from the end, along which a tensor has more than one value."""
    sizes = factor.shape.as_list()
    return next((at - len(sizes) for at, size in enumerate(sizes) if size > 1), None)


def _reason_against(found: _Found) -> str | None:
    if found.op.type in BATCH_NORMS and found.op.get_attr("is_training"):
        return "it is in training mode"
    for statistics in (found.mean, found.variance):
        constant = _constant(statistics)
        if constant is None:
            return "its mean and variance are not stored as constants: give a SavedModel or a Keras file, or freeze it"
        if not _leads_only_to(constant, statistics, found):
            return "its mean or variance is used elsewhere, too"
    return "the number of axes of its input is not known" if found.data.shape.rank is None else None


def _constant(statistics: tf.Tensor) -> tf.Operation | None:
    return stored_constant(statistics, through=("Neg",))


def _leads_only_to(constant: tf.Operation, statistics: tf.Tensor, found: _Found) -> bool:
    """Tells whether nothing uses a constant but what is between it and a tensor that one op of a batch norm uses."""
    tensor = constant.outputs[0]
    while tensor is not statistics and tensor.name != statistics.name:
        user = sole_consumer(tensor)
        if user is None:
            return False
        tensor = user[0].outputs[0]
    return sole_consumer(tensor) is not None


def _batch_norm(found: _Found) -> BatchNorm:
    mean, variance = _constant(found.mean), _constant(found.variance)
    assert mean is not None and variance is not None
    rank = found.data.shape.rank
    kept = None if found.axis is None else found.axis % rank
    axes = [axis for axis in range(rank) if axis != kept]
    return BatchNorm(found.op.name, found.data, mean.outputs[0].shape.num_elements(), axes, mean, variance)
