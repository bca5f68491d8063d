from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from amct_tensorflow.graph.large_constants import add_constant, import_lean, read_constant

v1 = tf.compat.v1

SHAPES = {"small": (2, 3), "large": (3, 700, 301)}  # below 1 MiB as float32, and above
DTYPES = [tf.float32, tf.float64, tf.float16, tf.bfloat16, tf.int32, tf.int8, tf.bool]


def _array(shape, dtype=np.float32):
    return (np.random.default_rng(1).standard_normal(shape) * 20).astype(dtype)


@pytest.fixture(params=SHAPES)
def shape(request):
    return SHAPES[request.param]


@pytest.fixture
def graph():
    with tf.Graph().as_default() as graph:
        yield graph


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_what_is_added_is_what_tensorflow_adds(graph, shape, dtype):
    value = _array(shape, dtype.as_numpy_dtype)
    ours = add_constant(value, "scope/ours")
    theirs = tf.constant(value, name="theirs")
    assert ours.name == "scope/ours:0"
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    assert ours.op.get_attr("value") == theirs.op.get_attr("value")
    with v1.Session(graph=graph) as session:
        np.testing.assert_array_equal(session.run(ours), value)


def test_what_is_added_after_a_run_can_be_run(graph, shape):
    with v1.Session(graph=graph) as session:
        session.run(tf.constant(1.0))
        added = add_constant(_array(shape), "added")
        np.testing.assert_array_equal(session.run(added * 2.0), _array(shape) * 2)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_read(graph, shape, dtype):
    value = _array(shape, dtype.as_numpy_dtype)
    read = read_constant(tf.constant(value).op)
    assert read.dtype == value.dtype
    np.testing.assert_array_equal(read, value)


@pytest.mark.parametrize(
    "value", [np.float32(3), np.zeros((0, 3), np.float32), np.array([b"a", b"bc"], object)], ids=str
)
def test_read_what_is_no_usual_array(graph, value):
    read = read_constant(tf.constant(value).op)
    assert isinstance(read, np.ndarray)
    assert read.shape == value.shape
    np.testing.assert_array_equal(read, value)


def test_what_is_read_is_a_copy(graph, shape):
    constant = tf.constant(_array(shape))
    read_constant(constant.op)[...] = 0
    np.testing.assert_array_equal(read_constant(constant.op), _array(shape))


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.name)
def test_import(graph, shape, dtype):
    x = v1.placeholder(tf.float32, [2], name="x")
    with tf.control_dependencies([x]), graph.device("/cpu:0"):
        waits = tf.constant(_array(shape, dtype.as_numpy_dtype), name="scope/weights")
    tf.identity(waits, name="out")
    with tf.Graph().as_default() as imported:
        import_lean(graph.as_graph_def())
    assert imported.as_graph_def() == graph.as_graph_def()
    with v1.Session(graph=imported) as session:
        np.testing.assert_array_equal(session.run("out:0", {"x:0": [0, 0]}), _array(shape, dtype.as_numpy_dtype))


def test_import_leaves_the_graph_def_alone(graph, shape):
    tf.constant(_array(shape))
    graph_def = graph.as_graph_def()
    with tf.Graph().as_default():
        import_lean(graph_def)
    assert graph_def == graph.as_graph_def()
