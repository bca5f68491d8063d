"""A graph that computes in float32 what it computed in float16, for runtimes that have no float16."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from amct_tensorflow.graph.model_file import GraphDef, NodeDef

_HALF, _SINGLE = tf.float16.as_datatype_enum, tf.float32.as_datatype_enum


def widen_halves(graph_def: GraphDef) -> None:
    """Makes all float16 of a graph float32, constants and placeholders, too."""
    _widen(graph_def.node)
    for function in graph_def.library.function:
        _widen(function.node_def)
        for argument in (*function.signature.input_arg, *function.signature.output_arg):
            if argument.type == _HALF:
                argument.type = _SINGLE


def _widen(nodes: Iterable[NodeDef]) -> None:
    for node in nodes:
        for value in node.attr.values():
            kind = value.WhichOneof("value")  # to write to another one would clear it
            if kind == "type" and value.type == _HALF:
                value.type = _SINGLE
            elif kind == "list":
                value.list.type[:] = [_SINGLE if dtype == _HALF else dtype for dtype in value.list.type]
            elif kind == "tensor" and value.tensor.dtype == _HALF:
                value.tensor.CopyFrom(tf.make_tensor_proto(tf.make_ndarray(value.tensor).astype(np.float32)))
