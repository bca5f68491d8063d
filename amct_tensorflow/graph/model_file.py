"""Frozen .pb files: reading them with clear errors, importing, pruning and serializing them."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Mapping
from typing import TypeAlias

import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.message import DecodeError

from amct_tensorflow.errors import AmctRuntimeError, AmctValueError, reason_of
from amct_tensorflow.graph.control_flow import function_library
from amct_tensorflow.graph.file_forms import FORMS, Form, form_of
from amct_tensorflow.graph.large_constants import import_lean
from amct_tensorflow.graph.waits import waits_that_order

GraphDef: TypeAlias = tf.compat.v1.GraphDef
NodeDef: TypeAlias = tf.compat.v1.NodeDef

# protobuf refuses to serialize a larger message.
_LARGEST_FILE = 2**31 - 1


def read_graph_def(path: str) -> GraphDef:
    """Parses a frozen GraphDef, binary or text.

    Raises:
        AmctValueError: it is not a GraphDef, has no nodes, or exceeds 2 GB.
    """
    form = form_of(path)
    check_file_size(path)
    graph_def = GraphDef()
    try:
        with open(path, "rb") as file:
            if form is Form.TEXT_GRAPH:
                text_format.Parse(file.read().decode("utf-8-sig"), graph_def)
            else:
                graph_def.ParseFromString(file.read())
    except (DecodeError, RuntimeError, text_format.ParseError, UnicodeDecodeError) as error:
        raise AmctValueError(f"{path} is not a frozen GraphDef ({reason_of(error)}): pass {FORMS}") from error
    if not graph_def.node:
        raise AmctValueError(f"{path} has no nodes, so it is not a frozen GraphDef: pass {FORMS}")
    _repair_reads(graph_def)
    return graph_def


def check_file_size(path: str) -> None:
    """Raises `AmctValueError` for a file that no protobuf message can be in."""
    if os.path.isfile(path):
        _check_size(os.path.getsize(path), path)


def check_weights(variables: Iterable[tf.Variable], where: str) -> None:
    """Raises `AmctValueError` for variables that cannot all be in one graph; names `where`."""
    _check_size(sum((variable.shape.num_elements() or 0) * variable.dtype.size for variable in variables), where)


def _check_size(size: int, where: str) -> None:
    if size > _LARGEST_FILE:
        raise AmctValueError(
            f"{where} takes {size / 2**30:.2f} GB: a frozen graph can have at most 2 GB, so split the model"
        )


def _repair_reads(graph_def: GraphDef) -> None:
    """Makes reads of constants Identity ops: some freezing tools turn a variable into a constant, but not its reads."""
    kinds = {node.name: node.op for node in graph_def.node}
    for node in graph_def.node:
        if node.op == "ReadVariableOp" and kinds.get(node_of(node.input[0])) == "Const":
            node.op = "Identity"
            node.attr["T"].type = node.attr.pop("dtype").type


def import_graph(graph_def: GraphDef, path: str) -> tf.Graph:
    """Returns a new tf.Graph with the nodes under their own names.

    Raises:
        AmctValueError: TensorFlow refuses the graph; names `path`.
    """
    graph = tf.Graph()
    try:
        with graph.as_default():
            import_lean(graph_def)
    except (ValueError, tf.errors.OpError) as error:
        raise AmctValueError(f"TensorFlow cannot import {path}: {error}") from error
    return graph


def extract(
    graph: tf.Graph, outputs: Iterable[str], moved: Mapping[str, tf.Tensor], clones: Mapping[str, str]
) -> GraphDef:
    """Returns the nodes that the outputs need, every output under its own name.

    Args:
        graph: the rewritten graph.
        outputs: names of ops of the original model, ``op``, or of their outputs, ``op:0``.
        moved: for outputs whose op was replaced, the tensor that now is the output: it gets an Identity node
            of the output's name.
        clones: original op name -> name of the op that replaced it; it takes the original's name if that is
            no longer in use.

    Raises:
        AmctValueError: an output is not the first one of an op that was replaced.
    """
    outputs = list(outputs)
    _check_first_where_moved(outputs, moved)
    moved_to = {name: tensor.op.name for name, tensor in moved.items()}
    ops = graph.get_operations()
    waits = waits_that_order(ops)
    outputs = list(dict.fromkeys(map(node_of, outputs)))
    needed = _reachable(graph, waits, outputs, moved_to)
    renamed = {
        clone: original
        for original, clone in clones.items()
        if clone in needed and original not in needed and original not in moved
    }
    result = GraphDef(versions=graph.graph_def_versions, library=function_library(graph))
    places = {f"loc:@{name}".encode() for name in needed - renamed.keys()}
    for op in ops:
        if op.name in needed:  # as_graph_def() would copy the weights that are not needed, too
            _append(result, op.node_def, waits[op.name], places, renamed)
    for name in outputs:
        if name in moved:
            source = result.node.add(name=name, op="Identity")
            source.input.append(renamed.get(moved_to[name], moved_to[name]))
            source.attr["T"].type = moved[name].dtype.as_datatype_enum
    return result


def _check_first_where_moved(outputs: Iterable[str], moved: Mapping[str, tf.Tensor]) -> None:
    for output in outputs:
        name, _, index = output.partition(":")
        if name in moved and int(index or 0) > 0:
            raise AmctValueError(
                f"output '{output}' cannot be saved: op '{name}' becomes part of a quantized layer, of whose outputs "
                "only the first is left; take this one out of outputs"
            )


def node_of(edge: str) -> str:
    """Returns the name of the node that an input of a NodeDef, or the name of a tensor, belongs to."""
    return edge.lstrip("^").partition(":")[0]


def _reachable(
    graph: tf.Graph, waits: Mapping[str, list[str]], roots: Iterable[str], moved_to: Mapping[str, str]
) -> set[str]:
    found: set[str] = set()
    stack = list(roots)
    while stack:
        name = stack.pop()
        name = moved_to.get(name, name)  # whoever waits for a moved output waits for what took its place
        if name not in found:
            found.add(name)
            stack.extend(used.op.name for used in graph.get_operation_by_name(name).inputs)
            stack.extend(waits[name])
    return found


def _append(
    result: GraphDef, node: NodeDef, waits: Container[str], places: set[bytes], renamed: Mapping[str, str]
) -> None:
    """Adds the node, which waits for no others than `waits`."""
    edges = [edge for edge in node.input if not edge.startswith("^") or edge[1:] in waits]
    copy = result.node.add()
    copy.CopyFrom(node)
    copy.name = renamed.get(node.name, node.name)
    del copy.input[:]
    for edge in edges:
        producer = node_of(edge)
        # An edge that was set later has the :0 that is left out elsewhere.
        copy.input.append(edge.replace(producer, renamed.get(producer, producer), 1).removesuffix(":0"))
    # A colocation constraint on a node that is gone, or renamed, would make the file unloadable.
    if "_class" in node.attr and not places.issuperset(node.attr["_class"].list.s):
        del copy.attr["_class"]


def serialize(graph_def: GraphDef, path: str) -> bytes:
    """Returns the content of a .pb, always the same bytes for the same graph.

    Raises:
        AmctRuntimeError: the graph exceeds the 2 GB of a protobuf file; names `path`.
    """
    if graph_def.ByteSize() > _LARGEST_FILE:
        raise AmctRuntimeError(f"the graph for {path} exceeds 2 GB, which a .pb file cannot hold: split the model")
    return graph_def.SerializeToString(deterministic=True)
