"""A Mul by a parameter, and batch norms of small ops, are folded where that changes no result."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from fusing import fuse
from small_models import PARAMETERS, Deployed, batch, constant, flat, graph_of, image

LAYERS = {
    "conv": lambda net: net.conv(image(), "layer"),
    "depthwise": lambda net: net.depthwise(image(), "layer", multiplier=2),
    "matmul": lambda net: net.matmul(flat(image()), "layer"),
}


def small_ops(net, y, *, gamma=True, beta=True, variance=None):
    """A batch norm as tf.nn.batch_normalization writes it, which Keras uses."""
    channels = y.shape[-1]
    values = {key: net.random(f"{key}{channels}", (channels,)) for key in ("mean", "gamma", "beta")}
    variance = np.abs(net.random("variance", (channels,))) + 0.1 if variance is None else variance
    given = {key: net.parameter(value, key) for key, value in {**values, "variance": variance}.items()}
    return tf.nn.batch_normalization(
        y,
        given["mean"],
        given["variance"],
        given["beta"] if beta else None,
        given["gamma"] if gamma else None,
        1e-3,
        name="bn",
    )


@pytest.mark.parametrize("parameter", PARAMETERS.values(), ids=PARAMETERS)
@pytest.mark.parametrize("with_bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize(("gamma", "beta"), [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_batch_norms_of_small_ops(layer, gamma, beta, with_bias, parameter):
    def build(net):
        y = layer(net)
        y = net.bias(y, "bias") if with_bias else y
        tf.nn.relu(small_ops(net, y, gamma=gamma, beta=beta), name="out")

    folded = fuse(graph_of(build, parameter), batch())["layer"]
    assert folded.end.op.type in ("AddV2", "Sub")
    assert folded.folded is not None and folded.unfused_because is None
    assert len(folded.absorbed) == 3 + with_bias


@pytest.mark.parametrize("exponent", range(-6, 5))
def test_extreme_variances(exponent):
    def build(net):
        y = net.conv(image(), "layer")
        variance = np.float32(10.0) ** np.float32(exponent) * (1 + np.abs(net.random("v", (6,))))
        tf.nn.relu(small_ops(net, y, variance=variance), name="out")

    assert fuse(graph_of(build), batch())["layer"].folded


SHAPES = {"scalar": [], "one": [1], "channels": [6], "broadcast": [1, 1, 1, 6], "all_ones": [1, 1, 1, 1]}


@pytest.mark.parametrize("swapped", [False, True], ids=["", "swapped"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_mul_by_a_parameter(shape, swapped):
    def build(net):
        y = net.bias(net.conv(image(), "layer"), "bias")
        factor = net.parameter(net.random("factor", shape), "factor")
        tf.nn.relu(tf.raw_ops.Mul(x=factor, y=y) if swapped else tf.raw_ops.Mul(x=y, y=factor), name="out")

    assert fuse(graph_of(build), batch())["layer"].absorbed == ["layer", "bias", "Mul"]


def test_a_quotient_and_a_difference():
    def build(net):
        y = net.conv(image(), "layer")
        y = tf.raw_ops.RealDiv(x=y, y=net.parameter(np.abs(net.random("d", (6,))) + 1, "d"), name="div")
        tf.nn.relu(tf.raw_ops.Sub(x=y, y=net.parameter(net.random("s", (6,)), "s"), name="sub"), name="out")

    assert fuse(graph_of(build), batch())["layer"].absorbed == ["layer", "div", "sub"]


def _along_width(net, y):
    return y * constant(net.random("m", (8, 1)), "m")


def _used_elsewhere(net, y):
    return y * constant(net.random("m", (6,)), "m") + tf.nn.relu(y)


def _zero_division(net, y):
    return y / constant(np.zeros(6), "m")


def _hard_swish(net, y):
    return y * tf.nn.relu6(y + 3.0) * (1 / 6)


def _numerator(net, y):
    return constant(np.ones(6), "m") / (tf.nn.relu(y) + 1.0)


def _fed(net, y):
    return y * tf.compat.v1.placeholder_with_default(np.ones(6, np.float32), [6])


LEFT_ALONE = {
    "along width": (_along_width, "its parameter does not lie along the channels"),
    "used elsewhere": (_used_elsewhere, "layer is used elsewhere too"),
    "division by zero": (_zero_division, "the folded parameters are not finite"),
    "hard swish": (_hard_swish, None),
    "numerator": (_numerator, None),
    "fed": (_fed, None),
}


@pytest.mark.parametrize("case", LEFT_ALONE)
def test_left_alone(case):
    build, reason = LEFT_ALONE[case]

    def model(net):
        y = build(net, net.conv(image(), "layer"))
        tf.nn.relu(tf.where(tf.math.is_finite(y), y, tf.zeros_like(y)), name="out")

    layer = fuse(graph_of(model), batch())["layer"]
    assert layer.absorbed == ["layer"] and layer.folded is None
    assert (layer.unfused_because or "").endswith(reason or "")
    assert (layer.unfused_because is None) == (reason is None)


def test_an_output_in_front_of_the_mul():
    def build(net):
        tf.nn.relu(net.conv(image(), "layer") * 2.0, name="out")

    layer = fuse(graph_of(build), batch(), outputs=["layer"])["layer"]
    assert layer.absorbed == ["layer"]
    assert layer.unfused_because == "Mul mul is not folded: layer is an output of the model"


def test_a_multiplication_behind_what_is_folded(tmp_path):
    """Swish multiplies by its beta what else it uses, too: the batch norm before is folded when the model is saved."""

    def build(net):
        y = net.batch_norm(net.conv(image(), "conv"), "bn")
        tf.identity(y * tf.sigmoid(y * constant(1.0, "beta")), name="out")

    deployed = Deployed(build, ["out"], tmp_path)
    assert not deployed.records["conv"].skip_fusion
    assert not deployed.of_type("FusedBatchNormV3")
    assert deployed.sqnr(batch()) > 25
