"""What is behind a tensor: constants alone, variables, too, or what is fed; and the value where it is constants.

Only pure ops may lie between: those that put out the same for the same inputs, in every run. The answers are kept for
each graph until `forget`, because passes ask again and again; rewiring that keeps what a graph computes keeps them
right.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import weakref

import numpy as np
import tensorflow as tf
from tensorflow.python.framework import op_def_registry

from amct_tensorflow.graph.control_flow import CONTROL_FLOW
from amct_tensorflow.graph.evaluate import NotComputableError, evaluate
from amct_tensorflow.graph.large_constants import read_constant

VARIABLE_TYPES = ("VarHandleOp", "VariableV2", "Variable")
_PASS_THROUGH = ("Identity", "StopGradient", "Snapshot", "PreventGradient")
_STORED = (*_PASS_THROUGH, "Reshape")  # no arithmetic: the constant is in the file as it is

# What TensorFlow does not call stateful.
_FED = ("PlaceholderWithDefault", "ReadFile")
_RANDOM_OR_CALLS = "Stateless"  # StatelessRandomUniform, StatelessWhile, …


class _Behind(enum.IntEnum):
    """What is behind an op; of several inputs, the highest counts."""

    CONSTANTS = 0
    VARIABLES = 1
    ANYTHING = 2


@dataclasses.dataclass
class _Known:
    """What is known of a graph: what is behind ops, and why constants cannot be computed, by name."""

    behind: dict[str, _Behind] = dataclasses.field(default_factory=dict)
    reasons: dict[str, str | None] = dataclasses.field(default_factory=dict)


_KNOWN: weakref.WeakKeyDictionary[tf.Graph, _Known] = weakref.WeakKeyDictionary()


def forget(graph: tf.Graph) -> None:
    """Makes the next question look at the graph anew: whoever else had it in hands may have rewired it."""
    _KNOWN.pop(graph, None)


def is_pure(op: tf.Operation) -> bool:
    """Tells whether an op with inputs puts out the same for the same inputs, and computes all of it itself."""
    return bool(op.inputs) and bool(op.outputs) and _is_pure_type(op.type)


@functools.cache
def _is_pure_type(op_type: str) -> bool:
    op_def = op_def_registry.get(op_type)  # a function of the graph may stand in the place of a type
    if op_def is None or op_def.is_stateful or op_type.startswith(_RANDOM_OR_CALLS):
        return False
    calls = any("func" in attribute.type for attribute in op_def.attr)
    return not calls and op_type not in CONTROL_FLOW and op_type not in _FED


def is_constant(tensor: tf.Tensor) -> bool:
    """Tells whether constants and pure ops, and nothing else, are behind the tensor."""
    return _behind(tensor.op) == _Behind.CONSTANTS


def is_parameter(tensor: tf.Tensor) -> bool:
    """Tells whether constants, variables and pure ops, and nothing else, are behind the tensor.

    Constants whose value cannot be computed are no parameters.
    """
    behind = _behind(tensor.op)
    return behind == _Behind.VARIABLES or (behind == _Behind.CONSTANTS and reason_against_value(tensor) is None)


def is_stored(tensor: tf.Tensor) -> bool:
    """Tells whether a constant is behind the tensor without arithmetic between."""
    return is_constant(tensor) and _source(tensor, _STORED).op.type == "Const"


def stored_constant(tensor: tf.Tensor, through: tuple[str, ...] = ()) -> tf.Operation | None:
    """Returns the Const behind the tensor, None if something between computes that is not of the types `through`."""
    op = _source(tensor, (*_STORED, *through)).op
    return op if op.type == "Const" else None


def constant_value(tensor: tf.Tensor) -> np.ndarray | None:
    """Returns the value of a tensor that is constant, an array of its own; None if it is not, or cannot be computed."""
    if not is_constant(tensor):
        return None
    source = _source(tensor, _PASS_THROUGH)
    if source.op.type == "Const":
        return read_constant(source.op)
    reasons = _known(tensor.graph).reasons
    if reasons.get(tensor.name) is not None:
        return None
    try:
        value = evaluate(source)
    except NotComputableError as error:
        reasons[tensor.name] = str(error)
        return None
    reasons[tensor.name] = None
    if (
        not tensor.shape.is_fully_defined()
    ):  # TensorFlow's own inference does not compute, of a boolean_mask for example
        tensor.set_shape(value.shape)
    return value


def reason_against_value(tensor: tf.Tensor) -> str | None:
    """Returns why the value of a tensor that is constant cannot be computed, in words, or None.

    It has to be computed for that, once; the value is not kept.
    """
    if _source(tensor, _PASS_THROUGH).op.type == "Const":
        return None
    reasons = _known(tensor.graph).reasons
    if tensor.name not in reasons:
        constant_value(tensor)
    return reasons[tensor.name]


def _known(graph: tf.Graph) -> _Known:
    return _KNOWN.setdefault(graph, _Known())


def _source(tensor: tf.Tensor, through: tuple[str, ...]) -> tf.Tensor:
    """Returns the tensor above the ops of such types."""
    while tensor.op.type in through:
        tensor = tensor.op.inputs[0]
    return tensor


def _behind(end: tf.Operation) -> _Behind:
    known = _known(end.graph).behind
    stack = [end]
    while stack:
        op = stack[-1]
        found = known.get(op.name)
        if found is None:
            found = _behind_type(op)
        if found is None:  # then its inputs decide; there is no loop without an op that is not pure
            missing = [used.op for used in op.inputs if used.op.name not in known]
            stack.extend(missing)
            if missing:
                continue
            found = max(known[used.op.name] for used in op.inputs)
        known[stack.pop().name] = found
    return known[end.name]


def _behind_type(op: tf.Operation) -> _Behind | None:
    """Returns what the type of an op says, None if that depends on its inputs."""
    if op.type == "Const":
        return _Behind.CONSTANTS
    if op.type in VARIABLE_TYPES:
        return _Behind.VARIABLES
    return None if is_pure(op) or op.type == "ReadVariableOp" else _Behind.ANYTHING
