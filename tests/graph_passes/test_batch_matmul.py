"""BatchMatMul by a constant matrix, also turned, goes through the fusions and the whole job."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from fusing import fuse
from small_models import PARAMETERS, Deployed, graph_of, v1

from amct_tensorflow.graph_passes.balance_channels import balance_weights
from amct_tensorflow.graph_passes.workspace import Layer
from amct_tensorflow.layers import find_layers

VERSIONS = ("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")


def shape_of(version: str) -> tuple[int | None, ...]:
    """The first version wants as many axes as the weights have."""
    return (None, 6) if version == "BatchMatMul" else (None, 7, 6)


def feed(version: str, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((4, *shape_of(version)[1:])).astype(np.float32)


def multiply(x, weights, version: str, **attributes):
    attributes |= {"Tout": tf.float32} if version == "BatchMatMulV3" else {}
    return getattr(tf.raw_ops, version)(x=x, y=weights, name="layer", **attributes)


def block(version: str, turned: bool, bias: str = "BiasAdd", norm: bool = False):
    def build(net):
        weights = net.random("w", (6, 5)) / 2
        x = v1.placeholder(tf.float32, shape_of(version), name="x")
        y = multiply(x, net.parameter(weights.T if turned else weights, "w"), version, adj_y=turned)
        if bias == "BiasAdd":
            y = tf.nn.bias_add(y, net.parameter(net.random("b", (5,)), "b"))
        elif bias == "Add":
            y = net.parameter(net.random("b", (5,)), "b") + y
        if norm:
            given = [net.parameter(np.abs(net.random(name, (5,))) + 0.5, name) for name in ("m", "v", "beta", "gamma")]
            y = tf.nn.batch_normalization(y, *given, 1e-3)
        tf.nn.relu(y, name="out")

    return build


@pytest.mark.parametrize("parameter", PARAMETERS.values(), ids=PARAMETERS)
@pytest.mark.parametrize("norm", [False, True], ids=["", "norm"])
@pytest.mark.parametrize("bias", ["", "BiasAdd", "Add"])
@pytest.mark.parametrize("turned", [False, True], ids=["", "adj_y"])
@pytest.mark.parametrize("version", VERSIONS)
def test_fusions(version, turned, bias, norm, parameter):
    layer = fuse(graph_of(block(version, turned, bias, norm), parameter), feed(version))["layer"]
    assert (layer.op.type, layer.channels) == (version, 5)
    assert bool(layer.folded) == norm
    assert (layer.bias is None) == (not bias and not norm)


@pytest.mark.parametrize("turned", [False, True], ids=["", "adj_y"])
def test_balanced(turned):
    (found,) = find_layers(graph_of(block("BatchMatMulV2", turned)))
    layer = Layer.of(found, fuse=True, channel_wise=False)
    before = layer.weights
    layer.balance = np.float32([1, 2, 3, 4, 5, 6])
    balance_weights([layer])
    assert layer.row.input_channels(layer.op) == 6
    np.testing.assert_array_equal(layer.weights, before * (layer.balance if turned else layer.balance[:, None]))


@pytest.mark.parametrize("turned", [False, True], ids=["", "adj_y"])
@pytest.mark.parametrize("version", VERSIONS)
def test_the_whole_job(version, turned, tmp_path):
    deployed = Deployed(block(version, turned), ["out"], tmp_path, feeds=[feed(version)])
    assert len(deployed.records["layer"].scale_w) == 1
    assert len(deployed.of_type("AscendWeightQuant")) == len(deployed.of_type("AscendQuant")) == 1
    assert deployed.sqnr(feed(version, 1)) > 28


@pytest.mark.parametrize("turned", [False, True], ids=["", "adj_y"])
def test_a_matrix_for_each_part_of_the_batch(turned, tmp_path):
    """All of them have one scale."""

    def build(net):
        x = v1.placeholder(tf.float32, (None, 3, 7, 6), name="x")
        weights = net.random("w", (3, 5, 6) if turned else (3, 6, 5)) / 2
        y = multiply(x, net.parameter(weights, "w"), "BatchMatMulV2", adj_y=turned)
        y = tf.nn.bias_add(y, net.parameter(net.random("b", (5,)), "b"))
        tf.nn.relu(y * net.parameter(net.random("m", (5,)), "m"), name="out")

    x = np.random.default_rng(0).standard_normal((4, 3, 7, 6)).astype(np.float32)
    layer = fuse(graph_of(build), x)["layer"]
    assert layer.channels == 5 and layer.row.input_channels(layer.op) == 6 and layer.folded == "mul"
    deployed = Deployed(build, ["out"], tmp_path, feeds=[x])
    assert deployed.constant("weight_quant/weights").shape == ((3, 5, 6) if turned else (3, 6, 5))
    assert len(deployed.records["layer"].scale_w) == 1
    assert deployed.sqnr(x[::-1]) > 28
