"""Computing what only constants lead to, op by op and outside of any session.

A session is handed the whole graph, with a copy of all its weights, and takes longer to open than most results take
to compute. Here a value is held only until its last use.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework.tensor_shape_pb2 import TensorShapeProto
from tensorflow.python.eager import context, execute

from amct_tensorflow.errors import sentence_of
from amct_tensorflow.graph.large_constants import read_constant

LARGEST = 2**30  # bytes of what one op puts out; a file holds twice as much in all


class NotComputableError(Exception):
    """Why a value cannot be computed, in words."""


def evaluate(tensor: tf.Tensor) -> np.ndarray:
    """Returns the value of a tensor that only constants and pure ops lead to, without a loop.

    Raises:
        NotComputableError: an op puts out more than `LARGEST`, or TensorFlow refuses to compute it.
    """
    ops = _inputs_first(tensor.op)
    last_users = {used.op.name: op for op in ops for used in op.inputs}
    values: dict[str, Sequence[tf.Tensor]] = {}
    for op in ops:
        values[op.name] = _outputs(op, [values[used.op.name][used.value_index] for used in op.inputs])
        for used in op.inputs:
            if last_users[used.op.name] is op:
                values.pop(used.op.name, None)
    value: np.ndarray = values[tensor.op.name][tensor.value_index].numpy()
    return value


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


def _outputs(op: tf.Operation, inputs: list[tf.Tensor]) -> Sequence[tf.Tensor]:
    with context.eager_mode(), tf.device("CPU:0"):
        if op.type == "Const":
            return [tf.constant(read_constant(op), op.outputs[0].dtype)]
        _check_size(op, op.outputs)  # most sizes are known before
        try:
            outputs: Sequence[tf.Tensor] = execute.execute(
                op.type.encode(), len(op.outputs), inputs, _attributes(op), context.context()
            )
        except tf.errors.OpError as error:
            raise NotComputableError(f"TensorFlow says of {op.type} {op.name}: {sentence_of(error)}") from error
        _check_size(op, outputs)
        return outputs


def _attributes(op: tf.Operation) -> tuple[Any, ...]:
    """Returns names and values, in turn."""
    return tuple(part for attribute in op.op_def.attr for part in (attribute.name, _attribute(op, attribute.name)))


def _attribute(op: tf.Operation, name: str) -> Any:
    value = op.get_attr(name)
    if isinstance(value, TensorShapeProto):
        return None if value.unknown_rank else [dim.size for dim in value.dim]
    return value


def _check_size(op: tf.Operation, outputs: Sequence[tf.Tensor]) -> None:
    size = sum((output.shape.num_elements() or 0) * output.dtype.size for output in outputs)
    if size > LARGEST:
        raise NotComputableError(f"{op.type} {op.name} makes {size / 2**30:.1f} GB of them, the limit is 1 GB")
