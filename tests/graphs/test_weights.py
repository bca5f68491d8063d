"""Weights that are more than one constant behind one layer."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tensorflow as tf
from small_models import Deployed, batch, constant, flat, image, read_pb, v1

CONV = {"strides": [1, 1, 1, 1], "padding": "SAME"}


def _conv(x, weights, name):
    return tf.raw_ops.Conv2D(input=x, filter=weights, name=name, **CONV)


# -- Shared ---------------------------------------------------------------------------------------------------


def test_one_weight_of_three_layers_with_scales_of_their_own(tmp_path):
    """Under no batch norm, a batch norm, and behind an Identity; the inputs differ by orders of magnitude."""

    def build(net):
        weights = constant(net.random("w", (3, 3, 4, 4)) / 6, "w")
        y = tf.nn.relu(_conv(image(), weights, "a/conv"))
        y = tf.nn.relu(net.batch_norm(_conv(100.0 * y, weights, "b/conv"), "b/bn"))
        tf.nn.relu(net.bias(_conv(0.01 * y, tf.identity(weights), "c/conv"), "c/bias"), name="out")

    deployed = Deployed(build, ["out"], tmp_path)
    assert deployed.quantized == ["a/conv", "b/conv", "c/conv"]
    assert deployed.sqnr(batch()) > 20


def test_one_weight_for_a_convolution_and_a_matmul(tmp_path):
    """As in tied embeddings: one of them reads it through a Reshape."""

    def build(net):
        weights = constant(net.random("w", (6, 6)) / 2, "w")
        y = tf.nn.relu(
            _conv(tf.pad(image(), [[0, 0], [0, 0], [0, 0], [0, 2]]), tf.reshape(weights, [1, 1, 6, 6]), "conv")
        )
        tf.nn.relu(tf.matmul(tf.reduce_mean(y, [1, 2]), weights, name="matmul"), name="out")

    deployed = Deployed(build, ["out"], tmp_path)
    assert deployed.quantized == ["conv", "matmul"]
    assert deployed.sqnr(batch()) > 20


def test_weights_whose_shape_only_computing_tells(tmp_path):
    def build(net):
        kept = tf.boolean_mask(constant(net.random("w", (3, 3, 6, 6)) / 6, "w"), [True] * 4 + [False] * 2, axis=2)
        assert kept.shape.rank == 4 and not kept.shape.is_fully_defined()
        tf.nn.relu(net.bias(_conv(image(), kept, "conv"), "bias"), name="out")

    deployed = Deployed(build, ["out"], tmp_path)
    assert deployed.quantized == ["conv"]
    assert deployed.sqnr(batch()) > 20


def test_a_weight_that_is_an_output_too(tmp_path):
    """It is saved in float beside the int8 one."""

    def build(net):
        weights = constant(net.random("w", (3, 3, 4, 6)) / 6, "w")
        tf.identity(weights, name="shown")
        tf.nn.relu(net.batch_norm(_conv(image(), weights, "conv"), "bn"), name="out")

    for outputs in (["out", "w"], ["out", "shown"]):
        deployed = Deployed(build, outputs, tmp_path)
        assert deployed.quantized == ["conv"]
        np.testing.assert_array_equal(deployed.run(batch(), outputs[1]), deployed.run_float(batch(), outputs[1]))
        assert deployed.sqnr(batch()) > 20


def test_a_weight_that_is_used_as_data_too(tmp_path):
    def build(net):
        weights = constant(net.random("w", (3, 3, 4, 6)) / 6, "w")
        y = _conv(image(), weights, "conv")
        tf.nn.relu(y + tf.reduce_sum(weights, [0, 1, 2]), name="out")

    deployed = Deployed(build, ["out"], tmp_path)
    assert deployed.quantized == ["conv"]
    assert deployed.sqnr(batch()) > 20


# -- Through other ops ----------------------------------------------------------------------------------------

HALF = {"float16": tf.float16, "bfloat16": tf.bfloat16}


@pytest.mark.parametrize("dtype", HALF)
def test_weights_in_half_precision(tmp_path, dtype):
    """The file holds them with half the bytes, and a Cast makes them float32."""

    def build(net):
        weights = tf.constant(net.random("w", (3, 3, 4, 6)) / 6, HALF[dtype], name="w")
        y = net.batch_norm(_conv(image(), tf.cast(weights, tf.float32), "conv"), "bn")
        dense = tf.constant(net.random("dense", (384, 5)) / 20, HALF[dtype], name="dense")
        tf.nn.softmax(tf.matmul(flat(tf.nn.relu(y)), tf.cast(dense, tf.float32), name="matmul"), name="out")

    deployed = Deployed(build, ["out"], tmp_path)
    assert deployed.quantized == ["conv", "matmul"]
    assert not {"w", "dense"} & set(deployed.nodes)
    assert deployed.sqnr(batch()) > 20


def _transposed(net):
    return tf.transpose(constant(net.random("w", (6, 4, 3, 3)) / 6, "w"), [2, 3, 1, 0])  # from PyTorch


def _reshaped(net):
    return tf.reshape(constant(net.random("w", (36, 6)) / 6, "w"), [3, 3, 4, 6])


def _normalized(net):
    return constant(net.random("w", (3, 3, 4, 6)), "w") * constant(net.random("g", (6,)) / 6, "g")


def _standardized(net):
    weights = constant(net.random("w", (3, 3, 4, 6)), "w")
    return (weights - constant(net.random("m", (6,)), "m")) / constant([6.0], "d")


def _with_control_dependencies(net):
    weights = constant(net.random("w", (3, 3, 4, 6)) / 6, "w")
    with tf.control_dependencies([tf.no_op(name="init"), weights]):
        return tf.identity(weights, name="w/read")


def _pieces(net):
    return tf.concat([constant(net.random(f"w{i}", (3, 3, 4, 3)) / 6, f"w{i}") for i in range(2)], axis=3)


def _of_unit_length(net):
    return tf.math.l2_normalize(constant(net.random("w", (3, 3, 4, 6)), "w"), [0, 1, 2])


def _from_bytes(net):
    steps = np.clip(net.random("w", (3, 3, 4, 6)) * 40 + 128, 0, 255).astype(np.uint8)
    return tf.quantization.dequantize(tf.bitcast(tf.constant(steps, name="w"), tf.quint8), -0.5, 0.5)


def _looked_up(net):
    table = constant(net.random("w", (3, 3, 4, 3)) / 6, "w")
    return tf.gather(table, [0, 1, 2, 0, 1, 2], axis=3)


THROUGH = {
    "Concat": _pieces,
    "l2_normalize": _of_unit_length,
    "Dequantize": _from_bytes,
    "Gather": _looked_up,
    "Transpose": _transposed,
    "Reshape": _reshaped,
    "Mul": _normalized,
    "Sub and RealDiv": _standardized,
    "control edges": _with_control_dependencies,
}


@pytest.mark.parametrize("case", THROUGH)
def test_weights_through_other_ops(tmp_path, case):
    def build(net):
        y = _conv(image(), THROUGH[case](net), "conv")
        tf.nn.relu(net.batch_norm(net.bias(y, "bias"), "bn"), name="out")

    deployed = Deployed(build, ["out"], tmp_path)
    assert deployed.quantized == ["conv"]
    assert not {"w", "w0", "w1"} & set(deployed.nodes)
    assert deployed.sqnr(batch()) > 20


def _from_input(net):
    return tf.reshape(tf.reduce_mean(image("kernel", (None, 216)), axis=0), [3, 3, 4, 6])


def test_weights_that_are_computed(tmp_path, capsys):
    """Left float, for a reason; what comes next is quantized."""

    def build(net):
        y = tf.nn.relu(_conv(image(), _from_input(net), "computed/conv"))
        tf.nn.relu(net.conv(y, "conv"), name="out")

    feed = {"x": batch(), "kernel": batch(5, (10, 216))}
    deployed = Deployed(build, ["out"], tmp_path, feeds=[feed])
    assert deployed.quantized == ["conv"]
    assert deployed.sqnr(feed) > 20
    found = re.search(
        r"WARNING .*Conv2D computed/conv: left float because its weights '.*' are computed", capsys.readouterr().err
    )
    assert found


def test_a_computed_kernel_of_each_sample(tmp_path):
    """A batch matrix product of two activations, and dynamic weights of a MatMul."""

    def build(net):
        y = tf.nn.relu(net.conv(image(), "conv", channels=4))
        kernel = tf.reshape(tf.reduce_mean(net.conv(y, "kernel/conv", channels=16), [1, 2]), [-1, 4, 4])
        y = tf.matmul(tf.reshape(y, [-1, 64, 4]), kernel, name="dynamic")
        tf.nn.relu(net.matmul(tf.reshape(y, [-1, 256]), "last/matmul"), name="out")

    deployed = Deployed(build, ["out"], tmp_path)
    assert set(deployed.quantized) == {"conv", "kernel/conv", "dynamic", "dynamic:1", "last/matmul"}
    assert deployed.sqnr(batch()) > 20


# -- conv1d ------------------------------------------------------------------------------


def test_conv1d_with_a_batch_norm_behind_the_squeeze(tmp_path):
    """ExpandDims, Conv2D, Squeeze, as tf.nn.conv1d writes it, twice: strided, and dilated by SpaceToBatchND."""

    def build(net):
        x = image(shape=(None, 32, 4))
        y = tf.nn.conv1d(x, constant(net.random("a", (5, 4, 8)) / 5, "a/w"), stride=2, padding="SAME", name="a/conv1d")
        y = tf.nn.relu(tf.nn.bias_add(y, net.random("ab", (8,)), name="a/bias"))
        y = tf.nn.conv1d(y, constant(net.random("b", (3, 8, 6)) / 5, "b/w"), 1, "SAME", dilations=2, name="b/conv1d")
        tf.nn.relu(y * net.random("gamma", (6,)) + net.random("beta", (6,)), name="out")

    feeds = [batch(i, (4, 32, 4)) for i in range(2)]
    deployed = Deployed(build, ["out"], tmp_path, feeds=feeds)
    assert len(deployed.quantized) == 2
    assert {deployed.nodes[name].op for name in deployed.quantized} == {"Conv2D"}
    assert deployed.sqnr(feeds[1]) > 20


# -- Large ----------------------------------------------------------------------------------------------------


def test_weights_beyond_64_megabytes(tmp_path):
    """protobuf once refused such messages by default."""
    inputs, channels = 4096, 4200

    def build(net):
        x = v1.placeholder(tf.float32, [None, inputs], name="x")
        weights = np.random.default_rng(0).standard_normal((inputs, channels), np.float32)
        tf.nn.relu(tf.raw_ops.MatMul(a=x, b=tf.constant(weights, name="w"), name="matmul"), name="out")

    feed = batch(0, (4, inputs))
    deployed = Deployed(build, ["out"], tmp_path, feeds=[feed])
    size = (tmp_path / "float.pb").stat().st_size
    assert size > 64 * 2**20
    assert deployed.file.stat().st_size < 0.26 * size
    assert len(read_pb(deployed.file).node) == len(deployed.nodes)
    assert deployed.sqnr(feed) > 20
