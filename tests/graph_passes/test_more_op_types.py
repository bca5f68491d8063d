"""Conv3D and Conv2DBackpropInput go through every fusion and the whole job."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from fusing import fuse
from small_graphs import NEAREST
from small_models import PARAMETERS, Deployed, constant, graph_of, v1

from amct_tensorflow.graph_passes.balance_channels import balance_inputs, balance_weights
from amct_tensorflow.graph_passes.workspace import Layer, Workspace
from amct_tensorflow.layers import find_layers

SHAPES = {"Conv3D": (None, 4, 6, 6, 3), "Conv2DBackpropInput": (None, 5, 5, 3)}


def conv_3d(net, x, **attributes):
    kernel = net.parameter(net.random("layer", (3, 3, 3, 3, 6)) / 9, "layer_w")
    attributes = {"strides": [1, 1, 2, 2, 1], "padding": "SAME", **attributes}
    return tf.raw_ops.Conv3D(input=x, filter=kernel, name="layer", **attributes)


def transpose(net, x, **attributes):
    kernel = net.parameter(net.random("layer", (3, 3, 6, 3)) / 5, "layer_w")
    attributes = {"strides": [1, 2, 2, 1], "padding": "SAME", **attributes}
    sizes = tf.stack([tf.shape(x)[0], 10, 10, 6])
    return tf.raw_ops.Conv2DBackpropInput(input_sizes=sizes, filter=kernel, out_backprop=x, name="layer", **attributes)


MAKE = {"Conv3D": conv_3d, "Conv2DBackpropInput": transpose}


def feed(op_type: str, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((4, *SHAPES[op_type][1:])).astype(np.float32)


def block(op_type: str, bias: str = "BiasAdd", norm: str = "fused"):
    """layer -> bias -> batch norm -> relu."""

    def build(net):
        x = v1.placeholder(tf.float32, SHAPES[op_type], name="x")
        y = MAKE[op_type](net, x)
        values = {name: net.random(name, (6,)) for name in ("bias", "gamma", "beta", "mean")}
        values["variance"] = np.abs(net.random("variance", (6,))) + 0.1
        given = {name: net.parameter(value, name) for name, value in values.items()}
        if bias == "BiasAdd":
            y = tf.nn.bias_add(y, given["bias"], name="bias_add")
        elif bias == "Add":
            y = tf.raw_ops.AddV2(x=y, y=given["bias"], name="add")
        statistics = [given[name] for name in ("mean", "variance", "beta", "gamma")]
        if norm == "fused":
            y = tf.raw_ops.FusedBatchNormV3(
                x=y,
                scale=given["gamma"],
                offset=given["beta"],
                mean=given["mean"],
                variance=given["variance"],
                is_training=False,
                data_format="NDHWC" if op_type == "Conv3D" else "NHWC",
                name="bn",
            )[0]
        elif norm == "small ops":
            y = tf.nn.batch_normalization(y, *statistics, 1e-3, name="bn")
        tf.nn.relu(y, name="out")

    return build


@pytest.mark.parametrize("parameter", PARAMETERS.values(), ids=PARAMETERS)
@pytest.mark.parametrize("norm", ["", "fused", "small ops"])
@pytest.mark.parametrize("bias", ["", "BiasAdd", "Add"])
@pytest.mark.parametrize("op_type", MAKE)
def test_fusions(op_type, bias, norm, parameter):
    layer = fuse(graph_of(block(op_type, bias, norm), parameter), feed(op_type))["layer"]
    assert layer.op.type == op_type
    assert bool(layer.folded) == bool(norm)
    assert (layer.bias is None) == (not bias and not norm)


@pytest.mark.parametrize("parameter", PARAMETERS.values(), ids=PARAMETERS)
@pytest.mark.parametrize("op_type", MAKE)
def test_balanced(op_type, parameter):
    graph = graph_of(block(op_type), parameter)
    with graph.as_default():
        (found,) = find_layers(graph)
        layer = Layer.of(found, fuse=True, channel_wise=True)
        layer.balance = np.float32([0.25, 2, 8])
        workspace = Workspace(graph, [layer], frozenset(["out"]))
        before = layer.weights
        balance_weights(workspace.layers)
        balance_inputs(workspace)
    assert layer.data.op.type == "Mul"
    if parameter is constant:
        np.testing.assert_allclose(layer.weights, before * np.float32([0.25, 2, 8]).reshape(_inputs_last(op_type)))


def _inputs_last(op_type: str) -> list[int]:
    return [1, 1, 1, 3, 1] if op_type == "Conv3D" else [1, 1, 1, 3]


@pytest.mark.parametrize("settings", [{}, {"shift_n": False}], ids=["shift", ""])
@pytest.mark.parametrize("op_type", MAKE)
def test_the_whole_job(op_type, settings, tmp_path):
    deployed = Deployed(block(op_type), ["out"], tmp_path, feeds=[feed(op_type)], **settings)
    record = deployed.records["layer"]
    assert len(record.scale_w) == 6
    assert bool(record.shift_bit) == (op_type != "Conv3D" and not settings)
    types = [node.op for node in deployed.nodes.values()]
    assert types.count("AscendWeightQuant") == types.count("AscendDequant") == types.count("AscendQuant") == 1
    assert "FusedBatchNormV3" not in types
    assert deployed.sqnr(feed(op_type, 1)) > 30


@pytest.mark.parametrize("op_type", MAKE)
def test_the_deployed_integers(op_type, tmp_path):
    """Without shift, the saved graph computes what int8 arithmetic does."""
    settings = {"shift_n": False, **NEAREST}
    deployed = Deployed(block(op_type, norm=""), ["out"], tmp_path, feeds=[feed(op_type)], **settings)
    record, x = deployed.records["layer"], feed(op_type, 2)
    axis = (1, 1, 1, 1, 6) if op_type == "Conv3D" else (1, 1, 6, 1)
    scale_w = np.float32(record.scale_w)
    weights = {node.name: node for node in deployed.nodes.values()}["weight_quant/weights"]
    kernel = tf.make_ndarray(weights.attr["value"].tensor).astype(np.float32) * scale_w.reshape(axis)
    steps = np.clip(np.floor(x / record.scale_d + 0.5) + record.offset_d, -128, 127) - record.offset_d
    data = (steps * record.scale_d).astype(np.float32)
    bias = np.random.default_rng([*b"bias", 6]).normal(size=6).astype(np.float32)
    if op_type == "Conv3D":
        y = tf.nn.conv3d(data, kernel, [1, 1, 2, 2, 1], "SAME")
    else:
        y = tf.nn.conv2d_transpose(data, kernel, [len(x), 10, 10, 6], 2, "SAME")
    np.testing.assert_allclose(deployed.run(x), np.maximum(y + bias, 0), atol=2e-4)
