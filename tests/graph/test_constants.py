"""What is a constant, what a parameter, and what their values are."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tensorflow as tf

from amct_tensorflow.graph.constants import (
    constant_value,
    forget,
    is_constant,
    is_parameter,
    is_stored,
    reason_against_value,
)
from amct_tensorflow.graph.edit import set_input
from amct_tensorflow.graph.values import Deferred, value_of

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
    "computed from a variable": lambda: tf.exp(tf.convert_to_tensor(_variable())),
    "computed from a variable and a constant": lambda: tf.concat([_variable(), tf.constant(ARRAY)], 0),
}

NEITHER = {
    "placeholder": lambda: v1.placeholder(tf.float32, [2, 3]),
    "placeholder with default": lambda: v1.placeholder_with_default(ARRAY, [2, 3]),
    "Identity of a placeholder": lambda: tf.identity(v1.placeholder(tf.float32, [2, 3])),
    "Reshape to a computed shape": lambda: tf.reshape(ARRAY, tf.stack([2, v1.placeholder(tf.int32, [])])),
    "Reshape of a variable to a computed shape": lambda: tf.reshape(
        _variable(), tf.stack([2, v1.placeholder(tf.int32, [])])
    ),
    "read of a resource placeholder": lambda: tf.raw_ops.ReadVariableOp(
        resource=v1.placeholder(tf.resource, []), dtype=tf.float32
    ),
    "constant and placeholder": lambda: tf.constant(ARRAY) + v1.placeholder(tf.float32, []),
    "random": lambda: tf.random.uniform([2, 3], seed=1),
    "random without state": lambda: tf.random.stateless_uniform([2, 3], [1, 2]),
    "content of a file": lambda: tf.io.read_file("weights.bin"),
    "stateful": lambda: tf.raw_ops.Bucketize(input=tf.raw_ops.Timestamp(), boundaries=[0.5]),
    "a call": lambda: tf.function(lambda x: x * 2.0)(tf.constant(ARRAY)),
    "while": lambda: tf.while_loop(lambda x: x[0, 0] < 9, lambda x: (x * 2,), [tf.constant(ARRAY)])[0],
    "cond": lambda: tf.cond(tf.constant(ARRAY)[0, 0] > 0, lambda: tf.constant(ARRAY), lambda: tf.zeros([2, 3])),
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
    check_computed(graph, tensor)


def check_computed(graph, tensor):
    """It is constant, and its value is what a session computes, and an array of its own."""
    before = graph.as_graph_def().SerializeToString(deterministic=True)
    assert is_constant(tensor) and is_parameter(tensor)
    assert not is_stored(tensor)
    with v1.Session(graph=graph) as session:
        expected = session.run(tensor)
    value = constant_value(tensor)
    assert value.dtype == expected.dtype and value.shape == expected.shape
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert value.flags.writeable
    assert graph.as_graph_def().SerializeToString(deterministic=True) == before


PURE = {
    "l2_normalize": lambda a, b: tf.math.l2_normalize(a, 0),
    "Dequantize": lambda a, b: tf.quantization.dequantize(
        tf.constant(np.array([[0, 9], [7, 255]]), tf.quint8), -1.0, 2.0
    ),
    "Dequantize of a bitcast": lambda a, b: tf.quantization.dequantize(
        tf.bitcast(tf.constant([0, 255], tf.uint8), tf.quint8), -1.0, 2.0
    ),
    "second part of a Split": lambda a, b: tf.split(a, 3, axis=1)[1],
    "Slice": lambda a, b: tf.slice(a, [0, 1], [2, 2]),
    "StridedSlice": lambda a, b: a[1:, ::2],
    "Concat": lambda a, b: tf.concat([a, b], axis=1),
    "Concat of TensorFlow 0": lambda a, b: tf.raw_ops.Concat(concat_dim=1, values=[a, b]),
    "Pack and Unpack": lambda a, b: tf.unstack(tf.stack([a, b], axis=1))[1],
    "Pad": lambda a, b: tf.pad(a, [[1, 0], [0, 2]]),
    "Tile": lambda a, b: tf.tile(a, [2, 1]),
    "Gather": lambda a, b: tf.gather(a, [0, 0, 1]),
    "Bitcast": lambda a, b: tf.bitcast(a, tf.int32),
    "Fill": lambda a, b: tf.fill([2, 3], tf.constant(2.0)),
    "Range": lambda a, b: tf.range(0.0, 6.0, 1.5),
    "shape of a constant": lambda a, b: tf.raw_ops.Shape(input=a),
    "sparse to dense": lambda a, b: tf.sparse.to_dense(tf.SparseTensor([[0, 1], [1, 2]], [1.5, 2.5], [2, 4])),
    "raw bytes": lambda a, b: tf.reshape(tf.io.decode_raw(tf.constant(bytes(range(24))), tf.float32), [2, 3]),
    "fake-quantized": lambda a, b: tf.quantization.fake_quant_with_min_max_vars(a, -4.0, 4.0),
    "Einsum": lambda a, b: tf.einsum("ab,cb->ac", a, b),
    "float16": lambda a, b: tf.cast(a, tf.float16) * tf.constant(2, tf.float16),
    "bfloat16": lambda a, b: tf.nn.relu(tf.cast(a, tf.bfloat16)),
    "a convolution": lambda a, b: tf.nn.conv2d(tf.reshape(a, [1, 2, 3, 1]), tf.reshape(b, [2, 3, 1, 1]), 1, "VALID"),
    "of an unknown shape on the way": lambda a, b: tf.reshape(tf.boolean_mask(a, a > -1.0), [3, 2]),
}


@pytest.mark.parametrize("case", PURE)
def test_pure_ops_of_constants(case):
    check_computed(*_graph(lambda: PURE[case](tf.constant(ARRAY), tf.constant(ARRAY + 1))))


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


# -- What cannot be computed -----------------------------------------------------------------------------------

TOO_LARGE = {
    "Fill": lambda: tf.fill([2**20, 300], 1.0),
    "Tile": lambda: tf.tile(tf.constant(ARRAY), [2**18, 300]),
    "on the way": lambda: tf.reduce_sum(tf.broadcast_to(tf.constant(1.0), [2**20, 300])),
    "known while computing": lambda: tf.fill(tf.cast(tf.round(tf.constant([2.0**20, 300.0])), tf.int32), 1.0),
}


@pytest.mark.parametrize("case", TOO_LARGE)
def test_too_large(case):
    _, tensor = _graph(TOO_LARGE[case])
    assert is_constant(tensor)
    assert not is_parameter(tensor)
    assert constant_value(tensor) is None
    assert re.fullmatch(r"(Fill|Tile|BroadcastTo) \S+ makes 1\.\d GB of them, the limit is 1 GB", _reason(tensor))


def _reason(tensor) -> str:
    reason = reason_against_value(tensor)
    assert reason is not None
    return reason


def test_what_tensorflow_refuses():
    """There is no kernel for it on a CPU."""
    _, tensor = _graph(
        lambda: tf.raw_ops.QuantizeAndDequantizeV2(
            input=ARRAY, input_min=ARRAY[0], input_max=ARRAY[0] + 1, range_given=True, axis=1, name="refused"
        )
    )
    for ask in (is_parameter, constant_value, is_parameter):
        assert not ask(tensor)
    assert _reason(tensor) == "TensorFlow says of QuantizeAndDequantizeV2 refused: input_min must be a scalar."


def test_a_graph_that_is_rewired_is_looked_at_anew():
    graph, tensor = _graph(lambda: tf.identity(v1.placeholder(tf.float32, [2, 3])))
    assert not is_parameter(tensor)
    with graph.as_default():
        set_input(tensor.op, 0, tf.constant(ARRAY))
    forget(graph)
    assert is_parameter(tensor)


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
