"""Layers with more behind them than one fusion takes, also with extreme batch norms: right, folded or not."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from fusing import fuse, plan, rewrite_in_float
from small_models import Deployed, assert_close, avg_pool, batch, constant, graph_of, image, run, types_behind


def extreme(net, y, name, seed=0, **attributes):
    """A batch norm of variances from 1e-6 to 1e4, in random order, and parameters of all sizes."""
    channels = y.shape[1 if attributes.get("data_format") == "NCHW" else -1]
    random = np.random.default_rng(seed)
    variance = random.permutation(np.geomspace(1e-6, 1e4, channels)).astype(np.float32)
    values = {
        "scale": random.normal(size=channels) * 10.0 ** random.integers(-2, 3, channels),
        "mean": random.normal(size=channels),
        "offset": random.normal(size=channels) * 10.0 ** random.integers(-2, 3, channels),
    }
    values = {key: np.float32(value) for key, value in values.items()}
    return net.batch_norm(y, name, variance=variance, epsilon=1e-7, **values, **attributes)


# -- Batch norms of extreme variances, in float ---------------------------------------------------------------


def _shared_weights(net):
    x = image()
    weights = constant(net.random("w", (3, 3, 4, 6)) / 6, "w")
    sums = []
    for i, name in enumerate(("a", "b")):
        y = tf.nn.conv2d(x, weights, 1, "SAME", name=f"{name}/conv")
        sums.append(extreme(net, y, f"{name}/bn", seed=i))
    tf.concat(sums, axis=3, name="out")


def _several_consumers(net):
    y = extreme(net, net.conv(image(), "a/conv"), "a/bn")
    tf.concat([tf.nn.relu(y), net.conv(y, "b/conv"), tf.negative(y), avg_pool(y, "pool", 1)], axis=3, name="out")


def _used_before_and_after(net):
    y = net.conv(image(), "a/conv")
    tf.concat([y, extreme(net, y, "a/bn")], axis=3, name="out")


def _training(net):
    empty = np.float32([])
    y = net.batch_norm(net.conv(image(), "a/conv"), "a/bn", is_training=True, mean=empty, variance=empty)
    tf.identity(extreme(net, net.conv(y, "b/conv"), "b/bn"), name="out")


def _two_in_a_row(net):
    y = extreme(net, net.conv(image(), "a/conv"), "a/bn", seed=1)
    tf.negative(net.batch_norm(y, "a/bn2"), name="out")


def _before_convolutions(net):
    y = net.batch_norm(image(), "bn")
    same = extreme(net, net.conv(y, "same/conv"), "same/bn")
    valid = extreme(net, net.conv(y, "valid/conv", padding="VALID"), "valid/bn")
    tf.concat([same[:, 1:-1, 1:-1], valid], axis=3, name="out")


def _everything_in_a_row(net):
    y = net.bias(net.conv(image(), "a/conv"), "a/bias")
    y = extreme(net, y * net.random("m", [6]), "a/bn") * 0.5
    tf.negative(net.add(y, "a/add", [6]), name="out")


def _grouped_and_depthwise(net):
    y = extreme(net, net.depthwise(image(), "a/depthwise", multiplier=3), "a/bn")
    tf.negative(extreme(net, net.depthwise(y, "b/depthwise"), "b/bn", seed=3), name="out")


def _channels_first(net):
    x = image(shape=(None, 4, 8, 8))
    y = extreme(net, net.conv(x, "a/conv", data_format="NCHW"), "a/bn", data_format="NCHW")
    tf.transpose(tf.negative(y), [0, 2, 3, 1], name="out")


def _volume(net):
    weights = constant(net.random("w", (3, 3, 3, 1, 6)) / 5, "w")
    y = tf.nn.conv3d(tf.expand_dims(image(), 4), weights, [1] * 5, "SAME", name="a/conv")
    y = extreme(net, tf.reshape(y, [-1, 8, 32, 6]), "a/bn")  # the batch norm of TensorFlow 1 has four axes
    tf.negative(y, name="out")


def _transposed(net):
    kernel = constant(net.random("w", (2, 2, 6, 4)) / 3, "w")
    shape = tf.stack([tf.shape(image())[0], 16, 16, 6])
    y = tf.nn.conv2d_transpose(shape.graph.get_tensor_by_name("x:0"), kernel, shape, 2, name="a/deconv")
    tf.negative(extreme(net, y, "a/bn"), name="out")


# Builder -> how many batch norms are left.
EXTREME = {
    "shared weights": (_shared_weights, 0),
    "several consumers": (_several_consumers, 0),
    "used before and after": (_used_before_and_after, 1),
    "training mode": (_training, 1),
    "two in a row": (_two_in_a_row, 0),
    "before SAME and VALID": (_before_convolutions, 1),
    "bias, Mul, BN, Mul, Add": (_everything_in_a_row, 0),
    "depthwise": (_grouped_and_depthwise, 0),
    "NCHW": (_channels_first, 0),
    "Conv3D, Reshape": (_volume, 0),
    "deconvolution": (_transposed, 0),
}


@pytest.mark.parametrize("case", EXTREME)
def test_extreme_batch_norms(case):
    build, left = EXTREME[case]
    graph = graph_of(build)
    fuse(graph, batch(shape=(4, 4, 8, 8) if case == "NCHW" else (4, 8, 8, 4)))
    kinds = types_behind(graph, "out")
    assert len([kind for kind in kinds if kind.startswith("FusedBatchNorm")]) == left


def test_an_extreme_batch_norm_as_output():
    """Fetched, and consumed: the user's ops still compute it, and the clone the rest."""
    graph = graph_of(lambda net: tf.nn.relu(extreme(net, net.conv(image(), "a/conv"), "a/bn"), name="out"))
    before = run(graph, ["a/bn:0", "out:0"], batch())
    workspace, layers = plan(graph, ["a/bn"])
    rewrite_in_float(workspace)
    assert layers["a/conv"].absorbed == ["a/conv", "a/bn"]
    for actual, expected in zip(run(graph, ["a/bn:0", "out:0"], batch()), before, strict=True):
        assert_close(actual, expected)
    assert_close(run(graph, layers["a/conv"].output(), batch()), before[0])


# -- One fusion, and one that is not possible behind it, in int8 -----------------------------------------------


def normed(net, y, name="a"):
    return net.batch_norm(net.conv(y, f"{name}/conv"), f"{name}/bn")


def small_ops(net, y, name="a"):
    """The batch norm of Keras 3."""
    factor, offset = (constant(net.random(f"{name}/{key}", [6]), f"{name}/{key}") for key in ("factor", "offset"))
    return tf.raw_ops.AddV2(x=net.conv(y, f"{name}/conv") * factor, y=offset, name=f"{name}/bn")


def swish(y):
    """As tf.nn.silu is exported: beta * x, beside x."""
    return y * tf.sigmoid(constant(1.0, "beta") * y)


def _swish(make):
    def build(net):
        y = swish(make(net, image()))
        tf.nn.relu(net.conv(y, "last/conv"), name="out")

    return build


def _scaled_beside(net):
    y = normed(net, image())
    tf.nn.relu(y * net.random("m", [6]) + tf.nn.relu(y), name="out")


def _masked(net):
    y = normed(net, image())
    tf.nn.relu(y * constant(net.random("mask", [1, 8, 8, 1]), "mask"), name="out")


def _second_norm_beside(net):
    y = normed(net, image())
    tf.nn.relu(net.batch_norm(y, "a/bn2") + y, name="out")


def _norm_behind_a_used_mul(net):
    y = tf.multiply(net.conv(image(), "a/conv"), net.random("m", [6]), name="a/mul")
    tf.nn.relu(net.batch_norm(y, "a/bn") + y, name="out")


def _second_norm_in_training_mode(net):
    empty = np.float32([])
    y = net.batch_norm(normed(net, image()), "a/bn2", is_training=True, mean=empty, variance=empty)
    tf.nn.relu(y, name="out")


def _hard_swish(net):
    y = normed(net, image())
    tf.nn.relu(y * tf.nn.relu6(y + 3.0) * (1 / 6), name="out")


PARTLY = {
    "BN, swish": _swish(normed),
    "small BN, swish": _swish(small_ops),
    "bias, swish": _swish(lambda net, y: net.bias(net.conv(y, "a/conv"), "a/bias")),
    "BN, hard swish": _hard_swish,
    "BN, Mul beside": _scaled_beside,
    "BN, mask": _masked,
    "BN, BN beside": _second_norm_beside,
    "Mul, BN beside": _norm_behind_a_used_mul,
    "BN, BN in training mode": _second_norm_in_training_mode,
}


@pytest.mark.parametrize("case", PARTLY)
def test_a_fusion_and_one_that_is_not_possible(tmp_path, case):
    deployed = Deployed(PARTLY[case], ["out"], tmp_path, feeds=[batch(0), batch(1)])
    assert "a/conv" in deployed.quantized
    assert len(deployed.of_type("AscendDequant")) == len(deployed.quantized)
    assert deployed.sqnr(batch(1)) > 20


def test_an_output_between_two_fusions(tmp_path):
    def build(net):
        tf.nn.relu(normed(net, image()) * net.random("m", [6]), name="out")

    outputs = ["a/bn", "out"]
    deployed = Deployed(build, outputs, tmp_path, calib_outputs=outputs)
    for output in outputs:
        assert deployed.sqnr(batch(), output) > 20


# -- Batch norms before and beside convolutions, in int8 -------------------------------------------------------


def _int8_before_convolutions(net):
    y = net.batch_norm(image(), "bn")
    same = tf.nn.relu(net.batch_norm(net.conv(y, "same/conv"), "same/bn"))
    valid = tf.nn.relu(net.batch_norm(net.conv(y, "valid/conv", padding="VALID"), "valid/bn"))
    tf.concat([same[:, 1:-1, 1:-1], valid], axis=3, name="out")


def _int8_two_in_a_row(net):
    tf.nn.relu(net.batch_norm(normed(net, image()), "a/bn2"), name="out")


def _int8_preactivation(net):
    """A residual block of batch norm, ReLU, convolution, whose sum goes to the next batch norm and on."""
    y = net.conv(image(), "stem/conv", channels=8)
    for i in range(2):
        z = net.conv(tf.nn.relu(net.batch_norm(y, f"{i}/bn1")), f"{i}/conv1", channels=8)
        y = y + net.conv(tf.nn.relu(net.batch_norm(z, f"{i}/bn2")), f"{i}/conv2", channels=8)
    tf.nn.relu(net.batch_norm(y, "last/bn"), name="out")


@pytest.mark.parametrize(
    ("build", "layers"),
    [(_int8_before_convolutions, 2), (_int8_two_in_a_row, 1), (_int8_preactivation, 5)],
    ids=["before SAME and VALID", "two in a row", "pre-activation"],
)
def test_batch_norms_in_int8(tmp_path, build, layers):
    deployed = Deployed(build, ["out"], tmp_path, feeds=[batch(0), batch(1)])
    assert len(deployed.of_type("AscendDequant")) == len(deployed.quantized) == layers
    assert deployed.sqnr(batch(1)) > 20
