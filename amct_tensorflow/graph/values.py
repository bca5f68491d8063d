"""Values of parameters: a NumPy array where all is constant, the tensor where a variable is behind it.

Arithmetic operators work on both, so a formula is written once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import tensorflow as tf

from amct_tensorflow.graph.edit import at_root

Value: TypeAlias = "np.ndarray | tf.Tensor"

_PASS_THROUGH = ("Identity", "StopGradient", "Snapshot", "PreventGradient")
_VARIABLES = ("VarHandleOp", "VariableV2", "Variable")

# How to compute an op of constants: op type -> function of the op and its input values.
_FOLDABLE: dict[str, Callable[[tf.Operation, list[np.ndarray]], np.ndarray]] = {
    **{op_type: lambda op, inputs: inputs[0] for op_type in _PASS_THROUGH},
    "Reshape": lambda op, inputs: np.reshape(inputs[0], inputs[1]),
}


def constant_value(tensor: tf.Tensor) -> np.ndarray | None:
    """Returns the value of a tensor that only constants lead to through known ops, or None."""
    op = tensor.op
    if op.type == "Const":
        return tf.make_ndarray(op.get_attr("value"))
    if op.type not in _FOLDABLE:
        return None
    inputs = []
    for used in op.inputs:
        value = constant_value(used)
        if value is None:
            return None
        inputs.append(value)
    return _FOLDABLE[op.type](op, inputs)


def is_constant(tensor: tf.Tensor) -> bool:
    """Tells whether `constant_value` would return one, without copying it."""
    op = tensor.op
    return op.type == "Const" or (op.type in _FOLDABLE and all(map(is_constant, op.inputs)))


def is_parameter(tensor: tf.Tensor) -> bool:
    """Tells whether a constant or a variable, and nothing else, is behind the tensor."""
    op = tensor.op
    if op.type in _VARIABLES or is_constant(tensor):
        return True
    if op.type == "Reshape":
        return is_parameter(op.inputs[0]) and is_constant(op.inputs[1])
    return op.type in (*_PASS_THROUGH, "ReadVariableOp") and is_parameter(op.inputs[0])


def value_of(parameter: tf.Tensor) -> Value:
    """Returns the constant behind the tensor, or the tensor itself if there is a variable."""
    value = constant_value(parameter)
    return parameter if value is None else value


def materialize(graph: tf.Graph, value: Value, name: str) -> tf.Tensor:
    """Returns the value as a tensor of `graph`: a Const called `name`, or the tensor that it is."""
    if isinstance(value, tf.Tensor):
        return value
    with at_root(graph):
        return tf.constant(value, name=name)


def reshape(value: Value, shape: Sequence[int]) -> Value:
    """np.reshape or tf.reshape."""
    if isinstance(value, tf.Tensor):
        with at_root(value.graph):
            return tf.reshape(value, shape)
    return np.reshape(value, shape)


def broadcast_to(value: Value, shape: Sequence[int]) -> Value:
    """np.broadcast_to or tf.broadcast_to."""
    if isinstance(value, tf.Tensor):
        with at_root(value.graph):
            return tf.broadcast_to(value, shape)
    return np.broadcast_to(value, shape)


def sqrt(value: Value) -> Value:
    """np.sqrt or tf.sqrt."""
    return tf.sqrt(value) if isinstance(value, tf.Tensor) else np.sqrt(value)


def shape_of(value: Value) -> tuple[int, ...] | None:
    """Returns the static shape, or None if it is not fully known."""
    if isinstance(value, np.ndarray):
        return value.shape
    return tuple(value.shape) if value.shape.is_fully_defined() else None
