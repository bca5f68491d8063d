"""Models that compute in float16, wholly or in part: layers with weights are quantized, what is between stays."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from small_models import PARAMETERS, Deployed, avg_pool, batch, graph_of, image, load, quantize, run, sqnr, v1

import amct_tensorflow as amct
from amct_tensorflow.layers import find_layers


def half(value, name="half"):
    return tf.constant(np.asarray(value), tf.float16, name=name)


def conv(net, x, name, channels=6):
    kernel = net.random(name, (3, 3, x.shape[-1], channels)) / 6
    return tf.raw_ops.Conv2D(input=x, filter=half(kernel), strides=[1, 1, 1, 1], padding="SAME", name=name)


def bias(net, x, name):
    return tf.raw_ops.BiasAdd(value=x, bias=half(net.random(name, (x.shape[-1],))), name=name)


def norm(net, x, name):
    """A batch norm of float16 has parameters in float32."""
    values = {key: net.random(name + key, (x.shape[-1],)) for key in ("scale", "offset", "mean", "variance")}
    values["variance"] = np.abs(values["variance"]) + 0.5
    return tf.raw_ops.FusedBatchNormV3(x=x, is_training=False, epsilon=1e-3, name=name, **values).y


def wholly(net):
    y = tf.nn.relu6(
        norm(
            net, bias(net, conv(net, v1.placeholder(tf.float16, [None, 8, 8, 4], name="x"), "a/conv"), "a/bias"), "a/bn"
        )
    )
    kernel = half(net.random("b", (3, 3, 6, 2)) / 3)
    y = tf.raw_ops.DepthwiseConv2dNative(input=y, filter=kernel, strides=[1, 1, 1, 1], padding="SAME", name="b/conv")
    y = avg_pool(tf.nn.relu(y), "pool", 4)
    y = tf.raw_ops.MatMul(a=tf.reshape(y, [-1, 48]), b=half(net.random("fc", (48, 5)) / 7), name="fc/matmul")
    tf.identity(y + half(net.random("c", (5,))), name="out")


def partly(net):
    y = tf.nn.relu(net.batch_norm(net.conv(image(), "a/conv"), "a/bn"))
    y = tf.nn.relu(bias(net, conv(net, tf.cast(y, tf.float16), "b/conv"), "b/bias"))
    y = avg_pool(tf.cast(y, tf.float32), "pool", 2)
    tf.identity(net.conv(y, "c/conv"), name="out")


CASES = {"wholly": (wholly, {"a/conv", "b/conv", "fc/matmul"}), "partly": (partly, {"a/conv", "b/conv", "c/conv"})}


def feed(case, index=0):
    return batch(index).astype(np.float16 if case == "wholly" else np.float32)


@pytest.mark.parametrize("fetched", ["out", "b/conv"])
@pytest.mark.parametrize("case", CASES)
def test_the_whole_job(tmp_path, case, fetched):
    build, layers = CASES[case]
    feeds = [feed(case, 0), feed(case, 1)]
    deployed = Deployed(build, [fetched], tmp_path, feeds=feeds, calib_outputs=[fetched], save_outputs=[fetched])
    assert set(deployed.quantized) <= layers
    if fetched == "out":
        assert set(deployed.quantized) == layers
    expected, actual = deployed.run_float(feeds[0]), deployed.run(feeds[0])
    assert actual.dtype == expected.dtype
    assert sqnr(expected.astype(np.float32), actual.astype(np.float32)) > 25
    for node in deployed.nodes.values():
        if node.op.startswith("Ascend"):
            assert node.attr["T"].type == tf.float32.as_datatype_enum
        assert node.op != "FusedBatchNormV3" or fetched == "b/conv"
    weights = [deployed.constant(deployed.inputs(node.name)[0]) for node in deployed.of_type("AscendWeightQuant")]
    assert {value.dtype for value in weights} == {np.dtype(np.int8)}
    assert "float16" not in {
        tf.dtypes.as_dtype(node.attr["dtype"].type).name
        for node in deployed.nodes.values()
        if node.op == "Const" and node.attr["value"].tensor.tensor_shape.dim
    }


@pytest.mark.parametrize("case", CASES)
def test_a_pool_is_left_float(case):
    build, layers = CASES[case]
    found = {layer.op.name: layer.reason for layer in find_layers(graph_of(build))}
    assert {name for name, reason in found.items() if reason is None} == layers
    assert (
        found["pool"]
        == {
            "wholly": "its type is float16, only float32 is supported",
            "partly": "the model computes partly in float16, where only layers with weights are quantized",
        }[case]
    )


def test_weights_that_are_only_stored_in_float16_do_not_count():
    def build(net):
        kernel = tf.cast(half(net.random("w", (3, 3, 4, 6))), tf.float32)
        y = tf.nn.conv2d(image(), kernel, 1, "SAME", name="conv")
        tf.identity(avg_pool(y, "pool"), name="out")

    assert [layer.reason for layer in find_layers(graph_of(build))] == [None, None]


def test_a_product_of_two_tensors_is_left_float():
    def build(net):
        x = v1.placeholder(tf.float32, [None, 6, 6], name="x")
        y = tf.cast(tf.cast(x, tf.float16), tf.float32)
        tf.raw_ops.BatchMatMulV2(x=x, y=y, name="out")

    (found,) = find_layers(graph_of(build))
    assert found.reason == "the model computes partly in float16, where only layers with weights are quantized"


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_the_calibration_graph_of_other_parameters(tmp_path, parameters):
    """Weights that are variables in float32, read as float16."""

    def build(net):
        kernel = tf.cast(net.parameter(net.random("w", (3, 3, 4, 6)) / 6, "w"), tf.float16)
        x = v1.placeholder(tf.float16, [None, 8, 8, 4], name="x")
        y = tf.raw_ops.Conv2D(input=x, filter=kernel, strides=[1, 1, 1, 1], padding="SAME", name="conv")
        tf.identity(y, name="out")

    graph = graph_of(build, PARAMETERS[parameters])
    expected = run(graph, "out:0", feed("wholly"))
    quantize(graph, tmp_path)
    actual = run(graph, "out:0", feed("wholly"))
    assert 25 < sqnr(expected.astype(np.float32), actual.astype(np.float32)) < 60


def test_layers_that_share_a_tensor_share_its_cast_and_their_op(tmp_path):
    def build(net):
        x = v1.placeholder(tf.float16, [None, 8, 8, 4], name="x")
        tf.identity(conv(net, x, "a/conv") + conv(net, x, "b/conv"), name="out")

    deployed = Deployed(build, ["out"], tmp_path, feeds=[feed("wholly")])
    assert len(deployed.of_type("AscendQuant")) == 1
    assert len(deployed.of_type("Cast")) == 3


def test_balanced(tmp_path):
    """quantize_preprocess observes in float32, too."""
    graph_def = graph_of(wholly).as_graph_def()
    pb = tmp_path / "float.pb"
    pb.write_bytes(graph_def.SerializeToString())
    config, record = str(tmp_path / "config.json"), str(tmp_path / "record.txt")
    graph = load(pb)
    amct.create_quant_config(config, graph)
    document = json.loads((tmp_path / "config.json").read_text())
    for name in ("a/conv", "fc/matmul"):
        document[name]["dmq_balancer_param"] = 0.5
    (tmp_path / "config.json").write_text(json.dumps(document))
    for step in (amct.quantize_preprocess, amct.quantize_model):
        graph = load(pb)
        step(graph, config, record)
        actual = run(graph, "out:0", feed("wholly"))
    amct.save_model(str(pb), ["out"], record, str(tmp_path / "model"))
    expected = run(load(pb), "out:0", feed("wholly")).astype(np.float32)
    assert sqnr(expected, actual.astype(np.float32)) > 25
    assert sqnr(expected, run(load(tmp_path / "model_quantized.pb"), "out:0", feed("wholly")).astype(np.float32)) > 25
