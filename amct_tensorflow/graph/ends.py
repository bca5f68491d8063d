"""Where a graph begins and ends: its placeholders and its outputs, by name or by what nothing consumes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import tensorflow as tf

from amct_tensorflow.errors import AmctValueError, did_you_mean
from amct_tensorflow.graph.control_flow import ops_in_control_flow
from amct_tensorflow.graph.edit import downstream, upstream

INPUT_TYPES = ("Placeholder", "PlaceholderV2", "PlaceholderWithDefault")
# What nothing consumes either, but nobody means by the output of a model.
_NEVER_OUTPUTS = frozenset(
    (
        *INPUT_TYPES,
        *("Const", "Assign", "AssignAdd", "AssignSub", "VarHandleOp", "Variable", "VariableV2"),
        *("Enter", "RefEnter", "Switch", "RefSwitch", "LoopCond", "NextIteration"),
        *("TensorArrayV3", "TensorArraySizeV3"),
        *("ScalarSummary", "HistogramSummary", "ImageSummary", "MergeSummary"),
    )
)
_LOOP_ENDS = ("Exit", "RefExit", "While", "StatelessWhile")
_ASSERTION = "/AssertGuard/"  # the scope of a checked condition, in which TensorFlow passes it on
_MOST_LISTED = 20


def natural_outputs(graph: tf.Graph) -> list[str]:
    """Returns the names of the ops that must be the model's outputs.

    These are the ops with a result that no other op uses as data, and that a placeholder leads to: not Const,
    Placeholder, NoOp, Assert, assignments, summaries, forgotten parameters, lists of tensors, what is inside loops and
    branches, and what loops return unasked, such as their counters.
    """
    ops = graph.get_operations()
    fed = downstream(op for op in ops if op.type in INPUT_TYPES)
    inside = ops_in_control_flow(graph)
    found = [
        op
        for op in ops
        if op.outputs
        and op.type not in _NEVER_OUTPUTS
        and _ASSERTION not in op.name
        and not any(output.consumers() for output in op.outputs)
        and (not fed or op.name in fed)
        and op.name not in inside
        and not all(output.dtype in (tf.variant, tf.resource) for output in op.outputs)
    ]
    return [op.name for op in found if not _is_unasked(op)] or [op.name for op in found]


def _is_unasked(op: tf.Operation) -> bool:
    """Tells whether it is one of the results that TensorFlow gives every loop, by its name."""
    loop = op.inputs[0].op if op.type == "Identity" else op
    return loop.type in _LOOP_ENDS and (op is loop or op.name.startswith(f"{loop.name}/Identity"))


def find_outputs(graph: tf.Graph, outputs: Iterable[str], where: str) -> list[tf.Operation]:
    """Returns the ops of the names, which are those of ops, ``op``, or of tensors, ``op:0``.

    Raises:
        AmctValueError: there is no such op in the graph, or it has no such output; names `where`.
    """
    names = {op.name: op for op in graph.get_operations()}
    found = []
    for output in outputs:
        name, colon, index = output.partition(":")
        if name not in names:
            raise AmctValueError(
                f"output '{output}' does not exist in {where}{did_you_mean(name, names) or ': pass op names of it'}"
            )
        if colon:
            _check_index(names[name], index, output, where)
        found.append(names[name])
    return found


def resolve_outputs(graph: tf.Graph, outputs: Sequence[str], where: str) -> list[tf.Tensor]:
    """Returns the tensors of the names; ``op`` stands for ``op:0``.

    Raises:
        AmctValueError: there is no such op in the graph, or it has no such output; names `where`.
    """
    tensors = []
    for output, op in zip(outputs, find_outputs(graph, outputs, where), strict=True):
        index = output.partition(":")[2] or "0"
        _check_index(op, index, output, where)
        tensors.append(op.outputs[int(index)])
    return tensors


def _check_index(op: tf.Operation, index: str, output: str, where: str) -> None:
    if not index.isdecimal() or int(index) >= len(op.outputs):
        raise AmctValueError(
            f"output '{output}' does not exist in {where}: op '{op.name}' has {len(op.outputs)} output(s), numbered "
            "from 0"
        )


def only_natural_output(graph: tf.Graph, where: str) -> str:
    """Returns the model's output where there is no doubt which it is.

    Raises:
        AmctValueError: there is none, or several; lists them.
    """
    found = natural_outputs(graph)
    if len(found) == 1:
        return found[0]
    if not found:
        raise AmctValueError(f"{where} has no op that nothing consumes: name its outputs")
    listed = ";".join(f"{name}:0" for name in found[:_MOST_LISTED])
    more = f" and {len(found) - _MOST_LISTED} more" if len(found) > _MOST_LISTED else ""
    raise AmctValueError(f'{where} has {len(found)} ops that nothing consumes: name those you mean of "{listed}"{more}')


def needed_inputs(graph: tf.Graph, outputs: Iterable[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the placeholders that the outputs need, in graph order."""
    needed = upstream(tensor.op for tensor in outputs)
    return [op.outputs[0] for op in graph.get_operations() if op.type in INPUT_TYPES and op.name in needed]


def find_placeholder(graph: tf.Graph, name: str, where: str) -> tf.Tensor:
    """Returns the placeholder called ``name`` or ``name:0``.

    Raises:
        AmctValueError: the graph has none of that name; suggests the closest.
    """
    known = {op.name: op.outputs[0] for op in graph.get_operations() if op.type in INPUT_TYPES}
    op_name = name.removesuffix(":0")
    if op_name not in known:
        listed = ", ".join(list(known)[:_MOST_LISTED]) or "none"
        hint = did_you_mean(op_name, known) or f": its inputs are {listed}"
        raise AmctValueError(f"input '{name}' does not exist in {where}{hint}")
    return known[op_name]
