"""export_onnx: what onnxruntime computes is what the int8 model computes, in integers where it has kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from exported import SAME, each_random_graph
from exported_onnx import ExportedOnnx, onnx
from families import (
    FAMILIES,
    POSITIVE,
    attention,
    batch_matmul,
    between,
    clipped,
    einsum,
    in_float16,
    large_matrices,
    matmul,
    plain,
    rectified,
    residual,
    stem,
    transposed,
)
from small_models import batch, constant, flat, image


@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_of_ops_in_int8(tmp_path, family, symmetric):
    feeds = [batch() if symmetric else POSITIVE]
    exported = ExportedOnnx(between(stem, FAMILIES[family]), tmp_path, feeds=feeds, activation_offset=not symmetric)
    assert exported.sqnr(feeds[0]) > SAME
    assert exported.reasons == {"stem": None, "layer": None, "last": "its result is an output, and not quantized"}
    assert exported.in_int8 == 2


@pytest.mark.parametrize("build", [matmul, batch_matmul, attention, einsum])
def test_products_are_int8_also_where_floats_come_out(tmp_path, build):
    exported = ExportedOnnx(build, tmp_path, feeds=[POSITIVE])
    assert exported.sqnr(POSITIVE) > SAME
    assert set(exported.reasons.values()) == {None}
    assert exported.in_int8 == len(exported.report.layers)


@pytest.mark.parametrize("channel_wise", [False, True], ids=["one scale", "a scale for each channel"])
@pytest.mark.parametrize("family", ["Conv2D", "MatMul"])
def test_one_scale_and_one_for_each_channel(tmp_path, family, channel_wise):
    build, name = (between(stem, plain), "layer") if family == "Conv2D" else (matmul, "first")
    params = {"weight_quant_params": {"channel_wise": channel_wise}}
    exported = ExportedOnnx(build, tmp_path, feeds=[POSITIVE], **{name: params})
    assert exported.sqnr(POSITIVE) > SAME
    scales = [tensor for tensor in exported.model.graph.initializer if tensor.name.startswith(f"{name}/weights")]
    assert [list(tensor.dims) for tensor in scales if tensor.name.endswith("scale")] == [[6] if channel_wise else []]
    assert exported.reasons[name] is None


# The constants of the file


def test_the_integers_and_scales_are_those_of_the_int8_model(tmp_path):
    exported = ExportedOnnx(between(stem, plain), tmp_path, feeds=[POSITIVE])
    deployed, record = exported.deployed, exported.deployed.records["layer"]
    [conv] = [node for node in exported.of_type("Conv") if "layer" in node.name]
    [data], [weights], [bias] = (
        [node.input for node in exported.of_type("DequantizeLinear") if node.output[0] == name] for name in conv.input
    )
    integers = deployed.constant(deployed.inputs(deployed.inputs("layer")[1])[0])
    np.testing.assert_array_equal(exported.constant(weights[0]), integers.transpose(3, 2, 0, 1))
    np.testing.assert_allclose(exported.constant(weights[1]), record.scale_w, rtol=1e-6)
    assert exported.constant(data[2]) == record.offset_d + 128
    assert exported.constant(data[2]).dtype == np.uint8
    np.testing.assert_allclose(exported.constant(data[1]), record.scale_d, rtol=1e-6)
    [added] = [node for node in deployed.of_type("BiasAdd") if "layer" in node.name]
    np.testing.assert_array_equal(exported.constant(bias[0]), deployed.constant(deployed.inputs(added.name)[1]))
    assert exported.constant(bias[0]).dtype == np.int32
    np.testing.assert_allclose(
        exported.constant(bias[1]), exported.constant(data[1]) * exported.constant(weights[1]), rtol=1e-6
    )


def test_layers_that_share_weights_share_them_in_the_file(tmp_path):
    def build(net):
        weights = constant(net.random("w", (3, 3, 4, 4)), "w")
        x = image()
        y, z = (
            tf.nn.conv2d(data, weights, 1, "SAME", name=name)
            for data, name in ((x, "first"), (tf.nn.relu(x), "second"))
        )
        tf.identity(net.conv(tf.concat([y, z], 3), "last"), name="out")

    exported = ExportedOnnx(build, tmp_path)
    assert exported.sqnr(batch()) > SAME
    kernels = [tensor for tensor in exported.model.graph.initializer if list(tensor.dims) == [4, 4, 3, 3]]
    assert len(kernels) == 1


# Relu, Relu6


@pytest.mark.parametrize(("start", "clips"), [(0.7, 0), (1.2, 1)], ids=["below 6", "beyond 6"])
def test_a_relu6_goes_into_the_quantizer_or_clips_integers(tmp_path, start, clips):
    feed = batch() * np.float32(10)
    params = {"activation_quant_params": {"search_range": [start, start + 0.1]}}
    exported = ExportedOnnx(clipped, tmp_path, feeds=[feed], last=params)
    assert (exported.deployed.records["last"].scale_d * 255 > 6) == bool(clips)
    assert (exported.of_type("Relu"), len(exported.of_type("Clip"))) == ([], clips)
    assert exported.sqnr(feed) > SAME
    assert exported.in_int8 == 1


def test_a_relu_in_front_of_negative_values_clips_integers(tmp_path):
    exported = ExportedOnnx(rectified, tmp_path, activation_offset=False)
    assert len(exported.of_type("Clip")) == 1
    assert exported.sqnr(batch()) > SAME
    assert exported.in_int8 == 1


# Additions, and target


@pytest.mark.parametrize(
    ("arguments", "additions"),
    [({"target": "ascend"}, 0), ({"target": "ascend", "joint_quant": True}, 1), ({"target": "onnxruntime"}, 1)],
    ids=["neither", "joint_quant", "target"],
)
def test_additions_are_int8_where_their_inputs_are_quantized(tmp_path, arguments, additions):
    exported = ExportedOnnx(residual, tmp_path, **{"shift_n": False, **arguments})
    assert exported.sqnr(batch()) > SAME
    assert exported.kernels["QLinearAdd"] == additions
    in_float = {name for name, reason in exported.reasons.items() if reason is not None}
    assert in_float == ({"b/conv"} if additions else {"a/conv2", "stem/conv", "b/conv"})
    if not additions:
        assert "its result goes to Add a/add, which is not quantized" in exported.reasons["a/conv2"]


def test_only_additions_behind_convolutions_are_quantized_for_onnxruntime(tmp_path):
    def build(net):
        x = flat(image())
        y = tf.raw_ops.AddV2(x=net.matmul(x, "first"), y=net.matmul(x, "second"), name="add")
        tf.identity(net.matmul(y, "last"), name="out")

    assert not [key for key in ExportedOnnx(build, tmp_path).deployed.records if ":" in key]


def test_shifts_are_dropped(tmp_path):
    exported = ExportedOnnx(between(stem, plain), tmp_path, target="ascend")
    assert any(record.shift_bit for record in exported.deployed.records.values())
    assert exported.sqnr(batch()) > 30


# What has no integer kernel


def test_a_transposed_convolution_is_float(tmp_path):
    exported = ExportedOnnx(between(stem, transposed), tmp_path, feeds=[POSITIVE])
    assert exported.sqnr(POSITIVE) > SAME
    assert exported.reasons["layer"] == "onnxruntime has no int8 kernel for ConvTranspose"
    assert exported.in_int8 == 1


def test_a_convolution_in_three_dimensions(tmp_path):
    def build(net):
        x = image(shape=(None, 4, 8, 8, 4))
        y = x
        for name in ("first", "last"):
            weights = constant(net.random(name, (3, 3, 3, 4, 4)) / 10, f"{name}/w")
            y = tf.raw_ops.Conv3D(input=y, filter=weights, strides=[1] * 5, padding="SAME", name=name)
        tf.identity(y, name="out")

    feed = batch(shape=(2, 4, 8, 8, 4)) + np.float32(1)
    exported = ExportedOnnx(build, tmp_path, feeds=[feed])
    assert exported.sqnr(feed) > SAME
    assert exported.reasons == {"first": None, "last": "its result is an output, and not quantized"}
    assert exported.in_int8 == 1


def test_a_model_in_float16(tmp_path):
    exported = ExportedOnnx(in_float16, tmp_path)
    assert exported.sqnr(batch()) > 35  # the results in float16 are rounded twice


def test_several_quantizers(tmp_path):
    def build(net):
        y = tf.nn.relu(net.conv(image(), "layer"))
        tf.identity(net.conv(y, "a") + net.conv(y, "b"), name="out")

    params = {"activation_quant_params": {"search_range": [1.2, 1.3]}}
    exported = ExportedOnnx(build, tmp_path, b=params, shift_n=False, target="ascend")
    assert exported.sqnr(batch()) > SAME
    assert exported.reasons["layer"] == "its result goes to several quantizers, of different factors"
    assert exported.in_int8 == 0


def test_gelu(tmp_path):
    def build(net):
        y = tf.nn.gelu(net.conv(image(), "first"), approximate=False)
        tf.identity(net.conv(y * tf.math.erfc(y), "last"), name="out")

    assert ExportedOnnx(build, tmp_path).sqnr(batch()) > SAME


def test_a_channels_first_graph(tmp_path):
    def build(net):
        x = image(shape=(None, 4, 8, 8))
        y = tf.nn.relu(net.bias(net.conv(x, "layer", data_format="NCHW"), "layer/bias", data_format="NCHW"))
        tf.identity(net.conv(y, "last", data_format="NCHW"), name="out")

    exported = ExportedOnnx(build, tmp_path, feeds=[batch(shape=(2, 4, 8, 8))])
    assert exported.sqnr(batch(shape=(2, 4, 8, 8))) > SAME
    assert exported.in_int8 == 1
    assert not exported.of_type("Transpose")


def test_transposes_are_at_the_ends_only(tmp_path):
    exported = ExportedOnnx(residual, tmp_path)
    assert len(exported.of_type("Transpose")) <= 2


# The file


@pytest.mark.parametrize("opset", [13, 15, 18, 21, onnx.defs.onnx_opset_version()])
def test_opsets(tmp_path, opset):
    try:
        exported = ExportedOnnx(between(stem, plain), tmp_path, opset=opset)
    except Exception as error:
        if "NOT_IMPLEMENTED" not in str(error) and "is till opset" not in str(error):
            raise
        pytest.skip(f"this onnxruntime does not know opset {opset}")
    assert exported.model.opset_import[0].version == opset
    assert exported.sqnr(batch()) > SAME
    assert exported.in_int8 == 2


def test_names_and_dynamic_sizes(tmp_path):
    def build(net):
        x = image(shape=(None, None, None, 4))
        tf.split(net.conv(tf.nn.relu(net.conv(x, "first")), "last"), 2, axis=3, name="out")

    exported = ExportedOnnx(build, tmp_path, outputs=["out:1", "out"])
    assert (exported.report.inputs, exported.report.outputs) == (("x",), ("out:1", "out"))
    for size in (5, 9):
        x = batch(shape=(3, size, size + 1, 4))
        assert [value.shape for value in exported.run(x)] == [(3, size, size + 1, 3)] * 2
    assert exported.sqnr(batch()) > SAME


@pytest.mark.parametrize("activation", [tf.nn.relu, tf.nn.relu6, lambda y: tf.nn.relu(y * 2)], ids=["", "6", "mul"])
def test_outputs_in_front_of_an_activation(tmp_path, activation):
    """onnxruntime would take them from the integers behind it."""

    def build(net):
        stream = tf.nn.relu(net.bias(net.conv(image(), "stem"), "stem/bias"))
        y = tf.add(net.bias(net.conv(stream, "a"), "a/bias"), stream, name="mid")
        y = tf.identity(activation(y), name="behind")
        tf.identity(net.conv(y, "last"), name="out")

    exported = ExportedOnnx(build, tmp_path, outputs=["out", "mid", "behind"])
    assert exported.report.outputs == ("out", "mid", "behind")
    assert exported.sqnr(batch()) > SAME
    assert exported.sqnr(10 * batch()) > SAME


def test_size_and_origin(tmp_path):
    exported = ExportedOnnx(large_matrices, tmp_path)
    assert exported.path.stat().st_size < 0.28 * Path(exported.deployed.pb).stat().st_size
    assert exported.model.producer_name == "amct_tensorflow"


def test_large_weights_go_to_a_file_beside_it(tmp_path, monkeypatch):
    monkeypatch.setattr("amct_tensorflow.export.to_onnx._LARGEST_FILE", 1000)
    exported = ExportedOnnx(between(stem, plain), tmp_path)
    assert [Path(file).name for file in exported.report.files] == ["model.onnx", "model.onnx.data"]
    assert exported.sqnr(batch()) > SAME


@pytest.mark.parametrize("target", ["ascend", "onnxruntime"])
def test_any_graph(tmp_path_factory, target):
    def check(exported):
        assert exported.in_int8 >= sum(layer.reason is None for layer in exported.report.layers)

    each_random_graph(ExportedOnnx, tmp_path_factory, target, check)
