"""Constants without needless copies: TensorFlow's own ways to make, read and import one hold it up to six times.

Large weights are imported hollow, as constants of zeros that take no memory, and then filled one by one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import tensorflow as tf
from tensorflow.python.client import pywrap_tf_session
from tensorflow.python.framework import tensor_util

GraphDef: TypeAlias = tf.compat.v1.GraphDef
AttrValue: TypeAlias = tf.compat.v1.AttrValue

_LARGE = 2**20  # bytes
_FLOATS = [dtype.as_datatype_enum for dtype in (tf.float32, tf.float64, tf.float16, tf.bfloat16)]


def read_constant(op: tf.Operation) -> np.ndarray:
    """Returns the value of a Const, as an array of its own."""
    value = tensor_util.try_evaluate_constant(op.outputs[0])
    # A copy, because TensorFlow does not give the memory of its tensors back, but uses it for the next one.
    return tf.make_ndarray(op.get_attr("value")) if value is None else np.array(value)


def set_constant(op: tf.Operation, value: np.ndarray) -> None:
    """Gives a Const another value of its shape and type."""
    _fill(op, _serialized(np.ascontiguousarray(value)))


def add_constant(value: np.ndarray, name: str) -> tf.Tensor:
    """Adds a Const to the default graph; as tf.constant."""
    if value.nbytes < _LARGE:
        return tf.constant(value, name=name)
    dtype = tf.as_dtype(value.dtype)
    attributes = {"dtype": AttrValue(type=dtype.as_datatype_enum), "value": _hollow_value(value)}
    op = tf.compat.v1.get_default_graph().create_op("Const", [], [dtype], name=name, attrs=attributes)
    _fill(op, _serialized(value))
    return op.outputs[0]


def _hollow_value(value: np.ndarray) -> AttrValue:
    attribute = AttrValue()
    attribute.tensor.dtype = tf.as_dtype(value.dtype).as_datatype_enum
    attribute.tensor.tensor_shape.CopyFrom(tf.TensorShape(value.shape).as_proto())
    return attribute


def _serialized(value: np.ndarray) -> bytes:
    attribute = _hollow_value(value)
    attribute.tensor.tensor_content = value.tobytes()
    content: bytes = attribute.SerializeToString()
    return content


def import_lean(graph_def: GraphDef, name: str = "", input_map: Mapping[str, tf.Tensor] | None = None) -> None:
    """Imports into the default graph; as tf.import_graph_def."""
    large = {node.name: node for node in graph_def.node if _is_large(node)}
    if not large:
        tf.import_graph_def(graph_def, name=name, input_map=input_map)
        return
    tf.import_graph_def(_hollow(graph_def), name=name, input_map=input_map)
    graph = tf.compat.v1.get_default_graph()
    for node_name, node in large.items():
        op = graph.get_operation_by_name(f"{name}/{node_name}" if name else node_name)
        _fill(op, node.attr["value"].SerializeToString())


def _is_large(node: tf.compat.v1.NodeDef) -> bool:
    """Tells whether it is a constant of weights: of floats, which no shape is inferred from, as a block of bytes."""
    if node.op != "Const" or "value" not in node.attr:
        return False
    tensor = node.attr["value"].tensor
    return tensor.dtype in _FLOATS and len(tensor.tensor_content) >= _LARGE


def _hollow(graph_def: GraphDef) -> GraphDef:
    """Returns a copy without the content of large constants."""
    hollow = GraphDef(versions=graph_def.versions, library=graph_def.library)
    for node in graph_def.node:
        if not _is_large(node):
            hollow.node.append(node)
            continue
        copy = hollow.node.add(name=node.name, op=node.op, input=node.input, device=node.device)
        for key, value in node.attr.items():
            if key != "value":
                copy.attr[key].CopyFrom(value)
        copy.attr["value"].tensor.dtype = node.attr["value"].tensor.dtype
        copy.attr["value"].tensor.tensor_shape.CopyFrom(node.attr["value"].tensor.tensor_shape)
    return hollow


def _fill(op: tf.Operation, content: bytes) -> None:
    """Sets the value of a Const to a serialized AttrValue, to which the caller keeps no reference."""
    buffer = pywrap_tf_session.TF_NewBufferFromString(content)
    del content
    try:
        op._set_attr_with_buf("value", buffer)
    finally:
        pywrap_tf_session.TF_DeleteBuffer(buffer)
