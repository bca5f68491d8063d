"""Graphs with unusual beginnings and ends."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from small_models import Deployed, assert_close, avg_pool, batch, flat, graph_of, image, sqnr, v1

from amct_tensorflow.graph.ends import natural_outputs

# -- Outputs --------------------------------------------------------------------------------------------------


def _used_output(kind: str):
    """An output that the next layer consumes, and the result behind it."""

    def build(net):
        y = tf.nn.relu(net.conv(image(), "first/conv"))
        y = {
            "conv": lambda: net.conv(y, "tail"),
            "BiasAdd": lambda: net.bias(net.conv(y, "tail/conv"), "tail"),
            "Add": lambda: net.add(net.conv(y, "tail/conv"), "tail", [6]),
            "BN": lambda: net.batch_norm(net.conv(y, "tail/conv"), "tail"),
            "Mul": lambda: tf.multiply(net.conv(y, "tail/conv"), net.random("mul", [6]), name="tail"),
            "residual": lambda: tf.add(y, net.conv(y, "tail/conv"), name="tail"),
            "AvgPool": lambda: avg_pool(y, "tail"),
            "depthwise": lambda: net.depthwise(y, "tail"),
        }[kind]()
        tf.nn.relu(net.conv(y, "last/conv"), name="out")

    return build


USED = ["conv", "BiasAdd", "Add", "BN", "Mul", "residual", "AvgPool", "depthwise"]


@pytest.mark.parametrize("kind", USED)
def test_an_output_that_is_consumed(tmp_path, kind):
    outputs = ["tail", "out"]
    deployed = Deployed(
        _used_output(kind), outputs, tmp_path, feeds=[batch(0), batch(1)], calib_outputs=["tail"], save_outputs=outputs
    )
    assert set(outputs) <= set(deployed.nodes)
    assert len(deployed.of_type("AscendDequant")) == len(deployed.quantized) == 3
    for output in outputs:
        assert deployed.sqnr(batch(1), output) > 20


@pytest.mark.parametrize("saved", [["tail"], ["out"]], ids=str)
@pytest.mark.parametrize("kind", [kind for kind in USED if kind not in ("BN", "Mul")])
def test_one_of_two_outputs_is_saved(tmp_path, kind, saved):
    """The model is calibrated with both."""
    deployed = Deployed(
        _used_output(kind), ["tail", "out"], tmp_path, calib_outputs=["tail", "out"], save_outputs=saved
    )
    assert deployed.sqnr(batch()) > 20


def test_a_placeholder_as_output(tmp_path):
    """Models pass inputs on, for those who fetch both."""

    def build(net):
        tf.nn.relu(net.conv(image(), "conv"), name="out")

    deployed = Deployed(build, ["out", "x"], tmp_path, feeds=[batch()])
    np.testing.assert_array_equal(deployed.run(batch(3), "x"), batch(3))
    assert deployed.sqnr(batch()) > 20


@pytest.mark.parametrize("output", ["copy", "w", "shape"])
def test_an_output_beside_the_layers(tmp_path, output):
    """What no layer leads to: a copy of the input, a constant, a shape."""

    def build(net):
        x = image()
        tf.identity(x, name="copy")
        tf.constant(net.random("w", (3, 4)), name="w")
        tf.shape(x, name="shape")
        tf.nn.relu(net.conv(x, "conv"), name="out")

    deployed = Deployed(build, ["out", output], tmp_path)
    np.testing.assert_array_equal(deployed.run(batch(), output), deployed.run_float(batch(), output))
    assert deployed.sqnr(batch()) > 20


def test_outputs_of_one_op(tmp_path):
    """Split, whose halves are quantized apart; one of them is an output, too."""

    def build(net):
        x = tf.nn.relu(net.conv(image(), "conv", channels=8))
        first, second = tf.split(x, 2, axis=3, name="split")
        tf.concat([tf.nn.relu(net.conv(first, "a/conv")), net.conv(second, "b/conv")], 3, name="out")

    deployed = Deployed(build, ["out", "split"], tmp_path, save_outputs=["out", "split:1"])
    assert set(deployed.quantized) == {"conv", "a/conv", "b/conv"}
    assert deployed.sqnr(batch()) > 20


# -- Inputs ---------------------------------------------------------------------------------------------------


def test_several_inputs_and_outputs(tmp_path):
    """An image and a vector, which meet; a head each, and one of both."""

    def build(net):
        x, vector = image(), v1.placeholder(tf.float32, [None, 5], name="vector")
        y = tf.nn.relu(net.bias(net.conv(x, "image/conv"), "image/bias"))
        z = tf.nn.relu(net.bias(net.matmul(vector, "vector/matmul"), "vector/bias"))
        tf.nn.relu(net.conv(y, "image/head/conv"), name="seen")
        net.bias(net.matmul(z, "vector/head/matmul"), "told")
        net.bias(net.matmul(tf.concat([flat(avg_pool(y, "pool", 8)), z], 1), "both/matmul"), "both")

    feeds = [{"x": batch(i), "vector": batch(i, (4, 5))} for i in range(2)]
    outputs = ["seen", "told", "both"]
    deployed = Deployed(build, outputs, tmp_path, feeds=feeds)
    assert len(deployed.quantized) == 6
    for output in outputs:
        assert deployed.sqnr(feeds[1], output) > 20


def test_a_scalar_placeholder_that_gives_the_batch(tmp_path):
    def build(net):
        size = v1.placeholder(tf.int32, [], name="size")
        y = tf.nn.relu(net.conv(tf.reshape(image(shape=(None, 256)), tf.stack([size, 8, 8, 4])), "conv"))
        tf.reshape(net.matmul(tf.reshape(y, [-1, 384]), "matmul"), tf.stack([size, 6]), name="out")

    feeds = [{"x": batch(i, (4, 256)), "size": np.int32(4)} for i in range(2)]
    deployed = Deployed(build, ["out"], tmp_path, feeds=feeds)
    assert deployed.quantized == ["conv", "matmul"]
    assert deployed.sqnr(feeds[1]) > 20


@pytest.mark.parametrize("with_default", [False, True], ids=["fed", "default"])
def test_a_scalar_placeholder_for_keep_prob(tmp_path, with_default):
    """Dropout of TensorFlow 1, fed 1.0 for inference."""

    def build(net):
        if with_default:
            keep = v1.placeholder_with_default(np.float32(1.0), [], name="keep_prob")
        else:
            keep = v1.placeholder(tf.float32, [], name="keep_prob")
        y = tf.nn.relu(net.bias(net.conv(image(), "conv"), "bias"))
        random = tf.random.stateless_uniform(tf.shape(y), [1, 2])
        y = y / keep * tf.floor(random + keep)
        tf.nn.softmax(net.matmul(flat(y), "fc/matmul"), name="out")

    feeds = [batch(i) if with_default else {"x": batch(i), "keep_prob": np.float32(1.0)} for i in range(2)]
    deployed = Deployed(build, ["out"], tmp_path, feeds=feeds)
    assert deployed.quantized == ["conv", "fc/matmul"]
    assert deployed.sqnr(feeds[1]) > 20


@pytest.mark.parametrize("shape", [None, (None, None, None, 4), (None, None, None, None)], ids=["rank", "sizes", "all"])
def test_inputs_of_unknown_shape(tmp_path, shape):
    """The batches have different sizes."""

    def build(net):
        x = v1.placeholder(tf.float32, shape, name="x")
        weights = [tf.constant(net.random(name, (3, 3, size, 6)) / 6) for name, size in (("a", 4), ("b", 6))]
        y = tf.nn.relu(tf.raw_ops.Conv2D(input=x, filter=weights[0], strides=[1] * 4, padding="SAME", name="a/conv"))
        y = tf.nn.bias_add(y, net.random("bias", (6,)), name="a/bias")
        tf.nn.relu(tf.raw_ops.Conv2D(input=y, filter=weights[1], strides=[1] * 4, padding="SAME", name="b/conv"), "out")

    feeds = [batch(0), batch(1, (2, 12, 10, 4))]
    deployed = Deployed(build, ["out"], tmp_path, feeds=feeds)
    assert deployed.quantized == ["a/conv", "b/conv"]
    for feed in feeds:
        assert deployed.sqnr(feed) > 20


@pytest.mark.parametrize("shape", [None, (None, None)], ids=["rank", "sizes"])
def test_a_matmul_of_unknown_shape(tmp_path, shape):
    def build(net):
        x = v1.placeholder(tf.float32, shape, name="x")
        y = tf.raw_ops.MatMul(a=x, b=tf.constant(net.random("w", (5, 6))), name="matmul")
        tf.nn.relu(tf.raw_ops.AddV2(x=y, y=tf.constant(net.random("b", (6,))), name="add"), name="out")

    feed = batch(0, (7, 5))
    deployed = Deployed(build, ["out"], tmp_path, feeds=[feed])
    assert deployed.quantized == ["matmul"]
    assert deployed.sqnr(feed) > 20


# -- Names and leftovers --------------------------------------------------------------------------------------


def test_names_without_scope(tmp_path):
    """Several layers share the root, so the names of what is inserted are numbered."""

    def build(net):
        y = image()
        for i in range(3):
            y = tf.nn.relu(net.batch_norm(net.conv(y, f"conv{i}", channels=4), f"bn{i}"))
        tf.identity(y, name="out")

    deployed = Deployed(build, ["out"], tmp_path)
    assert deployed.quantized == ["conv0", "conv1", "conv2"]
    assert {"act_quant/AscendQuant", "act_quant_1/AscendQuant", "act_quant_2/AscendQuant"} <= set(deployed.nodes)
    assert deployed.sqnr(batch()) > 20


def test_a_scope_that_is_used_twice(tmp_path):
    """By reuse of the scope itself, and by names that are like those that would be inserted."""

    def build(net):
        y = tf.nn.relu(net.bias(net.conv(image(), "block/conv"), "block/bias"))
        y = tf.identity(y, name="block/act_quant")
        y = tf.nn.relu(net.bias(net.conv(y, "block/conv_1"), "block/bias_1"))
        y = tf.identity(y, name="block/dequant/AscendDequant")
        y = tf.nn.relu(net.conv(y, "block/block/conv"))
        tf.identity(y, name="out")

    deployed = Deployed(build, ["out"], tmp_path, imported=True)
    assert deployed.quantized == ["block/conv", "block/conv_1", "block/block/conv"]
    assert len(deployed.of_type("AscendDequant")) == 3
    assert deployed.nodes["block/dequant/AscendDequant"].op == "Identity"
    assert deployed.sqnr(batch()) > 20


def test_branches_that_no_one_uses(tmp_path):
    """They are calibrated with the rest, as no one said what the outputs are, but not saved."""

    def build(net):
        y = tf.nn.relu(net.conv(image(), "conv"))
        tf.nn.relu(net.conv(y, "unused/conv"), name="unused/out")
        tf.nn.relu(net.matmul(v1.placeholder(tf.float32, [None, 4], name="labels"), "loss/matmul"), name="loss/out")
        tf.nn.relu(net.conv(y, "last/conv"), name="out")

    assert natural_outputs(graph_of(build)) == ["unused/out", "loss/out", "out"]
    deployed = Deployed(build, ["out"], tmp_path, save_outputs=["out"])
    assert [name for name in deployed.quantized if name in deployed.nodes] == ["conv", "last/conv"]
    assert not [name for name in deployed.nodes if name.startswith(("unused", "loss", "labels"))]
    assert deployed.sqnr(batch()) > 20


@pytest.mark.parametrize("fetched", ["before", "after"])
def test_what_is_not_quantized_computes_as_before(tmp_path, fetched):
    """Skipped layers, and all that stands before the first that is quantized."""

    def build(net):
        y = tf.nn.relu(net.batch_norm(net.conv(image(), "first/conv"), "first/bn"), name="before")
        y = tf.nn.relu(net.conv(y, "second/conv"), name="between")
        tf.nn.relu(net.batch_norm(net.conv(y, "last/conv"), "last/bn"), name="after")

    skipped = ["first/conv", "last/conv"]
    deployed = Deployed(build, ["after", "before", "between"], tmp_path, skip_layers=skipped)
    assert deployed.quantized == ["second/conv"]
    if fetched == "before":
        assert_close(deployed.run(batch(), "before"), deployed.run_float(batch(), "before"))
    else:
        given = deployed.run(batch(), "between")
        graph = deployed.float_graph
        with v1.Session(graph=graph) as session:
            expected = session.run("after:0", {"between:0": given})
        assert_close(deployed.run(batch(), "after"), expected)
        assert sqnr(deployed.run_float(batch(), "between"), given) > 20
