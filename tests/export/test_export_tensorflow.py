"""export_tensorflow: what the int8 ops of TensorFlow compute is what the int8 model computes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from exported import SAME, Exported, each_random_graph
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
from small_models import Deployed, batch, constant, image, load, run, sqnr

import amct_tensorflow as amct
from amct_tensorflow.errors import AmctRuntimeError, AmctTypeError, AmctValueError
from amct_tensorflow.graph import int8_ops

INT8_OPS = ("_FusedQuantizedConv2D", "_FusedQuantizedDepthwiseConv2D", "_QuantizedMatMul")


def has_vnni():
    """Without, sums of two products may saturate at 16 bits."""
    flags = Path("/proc/cpuinfo")
    return flags.exists() and "vnni" in flags.read_text()


pytestmark = pytest.mark.skipif(
    not has_vnni() or not int8_ops.are_there(), reason="this CPU or TensorFlow has no exact int8 ops"
)


class ExportedGraph(Exported):
    """A graph with TensorFlow's int8 ops.

    Attributes:
        graph: the exported graph.
        ops: how many ops of each type are in it.
    """

    def __init__(self, build, folder, **settings):
        super().__init__(amct.export_tensorflow, build, folder, {}, **settings)
        self.graph = load(self.path)
        self.ops = Counter(op.type for op in self.graph.get_operations())
        assert not any(name.startswith("Ascend") for name in self.ops)

    @property
    def in_int8(self):
        return sum(self.ops[name] for name in INT8_OPS)

    def run(self, data):
        return run(self.graph, self.tensors, data)


AVERAGES = "TensorFlow's int8 op would round the averages to the steps of its input"
FLOAT_FAMILIES = {
    "Conv2D in groups": "TensorFlow has no int8 op for groups of channels",
    **dict.fromkeys(("AvgPool", "AvgPool with padding", "AvgPool of all"), AVERAGES),
}


def linear_stem(net):
    return net.bias(net.conv(image(), "stem"), "stem/bias")


ZERO_POINTS = {"symmetric": (linear_stem, batch(), False), "of Relu": (stem, POSITIVE, True)}
ZERO_POINTS["asymmetric"] = linear_stem, batch() + np.float32(0.5), True


@pytest.mark.parametrize("zero_point", ZERO_POINTS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_of_ops_in_int8(tmp_path, family, zero_point):
    first, feed, activation_offset = ZERO_POINTS[zero_point]
    exported = ExportedGraph(
        between(first, FAMILIES[family]), tmp_path, feeds=[feed], activation_offset=activation_offset
    )
    offset = exported.deployed.records["layer"].offset_d
    assert {"symmetric": offset == 0, "of Relu": offset == -128, "asymmetric": -128 < offset != 0}[zero_point]
    assert exported.sqnr(feed) > SAME
    assert exported.reasons == {"stem": None, "layer": FLOAT_FAMILIES.get(family), "last": None}
    assert exported.in_int8 == (2 if family in FLOAT_FAMILIES else 3)
    assert exported.ops["QuantizeV2"] == (2 if family in FLOAT_FAMILIES else 1)


@pytest.mark.parametrize("build", [matmul, batch_matmul, einsum])
def test_products_are_int8_also_where_floats_come_out(tmp_path, build):
    exported = ExportedGraph(build, tmp_path, feeds=[POSITIVE])
    assert exported.sqnr(POSITIVE) > SAME
    assert set(exported.reasons.values()) == {None}
    assert exported.in_int8 == len(exported.report.layers)


def test_products_of_two_tensors_are_float(tmp_path):
    exported = ExportedGraph(attention, tmp_path, feeds=[POSITIVE])
    assert exported.sqnr(POSITIVE) > SAME
    assert set(exported.reasons.values()) == {"TensorFlow has no int8 op for products of two computed tensors"}


@pytest.mark.parametrize("channel_wise", [False, True], ids=["one scale", "a scale for each channel"])
@pytest.mark.parametrize("family", ["Conv2D", "MatMul"])
def test_one_scale_and_one_for_each_channel(tmp_path, family, channel_wise):
    build, name = (between(stem, plain), "layer") if family == "Conv2D" else (matmul, "first")
    params = {"weight_quant_params": {"channel_wise": channel_wise}}
    exported = ExportedGraph(build, tmp_path, feeds=[POSITIVE], **{name: params})
    assert exported.sqnr(POSITIVE) > SAME
    assert exported.reasons[name] is None
    assert exported.graph.get_operation_by_name(name).type in INT8_OPS


@pytest.mark.parametrize("start", [0.7, 1.2], ids=["below 6", "beyond 6"])
def test_a_relu6_goes_into_the_quantizer_or_clips_integers(tmp_path, start):
    feed = batch() * np.float32(10)
    params = {"activation_quant_params": {"search_range": [start, start + 0.1]}}
    exported = ExportedGraph(clipped, tmp_path, feeds=[feed], last=params)
    beyond = exported.deployed.records["last"].scale_d * 255 > 6
    assert (exported.ops["Relu6"], exported.ops["Minimum"]) == (0, int(beyond))
    assert exported.sqnr(feed) > SAME


def test_a_relu_in_front_of_negative_values_clips_integers(tmp_path):
    exported = ExportedGraph(rectified, tmp_path, activation_offset=False)
    assert (exported.ops["Relu"], exported.ops["Maximum"]) == (0, 1)
    assert exported.sqnr(batch()) > SAME


# Channels first


def channels_first(net, x, name, channels=6, **attributes):
    y = net.conv(x, name, channels, data_format="NCHW", **attributes)
    return net.bias(y, f"{name}/bias", data_format="NCHW")


def first_in_a_row(net):
    y = tf.nn.relu(channels_first(net, image(shape=(None, 4, 8, 9)), "a", strides=[1, 1, 2, 1]))
    y = tf.nn.relu(net.bias(net.depthwise(y, "b", 2, data_format="NCHW"), "b/bias", data_format="NCHW"))
    paddings = {"padding": "EXPLICIT", "explicit_paddings": [0, 0, 0, 0, 1, 0, 2, 1]}
    y = tf.nn.relu(channels_first(net, y, "c", **paddings))
    tf.identity(channels_first(net, y, "last", dilations=[1, 1, 1, 2], padding="VALID"), name="out")


@pytest.mark.parametrize("activation_offset", [True, False])
def test_channels_first(tmp_path, activation_offset):
    """oneDNN computes them with the channels last, and what is between two of them stays so."""
    feed = batch(shape=(3, 4, 8, 9))
    exported = ExportedGraph(first_in_a_row, tmp_path, feeds=[feed], activation_offset=activation_offset)
    assert exported.sqnr(feed) > SAME
    assert exported.in_int8 == 4
    formats = {op.get_attr("data_format") for op in exported.graph.get_operations() if op.type in INT8_OPS}
    assert formats == {b"NHWC"}
    assert exported.ops["Transpose"] <= (2 if activation_offset else 8)


def test_channels_first_with_additions(tmp_path):
    def build(net):
        stream = tf.nn.relu(channels_first(net, image(shape=(None, 4, 8, 8)), "stem"))
        y = channels_first(net, tf.nn.relu(channels_first(net, stream, "a")), "b")
        y = tf.nn.relu(tf.raw_ops.AddV2(x=y, y=stream, name="sum"))
        tf.identity(channels_first(net, y, "last"), name="out")

    feed = batch(shape=(3, 4, 8, 8))
    exported = ExportedGraph(build, tmp_path, feeds=[feed], outputs=["out", "sum"])
    assert exported.sqnr(feed) > 35
    exported = ExportedGraph(build, tmp_path, feeds=[feed])
    assert (exported.ops["Snapshot"], exported.ops["AddV2"]) == (1, 0)
    for _ in range(10):
        assert exported.sqnr(feed) > 35


# Additions


def added(second=None):
    """A stream that a convolution is added to; the layer behind puts out the very integers of the sum."""

    def build(net):
        stream = tf.nn.relu(net.bias(net.conv(image(), "stem"), "stem/bias"), name="stream")
        y = net.bias(net.conv(tf.nn.relu(net.conv(stream, "a")), "b"), "b/bias")
        y = tf.identity(tf.raw_ops.AddV2(x=tf.identity(y), y=stream, name="sum"))
        z = tf.nn.relu(y) if second is None else second(net, y, stream)
        eye = constant(np.eye(6)[None, None], "eye")
        tf.nn.conv2d(z, eye, 1, "VALID", name="last")
        tf.identity(tf.compat.v1.get_default_graph().get_tensor_by_name("last:0"), name="out")

    return build


def steps_apart(exported, data):
    """By how many steps the sums differ."""
    expected, actual = (run(graph, "out:0", data) for graph in (exported.deployed.graph, exported.graph))
    return np.rint(np.abs(expected - actual) / exported.deployed.records["last"].scale_d)


def twice(net, y, stream):
    """The stream is added to another convolution, too, whose sum is an output of the block."""
    z = net.conv(tf.nn.relu(y), "c")
    return tf.nn.relu(tf.raw_ops.AddV2(x=stream, y=z, name="second"))


@pytest.mark.parametrize("second", [None, twice], ids=["once", "twice"])
def test_convolutions_add_what_is_quantized(tmp_path, second):
    exported = ExportedGraph(added(second=second), tmp_path)
    assert set(exported.reasons.values()) == {None}
    assert exported.ops["Snapshot"] == 1
    assert exported.ops["AddV2"] == (0 if second is None else 1)
    apart = steps_apart(exported, batch())
    assert np.mean(apart <= 1) > 0.97  # what is not quantized on the way is not clipped either
    assert np.mean(apart == 0) > 0.6
    floats = exported.deployed.run_float(batch())
    assert sqnr(floats, run(exported.graph, "out:0", batch())) > exported.deployed.sqnr(batch())


def test_what_is_added_may_be_an_output(tmp_path):
    exported = ExportedGraph(added(), tmp_path, outputs=["out", "stream"])
    assert exported.ops["Snapshot"] == 1
    for _ in range(20):  # the stream must not be written to
        out, stream = run(exported.graph, ["out:0", "stream:0"], batch())
        expected = run(exported.deployed.graph, ["out:0", "stream:0"], batch())
        assert sqnr(expected[0], out) > 35
        np.testing.assert_allclose(stream, expected[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arguments", [{"target": "ascend"}, {"target": "ascend", "joint_quant": True}], ids=str)
def test_additions_without_a_target(tmp_path, arguments):
    exported = ExportedGraph(residual, tmp_path, shift_n=False, **arguments)
    assert set(exported.reasons.values()) == {None}
    assert exported.ops["Snapshot"] == ("joint_quant" in arguments)
    assert exported.sqnr(batch()) > (35 if "joint_quant" in arguments else SAME)


def test_additions_of_unknown_sizes_are_float(tmp_path):
    def build(net):
        stream = tf.nn.relu(net.conv(image(shape=(None, None, None, 4)), "stem", 6))
        y = tf.nn.relu(tf.raw_ops.AddV2(x=net.conv(stream, "a"), y=stream, name="sum"))
        tf.identity(net.conv(y, "last"), name="out")

    exported = ExportedGraph(build, tmp_path)
    assert (exported.ops["AddV2"], exported.ops["Snapshot"]) == (1, 0)
    assert exported.sqnr(batch()) > SAME


def test_additions_that_broadcast_are_float(tmp_path):
    def build(net):
        mean = tf.reduce_mean(tf.nn.relu(net.conv(image(), "b")), 0, keepdims=True)
        y = tf.raw_ops.AddV2(x=net.conv(image("y"), "a"), y=mean, name="sum")
        tf.identity(net.conv(y, "last"), name="out")

    feed = {"x": batch(), "y": batch(1)}
    exported = ExportedGraph(build, tmp_path, feeds=[feed])
    assert (exported.ops["AddV2"], exported.ops["Snapshot"]) == (1, 0)
    assert exported.sqnr(feed) > SAME


def test_batches_that_differ_are_refused_where_they_are_added(tmp_path):
    def build(net):
        x, y = (image(name) for name in ("x", "y"))
        y = tf.raw_ops.AddV2(x=net.conv(x, "a"), y=tf.nn.relu(net.conv(y, "b")), name="sum")
        tf.identity(net.conv(y, "last"), name="out")

    exported = ExportedGraph(build, tmp_path, feeds=[{"x": batch(), "y": batch(1)}])
    assert exported.ops["Snapshot"] == 1
    assert exported.sqnr({"x": batch(), "y": batch(1)}) > 35
    with pytest.raises(tf.errors.InvalidArgumentError):
        run(exported.graph, "out:0", {"x": batch(), "y": batch()[:1]})


def test_a_concat_of_integers(tmp_path):
    def build(net):
        x = stem(net)
        y = tf.concat([net.conv(x, "a"), tf.nn.relu(net.conv(x, "b"))], 3)
        tf.identity(net.conv(y, "last"), name="out")

    exported = ExportedGraph(build, tmp_path)
    assert exported.ops["QuantizeV2"] == 1
    assert exported.sqnr(batch()) > SAME


def test_shifts_are_dropped(tmp_path):
    exported = ExportedGraph(between(stem, plain), tmp_path, target="ascend")
    assert any(record.shift_bit for record in exported.deployed.records.values())
    assert exported.sqnr(batch()) > 30


def test_a_transposed_convolution_is_float(tmp_path):
    exported = ExportedGraph(between(stem, transposed), tmp_path, feeds=[POSITIVE])
    assert exported.sqnr(POSITIVE) > SAME
    assert exported.reasons["layer"] == "TensorFlow has no int8 op for Conv2DBackpropInput"


def test_a_convolution_in_three_dimensions_is_float(tmp_path):
    def build(net):
        weights = constant(net.random("w", (3, 3, 3, 4, 4)) / 10, "w")
        x = image(shape=(None, 4, 8, 8, 4))
        tf.raw_ops.Conv3D(input=x, filter=weights, strides=[1] * 5, padding="SAME", name="layer")
        tf.identity(x.graph.get_tensor_by_name("layer:0"), name="out")

    feed = batch(shape=(2, 4, 8, 8, 4))
    exported = ExportedGraph(build, tmp_path, feeds=[feed])
    assert exported.sqnr(feed) > SAME
    assert exported.reasons == {"layer": "TensorFlow has no int8 op for Conv3D"}


def test_products_by_batches_of_matrices_are_float(tmp_path):
    def build(net):
        x = tf.reshape(image(), [-1, 8, 8, 4])
        tf.matmul(x, constant(net.random("w", (8, 4, 5)), "w"), name="out")

    exported = ExportedGraph(build, tmp_path)
    assert exported.sqnr(batch()) > SAME
    assert set(exported.reasons.values()) == {"TensorFlow has no int8 op for batches of matrices"}


def test_a_model_in_float16(tmp_path):
    exported = ExportedGraph(in_float16, tmp_path)
    assert exported.sqnr(batch()) > 35  # the results in float16 are rounded twice
    assert exported.in_int8 == 2


@pytest.mark.parametrize("depthwise", [False, True], ids=["Conv2D", "DepthwiseConv2dNative"])
def test_a_channels_first_graph(tmp_path, depthwise):
    def build(net):
        x = image(shape=(None, 4, 8, 8))
        layer = net.depthwise if depthwise else net.conv
        y = tf.nn.relu(net.bias(layer(x, "layer", data_format="NCHW"), "layer/bias", data_format="NCHW"))
        tf.identity(net.conv(y, "last", data_format="NCHW"), name="out")

    feed = batch(shape=(2, 4, 8, 8)) + np.float32(2)
    exported = ExportedGraph(build, tmp_path, feeds=[feed])
    assert exported.sqnr(feed) > SAME
    assert exported.in_int8 == 2


# Sizes, names, outputs


@pytest.mark.parametrize("stride", [1, 2])
def test_padding_of_unknown_sizes(tmp_path, stride):
    def build(net):
        x = image(shape=(None, None, None, 4))
        tf.identity(net.conv(x, "layer", strides=[1, stride, stride, 1]), name="out")

    exported = ExportedGraph(build, tmp_path, activation_offset=False)
    unknown = "how it pads depends on sizes of its input that are unknown"
    assert exported.reasons["layer"] == (None if stride == 1 else unknown)
    for size in (5, 8):
        assert exported.sqnr(batch(shape=(3, size, size + 1, 4))) > SAME


def test_names_and_outputs(tmp_path):
    def build(net):
        y = net.bias(net.conv(image(), "first"), "first/bias")
        tf.split(net.conv(tf.nn.relu(y), "last"), 2, axis=3, name="out")

    outputs = ["out:1", "first/bias", "out"]
    exported = ExportedGraph(build, tmp_path, outputs=outputs)
    assert (exported.report.inputs, exported.report.outputs) == (("x",), tuple(outputs))
    assert exported.sqnr(batch()) > SAME
    assert {op.name for op in exported.graph.get_operations()} >= {"x", "first", "first/bias", "last", "out"}
    assert exported.in_int8 == 2


def test_size(tmp_path):
    exported = ExportedGraph(large_matrices, tmp_path)
    assert Path(exported.report.files[0]).stat().st_size < 0.28 * Path(exported.deployed.pb).stat().st_size


@pytest.mark.parametrize("target", ["ascend", "onnxruntime"])
def test_any_graph(tmp_path_factory, target):
    def check(exported):
        assert exported.in_int8 == sum(layer.reason is None for layer in exported.report.layers)

    each_random_graph(ExportedGraph, tmp_path_factory, target, check)


# Errors: nothing is written


def test_errors(tmp_path, monkeypatch):
    deployed = Deployed(matmul, ["out"], tmp_path)
    made = tmp_path / "made"

    def refused(kind, model=deployed.file, save_path="made/model.pb", **arguments):
        with pytest.raises(kind) as raised:
            amct.export_tensorflow(str(model), str(tmp_path / save_path), **arguments)
        assert not made.exists()
        return str(raised.value)

    assert "has no int8 layer that its outputs need" in refused(AmctValueError, deployed.pb)
    assert "output 'outt' does not exist" in refused(AmctValueError, outputs=["outt"])
    assert "outputs must be a list" in refused(AmctTypeError, outputs="out")
    assert "has no file name" in refused(AmctValueError, save_path="made/.pb")
    (tmp_path / "taken.pb").mkdir()
    assert "taken.pb cannot be written" in refused(AmctRuntimeError, save_path="taken")
    monkeypatch.setattr(int8_ops, "are_there", lambda: False)
    assert "without the int8 ops of oneDNN" in refused(AmctRuntimeError)


def test_lines_and_an_earlier_file(tmp_path, capsys):
    deployed = Deployed(between(stem, FAMILIES["AvgPool"]), ["out"], tmp_path)
    for _ in range(2):
        report = amct.export_tensorflow(str(deployed.file), str(tmp_path / "int8"))
    assert report.files == (str(tmp_path / "int8.pb"),)
    said = "".join(capsys.readouterr())
    assert said.count("will be overwritten") == 1
    assert "Conv2D stem: int8" in said
    assert f"AvgPool layer: left float because {AVERAGES}" in said
    assert "2 of 3 quantized layers run in int8 in TensorFlow" in said
