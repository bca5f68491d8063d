"""Which ops are out of reach: inside v1 control flow, where no outside op may be put between, or in functions."""

from __future__ import annotations

from collections.abc import Collection

import tensorflow as tf
from tensorflow.core.framework.function_pb2 import FunctionDefLibrary

# From an op of the first kind on, everything is inside, up to an op of the second kind.
_REGIONS = (
    (("Enter", "RefEnter"), ("Exit", "RefExit")),
    (("Switch", "RefSwitch"), ("Merge", "RefMerge", "Exit", "RefExit")),
)
CONTROL_FLOW = frozenset(op_type for region in _REGIONS for border in region for op_type in border)

_STATELESS_CALLS = ("PartitionedCall", "StatelessIf", "StatelessWhile", "StatelessCase")
_CALLS = frozenset((*_STATELESS_CALLS, "StatefulPartitionedCall", "If", "While", "Case"))


def ops_in_functions(graph: tf.Graph, types: Collection[str]) -> list[tuple[str, str, str]]:
    """Returns (function, node, op type) of the nodes of such types in the functions that the graph may call."""
    if not any(op.type in _CALLS for op in graph.get_operations()):
        return []
    return [
        (function.signature.name, node.name, node.op)
        for function in function_library(graph).function
        for node in function.node_def
        if node.op in types
    ]


def function_library(graph: tf.Graph) -> FunctionDefLibrary:
    """Returns the functions of the graph, without a copy of its weights as as_graph_def() would make."""
    holder = tf.compat.v1.GraphDef()
    graph._copy_functions_to_graph_def(holder, 0)
    return holder.library


def ops_in_control_flow(graph: tf.Graph) -> set[str]:
    """Returns the names of the ops inside while loops and branches of Switch and Merge."""
    inside: set[str] = set()
    ops = graph.get_operations()
    for entries, exits in _REGIONS:
        seen: set[str] = set()
        stack = [op for op in ops if op.type in entries]
        while stack:
            for output in stack.pop().outputs:
                for user in output.consumers():
                    if user.type not in exits and user.name not in seen:
                        seen.add(user.name)
                        stack.append(user)
        inside |= seen
    return inside
