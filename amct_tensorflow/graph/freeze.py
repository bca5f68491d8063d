"""Freezing: the variables of a function become constants, and the functions that it calls are inlined."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework.convert_to_constants import (
    _FunctionConverterDataInEager,
    _replace_variables_by_constants,
)

from amct_tensorflow.errors import AmctValueError, reason_of
from amct_tensorflow.graph.constants import VARIABLE_TYPES
from amct_tensorflow.graph.ends import INPUT_TYPES, natural_outputs
from amct_tensorflow.graph.model_file import GraphDef, check_weights
from amct_tensorflow.graph.tidy import forget_origin, join_functions, move_to_end, prune, rename

_CALLS = ("PartitionedCall", "StatefulPartitionedCall")


def freeze(
    function: Callable[[Sequence[tf.Tensor]], Mapping[str, tf.Tensor]],
    inputs: Mapping[str, tf.TensorSpec],
    where: str,
) -> GraphDef:
    """Returns the frozen graph of a function; its nodes and bytes are the same in every process.

    Args:
        function: takes the input tensors and returns the output tensors by the names that they shall have.
        inputs: the specs of the input tensors by the names that the placeholders shall have.
        where: the model, for error messages.

    Raises:
        AmctValueError: the function cannot be traced or frozen, or its weights exceed 2 GB.
    """
    outputs: list[str] = []

    def traced(*tensors: tf.Tensor) -> list[tf.Tensor]:
        results = {name: result for name, result in function(tensors).items() if result is not None}
        outputs[:] = results
        return list(results.values())

    with context.eager_mode():  # a script may have made a tf.Graph the default
        try:
            concrete = tf.function(traced).get_concrete_function(*inputs.values())
            check_weights(concrete.variables, where)
            graph_def = _constants_for_variables(concrete)
        except AmctValueError:
            raise
        except Exception as error:  # whatever the model's own code raises
            raise AmctValueError(
                f"TensorFlow cannot freeze {where}: {reason_of(error)}; make it run inside of tf.function"
            ) from error
        ends = [tensor.op.name for tensor in (*concrete.inputs[: len(inputs)], *concrete.outputs)]
        weights = _names_of_weights(concrete)
    join_functions(graph_def)
    prune(graph_def, ends)
    forget_origin(graph_def)
    move_to_end(graph_def, ends[len(inputs) :])
    rename(graph_def, {**dict(zip(ends, [*inputs, *outputs], strict=True)), **weights})
    refuse_state(graph_def, where)
    return graph_def


def _constants_for_variables(concrete: Any, lower_control_flow: bool = True) -> GraphDef:
    """Does what convert_variables_to_constants_v2 does, without the function that it makes of several more copies."""
    data = _FunctionConverterDataInEager(
        func=concrete, lower_control_flow=lower_control_flow, aggressive_inlining=False
    )
    return _replace_variables_by_constants(converter_data=data)[0]


def _names_of_weights(concrete: Any) -> dict[str, str]:
    """Returns names for what TensorFlow numbers by a counter of the process: weights of functions that are called."""
    names = {id(variable.handle): variable.name.partition(":")[0] for variable in concrete.variables}
    return {
        inner.op.name: names.get(id(outer), "captured")
        for outer, inner in concrete.graph.captures
        if inner.op.name.isdecimal()
    }


def inline(graph_def: GraphDef, where: str) -> GraphDef:
    """Returns a frozen graph with the functions that its nodes call inlined as far as TensorFlow does that.

    Loops and branches stay as they are, and so do the names of the nodes outside functions.

    Raises:
        AmctValueError: TensorFlow refuses the graph; names `where`.
    """
    functions = {function.signature.name for function in graph_def.library.function}
    if not any(node.op in _CALLS or node.op in functions for node in graph_def.node) or _has_variables(graph_def):
        return graph_def
    try:
        with context.eager_mode():
            wrapped = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph_def, name=""), [])
            graph = wrapped.graph
            feeds = [op.outputs[0] for op in graph.get_operations() if op.type in INPUT_TYPES]
            fetches = [
                output for name in natural_outputs(graph) for output in graph.get_operation_by_name(name).outputs
            ]
            inlined = _constants_for_variables(wrapped.prune(feeds, fetches), lower_control_flow=False)
    except (ValueError, tf.errors.OpError) as error:
        raise AmctValueError(f"TensorFlow cannot import {where}: {error}") from error
    prune(inlined, [tensor.op.name for tensor in (*feeds, *fetches)])
    forget_origin(inlined)
    return inlined


def _has_variables(graph_def: GraphDef) -> bool:
    return any(node.op in VARIABLE_TYPES for node in graph_def.node)


def refuse_state(graph_def: GraphDef, where: str) -> None:
    """Raises `AmctValueError` for a node whose content is not in the graph, such as a lookup table."""
    for node in graph_def.node:
        handle = node.op == "Placeholder" and node.attr["dtype"].type in (tf.resource, tf.variant)
        if handle or node.op in VARIABLE_TYPES or "HashTable" in node.op:
            raise AmctValueError(
                f"{where} needs the content of '{node.name}' ({'a resource' if handle else node.op}), which TensorFlow "
                "cannot make a constant: leave it out, for example the lookup of words before the network"
            )
        if node.op.startswith("Assign") and node.op.endswith("VariableOp"):
            raise AmctValueError(
                f"{where} writes a variable while it runs, at '{node.name}', as random augmentation and layers with a "
                "state of their own do: export it without them, or pass the Keras model, in which augmentation is off"
            )
