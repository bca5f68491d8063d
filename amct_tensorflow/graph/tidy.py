"""Tidying a GraphDef that TensorFlow has frozen, in place, so that a model always gives the same nodes and bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import tensorflow as tf

from amct_tensorflow.graph.model_file import GraphDef, NodeDef, node_of
from amct_tensorflow.graph.waits import idle_ops

# Where TensorFlow's inlining puts the nodes of the outermost functions.
_CALL_SCOPES = re.compile(r"(Func/)?((Stateful)?PartitionedCall(_\d+)?/)+")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.\\/>-]")
# Attributes that say how a function was traced, some with counters of the process in them.
_TRACES = ("_gradient_op_type", "_user_specified_name", "_output_shapes")
_COUNTERS = re.compile(r"_\d+(?=_|$)")


def join_functions(graph_def: GraphDef) -> None:
    """Leads past the Identity ops that inlining puts at the borders of functions, one for each weight of each call."""
    borders = {
        node.name: node.input[0]
        for node in graph_def.node
        if node.op == "Identity" and node.name.startswith("Func/") and len(node.input) == 1
    }
    for node in graph_def.node:
        for at, edge in enumerate(node.input):
            while node_of(edge) in borders:
                edge = "^" + node_of(borders[node_of(edge)]) if edge.startswith("^") else borders[node_of(edge)]
            node.input[at] = edge


def prune(graph_def: GraphDef, ends: Iterable[str]) -> None:
    """Leaves only the nodes and functions that the nodes `ends` need."""
    nodes = {node.name: node for node in graph_def.node}
    _drop_idle_waits(nodes)
    needed = _reachable(nodes, ends)
    for at in reversed(range(len(graph_def.node))):
        if graph_def.node[at].name not in needed:
            del graph_def.node[at]
    called = set(_called_functions(graph_def))
    for at in reversed(range(len(graph_def.library.function))):
        if graph_def.library.function[at].signature.name not in called:
            del graph_def.library.function[at]


def _drop_idle_waits(nodes: Mapping[str, NodeDef]) -> None:
    """Removes control edges that order nothing."""
    idle = idle_ops(
        {name: node.op for name, node in nodes.items()},
        {name: list(map(node_of, node.input)) for name, node in nodes.items()},
    )
    for node in nodes.values():
        kept = [edge for edge in node.input if not (edge.startswith("^") and node_of(edge) in idle)]
        if len(kept) < len(node.input):
            node.input[:] = kept


def _reachable(nodes: Mapping[str, NodeDef], roots: Iterable[str]) -> set[str]:
    found: set[str] = set()
    stack = list(roots)
    while stack:
        name = stack.pop()
        if name not in found:
            found.add(name)
            stack.extend(map(node_of, nodes[name].input))
    return found


def forget_origin(graph_def: GraphDef) -> None:
    """Takes out devices, what tracing left in nodes, and the counters in the names of functions."""
    del graph_def.library.gradient[:]
    names = {node.name for node in graph_def.node}
    for node in _all_nodes(graph_def):
        node.ClearField("experimental_debug_info")
        node.ClearField("device")
        for name in _TRACES:
            if name in node.attr:
                del node.attr[name]
    for node in graph_def.node:
        places = node.attr["_class"].list.s if "_class" in node.attr else ()
        if any(place.decode().removeprefix("loc:@") not in names for place in places):
            del node.attr["_class"]
    _rename_functions(graph_def)


def move_to_end(graph_def: GraphDef, outputs: Sequence[str]) -> None:
    """Puts the outputs at the end, in this order: they are listed in the order of the nodes."""
    for name in outputs:
        at = next(at for at, node in enumerate(graph_def.node) if node.name == name)
        node = NodeDef.FromString(graph_def.node[at].SerializeToString())
        del graph_def.node[at]
        graph_def.node.append(node)


def rename(graph_def: GraphDef, chosen: Mapping[str, str]) -> None:
    """Gives nodes the names `chosen` by their old ones, and all others theirs without the scopes of function calls."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for old, new in chosen.items():
        names[old] = unused_name(_legal(new), taken)
    for node in graph_def.node:
        if node.name not in names:
            names[node.name] = unused_name(_CALL_SCOPES.sub("", node.name, count=1), taken)
    for node in graph_def.node:
        node.name = names[node.name]
        for at, edge in enumerate(node.input):
            old = node_of(edge)
            node.input[at] = edge.replace(old, names[old], 1)
        if "_class" in node.attr:
            places = node.attr["_class"].list
            places.s[:] = [f"loc:@{names[place.decode().removeprefix('loc:@')]}".encode() for place in places.s]


def _legal(name: str) -> str:
    name = _NOT_IN_A_NAME.sub("_", name)
    return name if re.match(r"[A-Za-z0-9.]", name) else f"x{name}"


def unused_name(name: str, taken: set[str]) -> str:
    """Returns `name`, or name_1, name_2, … if it is taken, and takes it."""
    unused, count = name, 0
    while unused in taken:
        count += 1
        unused = f"{name}_{count}"
    taken.add(unused)
    return unused


def _all_nodes(graph_def: GraphDef) -> Iterator[NodeDef]:
    yield from graph_def.node
    for function in graph_def.library.function:
        yield from function.node_def


def _named_functions(node: NodeDef) -> Iterator[tf.compat.v1.NameAttrList]:
    for attribute in node.attr.values():
        if attribute.HasField("func"):
            yield attribute.func
        yield from attribute.list.func


def _called_functions(graph_def: GraphDef) -> list[str]:
    """Returns the names of the functions that the nodes call, directly or not, in the order of the calls."""
    library = {function.signature.name: function for function in graph_def.library.function}
    found: dict[str, None] = {}
    waiting = list(graph_def.node)[::-1]
    while waiting:
        node = waiting.pop()
        for name in (node.op, *(called.name for called in _named_functions(node))):
            if name in library and name not in found:
                found[name] = None
                waiting += library[name].node_def[::-1]
    return list(found)


def _rename_functions(graph_def: GraphDef) -> None:
    taken: set[str] = set()
    names = {name: unused_name(_COUNTERS.sub("", name) or "function", taken) for name in _called_functions(graph_def)}
    for node in _all_nodes(graph_def):
        node.op = names.get(node.op, node.op)
        for called in _named_functions(node):
            called.name = names.get(called.name, called.name)
    for function in graph_def.library.function:
        function.signature.name = names.get(function.signature.name, function.signature.name)
    graph_def.library.function.sort(key=lambda function: function.signature.name)
