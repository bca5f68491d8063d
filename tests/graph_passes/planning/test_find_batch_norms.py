"""Which batch norms can be given other statistics, and why others cannot."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from amct_tensorflow.graph_passes.planning.find_batch_norms import find_batch_norms

tf1 = tf.compat.v1
MEAN, VARIANCE = np.float32([1, 2, 3]), np.float32([4, 5, 6])
GAMMA, BETA = np.float32([0.5, 1, 2]), np.float32([1, 0, -1])


def data(*shape: int | None) -> tf.Tensor:
    return tf1.placeholder(tf.float32, shape or [None, 4, 4, 3], name="x")


def stored(value: np.ndarray, name: str) -> tf.Tensor:
    return tf.identity(tf.constant(value, name=name), name=f"{name}/read")


def fused(x: tf.Tensor, kind: str = "FusedBatchNormV3", **changes):
    arguments = {"scale": GAMMA, "offset": BETA, "mean": stored(MEAN, "mean"), "variance": stored(VARIANCE, "var")}
    return getattr(tf.raw_ops, kind)(x=x, name="bn", **({"is_training": False} | arguments | changes))


def small_ops(x: tf.Tensor, gamma=GAMMA, beta=BETA, shape=(3,)) -> tf.Tensor:
    parameters = [None if value is None else np.reshape(value, shape) for value in (beta, gamma)]
    mean, variance = (tf.reshape(stored(value, name), shape) for value, name in ((MEAN, "mean"), (VARIANCE, "var")))
    return tf.nn.batch_normalization(x, mean, variance, *parameters, 1e-3, name="bn")


def found(build):
    """Returns name, axes, channels, and the names of the constants of each batch norm; and the reasons."""
    with tf.Graph().as_default() as graph:
        build()
    batch_norms, reasons = find_batch_norms(graph)
    return [(bn.name, bn.axes, bn.channels, bn.mean.name, bn.variance.name) for bn in batch_norms], reasons


CONSTANTS = (3, "mean", "var")


@pytest.mark.parametrize("kind", ["FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3"])
@pytest.mark.parametrize(("layout", "axes"), [("NHWC", [0, 1, 2]), ("NCHW", [0, 2, 3])])
def test_fused(kind, layout, axes):
    shape = [None, 4, 4, 3] if layout == "NHWC" else [None, 3, 4, 4]
    assert found(lambda: fused(data(*shape), kind, data_format=layout)) == ([("bn", axes, *CONSTANTS)], {})


def test_fused_in_3_dimensions():
    build = lambda: fused(data(None, 2, 4, 4, 3), data_format="NDHWC")  # noqa: E731
    assert found(build) == ([("bn", [0, 1, 2, 3], *CONSTANTS)], {})


@pytest.mark.parametrize("gamma", [GAMMA, None], ids=["gamma", ""])
@pytest.mark.parametrize("beta", [BETA, None], ids=["beta", ""])
@pytest.mark.parametrize(
    ("shape", "of_parameters", "axes"),
    [
        ([None, 4, 4, 3], (3,), [0, 1, 2]),
        ([None, 3], (3,), [0]),
        ([None, 3, 4, 4], (1, 3, 1, 1), [0, 2, 3]),
        ([None, 4, 4, 3], (1, 1, 1, 3), [0, 1, 2]),
    ],
    ids=str,
)
def test_small_ops(gamma, beta, shape, of_parameters, axes):
    [(name, *rest)], reasons = found(lambda: small_ops(data(*shape), gamma, beta, of_parameters))
    assert name.startswith("bn/mul") and rest == [axes, *CONSTANTS] and reasons == {}


def test_one_channel():
    def build():
        one = np.float32([1])
        x = data(None, 5, 1)
        tf.nn.batch_normalization(x, stored(one, "mean"), stored(one, "var"), one, one, 1e-3)

    [(_, axes, channels, *_)], _ = found(build)
    assert (axes, channels) == ([0, 1, 2], 1)


def _shared(x):
    mean = stored(MEAN, "mean")
    fused(x, mean=mean)
    tf.raw_ops.FusedBatchNormV3(
        x=x, scale=GAMMA, offset=BETA, mean=mean, variance=stored(VARIANCE, "var2"), is_training=False, name="bn2"
    )


def _variable(x):
    fused(x, mean=tf1.get_variable("mean", initializer=MEAN, use_resource=True))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda x: fused(x, is_training=True, mean=[], variance=[]), "it is in training mode"),
        (_variable, "its mean and variance are not stored as constants"),
        (lambda x: fused(x, mean=stored(MEAN, "mean") * 2.0), "its mean and variance are not stored as constants"),
        (_shared, "its mean or variance is used elsewhere, too"),
        (
            lambda x: fused(x, offset=stored(MEAN, "mean"), mean=tf1.get_default_graph().get_tensor_by_name("mean:0")),
            "its mean or variance is used elsewhere, too",
        ),
        (lambda x: fused(tf1.placeholder(tf.float32)), "the number of axes of its input is not known"),
    ],
    ids=["training", "variable", "computed", "shared mean", "mean as offset", "rank"],
)
def test_left_as_they_are(build, reason):
    def make():
        build(data())

    batch_norms, reasons = found(make)
    assert batch_norms == []
    assert reasons["bn"].startswith(reason)


def test_in_a_function():
    def build():
        tf.function(lambda x: fused(x)[0], autograph=False).get_concrete_function(tf.TensorSpec([2, 4, 4, 3]))(
            data(2, 4, 4, 3)
        )

    batch_norms, [(name, reason)] = found(build)[0], found(build)[1].items()
    assert batch_norms == [] and name.endswith("/bn") and "it is inside the function" in reason


def test_in_control_flow():
    def build():
        x = data()
        switched, _ = tf.raw_ops.Switch(data=x, pred=tf1.placeholder(tf.bool, []))
        fused(switched)

    assert found(build) == ([], {"bn": "it is inside a while loop or a cond"})


@pytest.mark.parametrize(
    "build",
    [
        lambda x: x * tf.math.rsqrt(stored(VARIANCE, "var") + 1e-3),
        lambda x: x * tf.math.rsqrt(stored(VARIANCE, "var")) - stored(MEAN, "mean"),
        lambda x: tf.nn.batch_normalization(x, *tf.nn.moments(x, [3], keepdims=True), BETA, GAMMA, 1e-3),
        lambda x: x * (factor := tf.math.rsqrt(stored(VARIANCE, "var") + 1e-3)) + (BETA + stored(MEAN, "m") * factor),
        lambda x: x * (factor := tf.math.rsqrt(stored(VARIANCE, "var") + 1e-3)) + stored(MEAN, "mean") * factor,
    ],
    ids=["scale alone", "no epsilon", "layer norm", "mean is added", "mean is added alone"],
)
def test_others_are_no_batch_norms(build):
    assert found(lambda: build(data())) == ([], {})
