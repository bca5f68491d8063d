from __future__ import annotations

import contextlib

import numpy as np
import pytest
import tensorflow as tf

from amct_tensorflow.graph.values import (
    Deferred,
    broadcast_to,
    constant_value,
    is_constant,
    is_parameter,
    is_stored,
    materialize,
    reshape,
    sqrt,
    value_of,
)

v1 = tf.compat.v1

ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3) + 1


def _variable(value=ARRAY, *, resource=True):
    return v1.get_variable("v", initializer=value, use_resource=resource)


def _graph(build):
    graph = tf.Graph()
    with graph.as_default():
        tensor = build()
    return graph, tensor


CONSTANTS = {
    "Const": lambda: tf.constant(ARRAY),
    "Identity": lambda: tf.identity(ARRAY),
    "many Identities": lambda: tf.identity(tf.identity(tf.identity(ARRAY))),
    "StopGradient": lambda: tf.stop_gradient(tf.constant(ARRAY)),
    "PreventGradient": lambda: tf.raw_ops.PreventGradient(input=ARRAY),
    "Snapshot": lambda: tf.raw_ops.Snapshot(input=ARRAY),
    "Reshape": lambda: tf.reshape(tf.constant(ARRAY.ravel()), [2, 3]),
    "Reshape with -1": lambda: tf.reshape(tf.constant(ARRAY.ravel()), [2, -1]),
    "Reshape to a shape behind Identity": lambda: tf.reshape(tf.constant(ARRAY.ravel()), tf.identity([2, 3])),
}

VARIABLES = {
    "resource variable": lambda: tf.convert_to_tensor(_variable()),
    "resource variable, Identity": lambda: tf.identity(_variable()),
    "ref variable": lambda: _variable(resource=False)._ref(),
    "ref variable, read": lambda: tf.convert_to_tensor(_variable(resource=False)),
    "Reshape of a variable": lambda: tf.reshape(_variable(ARRAY.ravel()), [2, 3]),
    "StopGradient of a variable": lambda: tf.stop_gradient(tf.convert_to_tensor(_variable())),
}

NEITHER = {
    "placeholder": lambda: v1.placeholder(tf.float32, [2, 3]),
    "placeholder with default": lambda: v1.placeholder_with_default(ARRAY, [2, 3]),
    "Identity of a placeholder": lambda: tf.identity(v1.placeholder(tf.float32, [2, 3])),
    "computed": lambda: tf.exp(tf.constant(ARRAY)),
    "computed from a variable": lambda: tf.exp(tf.convert_to_tensor(_variable())),
    "Reshape of a computed tensor": lambda: tf.reshape(tf.exp(tf.constant(ARRAY)), [2, 3]),
    "Reshape to a computed shape": lambda: tf.reshape(ARRAY, tf.stack([2, v1.placeholder(tf.int32, [])])),
    "Reshape of a variable to a computed shape": lambda: tf.reshape(
        _variable(), tf.stack([2, v1.placeholder(tf.int32, [])])
    ),
    "read of a resource placeholder": lambda: tf.raw_ops.ReadVariableOp(
        resource=v1.placeholder(tf.resource, []), dtype=tf.float32
    ),
}


@pytest.mark.parametrize("case", CONSTANTS)
def test_constants(case):
    graph, tensor = _graph(CONSTANTS[case])
    before = graph.as_graph_def().SerializeToString(deterministic=True)
    assert is_constant(tensor)
    assert is_parameter(tensor)
    for value in (constant_value(tensor), value_of(tensor)):
        assert value.dtype == np.float32
        np.testing.assert_array_equal(value, ARRAY)
    assert graph.as_graph_def().SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("case", VARIABLES)
def test_variables(case):
    _, tensor = _graph(VARIABLES[case])
    assert not is_constant(tensor)
    assert constant_value(tensor) is None
    assert is_parameter(tensor)
    value = value_of(tensor)
    assert isinstance(value, Deferred) and value.build() is tensor


@pytest.mark.parametrize("case", NEITHER)
def test_neither(case):
    _, tensor = _graph(NEITHER[case])
    assert not is_constant(tensor)
    assert constant_value(tensor) is None
    assert not is_parameter(tensor)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16, tf.float64, tf.int8, tf.int64], ids=lambda d: d.name)
def test_types_of_constants(dtype):
    _, tensor = _graph(lambda: tf.identity(tf.constant([0, 1, 1], dtype)))
    value = constant_value(tensor)
    assert value.dtype == dtype.as_numpy_dtype
    np.testing.assert_array_equal(value.astype(np.float32), [0, 1, 1])


ARITHMETIC = {
    "product": lambda a, b: a * b,
    "sum": lambda a, b: tf.raw_ops.Add(x=a, y=b),
    "difference": lambda a, b: a - b,
    "quotient": lambda a, b: a / b,
    "negative": lambda a, b: -a,
    "square": lambda a, b: tf.square(a),
    "square root": lambda a, b: tf.sqrt(tf.square(a)),
    "reciprocal square root": lambda a, b: tf.math.rsqrt(tf.square(b) + 1e-3),
    "squeezed": lambda a, b: tf.squeeze(tf.reshape(a, [1, 2, 1, 3])),
    "expanded": lambda a, b: tf.expand_dims(a, 1),
    "transposed": lambda a, b: tf.transpose(a, [1, 0]),
    "cast": lambda a, b: tf.cast(tf.cast(a, tf.float16), tf.float32),
    "broadcast": lambda a, b: a * tf.constant(np.float32([1, 2, 3])),
    "a batch norm of small ops": lambda a, b: b - a * (b * tf.math.rsqrt(tf.square(a) + 1e-3)),
}


@pytest.mark.parametrize("case", ARITHMETIC)
def test_arithmetic_of_constants(case):
    graph, tensor = _graph(
        lambda: ARITHMETIC[case](tf.constant(ARRAY.reshape(2, 3)), tf.constant(ARRAY.reshape(2, 3) + 1))
    )
    assert is_constant(tensor) and is_parameter(tensor)
    with v1.Session(graph=graph) as session:
        expected = session.run(tensor)
    value = constant_value(tensor)
    assert value.dtype == expected.dtype and value.shape == expected.shape
    np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("case", ARITHMETIC)
def test_arithmetic_of_variables(case):
    _, tensor = _graph(
        lambda: ARITHMETIC[case](
            tf.reshape(tf.convert_to_tensor(_variable()), [2, 3]), tf.constant(np.ones((2, 3), np.float32))
        )
    )
    assert is_parameter(tensor)
    value = value_of(tensor)
    assert isinstance(value, Deferred) == (constant_value(tensor) is None)


def test_arithmetic_that_is_not_finite_is_silent():
    _, tensor = _graph(lambda: tf.constant(np.ones(3, np.float32)) / tf.constant(np.zeros(3, np.float32)))
    assert np.isinf(constant_value(tensor)).all()


# -- Tensors from values -------------------------------------------------------------------------------------


def test_materialize_an_array():
    graph = tf.Graph()
    with graph.name_scope("callers"):
        tensor = materialize(graph, ARRAY, "net/weights")
    assert (tensor.graph, tensor.name, tensor.op.type, tensor.dtype) == (graph, "net/weights:0", "Const", tf.float32)
    np.testing.assert_array_equal(tf.make_ndarray(tensor.op.get_attr("value")), ARRAY)


def test_materialize_a_tensor():
    graph, tensor = _graph(VARIABLES["resource variable"])
    assert materialize(graph, value_of(tensor), "net/weights") is tensor


# -- Arithmetic: the same formula on arrays and on tensors ---------------------------------------------------

ROW = np.array([1, 2, 4], np.float32)

FORMULAS = {
    "reshape": lambda value: reshape(value, [3, 2]),
    "reshape with -1": lambda value: reshape(value, [-1]),
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
    graph, tensor = _graph(VARIABLES["resource variable"])
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


# -- Long chains and many paths ------------------------------------------------------------------------------

_LENGTH = 1500  # beyond what Python recurses


def _chain(tensor):
    for _ in range(_LENGTH):
        tensor = tf.raw_ops.AddV2(x=tensor, y=tf.constant(1.0))
    return tensor


def _diamonds(tensor):
    """2^100 paths lead to it."""
    for _ in range(100):
        tensor = tf.raw_ops.AddV2(x=tensor, y=tensor)
    return tensor


def _identities(tensor):
    for _ in range(_LENGTH):
        tensor = tf.identity(tensor)
    return tensor


LONG = {
    "chain": (_chain, 2.0 + _LENGTH),
    "diamonds": (_diamonds, 2.0**101),
    "Identities": (_identities, 2.0),
}


@pytest.mark.parametrize("case", LONG)
def test_long_ways_from_a_constant(case):
    build, expected = LONG[case]
    _, tensor = _graph(lambda: build(tf.constant(2.0)))
    assert is_constant(tensor)
    assert is_parameter(tensor)
    assert is_stored(tensor) == (case == "Identities")
    assert constant_value(tensor) == np.float32(expected)


@pytest.mark.parametrize("case", LONG)
def test_long_ways_from_a_variable(case):
    build, _ = LONG[case]
    _, tensor = _graph(lambda: build(tf.convert_to_tensor(_variable(np.float32(2.0)))))
    assert is_parameter(tensor)
    assert not is_constant(tensor)
    assert constant_value(tensor) is None


@pytest.mark.parametrize("case", LONG)
def test_long_ways_from_a_placeholder(case):
    build, _ = LONG[case]
    _, tensor = _graph(lambda: build(v1.placeholder(tf.float32, [])))
    assert not is_parameter(tensor)
    assert not is_constant(tensor)


def test_a_value_used_early_and_late():
    """What is forgotten on the way, to save memory, is what nothing needs any more."""

    def build():
        first = tf.constant(ARRAY)
        second = tf.raw_ops.Neg(x=first)
        third = tf.raw_ops.Square(x=tf.raw_ops.Square(x=second))
        return tf.raw_ops.AddV2(x=tf.raw_ops.Mul(x=third, y=first), y=tf.raw_ops.Sub(x=second, y=first))

    _, tensor = _graph(build)
    np.testing.assert_allclose(constant_value(tensor), ARRAY**5 - 2 * ARRAY, rtol=1e-6)
