"""Planning: the two branches that meet in an Add are quantized, together with `joint_quant`.

Each branch is quantized in front of the Add, and both have one scale and offset; so has whatever else a branch feeds
that is quantized. The chip can then keep the branches, and their sum, in int8. For a target whose additions take two
scales, each branch has its own, and only additions behind convolutions are quantized.

Cases:

1. An Add or AddV2 of two computed float32 tensors whose shapes do not contradict: joined. Where a branch also goes to
   another such Add, all of them are.
2. The sum with a parameter, of a tensor with itself, of shapes that are broadcast, or that the outputs which are to be
   run do not need, so that the factors would never be complete: left alone.
3. A layer whose activations must be symmetric keeps factors of its own.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator

import tensorflow as tf

from amct_tensorflow.graph_passes.workspace import Activation, Workspace
from amct_tensorflow.layers import ADDITIONS, Surroundings, reason_against_tensor

_CLIPS = ("Identity", "Relu", "Relu6")  # what a runtime makes part of the convolution before


def join_additions(workspace: Workspace, around: Surroundings, needed: Container[str] | None) -> list[list[str]]:
    """Runs the pass; adds the branches to what is quantized.

    Args:
        workspace: the graph.
        around: what is known of it as a whole.
        needed: names of the ops that will be run; None for all.

    Returns:
        The keys of the activations that get the same factors, group by group.
    """
    sets: dict[str, set[str]] = {}
    additions = list(_additions(workspace.graph, around, needed))
    for op in additions:
        first, second = (data.name for data in op.inputs)
        together = sets.get(first, {first}) | sets.get(second, {second})
        sets |= dict.fromkeys(together, together)
    _quantize_branches(workspace, additions)
    symmetric = {
        activation.key for layer in workspace.layers if layer.row.symmetric for activation in layer.activations()
    }
    groups: dict[int, list[str]] = {}
    for activation in workspace.activations():
        if activation.data.name in sets and activation.key not in symmetric:
            groups.setdefault(id(sets[activation.data.name]), []).append(activation.key)
    return list(groups.values())


def quantize_additions(workspace: Workspace, around: Surroundings, needed: Container[str] | None) -> None:
    """Adds the branches of additions behind convolutions to what is quantized; arguments as above."""
    results = {layer.end.name for layer in workspace.layers if layer.row.stencil(layer.op) is not None}
    additions = _additions(workspace.graph, around, needed)
    behind = [op for op in additions if any(_before_clips(data).name in results for data in op.inputs)]
    _quantize_branches(workspace, behind)


def _before_clips(tensor: tf.Tensor) -> tf.Tensor:
    while tensor.op.type in _CLIPS:
        tensor = tensor.op.inputs[0]
    return tensor


def _quantize_branches(workspace: Workspace, additions: Iterable[tf.Operation]) -> None:
    known = {activation.key for activation in workspace.alone}
    branches = [Activation.alone(op, index) for op in additions for index in (0, 1)]
    workspace.alone += [branch for branch in branches if branch.key not in known]


def _additions(graph: tf.Graph, around: Surroundings, needed: Container[str] | None) -> Iterator[tf.Operation]:
    for op in graph.get_operations():
        if needed is not None and op.name not in needed:
            continue
        if op.type in ADDITIONS and _meet_two_branches(op) and not _any_reason(op, around):
            yield op


def _meet_two_branches(op: tf.Operation) -> bool:
    first, second = op.inputs
    same_rank = first.shape.rank is not None and first.shape.rank == second.shape.rank
    return same_rank and first.name != second.name and first.shape.is_compatible_with(second.shape)


def _any_reason(op: tf.Operation, around: Surroundings) -> bool:
    return any(reason_against_tensor(op, index, around) is not None for index in (0, 1))
