"""Planning: what only moves the results of a layer may stand between it and what it absorbs.

The op stays, and what stood behind it is absorbed by the layer before it: both treat every value of a channel alike,
so they may change places.

Cases, for a result that goes nowhere else and is not fetched itself:

1. Reshape, Squeeze, ExpandDims: if the channels have an axis of their own before and after, with equally many values
   behind it; or if it spreads them over several axes, as those of attention over its heads, or joins these again.
2. BatchToSpaceND, BatchToSpace, as behind the convolutions of dilated layers: if the channels are along none of the
   axes that it enlarges.
3. Transpose by a constant permutation.
4. Identity; Cast from one float type to another, which only rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import tensorflow as tf

from amct_tensorflow.graph.constants import constant_value
from amct_tensorflow.graph.edit import sole_consumer
from amct_tensorflow.graph_passes.planning.front import Front, Span
from amct_tensorflow.graph_passes.workspace import Workspace


def pass_mover(workspace: Workspace, front: Front) -> bool:
    """Runs the pass; tells whether the front is behind an op more."""
    use = sole_consumer(front.tensor)
    if use is None or front.span is None or workspace.is_output(front.tensor):
        return False
    op, index = use
    span = MOVERS[op.type](op, front.span) if op.type in MOVERS and index == 0 else None
    if span is None:
        return False
    front.pass_by(op, span)
    return True


def _span_behind_reshape(op: tf.Operation, span: Span) -> Span | None:
    before, after = op.inputs[0].shape, op.outputs[0].shape
    if before.rank is None or after.rank is None:
        return None
    inner = _product(before.as_list()[span.first + len(span.sizes) :])
    channels = math.prod(span.sizes)
    ends = [end for end in reversed(range(1, after.rank + 1)) if _product(after.as_list()[end:]) == inner]
    for most in (1, after.rank):  # one axis, if there is one
        for end in ends if inner is not None else ():
            for first in reversed(range(max(0, end - most), end)):
                if _product(after.as_list()[first:end]) == channels:
                    return Span(first, tuple(after.as_list()[first:end]))
    return None


def _of_one_axis(axis_behind: Callable[[tf.Operation, int], int | None]) -> Callable[[tf.Operation, Span], Span | None]:
    """Returns the same for a span, which must be of one axis."""

    def span_behind(op: tf.Operation, span: Span) -> Span | None:
        axis = axis_behind(op, span.first) if len(span.sizes) == 1 else None
        return None if axis is None else Span(axis, span.sizes)

    return span_behind


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


def _span_behind_cast(op: tf.Operation, span: Span) -> Span | None:
    both = (op.inputs[0].dtype, op.outputs[0].dtype)
    return span if all(dtype in (tf.float16, tf.float32) for dtype in both) else None


# Op type -> where the channels are behind it, given where before it; None if nowhere together, or it cannot be known.
MOVERS: dict[str, Callable[[tf.Operation, Span], Span | None]] = {
    **dict.fromkeys(("Reshape", "Squeeze", "ExpandDims"), _span_behind_reshape),
    "BatchToSpaceND": _of_one_axis(_axis_behind_batch_to_space_nd),
    "BatchToSpace": _of_one_axis(_axis_behind_batch_to_space),
    "Transpose": _of_one_axis(_axis_behind_transpose),
    "Identity": lambda op, span: span,
    "Cast": _span_behind_cast,
}
