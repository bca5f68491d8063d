"""Formulas of arrays and of tensors, and tensors from values."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
import tensorflow as tf

from amct_tensorflow.graph.values import broadcast_to, materialize, reshape, sqrt, transpose, value_of

v1 = tf.compat.v1

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3) + 1


def _variable():
    return tf.convert_to_tensor(v1.get_variable("v", initializer=ARRAY, use_resource=True))


def _graph(build):
    graph = tf.Graph()
    with graph.as_default():
        tensor = build()
    return graph, tensor


# -- Tensors from values -------------------------------------------------------------------------------------


def test_materialize_an_array():
    graph = tf.Graph()
    with graph.name_scope("callers"):
        tensor = materialize(graph, ARRAY, "net/weights")
    assert (tensor.graph, tensor.name, tensor.op.type, tensor.dtype) == (graph, "net/weights:0", "Const", tf.float32)
    np.testing.assert_array_equal(tf.make_ndarray(tensor.op.get_attr("value")), ARRAY)


def test_materialize_a_tensor():
    graph, tensor = _graph(_variable)
    assert materialize(graph, value_of(tensor), "net/weights") is tensor


# -- Arithmetic: the same formula on arrays and on tensors ---------------------------------------------------

ROW = np.array([1, 2, 4], np.float32)

FORMULAS = {
    "reshape": lambda value: reshape(value, [3, 2]),
    "reshape with -1": lambda value: reshape(value, [-1]),
    "transpose": lambda value: transpose(reshape(value, [1, 2, 3]), [2, 0, 1]),
    "broadcast_to": lambda value: broadcast_to(reshape(value, [2, 3, 1]), [2, 3, 4]),
    "sqrt": sqrt,
    "with numbers": lambda value: (0.0 - value) / sqrt(value + 1e-3) * 2.0,
    "with arrays on the right": lambda value: ((value * ROW) + ROW - ROW) / ROW,
    "with arrays on the left": lambda value: ROW / (ROW + (ROW - ROW * value) + 0.5),
}

CALLERS = {
    "in eager mode": lambda graph: contextlib.nullcontext(),
    "in the graph": lambda graph: graph.as_default(),
    "in another graph": lambda graph: tf.Graph().as_default(),
}


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("formula", FORMULAS)
def test_formulas_hold_for_arrays_and_tensors(formula, caller):
    expected = FORMULAS[formula](ARRAY)
    assert isinstance(expected, np.ndarray)
    assert expected.dtype == np.float32
    graph, tensor = _graph(_variable)
    before = graph.as_graph_def().SerializeToString(deterministic=True)
    with CALLERS[caller](graph):
        value = FORMULAS[formula](value_of(tensor))
        assert graph.as_graph_def().SerializeToString(deterministic=True) == before
        result = materialize(graph, value, "unused")
    assert result.graph is graph
    assert (result.dtype, tuple(result.shape)) == (tf.float32, expected.shape)
    with v1.Session(graph=graph) as session:
        session.run([variable.initializer for variable in graph.get_collection(v1.GraphKeys.GLOBAL_VARIABLES)])
        np.testing.assert_allclose(session.run(result), expected, rtol=1e-6)
