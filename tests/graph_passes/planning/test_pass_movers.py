"""Layers absorb what stands behind ops that only move their results."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from fusing import fuse, plan
from small_models import PARAMETERS, Deployed, batch, constant, flat, graph_of, image, run, sqnr, types_behind, v1


def dilated(net, x, name="conv", channels=6, rate=2):
    """A dilated convolution as TensorFlow 1 writes it."""
    y = tf.space_to_batch(x, [rate, rate], [[rate, rate], [rate, rate]])
    return tf.batch_to_space(net.conv(y, name, channels, padding="VALID"), [rate, rate], [[0, 0], [0, 0]])


def conv1d(net, x):
    return tf.squeeze(net.conv(tf.expand_dims(tf.reshape(x, [-1, 64, 4]), 1), "conv", size=1), [1])


def dense_of_images(net, x):
    """What tf.tensordot makes of a matrix behind an image."""
    y = net.matmul(tf.reshape(x, [-1, 4]), "conv")
    return tf.reshape(y, tf.stack([tf.shape(x)[0], 8, 8, 6]))


def channels_to_the_front(net, x):
    return tf.transpose(net.conv(x, "conv"), [0, 3, 1, 2])


def small_norm(net, y, axis=-1):
    shape = [1] * y.shape.rank
    shape[axis] = 6
    mean, variance, beta, gamma = (
        net.parameter(np.reshape(np.abs(net.random(name, (6,))) + 0.1, shape), name)
        for name in ("mean", "variance", "beta", "gamma")
    )
    return tf.nn.batch_normalization(y, mean, variance, beta, gamma, 1e-3)


# What is behind the mover -> how many ops the layer absorbs of it.
BEHIND = {
    "BiasAdd": (lambda net, y: net.bias(y, "bias"), 1),
    "Add": (lambda net, y: net.add(y, "bias", [6]), 1),
    "bias and small norm": (lambda net, y: small_norm(net, net.bias(y, "bias")), 3),
}
MOVED = {
    "BatchToSpaceND": dilated,
    "Squeeze": conv1d,
    "Reshape": dense_of_images,
    "BatchToSpace": lambda net, x: tf.raw_ops.BatchToSpace(
        input=net.conv(tf.raw_ops.SpaceToBatch(input=x, paddings=[[0, 0], [0, 0]], block_size=2), "conv"),
        crops=[[0, 1], [1, 0]],
        block_size=2,
    ),
    "two movers": lambda net, x: tf.reshape(dilated(net, x), [-1, 64, 6]),
}


@pytest.mark.parametrize("parameters", PARAMETERS)
@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("mover", MOVED)
def test_what_stands_behind_is_absorbed(mover, behind, parameters):
    build, absorbed = BEHIND[behind]

    def block(net):
        tf.negative(build(net, MOVED[mover](net, image())), name="out")

    graph = graph_of(block, PARAMETERS[parameters])
    layer = fuse(graph, batch())["conv"]
    assert len(layer.absorbed) == 1 + absorbed
    assert layer.output().op.type == "BiasAdd"


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
def test_a_batch_norm_behind_a_dilated_convolution(bias):
    def build(net):
        y = dilated(net, image())
        tf.negative(net.batch_norm(net.bias(y, "bias") if bias else y, "bn"), name="out")

    graph = graph_of(build)
    assert fuse(graph, batch())["conv"].absorbed == ["conv", *["bias"] * bias, "bn"]
    assert types_behind(graph, "out").count("BatchToSpaceND") == 1
    assert "FusedBatchNormV3" not in types_behind(graph, "out")


def test_a_transpose_takes_the_channels_along():
    def build(net):
        y = tf.raw_ops.BiasAdd(
            value=channels_to_the_front(net, image()),
            bias=constant(net.random("bias", (6,)), "b"),
            data_format="NCHW",
            name="bias",
        )
        tf.transpose(small_norm(net, y, 1), [0, 2, 3, 1], name="out")

    layer = fuse(graph_of(build), batch())["conv"]
    assert layer.absorbed[:2] == ["conv", "bias"]
    assert layer.folded is not None


def test_a_bias_along_what_were_the_rows_is_none():
    def build(net):
        y = net.add(channels_to_the_front(net, image(shape=(None, 6, 6, 4))), "bias", [6])
        tf.transpose(y, [0, 2, 3, 1], name="out")

    assert fuse(graph_of(build), batch(shape=(4, 6, 6, 4)))["conv"].absorbed == ["conv"]


@pytest.mark.parametrize("block", [[2, 1, 1], [1, 2, 1]], ids=str)
def test_space_in_place_of_channels(block):
    """Of an NCHW image, the block has a size for the channels, too."""

    def build(net):
        y = net.conv(image(shape=(None, 4, 8, 8)), "conv", data_format="NCHW")
        y = tf.batch_to_space(y, block, [[0, 0]] * 3)
        tf.transpose(net.bias(y, "bias", "NCHW"), [0, 2, 3, 1], name="out")

    layer = fuse(graph_of(build), batch(shape=(4, 4, 8, 8)))["conv"]
    assert layer.absorbed == (["conv"] if block[0] == 2 else ["conv", "bias"])


@pytest.mark.parametrize("used", ["the layer", "the mover", "a fetched layer", "a fetched mover"])
def test_results_that_are_used_in_between(used):
    def build(net):
        y = net.conv(image(), "conv")
        moved = tf.reshape(y, [-1, 64, 6], name="moved")
        z = net.bias(moved, "bias")
        z = z + moved if used == "the mover" else z
        z = z + tf.reduce_sum(y) if used == "the layer" else z
        tf.negative(z, name="out")

    outputs = {"a fetched layer": ["conv"], "a fetched mover": ["moved"]}.get(used, [])
    assert fuse(graph_of(build), batch(), outputs)["conv"].absorbed == ["conv"]


def test_unknown_sizes_stop_it():
    def build(net):
        y = net.matmul(flat(image()), "conv")
        y = tf.reshape(y, v1.placeholder_with_default([-1, 6], [None]))
        tf.identity(net.add(y, "bias", [6]), name="out")

    assert fuse(graph_of(build), batch())["conv"].absorbed == ["conv"]


@pytest.mark.parametrize("fetched", ["bn", "out"])
def test_the_whole_job(tmp_path, fetched):
    """Also where the batch norm itself is the output."""

    def build(net):
        y = net.bias(dilated(net, image(), "a/conv"), "a/bias")
        tf.nn.relu(net.batch_norm(y, "bn"), name="out")

    deployed = Deployed(build, [fetched], tmp_path, feeds=[batch(0), batch(1)], calib_outputs=[fetched])
    assert not [node.name for node in deployed.nodes.values() if node.op in ("FusedBatchNormV3", "AddV2", "Sub", "Mul")]
    assert deployed.sqnr(batch(0)) > 25
    [moved] = deployed.of_type("BatchToSpaceND")
    assert deployed.nodes[moved.input[0]].op == "AscendDequant"
    assert moved.name == "BatchToSpaceND"  # its own name, not that of a clone


def test_the_calibration_graph_computes_the_float_output(tmp_path):
    """A batch norm that is fetched is computed by the user's own ops, once."""

    def build(net):
        net.batch_norm(dilated(net, image()), "bn")

    deployed = Deployed(build, ["bn"], tmp_path)
    _, layers = plan(deployed.float_graph, ["bn"])
    assert layers["conv"].folded == "bn"
    assert sqnr(run(deployed.float_graph, "bn:0", batch()), deployed.run(batch())) > 25


def test_a_batch_norm_behind_a_mover_of_an_output_has_a_reason():
    def build(net):
        tf.negative(net.batch_norm(net.bias(dilated(net, image()), "bias"), "bn"), name="out")

    layer = fuse(graph_of(build), batch(), outputs=["conv"])["conv"]
    assert layer.unfused_because == "batch norm bn is not folded: conv is an output of the model"


def test_a_second_bias_of_a_batch_norm():
    """(y - mean) * gain + beta behind a layer that has a bias already."""

    def build(net):
        y = net.bias(conv1d(net, image()), "bias") - net.parameter(net.random("mean", (6,)), "mean")
        tf.identity(net.add(y * net.parameter(net.random("gain", (6,)), "gain"), "beta", [6]), name="out")

    assert len(fuse(graph_of(build), batch())["conv"].absorbed) == 5
