"""fold_constants computes what only constants lead to, where that makes the model no larger."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from amct_tensorflow.graph.edit import upstream
from amct_tensorflow.graph.fold import fold_constants

v1 = tf.compat.v1

WEIGHTS = np.random.default_rng(0).standard_normal((3, 3, 2, 4)).astype(np.float32)
CHANNELS = np.float32([0.5, 1.0, 2.0, 3.0])


def image() -> tf.Tensor:
    return v1.placeholder(tf.float32, [None, 6, 6, 2], name="x")


def run(graph: tf.Graph, **feeds: object) -> np.ndarray:
    feeds = feeds or {"x": np.random.default_rng(1).standard_normal((2, 6, 6, 2)).astype(np.float32)}
    with v1.Session(graph=graph) as session:
        return session.run("out:0", {f"{name}:0": value for name, value in feeds.items()})


def fold(graph: tf.Graph, **options: object) -> set[str]:
    """Folds, and returns the types of the ops that the output then needs."""
    fold_constants(graph, upstream([graph.get_operation_by_name("out")]), **options)
    return {
        graph.get_operation_by_name(name).type
        for name in upstream([graph.get_operation_by_name("out")])
        if graph.get_operation_by_name(name).type not in ("Placeholder", "Const", "Identity")
    }


# -- What is folded ----------------------------------------------------------------------------------------------


def fake_quantized():
    weights = tf.quantization.fake_quant_with_min_max_vars(WEIGHTS, tf.identity(-2.0), 2.0, narrow_range=True)
    tf.nn.conv2d(image(), tf.identity(weights), 1, "SAME", name="out")


def mul_fold():
    """A batch norm that was folded while training, as contrib.quantize leaves it."""
    factor = tf.multiply(tf.math.rsqrt(tf.constant(CHANNELS) + 1e-3), tf.identity(CHANNELS[::-1]), name="mul")
    weights = tf.multiply(tf.constant(WEIGHTS), factor, name="mul_fold")
    weights = tf.quantization.fake_quant_with_min_max_vars(weights, -3.0, 3.0)
    beta = tf.subtract(tf.constant(CHANNELS * 3), tf.constant(CHANNELS) * factor)
    tf.add(tf.nn.conv2d(image(), weights, 1, "SAME"), beta, name="out")


def per_channel():
    low = tf.reduce_min(tf.constant(WEIGHTS), [0, 1, 2])
    high = tf.reduce_max(tf.constant(WEIGHTS), [0, 1, 2])
    weights = tf.quantization.fake_quant_with_min_max_vars_per_channel(WEIGHTS, low, high)
    tf.nn.conv2d(image(), weights, 1, "SAME", name="out")


def behind_waits_for_constants():
    with tf.control_dependencies([tf.constant(1.0), tf.identity(2.0)]):
        weights = tf.constant(WEIGHTS) * 2.0
    tf.nn.conv2d(image(), weights, 1, "SAME", name="out")


FOLDED = {build.__name__: build for build in (fake_quantized, mul_fold, per_channel, behind_waits_for_constants)}


@pytest.mark.parametrize("case", FOLDED)
def test_weights_become_one_constant(case):
    with tf.Graph().as_default() as graph:
        FOLDED[case]()
    expected = run(graph)
    assert fold(graph) <= {"Conv2D", "AddV2"}
    np.testing.assert_array_equal(run(graph), expected)
    conv = next(op for op in graph.get_operations() if op.type == "Conv2D")
    assert conv.inputs[1].op.type in ("Const", "Identity")


def test_up_to_a_type_of_ops():
    with tf.Graph().as_default() as graph:
        mul_fold()
    expected = run(graph)
    assert fold(graph, up_to=("FakeQuantWithMinMaxVars",)) == {"Conv2D", "AddV2", "FakeQuantWithMinMaxVars"}
    quant = next(op for op in graph.get_operations() if op.type == "FakeQuantWithMinMaxVars")
    assert [used.op.type for used in quant.inputs] == ["Const"] * 3
    np.testing.assert_array_equal(run(graph), expected)
    assert fold(graph) == {"Conv2D", "AddV2"}
    np.testing.assert_array_equal(run(graph), expected)


def test_results_in_half_precision_and_of_several_outputs():
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float16, [2], name="x")
        first, second = tf.split(tf.constant([1, 2, 3, 4], tf.float16) * 2, 2)
        tf.add(x * first, second, name="out")
    assert fold(graph) == {"AddV2", "Mul"}
    np.testing.assert_array_equal(run(graph, x=np.float16([1, 1])), np.float16([8, 12]))


# -- What is not ---------------------------------------------------------------------------------------------------


def grows_by_zeros():
    tf.add(v1.placeholder(tf.float32, [100, 100], name="x"), tf.zeros([100, 100]) * tf.constant(1.0), name="out")


def grows_by_fill():
    tf.add(v1.placeholder(tf.float32, [None, 5], name="x"), tf.fill([5], 2.0), name="out")


def grows_by_range():
    tf.add(v1.placeholder(tf.float32, [None, 5], name="x"), tf.range(0.0, 5.0, 1.0), name="out")


def grows_by_broadcast():
    row, column = tf.constant(CHANNELS), tf.constant(CHANNELS[:, None])
    tf.add(v1.placeholder(tf.float32, [4, 4], name="x"), row * column, name="out")


def random():
    tf.add(v1.placeholder(tf.float32, [None, 4], name="x"), tf.random.uniform([4], seed=1), name="out")


def random_without_state():
    noise = tf.raw_ops.StatelessRandomUniform(shape=[4], seed=[1, 2])
    tf.add(v1.placeholder(tf.float32, [None, 4], name="x"), noise, name="out")


def integers():
    tf.reshape(v1.placeholder(tf.float32, [None, 4], name="x"), tf.constant([2, 2]) - tf.constant([3, 0]), name="out")


NOT_FOLDED = {
    build.__name__: build
    for build in (
        grows_by_zeros,
        grows_by_fill,
        grows_by_range,
        grows_by_broadcast,
        random,
        random_without_state,
        integers,
    )
}


@pytest.mark.parametrize("case", NOT_FOLDED)
def test_not_folded(case):
    with tf.Graph().as_default() as graph:
        NOT_FOLDED[case]()
    before = graph.as_graph_def().SerializeToString(deterministic=True)
    fold(graph)
    assert graph.as_graph_def().SerializeToString(deterministic=True) == before


def impossible() -> tf.Tensor:
    """A result that TensorFlow has a shape for, but no kernel."""
    return tf.raw_ops.QuantizeAndDequantizeV2(
        input=CHANNELS, input_min=-CHANNELS, input_max=CHANNELS, range_given=True, axis=0
    )


def test_what_nobody_uses_or_needs():
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [4], name="x")
        doubled = tf.constant(CHANNELS) * 2.0
        tf.identity(doubled, name="unused")
        tf.add(v1.placeholder(tf.float32, [4]), doubled, name="not_needed")
        tf.add(x, impossible(), name="not_needed_either")
        tf.nn.relu(x, name="out")
    before = graph.as_graph_def().SerializeToString(deterministic=True)
    fold(graph)
    assert graph.as_graph_def().SerializeToString(deterministic=True) == before


def test_what_cannot_be_computed():
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [4], name="x")
        tf.add(x + impossible(), tf.constant(CHANNELS) * 2.0, name="out")
    assert fold(graph) == {"AddV2", "QuantizeAndDequantizeV2"}


# -- Control flow ----------------------------------------------------------------------------------------------------


@pytest.fixture
def v1_control_flow():
    v1.disable_control_flow_v2()
    yield
    v1.enable_control_flow_v2()


def test_in_a_while_loop(v1_control_flow):
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [], name="x")
        step = tf.constant(2.0) * tf.constant(3.0)  # goes in through an Enter

        def body(i, y):
            return i + 1, y * step + tf.constant(0.5) * tf.constant(2.0)

        _, y = tf.while_loop(lambda i, y: i < 3, body, (tf.constant(0), x + tf.constant(1.0) * 1.0))
        tf.identity(y, name="out")
    expected = run(graph, x=1.0)
    assert expected == 475.0
    assert {"Enter", "Exit", "Mul"} <= fold(graph)
    assert run(graph, x=1.0) == expected


@pytest.mark.parametrize("value", [True, False])
def test_in_a_cond(v1_control_flow, value):
    """Branches that are made of constants alone: each must stay alive only if it is taken."""
    with tf.Graph().as_default() as graph:
        chosen = v1.placeholder(tf.bool, [], name="x")
        shared = tf.constant(5.0) * tf.constant(3.0)
        result = v1.cond(chosen, lambda: tf.constant(2.0) * tf.constant(3.0), lambda: shared * 2.0)
        tf.identity(result, name="out")
    fold(graph)
    assert run(graph, x=value) == (6.0 if value else 30.0)


def test_a_cond_of_constants(v1_control_flow):
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [], name="x")
        result = v1.cond(tf.constant(False), lambda: tf.constant(2.0) * 3.0, lambda: tf.constant(5.0) * 3.0)
        tf.add(x, result, name="out")
    fold(graph)
    assert run(graph, x=1.0) == 16.0


def test_functional_control_flow():
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [], name="x")
        result = tf.cond(x > 0, lambda: x * (tf.constant(2.0) * 3.0), lambda: x * (tf.constant(5.0) * 3.0))
        tf.identity(result, name="out")
    expected = run(graph, x=2.0)
    fold(graph)
    assert run(graph, x=2.0) == expected == 12.0
