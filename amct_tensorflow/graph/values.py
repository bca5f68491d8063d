"""Values of parameters: a NumPy array where all is constant, a deferred tensor where a variable is behind it.

Arithmetic works on both alike, so a formula is written once, and does not touch the graph: a `Deferred` adds its
ops only when it is materialized.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from amct_tensorflow.graph.edit import at_root, upstream
from amct_tensorflow.graph.large_constants import add_constant, read_constant


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
VARIABLE_TYPES = ("VarHandleOp", "VariableV2", "Variable")

Compute: TypeAlias = Callable[[tf.Operation, list[np.ndarray]], np.ndarray]

# The arithmetic that exporters leave between parameters, of small batch norms for example: op type -> NumPy.
_ARITHMETIC: dict[str, Callable[..., np.ndarray]] = {
    "Mul": np.multiply,
    "Add": np.add,
    "AddV2": np.add,
    "Sub": np.subtract,
    "RealDiv": np.divide,
    "Neg": np.negative,
    "Square": np.square,
    "Sqrt": np.sqrt,
    "Rsqrt": lambda value: np.reciprocal(np.sqrt(value)),
}


def _arithmetic(function: Callable[..., np.ndarray]) -> Compute:
    def compute(op: tf.Operation, inputs: list[np.ndarray]) -> np.ndarray:
        with np.errstate(all="ignore"):  # what is not finite is refused where it is used
            return function(*inputs)

    return compute


# How to compute an op of constants: op type -> function of the op and its input values.
_FOLDABLE: dict[str, Compute] = {
    **{op_type: lambda op, inputs: inputs[0] for op_type in _PASS_THROUGH},
    **{op_type: _arithmetic(function) for op_type, function in _ARITHMETIC.items()},
    **dict.fromkeys(
        ("Reshape", "Squeeze", "ExpandDims"), lambda op, inputs: np.reshape(inputs[0], op.outputs[0].shape.as_list())
    ),
    "Transpose": lambda op, inputs: np.transpose(inputs[0], inputs[1]),
    "Cast": lambda op, inputs: inputs[0].astype(op.outputs[0].dtype.as_numpy_dtype),
}
_STORED = (*_PASS_THROUGH, "Reshape")  # no arithmetic: the constant is in the file as it is


def constant_value(tensor: tf.Tensor) -> np.ndarray | None:
    """Returns the value of a tensor that only constants lead to through known ops, or None."""
    if not is_constant(tensor):
        return None
    ops = _inputs_first(tensor.op)
    last_users = {used.op.name: op for op in ops for used in op.inputs}
    values: dict[str, np.ndarray] = {}
    for op in ops:
        inputs = [values[used.op.name] for used in op.inputs]
        values[op.name] = read_constant(op) if op.type == "Const" else _FOLDABLE[op.type](op, inputs)
        for used in op.inputs:
            if last_users[used.op.name] is op:
                values.pop(used.op.name, None)
    return values[tensor.op.name]


def is_constant(tensor: tf.Tensor) -> bool:
    """Tells whether `constant_value` would return one, without copying it."""
    return _is_made_of(tensor, ("Const",), lambda used: used.op.type in _FOLDABLE and _is_known(used))


def is_stored(tensor: tf.Tensor) -> bool:
    """Tells whether a constant is behind the tensor without arithmetic between."""
    return _is_made_of(tensor, ("Const",), lambda used: used.op.type in _STORED)


def _is_known(tensor: tf.Tensor) -> bool:
    return bool(tensor.shape.is_fully_defined())


def is_parameter(tensor: tf.Tensor) -> bool:
    """Tells whether a constant or a variable, and nothing else, is behind the tensor."""
    return _is_made_of(tensor, (*VARIABLE_TYPES, "Const"), _passes_parameters_on)


def _passes_parameters_on(tensor: tf.Tensor) -> bool:
    return tensor.op.type == "ReadVariableOp" or (tensor.op.type in _FOLDABLE and _is_known(tensor))


def _is_made_of(tensor: tf.Tensor, sources: Collection[str], passes_on: Callable[[tf.Tensor], bool]) -> bool:
    """Tells whether nothing but ops of the types of `sources` is behind the tensor, through those that pass them on."""
    seen: set[str] = set()
    stack = [tensor]
    while stack:
        used = stack.pop()
        if used.op.type in sources or used.op.name in seen:
            continue
        if not passes_on(used):
            return False
        seen.add(used.op.name)
        stack.extend(used.op.inputs)
    return True


def _inputs_first(end: tf.Operation) -> list[tf.Operation]:
    """Returns the ops that lead to `end`, and itself, each once and after its inputs. There must be no loop."""
    order: dict[str, tf.Operation] = {}
    stack = [end]
    while stack:
        op = stack[-1]
        missing = [used.op for used in op.inputs if used.op.name not in order]
        stack.extend(missing)
        if not missing:
            order.setdefault(stack.pop().name, op)
    return list(order.values())


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
