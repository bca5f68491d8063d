"""Values of parameters: a NumPy array where all is constant, a deferred tensor where a variable is behind it.

Arithmetic works on both alike, so a formula is written once, and does not touch the graph: a `Deferred` adds its
ops only when it is materialized.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from amct_tensorflow.graph.edit import at_root


class Deferred:
    """An expression of tensors that is not in the graph yet."""

    __array_ufunc__ = None  # an array on the left leaves the operator to this class

    def __init__(self, build: Callable[[], tf.Tensor]) -> None:
        self._build = build

    def build(self) -> tf.Tensor:
        """Returns the tensor; adds ops to the default graph."""
        return self._build()

    def apply(self, function: Callable[[tf.Tensor], tf.Tensor]) -> Deferred:
        """Returns function(self), deferred."""
        return Deferred(lambda: function(self.build()))

    def __add__(self, other: Value | float) -> Deferred:
        return _combine(operator.add, self, other)

    def __radd__(self, other: Value | float) -> Deferred:
        return _combine(operator.add, other, self)

    def __sub__(self, other: Value | float) -> Deferred:
        return _combine(operator.sub, self, other)

    def __rsub__(self, other: Value | float) -> Deferred:
        return _combine(operator.sub, other, self)

    def __mul__(self, other: Value | float) -> Deferred:
        return _combine(operator.mul, self, other)

    def __rmul__(self, other: Value | float) -> Deferred:
        return _combine(operator.mul, other, self)

    def __truediv__(self, other: Value | float) -> Deferred:
        return _combine(operator.truediv, self, other)

    def __rtruediv__(self, other: Value | float) -> Deferred:
        return _combine(operator.truediv, other, self)


Value: TypeAlias = np.ndarray | Deferred


def _combine(operation: Callable[[Any, Any], Any], left: Value | float, right: Value | float) -> Deferred:
    return Deferred(
        lambda: operation(*(side.build() if isinstance(side, Deferred) else side for side in (left, right)))
    )


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
    """Returns the constant behind the tensor, or the tensor itself, deferred, if there is a variable."""
    value = constant_value(parameter)
    return Deferred(lambda: parameter) if value is None else value


def materialize(graph: tf.Graph, value: Value, name: str) -> tf.Tensor:
    """Returns the value as a tensor of `graph`: a Const called `name`, or the result of the deferred ops."""
    with at_root(graph):
        return value.build() if isinstance(value, Deferred) else tf.constant(value, name=name)


def reshape(value: Value, shape: Sequence[int]) -> Value:
    """np.reshape or tf.reshape."""
    if isinstance(value, Deferred):
        return value.apply(lambda tensor: tf.reshape(tensor, shape))
    return np.reshape(value, shape)


def broadcast_to(value: Value, shape: Sequence[int]) -> Value:
    """np.broadcast_to or tf.broadcast_to."""
    if isinstance(value, Deferred):
        return value.apply(lambda tensor: tf.broadcast_to(tensor, shape))
    return np.broadcast_to(value, shape)


def sqrt(value: Value) -> Value:
    """np.sqrt or tf.sqrt."""
    return value.apply(tf.sqrt) if isinstance(value, Deferred) else np.sqrt(value)
