"""export_tflite: the model in the file computes what the .pb computes, with its factors, integers and biases."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from small_graphs import write_record
from small_models import (
    Deployed,
    avg_pool,
    batch,
    control_flow_of_tensorflow_1,
    flat,
    image,
    load,
    run,
    small_net,
    sqnr,
    v1,
)

import amct_tensorflow as amct
from amct_tensorflow.errors import AmctRuntimeError, AmctValueError
from amct_tensorflow.export.lite.edit import INT8, constant_of, names_of
from amct_tensorflow.export.quantized_model import QuantizedModel
from amct_tensorflow.graph.lite import operator_name
from amct_tensorflow.graph_passes.planning.find_deployed import offset_of, scale_of

flatbuffer_utils = pytest.importorskip("tensorflow.lite.tools.flatbuffer_utils")

AS_IN_FLOAT = 100  # dB, where nothing but the order of additions differs


def interpreter(path):
    with warnings.catch_warnings(action="ignore"):  # it moves to a package of its own
        return tf.lite.Interpreter(str(path))


class Lite:
    """A .tflite that was read again."""

    def __init__(self, path):
        self.model = flatbuffer_utils.read_model_from_bytearray(bytearray(Path(path).read_bytes()))
        self.graph = self.model.subgraphs[0]
        self.interpreter = interpreter(path)

    @property
    def operators(self) -> list[str]:
        return [operator_name(self.model, operator) for operator in self.graph.operators]

    def tensors(self, operator: str) -> list[list]:
        """The tensors that operators of a kind read, the results first."""
        found = [one for one in self.graph.operators if operator_name(self.model, one) == operator]
        return [[self.graph.tensors[number] for number in (*one.outputs, *one.inputs) if number >= 0] for one in found]

    def run(self, feeds):
        feeds = feeds if isinstance(feeds, dict) else {"x": feeds}
        taken = {entry["name"]: entry for entry in self.interpreter.get_input_details()}
        assert list(taken) == list(feeds)
        for name, values in feeds.items():
            self.interpreter.resize_tensor_input(taken[name]["index"], values.shape)
        self.interpreter.allocate_tensors()
        for name, values in feeds.items():
            self.interpreter.set_tensor(taken[name]["index"], values)
        self.interpreter.invoke()
        return {entry["name"]: self.interpreter.get_tensor(entry["index"]) for entry in self.outputs}

    @property
    def outputs(self):
        return self.interpreter.get_output_details()


def deploy(build, folder, **settings):
    settings = {"shift_n": False, "feeds": [batch(0), batch(1)], "outputs": ["out"], **settings}
    return Deployed(build, settings.pop("outputs"), folder, **settings)


def export(deployed: Deployed, **arguments):
    report = amct.export_tflite(str(deployed.file), str(deployed.folder / "model"), **arguments)
    return report, Lite(report.files[0])


def in_int8(report) -> list[str]:
    return [layer.name for layer in report.layers if layer.reason is None]


# -- Op types and what is around them ------------------------------------------------------------------------------


def two_convs(net):
    y = tf.nn.relu6(net.bias(net.conv(image(), "a"), "a_bias"))
    tf.identity(net.conv(y, "b"), name="out")


def depthwise(net):
    y = tf.nn.relu(net.depthwise(image(), "a", multiplier=3))
    tf.identity(net.conv(y, "b"), name="out")


def padded(net):
    y = tf.pad(tf.nn.relu(net.conv(image(), "a", strides=[1, 2, 2, 1])), PADDING)
    tf.identity(net.conv(y, "b", padding="VALID", dilations=[1, 2, 2, 1]), name="out")


def grouped(net):
    tf.identity(net.conv(tf.nn.relu(net.conv(image(), "a", 8, groups=2)), "b", 8, groups=4), name="out")


def channels_first(net):
    y = tf.nn.relu(net.conv(image(shape=(None, 4, 8, 8)), "a", data_format="NCHW"))
    tf.identity(net.conv(y, "b", data_format="NCHW"), name="out")


def in_float16(net):
    def weights(name, channels):
        return tf.constant((net.random(name, (3, 3, channels, 6)) / 6).astype(np.float16))

    y = tf.nn.relu(tf.nn.conv2d(tf.cast(image(), tf.float16), weights("a", 4), 1, "SAME", name="a"))
    tf.cast(tf.nn.conv2d(y, weights("b", 6), 1, "SAME", name="b"), tf.float32, name="out")


def concatenated(net):
    x = image()
    y = tf.concat([tf.nn.relu(net.conv(x, "a")), tf.nn.relu6(net.conv(x, "b")), x], 3)
    tf.identity(net.conv(y, "c"), name="out")


def max_pooled(net):
    y = tf.nn.relu(net.conv(image(), "a"))
    y = net.conv(y, "b", strides=[1, 2, 2, 1]) + net.conv(tf.nn.max_pool2d(y, 2, 2, "VALID"), "c")
    tf.identity(y, name="out")


def shared_weights(net):
    weights = tf.constant(net.random("w", (3, 3, 4, 4)))
    x = image()
    y = [tf.nn.relu(net.bias(tf.nn.conv2d(x * (n + 1), weights, 1, "SAME", name="ab"[n]), f"bias{n}")) for n in (0, 1)]
    tf.identity(net.conv(tf.concat(y, 3), "c"), name="out")


def batch_norm_apart(net):
    y = tf.nn.relu(net.batch_norm(net.conv(image(), "a"), "bn"))
    tf.identity(net.conv(y, "b"), name="out")


def products(net):
    x = v1.placeholder(tf.float32, (None, 7, 6), name="x")
    y = tf.nn.relu(net.bias(tf.linalg.matmul(x, net.random("w1", (6, 6)), name="a"), "bias"))
    tf.linalg.matmul(y, net.random("w2", (5, 6)), transpose_b=True, name="out")


def product_of_tensors(net):
    x = v1.placeholder(tf.float32, (None, 7, 6), name="x")
    y = tf.linalg.matmul(x, tf.transpose(x, [0, 2, 1]), name="a")
    tf.linalg.matmul(y, net.random("w2", (7, 5)), name="out")


def transposed(net):
    x = v1.placeholder(tf.float32, (None, 5, 5, 3), name="x")
    sizes = tf.stack([tf.shape(x)[0], 10, 10, 6])
    kernel = net.random("w", (3, 3, 6, 3)) / 5
    y = tf.raw_ops.Conv2DBackpropInput(
        input_sizes=sizes, filter=kernel, out_backprop=x, strides=[1, 2, 2, 1], padding="SAME", name="a"
    )
    tf.identity(net.conv(tf.nn.relu(net.bias(y, "bias")), "b"), name="out")


def pooled(net):
    y = avg_pool(tf.nn.relu(net.conv(image(), "a")), "b", 2, padding="SAME", strides=[1, 1, 1, 1])
    y = avg_pool(tf.nn.relu(net.conv(y, "c")), "d", 8)
    tf.identity(net.matmul(flat(y), "e"), name="out")


def residual(net):
    stream = tf.nn.relu(net.conv(image(), "a", 6))
    y = net.conv(tf.nn.relu(net.conv(stream, "b")), "c")
    y = tf.nn.relu(tf.raw_ops.AddV2(x=y, y=stream, name="add"))
    tf.identity(net.conv(y, "d"), name="out")


def of_shape(*shape):
    return {"feeds": [np.random.default_rng(seed).standard_normal(shape).astype(np.float32) for seed in range(2)]}


def of_all(**params):
    return {name: {"weight_quant_params": params} for name in ("a", "b")}


# build, settings, the layers that compute in int8
FAMILIES = {
    "Conv2D, Relu6": (two_convs, {}, ["a"]),
    "inputs with an offset": (two_convs, {"feeds": [np.abs(batch(0)) + 1, np.abs(batch(1))]}, ["a"]),
    "a range beyond 6": (two_convs, {"feeds": [9 * batch(0), 9 * batch(1)]}, ["a"]),
    "without offsets": (two_convs, {"activation_offset": False}, ["a"]),
    "depthwise with a multiplier": (depthwise, {}, ["a"]),
    "one scale": (two_convs, of_all(channel_wise=False), ["a"]),
    "one scale, depthwise": (depthwise, of_all(channel_wise=False), ["a"]),
    "padding and dilation": (padded, {}, ["a"]),
    "groups": (grouped, {}, ["a"]),
    "NCHW": (channels_first, of_shape(4, 4, 8, 8), ["a"]),
    "float16": (in_float16, {}, ["a"]),
    "Concat": (concatenated, {}, ["a", "b"]),
    "shared by a MaxPool": (max_pooled, {}, ["a"]),
    "shared weights": (shared_weights, {}, ["a", "b"]),
    "batch norm apart": (batch_norm_apart, {"skip_fusion_layers": ["a"]}, ["a"]),
    "BatchMatMul": (products, of_shape(4, 7, 6), ["a"]),
    "BatchMatMul of two tensors": (product_of_tensors, of_shape(4, 7, 6), ["a"]),
    "transposed convolution": (transposed, of_shape(4, 5, 5, 3), ["a"]),
    "AvgPool": (pooled, {}, ["a", "c", "d"]),
    "Add": (residual, {"joint_quant": True}, ["a", "b", "c"]),
    "small net": (small_net, {}, ["a/conv", "b/depthwise"]),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_computes_as_the_pb(tmp_path, family):
    build, settings, expected = FAMILIES[family]
    deployed = deploy(build, tmp_path, **settings)
    report, lite = export(deployed)
    assert in_int8(report) == expected
    x = settings.get("feeds", [batch(0)])[0]
    before, after = deployed.run(x), lite.run(x)["out"]
    assert sqnr(before, after) > 30  # int8 operators round after each sum, and a -128 is rounded anew
    assert deployed.sqnr(x) - sqnr(deployed.run_float(x), after) < 1.5


PADDING = [[0, 0], [1, 1], [1, 1], [0, 0]]
CLIPPED = {"activation_quant_params": {"max_percentile": 0.8, "min_percentile": 0.8, "search_range": [0.6, 0.65]}}

FLOAT = {  # build, settings, why not in int8
    "Conv3D": (
        lambda net: tf.identity(
            tf.nn.conv3d(image(shape=(None, 4, 6, 6, 3)), net.random("w", (3, 3, 3, 3, 6)), [1] * 5, "SAME", name="a"),
            name="out",
        ),
        of_shape(4, 4, 6, 6, 3),
        "TFLite has no int8 kernel for CONV_3D",
    ),
    "an output": (
        lambda net: tf.reshape(net.conv(image(), "a"), [-1, 384], name="out"),
        {},
        "its result is an output, which has no factors",
    ),
    "Tanh": (
        lambda net: tf.identity(net.conv(tf.nn.tanh(net.conv(image(), "a")), "b"), name="out"),
        {},
        "its result goes to TANH Tanh, which is not quantized",
    ),
    "a result of two ranges behind movers": (
        lambda net: (
            y := net.conv(image(), "a"),
            b := net.conv(tf.transpose(y, [0, 2, 1, 3]), "b"),
            tf.identity(b + net.conv(tf.pad(y, PADDING), "c", padding="VALID"), name="out"),
        ),
        {"c": CLIPPED},
        "its result goes to TRANSPOSE transpose, which is not quantized",
    ),
    "an input of two ranges behind movers": (
        lambda net: (
            x := image(),
            b := net.conv(tf.transpose(x, [0, 2, 1, 3]), "b"),
            tf.identity(b + net.conv(tf.pad(x, PADDING), "c", padding="VALID"), name="out"),
        ),
        {"c": CLIPPED},
        "its result goes to ADD add, which is not quantized",
    ),
    "AvgPool": (
        lambda net: tf.identity(net.conv(avg_pool(image(), "a"), "b"), name="out"),
        {},
        "TFLite's int8 AVERAGE_POOL_2D would round its result to the steps of its input",
    ),
}


@pytest.mark.parametrize("case", FLOAT)
def test_what_stays_float_is_told_and_computes_the_same(tmp_path, case):
    build, settings, reason = FLOAT[case]
    deployed = deploy(build, tmp_path, **settings)
    report, lite = export(deployed)
    assert report.layers[0].reason == reason
    assert report.in_float[0] is report.layers[0]
    if not in_int8(report):
        x = settings.get("feeds", [batch(0)])[0]
        assert sqnr(deployed.run(x), lite.run(x)["out"]) > AS_IN_FLOAT


def rounding_of_their_own(net):
    """Sigmoid, Tanh, a small AvgPool and ResizeBilinear, whose int8 operators would round or clip."""
    y = tf.nn.sigmoid(net.conv(image(), "a"))
    y = tf.image.resize(avg_pool(tf.nn.tanh(net.conv(y, "b")), "pool"), [8, 8])
    tf.nn.softmax(net.conv(y, "c"), name="out")


def test_operators_with_rules_of_their_own_stay_float(tmp_path):
    deployed = deploy(rounding_of_their_own, tmp_path, pool={"quant_enable": False})
    _, lite = export(deployed)
    assert not {INT8} & {tensors[0].type for kind in ("TANH", "LOGISTIC") for tensors in lite.tensors(kind)}
    assert sqnr(deployed.run(batch()), lite.run(batch())["out"]) > AS_IN_FLOAT


@pytest.mark.parametrize("version", [1, 2])
def test_loops(tmp_path, version):
    def build(net):
        y = net.conv(tf.nn.relu(net.conv(image(), "a")), "b")
        _, y = v1.while_loop(lambda i, _: i < 3, lambda i, y: [i + 1, tf.nn.softmax(2 * y)], [0, y])
        tf.identity(y, name="out")

    if version == 1:
        with control_flow_of_tensorflow_1():
            deployed = deploy(build, tmp_path)
    else:
        deployed = deploy(build, tmp_path)
    report, lite = export(deployed)
    assert in_int8(report) == ["a"]
    assert sqnr(deployed.run(batch()), lite.run(batch())["out"]) > 30


# -- Factors, integers and biases ----------------------------------------------------------------------------------


def layers_of(deployed: Deployed):
    return {layer.name: layer for layer in QuantizedModel.load(str(deployed.file), None).layers}


def test_activations_have_the_factors_of_the_pb(tmp_path):
    deployed = deploy(residual, tmp_path, joint_quant=True)
    _, lite = export(deployed)
    quants = [op for op in deployed.graph.get_operations() if op.type == "AscendQuant"]
    expected = {(scale_of(op).item(), offset_of(op)) for op in quants}
    found = {
        (float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0]))
        for tensor in lite.graph.tensors
        if tensor.type == INT8 and constant_of(lite.model, tensor) is None
    }
    assert [offset for _, offset in sorted(found)] == [offset for _, offset in sorted(expected)]
    np.testing.assert_allclose(sorted(found), sorted(expected), rtol=1e-6)
    assert lite.operators.count("ADD") == 1 and lite.tensors("ADD")[0][0].type == INT8


@pytest.mark.parametrize("channel_wise", [True, False], ids=["channels", "one scale"])
def test_weights_and_biases_are_those_of_the_pb(tmp_path, channel_wise):
    deployed = deploy(two_convs, tmp_path, **of_all(channel_wise=channel_wise))
    _, lite = export(deployed)
    [result, data, weights, bias] = lite.tensors("CONV_2D")[0]
    layer = layers_of(deployed)["a"]
    ours, integers = layer.integers(), constant_of(lite.model, weights).transpose(1, 2, 3, 0)
    same = (ours.values > -128).all(axis=(0, 1, 2))
    assert 0 < same.sum() < 6  # channels of both kinds
    np.testing.assert_array_equal(integers[..., same], ours.values[..., same])
    scale, after = (np.broadcast_to(value.ravel(), 6) for value in (ours.scale, np.asarray(weights.quantization.scale)))
    np.testing.assert_array_equal(after[same], scale[same])
    assert (after >= scale).all() and (after <= scale * 1.008).all() and integers.min() == -127
    steps = np.frombuffer(bytes(lite.model.buffers[bias.buffer].data), np.int32)
    bias_of_the_pb = deployed.constant(deployed.inputs("a_bias")[1])
    np.testing.assert_allclose(steps[same], bias_of_the_pb[same], atol=1)
    assert result.type == data.type == INT8


def test_weights_of_a_layer_in_float_keep_their_integers(tmp_path):
    deployed = deploy(two_convs, tmp_path)
    _, lite = export(deployed)
    [_, weights] = next(tensors for tensors in lite.tensors("DEQUANTIZE") if "b" in names_of(tensors[1])[0].split("/"))
    ours = layers_of(deployed)["b"].integers()
    np.testing.assert_array_equal(constant_of(lite.model, weights).transpose(1, 2, 3, 0), ours.values)
    np.testing.assert_array_equal(weights.quantization.scale, ours.scale.ravel())
    assert ours.values.min() == -128


def converted(build, records, folder, **settings) -> Deployed:
    """A model of given factors."""
    deployed = deploy(build, folder, **settings)
    merged = {name: dataclasses.replace(deployed.records[name], **given) for name, given in records.items()}
    record = write_record(folder / "given.txt", {**deployed.records, **merged})
    amct.convert_model(deployed.pb, ["out"], record, str(folder / "given"))
    deployed.file = folder / "given_quantized.pb"
    deployed.graph = load(deployed.file)
    return deployed


def test_a_relu6_whose_factors_reach_beyond_6(tmp_path):
    deployed = converted(two_convs, {"b": {"scale_d": 0.1, "offset_d": -128}}, tmp_path)
    report, lite = export(deployed)
    x = 9 * batch()
    assert in_int8(report) == ["a"] and deployed.run(x).max() > 0
    assert sqnr(deployed.run(x), lite.run(x)["out"]) > 30


def test_transposed_weights_that_do_not_use_all_integers(tmp_path):
    """The converter cannot be told the scales of these, and finds others, also for the bias."""
    deployed = deploy(transposed, tmp_path, **of_shape(4, 5, 5, 3))
    wide = tuple(1.5 * scale for scale in deployed.records["a"].scale_w)
    deployed = converted(transposed, {"a": {"scale_w": wide}}, tmp_path, **of_shape(4, 5, 5, 3))
    report, lite = export(deployed)
    [_, _, weights, _, bias] = lite.tensors("TRANSPOSE_CONV")[0]
    ours, layer = layers_of(deployed)["a"].integers(), layers_of(deployed)["a"]
    np.testing.assert_array_equal(constant_of(lite.model, weights).transpose(1, 2, 0, 3), ours.values)
    np.testing.assert_array_equal(weights.quantization.scale, ours.scale.ravel())
    steps = np.frombuffer(bytes(lite.model.buffers[bias.buffer].data), np.int32)
    np.testing.assert_allclose(steps * layer.scales, layer.bias(), atol=1.1 * layer.scales.max())
    x = of_shape(4, 5, 5, 3)["feeds"][1]
    assert in_int8(report) == ["a"] and sqnr(deployed.run(x), lite.run(x)["out"]) > 30


def test_a_result_of_two_quantizers(tmp_path):
    def build(net):
        y = net.conv(image(), "a")
        tf.identity(net.conv(y, "b") + net.conv(y, "c"), name="out")

    deployed = converted(build, {"b": {"scale_d": 0.01}}, tmp_path)
    report, lite = export(deployed)
    assert report.layers[0].reason == "its result goes to 2 quantizers of different factors"
    assert sqnr(deployed.run(batch()), lite.run(batch())["out"]) > AS_IN_FLOAT


@pytest.mark.parametrize("name", ["a", "x"])
def test_results_of_a_split_with_different_factors(tmp_path, name):
    def build(net):
        y = image() if name == "x" else net.conv(image(), "a")
        first, second = tf.split(y, 2, axis=3)
        tf.identity(net.conv(first, "b") + net.conv(second, "c"), name="out")

    deployed = converted(build, {"b": {"scale_d": 0.001}}, tmp_path)
    _, lite = export(deployed)
    assert sqnr(deployed.run(batch()), lite.run(batch())["out"]) > AS_IN_FLOAT


@pytest.mark.parametrize("joint_quant", [False, True])
def test_a_moved_result_that_floats_read_too(tmp_path, joint_quant):
    """The factors behind the MaxPool are others than those before it, and are kept."""

    def build(net):
        y = net.bias(net.conv(image(), "a"), "a/bias")
        pooled = tf.nn.max_pool2d(y, 3, 1, "SAME")
        tf.tanh(pooled, name="floats")
        z = net.bias(net.conv(tf.identity(pooled), "b", size=1), "b/bias")
        tf.identity(net.conv(tf.nn.relu(y + z), "c", size=1), name="out")

    outputs = ["out", "floats"]
    deployed = deploy(build, tmp_path, outputs=outputs, target="onnxruntime", joint_quant=joint_quant)
    report, lite = export(deployed)
    assert in_int8(report) == ["a", "b"]
    found = lite.run(batch())
    for name in outputs:
        assert sqnr(run(deployed.graph, f"{name}:0", batch()), found[name]) > 30


@pytest.mark.parametrize("kind", ["argmax", "top_k", "greater"])
def test_outputs_that_are_no_floats(tmp_path, kind):
    def build(net):
        y = net.matmul(flat(tf.nn.relu(net.conv(image(), "a"))), "b")
        made = {
            "argmax": lambda: tf.argmax(y, -1),
            "top_k": lambda: tf.nn.top_k(y, 2).indices,
            "greater": lambda: tf.greater(y, 0.5),
        }[kind]()
        tf.identity(made, name="out")

    deployed = deploy(build, tmp_path)
    assert export(deployed, integer_io=True)[0].outputs == ("out",)
    report, lite = export(deployed)
    assert report.outputs == ("out",)
    assert np.mean(run(deployed.graph, "out:0", batch()) == lite.run(batch())["out"]) >= 0.75


# -- Inputs, outputs and files -------------------------------------------------------------------------------------


def test_the_batch_stays_dynamic(tmp_path):
    deployed = deploy(two_convs, tmp_path)
    _, lite = export(deployed)
    [taken], [given] = lite.interpreter.get_input_details(), lite.outputs
    assert taken["shape_signature"].tolist() == [-1, 8, 8, 4] and given["shape_signature"].tolist() == [-1, 8, 8, 6]
    for size in (1, 3):
        x = batch(shape=(size, 8, 8, 4))
        assert sqnr(deployed.run(x), lite.run(x)["out"]) > 30


def with_several_ends(net):
    x, other = image(), image("other")
    y = tf.nn.relu(net.conv(x, "a"), name="used")
    z = net.conv(y + net.conv(other, "b"), "c")
    tf.split(z, 2, axis=3, name="parts")
    tf.identity(y, name="again")


def test_ends_have_the_names_of_their_ops(tmp_path):
    feeds = [{"x": batch(0), "other": batch(1)}]
    deployed = deploy(with_several_ends, tmp_path, outputs=["parts", "again", "used"], feeds=feeds)
    report, lite = export(deployed, outputs=["parts:1", "used", "again", "parts"])
    assert report.inputs == ("x", "other")
    assert report.outputs == ("parts:1", "used", "again", "parts")
    signature = lite.interpreter.get_signature_list()["serving_default"]
    assert signature == {"inputs": ["other", "x"], "outputs": ["again", "parts", "parts:1", "used"]}
    runner = lite.interpreter.get_signature_runner()
    found = runner(**feeds[0])
    for name in report.outputs:
        before = run(deployed.graph, name if ":" in name else f"{name}:0", feeds[0])
        assert sqnr(before, found[name]) > 30


def test_outputs_that_a_quantizer_reads_are_not_rounded(tmp_path):
    deployed = deploy(two_convs, tmp_path, outputs=["Relu6", "out"])
    report, lite = export(deployed, outputs=["Relu6", "out"])
    assert [layer.reason for layer in report.layers] == 2 * ["its result is an output, which has no factors"]
    assert sqnr(deployed.run(batch(), "Relu6"), lite.run(batch())["Relu6"]) > AS_IN_FLOAT


def test_integer_ends(tmp_path):
    """The input has the factors of the layers that read it, and an output those of the AscendAntiQuant behind it."""

    def build(net):
        y = tf.nn.relu(net.conv(image(), "a"))
        tf.raw_ops.MaxPool(input=y, ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1], padding="VALID", name="out")
        tf.identity(net.conv(y, "b"), name="float")

    deployed = deploy(build, tmp_path, outputs=["out", "float"])
    report, lite = export(deployed, outputs=["out", "float"], integer_io=True)
    [taken] = lite.interpreter.get_input_details()
    assert [entry["dtype"] for entry in (taken, *lite.outputs)] == [np.int8, np.int8, np.float32]
    scale, offset = taken["quantization"]
    found = lite.run(np.clip(np.round(batch() / scale) + offset, -128, 127).astype(np.int8))
    scale, offset = lite.outputs[0]["quantization"]
    assert sqnr(deployed.run(batch(), "out"), (found["out"].astype(np.float32) - offset) * scale) > 30
    assert sqnr(deployed.run(batch(), "float"), found["float"]) > 30
    assert report.outputs == ("out", "float")


def test_ends_that_cannot_be_integer_are_told(tmp_path, capfd):
    def build(net):
        x = image()
        tf.identity(net.conv(x, "a") + net.conv(tf.nn.relu(x), "b"), name="out")

    amct.set_logging_level("info")
    _, lite = export(deploy(build, tmp_path), integer_io=True)
    [taken] = lite.interpreter.get_input_details()
    assert taken["dtype"] == np.float32
    printed = "".join(capfd.readouterr())
    assert "input x stays float because not all that reads it has the same factors" in printed
    assert "output out stays float because it has no factors" in printed


def test_lines_and_file(tmp_path, capfd):
    deployed = deploy(two_convs, tmp_path)
    amct.set_logging_level("info")
    report = amct.export_tflite(str(deployed.file), str(tmp_path / "new" / "model"))
    assert report.files == (str(tmp_path / "new" / "model.tflite"),)
    assert amct.export_tflite(str(deployed.file), report.files[0]).files == report.files
    printed = "".join(capfd.readouterr())
    for line in (
        "Conv2D a: int8",
        "Conv2D b: left float because its result is an output, which has no factors",
        "1 of 2 quantized layers run in int8 in LiteRT",
        "of 1 layers have a weight of -128, which TFLite does not take, and are rounded anew: their weights keep an",
        "The file already exists at",
        f"The model is saved in <{report.files[0]}>",
    ):
        assert line in printed
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model.tflite"]


def test_the_file_is_a_quarter(tmp_path):
    def build(net):
        y = tf.nn.relu(net.conv(image(), "a", 64))
        tf.identity(net.conv(tf.nn.relu(net.conv(y, "b", 128)), "c", 64), name="out")

    deployed = deploy(build, tmp_path)
    report, _ = export(deployed)
    assert Path(report.files[0]).stat().st_size < 0.28 * Path(deployed.pb).stat().st_size


# -- Errors --------------------------------------------------------------------------------------------------------


def refuse(error, message, model, path, **arguments):
    with pytest.raises(error, match=message):
        amct.export_tflite(str(model), str(path), **arguments)


def test_an_op_that_tflite_does_not_have(tmp_path):
    def build(net):
        y = tf.nn.sigmoid(net.conv(image(), "a"))
        tf.identity(tf.raw_ops.Betainc(a=y, b=y, x=y, name="block/odd"), name="out")

    deployed = deploy(build, tmp_path)
    message = "TFLite cannot express Betainc block/odd: name outputs in front of it"
    refuse(AmctValueError, message, deployed.file, tmp_path / "no")
    assert not (tmp_path / "no.tflite").exists()
    assert in_int8(amct.export_tflite(str(deployed.file), str(tmp_path / "yes"), outputs=["Sigmoid"])) == []


def test_bad_arguments(tmp_path):
    deployed = deploy(two_convs, tmp_path)
    refuse(AmctValueError, "has no int8 layer that its outputs need", deployed.pb, tmp_path / "no")
    refuse(
        AmctValueError,
        "output 'oot' does not exist in .*; did you mean 'out'",
        deployed.file,
        tmp_path / "no",
        outputs=["oot"],
    )
    refuse(AmctValueError, "has no file name", deployed.file, f"{tmp_path}/.tflite")
    refuse(amct.AmctError, "integer_io must be bool", deployed.file, tmp_path / "no", integer_io="yes")
    (tmp_path / "folder.tflite").mkdir()
    refuse(AmctRuntimeError, "TFLite model .* cannot be written", deployed.file, tmp_path / "folder")
    assert not (tmp_path / "no.tflite").exists()


def test_what_the_converter_cannot_do_is_told(tmp_path, monkeypatch):
    deployed = deploy(two_convs, tmp_path)
    monkeypatch.setattr(tf.lite.TFLiteConverter, "from_saved_model", None)
    refuse(AmctValueError, "TensorFlow's converter cannot express the model in TFLite", deployed.file, tmp_path / "no")
