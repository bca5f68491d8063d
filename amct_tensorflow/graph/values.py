"""Values of parameters: a NumPy array where all is constant, a deferred tensor where a variable is behind it.

Arithmetic works on both alike, so a formula is written once, and does not touch the graph: a `Deferred` adds its
ops only when it is materialized.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from amct_tensorflow.graph.constants import VARIABLE_TYPES, constant_value
from amct_tensorflow.graph.edit import at_root, upstream
from amct_tensorflow.graph.large_constants import add_constant


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


def needed_variables(graph: tf.Graph, outputs: Iterable[tf.Tensor]) -> list[str]:
    """Returns the names of the variables that the outputs need; a frozen model has none."""
    needed = upstream(tensor.op for tensor in outputs)
    return [op.name for op in graph.get_operations() if op.type in VARIABLE_TYPES and op.name in needed]


def value_of(parameter: tf.Tensor) -> Value:
    """Returns the constant behind the tensor, or the tensor itself, deferred, if there is a variable; in float32."""
    value = constant_value(parameter)
    if value is not None:
        return value.astype(np.float32, copy=False)
    if parameter.dtype.base_dtype == tf.float32:
        return Deferred(lambda: parameter)
    return Deferred(lambda: tf.cast(parameter, tf.float32))


def materialize(graph: tf.Graph, value: Value, name: str) -> tf.Tensor:
    """Returns the value as a tensor of `graph`: a Const called `name`, or the result of the deferred ops."""
    with at_root(graph):
        return value.build() if isinstance(value, Deferred) else add_constant(value, name)


def reshape(value: Value, shape: Sequence[int]) -> Value:
    """np.reshape or tf.reshape."""
    if isinstance(value, Deferred):
        return value.apply(lambda tensor: tf.reshape(tensor, shape))
    return np.reshape(value, shape)


def transpose(value: Value, axes: Sequence[int]) -> Value:
    """np.transpose or tf.transpose."""
    if isinstance(value, Deferred):
        return value.apply(lambda tensor: tf.transpose(tensor, axes))
    return np.ascontiguousarray(np.transpose(value, axes))  # once, not again in each step that follows


def part(value: Value, start: int, size: int) -> Value:
    """Returns value[start : start + size]."""
    if isinstance(value, Deferred):
        return value.apply(lambda tensor: tensor[start : start + size])
    return value[start : start + size]


def joined(values: Sequence[Value]) -> Value:
    """Returns the vectors one behind the other."""
    if len(values) == 1:
        return values[0]
    constants = [value for value in values if not isinstance(value, Deferred)]
    if len(constants) == len(values):
        return np.concatenate(constants)
    return Deferred(
        lambda: tf.concat([value.build() if isinstance(value, Deferred) else value for value in values], axis=0)
    )


def broadcast_to(value: Value, shape: Sequence[int]) -> Value:
    """np.broadcast_to or tf.broadcast_to."""
    if isinstance(value, Deferred):
        return value.apply(lambda tensor: tf.broadcast_to(tensor, shape))
    return np.broadcast_to(value, shape)


def sqrt(value: Value) -> Value:
    """np.sqrt or tf.sqrt."""
    return value.apply(tf.sqrt) if isinstance(value, Deferred) else np.sqrt(value)
