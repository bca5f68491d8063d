"""Planning: what only moves the results of a layer may stand between it and what it absorbs.

The op stays, and what stood behind it is absorbed by the layer before it: both treat every value of a channel alike,
so they may change places.

Cases, for a result that goes nowhere else and is not fetched itself:

1. Reshape, Squeeze, ExpandDims: if the channels have an axis of their own before and after, with equally many values
   behind it.
2. BatchToSpaceND, BatchToSpace, as behind the convolutions of dilated layers: if the channels are along none of the
   axes that it enlarges.
3. Transpose by a constant permutation.
4. Identity; Cast from one float type to another, which only rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tensorflow as tf

from amct_tensorflow.graph.constants import constant_value
from amct_tensorflow.graph.edit import sole_consumer
from amct_tensorflow.graph_passes.planning.front import Front
from amct_tensorflow.graph_passes.workspace import Workspace


def pass_mover(workspace: Workspace, front: Front) -> bool:
    """Runs the pass; tells whether the front is behind an op more."""
    use = sole_consumer(front.tensor)
    if use is None or front.axis is None or workspace.is_output(front.tensor):
        return False
    op, index = use
    axis = MOVERS[op.type](op, front.axis) if op.type in MOVERS and index == 0 else None
    if axis is None:
        return False
    front.pass_by(op, axis)
    return True


def _axis_behind_reshape(op: tf.Operation, axis: int) -> int | None:
    before, after = op.inputs[0].shape, op.outputs[0].shape
    if before.rank is None or after.rank is None:
        return None
    inner = _product(before.as_list()[axis + 1 :])
    channels = before.as_list()[axis]
    for at in reversed(range(after.rank)):
        behind = _product(after.as_list()[at + 1 :])
        if None not in (inner, channels, behind) and behind == inner and after.as_list()[at] == channels:
            return at
    return None


def _product(sizes: Sequence[int | None]) -> int | None:
    product = 1
    for size in sizes:
        if size is None:
            return None
        product *= size
    return product


def _axis_behind_batch_to_space_nd(op: tf.Operation, axis: int) -> int | None:
    block, crops = constant_value(op.inputs[1]), constant_value(op.inputs[2])
    if block is None or crops is None:
        return None
    at = axis - 1
    return axis if at >= len(block) or (block[at] == 1 and not crops[at].any()) else None


def _axis_behind_batch_to_space(op: tf.Operation, axis: int) -> int | None:
    return axis if axis == 3 else None


def _axis_behind_transpose(op: tf.Operation, axis: int) -> int | None:
    permutation = constant_value(op.inputs[1])
    return None if permutation is None else permutation.tolist().index(axis)


def _axis_behind_cast(op: tf.Operation, axis: int) -> int | None:
    both = (op.inputs[0].dtype, op.outputs[0].dtype)
    return axis if all(dtype in (tf.float16, tf.float32) for dtype in both) else None


# Op type -> the axis of the channels behind it, given that before it; None if it has none, or it cannot be known.
MOVERS: dict[str, Callable[[tf.Operation, int], int | None]] = {
    **dict.fromkeys(("Reshape", "Squeeze", "ExpandDims"), _axis_behind_reshape),
    "BatchToSpaceND": _axis_behind_batch_to_space_nd,
    "BatchToSpace": _axis_behind_batch_to_space,
    "Transpose": _axis_behind_transpose,
    "Identity": lambda op, axis: axis,
    "Cast": _axis_behind_cast,
}
