"""The few edits that passes make on a tf.Graph in place."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import tensorflow as tf


@contextlib.contextmanager
def at_root(graph: tf.Graph) -> Iterator[None]:
    """Makes new ops go to `graph` with the very names given: no scope, control, device or place of the caller."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(graph.as_default())
        if not _is_at_root(graph):  # mostly it is, and leaving all that takes as long as adding an op
            stack.enter_context(graph.name_scope(None))
            stack.enter_context(graph.control_dependencies(None))
            stack.enter_context(graph.device(None))
            stack.enter_context(graph.colocate_with(None, ignore_existing=True))
        yield


def _is_at_root(graph: tf.Graph) -> bool:
    """Tells whether the caller is in no scope of this graph."""
    return not (
        graph.get_name_scope()
        or graph._control_dependencies_stack
        or graph._get_control_flow_context() is not None
        or graph._device_function_stack
        or graph._colocation_stack
    )


def scope_of(name: str) -> str:
    """Returns the name without its last component, ending in a slash, or an empty string."""
    head, slash, _ = name.rpartition("/")
    return head + slash


def unique_scope(graph: tf.Graph, scope: str) -> str:
    """Returns `scope`, or `scope`_1, _2, … if an op or scope of that name exists, and reserves it."""
    with graph.name_scope(None):
        return graph.unique_name(scope)


def consumers(tensor: tf.Tensor) -> list[tuple[tf.Operation, int]]:
    """Returns (op, input index) for every use of the tensor."""
    return [
        (op, index)
        for op in dict.fromkeys(tensor.consumers())
        for index, used in enumerate(op.inputs)
        if used is tensor or used.name == tensor.name
    ]


def sole_consumer(tensor: tf.Tensor) -> tuple[tf.Operation, int] | None:
    """Returns the only use of the tensor, or None if there are none or several."""
    uses = consumers(tensor)
    return uses[0] if len(uses) == 1 else None


def upstream(ops: Iterable[tf.Operation]) -> set[str]:
    """Returns the names of the ops and of all that they need."""
    return _names_along(ops, lambda op: [*(used.op for used in op.inputs), *op.control_inputs])


def downstream(ops: Iterable[tf.Operation]) -> set[str]:
    """Returns the names of the ops and of all that uses their results."""
    return _names_along(ops, lambda op: [user for output in op.outputs for user in output.consumers()])


def _names_along(ops: Iterable[tf.Operation], neighbours: Callable[[tf.Operation], Iterable[tf.Operation]]) -> set[str]:
    found: set[str] = set()
    stack = list(ops)
    while stack:
        op = stack.pop()
        if op.name not in found:
            found.add(op.name)
            stack.extend(neighbours(op))
    return found


def topological_order(graph: tf.Graph) -> dict[str, int]:
    """Returns numbers of the ops, by name, with which each comes behind those that it needs, loops aside."""
    order: dict[str, int] = {}
    started: set[str] = set()
    for root in graph.get_operations():
        stack = [root]
        while stack:
            op = stack[-1]
            waiting = [] if op.name in started else [*(used.op for used in op.inputs), *op.control_inputs]
            started.add(op.name)
            waiting = [other for other in waiting if other.name not in started]
            stack.extend(waiting)
            if not waiting:
                order.setdefault(op.name, len(order))
                stack.pop()
    return order


def set_input(op: tf.Operation, index: int, tensor: tf.Tensor) -> None:
    """Feeds `tensor` to input `index` of `op`."""
    op._update_input(index, tensor)


def replace_uses(old: tf.Tensor, new: tf.Tensor, *, but_not_in: Sequence[tf.Operation] = ()) -> None:
    """Feeds `new` wherever `old` was used, except to the ops of `but_not_in`."""
    kept = {op.name for op in but_not_in}
    for op, index in consumers(old):
        if op.name not in kept:
            set_input(op, index, new)


def waited_for(op: tf.Operation) -> bool:
    """Tells whether some op runs after `op` by a control edge."""
    return bool(op._control_outputs)


def add_control_input(op: tf.Operation, after: tf.Operation) -> None:
    """Makes `op` run after `after`."""
    op._add_control_input(after)


def set_control_inputs(op: tf.Operation, before: Sequence[tf.Operation]) -> None:
    """Makes `op` run after these, and wait for no others that it does not read."""
    op._remove_all_control_inputs()
    op._add_control_inputs(before)


def clone(op: tf.Operation, name: str) -> tf.Operation:
    """Returns a copy of `op` with the same inputs, control inputs and attributes, called `name`, made unique."""
    return _create(op, name, list(op.inputs), [output.dtype for output in op.outputs], _attributes(op))


def clone_with(op: tf.Operation, name: str, inputs: Sequence[tf.Tensor]) -> tf.Operation:
    """Returns a copy of `op` that reads other inputs, called `name`, made unique."""
    return _create(op, name, list(inputs), [output.dtype for output in op.outputs], _attributes(op))


def clone_in_type(
    op: tf.Operation, name: str, old: tf.DType, new: tf.DType, convert: Callable[[tf.Tensor], tf.Tensor]
) -> tf.Operation:
    """Returns a copy of `op` that computes in one type what it computes in another; `convert` makes its inputs so."""
    attributes = _attributes(op)
    for key, value in attributes.items():
        if value.type == old.as_datatype_enum:
            attributes[key] = tf.compat.v1.AttrValue(type=new.as_datatype_enum)
    inputs = [convert(tensor) if tensor.dtype == old else tensor for tensor in op.inputs]
    dtypes = [new if output.dtype == old else output.dtype for output in op.outputs]
    return _create(op, name, inputs, dtypes, attributes)


def _attributes(op: tf.Operation) -> dict[str, Any]:
    return {key: value for key, value in op.node_def.attr.items() if key != "_class"}


def _create(
    op: tf.Operation, name: str, inputs: list[tf.Tensor], dtypes: list[tf.DType], attributes: dict[str, Any]
) -> tf.Operation:
    with at_root(op.graph), op.graph.control_dependencies(op.control_inputs):
        return op.graph.create_op(op.type, inputs, dtypes, name=name, attrs=attributes)
