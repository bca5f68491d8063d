"""What save_model writes: the wire format of DESIGN.md, and the arithmetic of integers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from small_graphs import NEAREST
from small_models import (
    SMALL_NET_NODES,
    Deployed,
    avg_pool,
    batch,
    constant,
    flat,
    graph_of,
    image,
    read_pb,
    run,
    small_net,
    write_pb,
)

import amct_tensorflow as amct
from amct_tensorflow.errors import AmctRuntimeError
from amct_tensorflow.graph_passes.deploy_parameters import quantized_bias
from amct_tensorflow.graph_passes.performing.deploy_results import pack_deq_scale
from amct_tensorflow.graph_passes.workspace import Layer
from amct_tensorflow.layers import find_layers
from amct_tensorflow.record import LayerRecord

FLOAT = tf.float32.as_datatype_enum


# -- Nodes, names and attributes -----------------------------------------------------------------------------

ATTRIBUTES = {
    "AscendQuant": {"T", "quant_bits", "scale", "offset"},
    "AscendWeightQuant": {"T"},
    "AscendDequant": {"T", "ksize", "data_format"},
}


@pytest.mark.parametrize("op_type", ATTRIBUTES)
def test_attributes(small, op_type):
    nodes = small.of_type(op_type)
    assert len(nodes) == {"AscendQuant": 4, "AscendWeightQuant": 3, "AscendDequant": 4}[op_type]
    for node in nodes:
        assert set(node.attr) == ATTRIBUTES[op_type]
        assert node.attr["T"].type == FLOAT
        assert node.device == ""
        assert not any(edge.startswith("^") for edge in node.input)


def test_no_other_op_of_the_tool_is_left(small):
    own = {
        node.op
        for node in small.nodes.values()
        if node.op not in {op.type for op in small.float_graph.get_operations()}
    }
    assert own == {*ATTRIBUTES, "BiasAdd"} or own == set(ATTRIBUTES)


@pytest.mark.parametrize("layer", SMALL_NET_NODES)
def test_order_and_names(small, layer):
    """AscendQuant -> layer with AscendWeightQuant(int8) -> BiasAdd -> AscendDequant."""
    quant, weight_quant, dequant = SMALL_NET_NODES[layer]
    assert small.inputs(layer) == [name for name in (quant, weight_quant) if name]
    end = layer
    if weight_quant:
        values, offsets = small.inputs(weight_quant)
        assert small.nodes[values].op == small.nodes[offsets].op == "Const"
        assert small.constant(values).dtype == small.constant(offsets).dtype == np.int8
        (end,) = small.users(layer)
        assert small.nodes[end].op == "BiasAdd"
        bias = small.constant(small.inputs(end)[1])
        assert bias.dtype == np.float32
        np.testing.assert_array_equal(bias, np.rint(bias))
    assert small.users(end) == [dequant]
    before, words = small.inputs(dequant)
    assert before == end
    assert small.nodes[words].op == "Const"
    assert small.constant(words).dtype == np.uint64


def test_the_rest_of_the_graph_is_what_it_was(small):
    kept = [node for node in small.float_graph.as_graph_def().node if node.name in small.nodes]
    assert {"x", "a/relu", "b/relu", "flat", "out"} <= {node.name for node in kept}
    changed = [(node.name, node.op, small.nodes[node.name].op) for node in kept if node.op != small.nodes[node.name].op]
    assert changed == [("a/relu", "Relu6", "Relu")]  # whose only reader is an AscendQuant that clips at 6
    for name in ("a/relu", "b/relu", "out", "a/conv", "b/depthwise", "fc/matmul", "pool"):
        assert small.nodes[name].attr == next(node.attr for node in kept if node.name == name)


def test_names_without_scope_and_of_two_layers_in_one_scope(tmp_path):
    def build(net):
        y = tf.nn.relu(net.bias(net.conv(image(), "conv1"), "bias1"))
        y = tf.nn.relu(net.bias(net.conv(y, "conv2"), "bias2"))
        y = tf.nn.relu(net.conv(y, "net/conv1"))
        tf.nn.relu(net.conv(y, "net/conv2"), name="out")

    deployed = Deployed(build, ["out"], tmp_path)
    assert [node.name for node in deployed.of_type("AscendQuant")] == [
        "act_quant/AscendQuant",
        "act_quant_1/AscendQuant",
        "net/act_quant/AscendQuant",
        "net/act_quant_1/AscendQuant",
    ]
    assert sorted(node.name for node in deployed.of_type("AscendDequant")) == [
        "dequant/AscendDequant",
        "dequant_1/AscendDequant",
        "net/dequant/AscendDequant",
        "net/dequant_1/AscendDequant",
    ]
    assert sorted(node.name for node in deployed.of_type("AscendWeightQuant")) == [
        "net/weight_quant/AscendWeightQuant",
        "net/weight_quant_1/AscendWeightQuant",
        "weight_quant/AscendWeightQuant",
        "weight_quant_1/AscendWeightQuant",
    ]


def test_without_bias_the_dequant_follows_the_layer(tmp_path):
    deployed = Deployed(lambda net: tf.nn.relu(net.conv(image(), "net/conv"), name="out"), ["out"], tmp_path, **NEAREST)
    assert deployed.inputs("net/dequant/AscendDequant")[0] == "net/conv"
    assert "BiasAdd" not in {node.op for node in deployed.nodes.values()}


def test_an_add_becomes_a_bias_add(small):
    assert "fc/add" not in small.nodes
    assert small.nodes["fc/bias_add/BiasAdd"].op == "BiasAdd"
    assert small.nodes["a/bias_add/BiasAdd"].op == "BiasAdd"
    assert small.nodes["b/bias"].op == "BiasAdd"


def test_a_model_with_ops_of_these_names(tmp_path):
    """Names that the model has already are not taken twice."""

    def build(net):
        y = tf.nn.relu(net.conv(image(), "net/conv"), name="net/act_quant/AscendQuant")
        y = tf.nn.relu(net.conv(y, "net/conv2"), name="net/dequant/AscendDequant")
        tf.nn.relu(y, name="out")

    deployed = Deployed(build, ["out"], tmp_path)
    assert deployed.nodes["net/act_quant/AscendQuant"].op == "Relu"
    assert deployed.nodes["net/dequant/AscendDequant"].op == "Relu"
    assert [len(deployed.of_type(op_type)) for op_type in ATTRIBUTES] == [2, 2, 2]
    assert deployed.sqnr(batch()) > 25


# -- Numbers -------------------------------------------------------------------------------------------------


def _round(values):
    """Half away from zero."""
    return np.sign(values) * np.floor(np.abs(values) + 0.5)


def test_quantization_factors(small):
    for layer, (quant, _, _) in SMALL_NET_NODES.items():
        node, record = small.nodes[quant], small.records[layer]
        assert np.float32(node.attr["scale"].f) == np.float32(1) / np.float32(record.scale_d)
        assert node.attr["offset"].f == record.offset_d
        assert node.attr["quant_bits"].i == 8


def test_deq_scale_words(small):
    for layer, (_, _, dequant) in SMALL_NET_NODES.items():
        words = small.constant(small.inputs(dequant)[1])
        record = small.records[layer]
        scales = np.float32(record.scale_d) * np.array(record.scale_w or [1], np.float32)
        np.testing.assert_array_equal(words & 0xFFFFFFFF, scales.view(np.uint32))
        np.testing.assert_array_equal((words >> np.uint64(32)) & 0xFF, record.shift_bit or [0])
        np.testing.assert_array_equal(words >> np.uint64(40), 0)
        assert words.shape == ({"a/conv": 6, "b/depthwise": 12}.get(layer, 1),)


def test_words_are_packed_from_scale_and_shift():
    scales = np.array([1.0, 0.5, 2**-20], np.float32)
    words = pack_deq_scale(scales, np.array([0, 1, 16], np.uint64))
    np.testing.assert_array_equal(words, np.array([0x3F800000, 0x13F000000, 0x1035800000], np.uint64))
    assert words.dtype == np.uint64


def test_dequant_attributes(small):
    for layer, (_, _, dequant) in SMALL_NET_NODES.items():
        assert list(small.nodes[dequant].attr["ksize"].list.i) == ([2, 2] if layer == "pool" else [1, 1])
        assert small.nodes[dequant].attr["data_format"].s == b"NHWC"


def _constants_of(graph):
    return {op.name: tf.make_ndarray(op.get_attr("value")) for op in graph.get_operations() if op.type == "Const"}


def test_int8_weights_and_integer_biases(tmp_path):
    small = Deployed(small_net, ["out"], tmp_path, feeds=[batch(0), batch(1)], **NEAREST)
    value = _constants_of(small.float_graph)
    factor = value["a/bn_scale"] / np.sqrt(value["a/bn_variance"] + np.float32(1e-3))
    weights = {
        "a/conv": (value["a/conv_w"] * factor, value["a/bn_offset"] - value["a/bn_mean"] * factor),
        "b/depthwise": (value["b/depthwise_w"], value["b/bias_b"]),
        "fc/matmul": (value["fc/matmul_w"], value["fc/add_b"]),
    }
    for layer, (folded, bias) in weights.items():
        record = small.records[layer]
        scale_w = np.array(record.scale_w, np.float32)
        along = scale_w.reshape(folded.shape[-2:]) if layer == "b/depthwise" else scale_w
        quantized = small.constant(small.inputs(SMALL_NET_NODES[layer][1])[0])
        wanted = np.clip(_round(folded / along), -128, 127)
        assert quantized.shape == folded.shape
        assert np.abs(quantized - wanted).max() <= 1  # another order of float32 operations moves a tie
        assert (quantized != wanted).mean() < 0.01
        added = small.constant(small.inputs(small.users(layer)[0])[1])
        np.testing.assert_allclose(added, bias / (record.scale_d * scale_w), rtol=1e-5, atol=0.51)


def test_weight_offsets_are_zero(small):
    shapes = {"a/conv": (1, 1, 1, 6), "b/depthwise": (1, 1, 6, 2), "fc/matmul": (1, 1)}
    for layer, shape in shapes.items():
        offset = small.constant(small.inputs(SMALL_NET_NODES[layer][1])[1])
        assert offset.shape == shape
        assert not offset.any()


def test_no_float_weights_are_left(small):
    floats = [small.constant(node.name) for node in small.of_type("Const")]
    assert {value.ndim for value in floats if value.dtype == np.float32} == {1}
    assert not {"a/conv_w", "b/depthwise_w", "fc/matmul_w", "a/bn", "a/bn_scale"} & set(small.nodes)
    assert small.file.stat().st_size < Path(small.pb).stat().st_size * 2


def test_a_large_model_shrinks_to_a_quarter(tmp_path):
    def build(net):
        y = tf.nn.relu(net.conv(image(), "a/conv", channels=64))
        tf.nn.relu(net.batch_norm(net.conv(y, "b/conv", channels=128), "b/bn"), name="out")

    deployed = Deployed(build, ["out"], tmp_path)
    assert deployed.file.stat().st_size < 0.3 * Path(deployed.pb).stat().st_size


def test_a_bias_beyond_int32_is_an_error(tmp_path):
    def build(net):
        y = net.matmul(flat(image()), "fc/matmul")
        tf.nn.relu(tf.nn.bias_add(y, constant([1, 1, 1e12, 1, 1, 1], "b")), name="out")

    with pytest.raises(AmctRuntimeError, match='Quantized bias of layer "fc/matmul" exceed int32 range'):
        Deployed(build, ["out"], tmp_path)
    assert list(tmp_path.glob("model*")) == []


@pytest.mark.parametrize("quotient", [2147483583, 2147483600, 2147483647, -2147483648])
def test_a_bias_at_the_end_of_int32(quotient):
    """Held in a float32, it must still be an int32: the float next to 2147483647 is 2147483648."""
    graph = graph_of(lambda net: tf.nn.relu(net.bias(net.matmul(flat(image()), "matmul", channels=1), "bias")))
    (found,) = find_layers(graph)
    layer = Layer.of(found, fuse=True, channel_wise=False)
    layer.bias, layer.scale_w = np.array([quotient], np.float64), np.ones(1, np.float32)
    try:
        bias = quantized_bias(layer, LayerRecord(scale_d=1.0, offset_d=0, scale_w=(1.0,), offset_w=(0,)))
    except AmctRuntimeError:
        assert quotient > 2147483583  # what float32 cannot hold within int32 may be refused
        return
    assert -(2**31) <= int(bias[0]) <= 2**31 - 1


# The integer arithmetic, in NumPy


def _quantize(x, record):
    q = np.clip(_round(x * (np.float32(1) / np.float32(record.scale_d))) + record.offset_d, -128, 127)
    return (q - record.offset_d).astype(np.int64)


def _dequantize(result, record):
    scale = np.float32(record.scale_d) * np.array(record.scale_w, np.float32)
    shift = np.array(record.shift_bit or [0], np.int64)
    if shift.any():
        return np.clip(result >> shift, -32768, 32767).astype(np.float32) * np.ldexp(scale, shift)
    return result.astype(np.float32) * scale


def _weights(deployed, layer):
    return deployed.constant(deployed.inputs(deployed.inputs(layer)[1])[0]).astype(np.int64)


def _bias(deployed, layer):
    (user,) = deployed.users(layer)
    if deployed.nodes[user].op != "BiasAdd":
        return 0
    return deployed.constant(deployed.inputs(user)[1]).astype(np.int64)


def _convolve(x, weights, stride, dilation, padding):
    """A convolution of integers, NHWC."""
    height, width = weights.shape[:2]
    reach = [(size - 1) * dilation + 1 for size in (height, width)]
    if padding == "SAME":
        sizes = [-(-x.shape[axis] // stride) for axis in (1, 2)]
        total = [
            max((n - 1) * stride + r - x.shape[1 + i], 0) for i, (n, r) in enumerate(zip(sizes, reach, strict=True))
        ]
        x = np.pad(x, [(0, 0), *[(t // 2, t - t // 2) for t in total], (0, 0)])
    else:
        sizes = [(x.shape[1 + i] - r) // stride + 1 for i, r in enumerate(reach)]
    result = 0
    for row in range(height):
        for column in range(width):
            top, left = row * dilation, column * dilation
            seen = x[:, top : top + sizes[0] * stride : stride, left : left + sizes[1] * stride : stride]
            result = result + np.einsum("nhwc,cd->nhwd", seen, weights[row, column])
    return result


@pytest.mark.parametrize("shift_n", [True, False], ids=["shifted", "not shifted"])
@pytest.mark.parametrize("asymmetric", [True, False], ids=["asymmetric", "symmetric"])
def test_a_matmul_computes_what_integers_do(tmp_path, asymmetric, shift_n):
    deployed = Deployed(
        lambda net: net.bias(net.matmul(flat(image(), "flat"), "fc/matmul", channels=16), "out"),
        ["out"],
        tmp_path,
        shift_n=shift_n,
        activation_offset=asymmetric,
    )
    record = deployed.records["fc/matmul"]
    x = 1.2 * batch(7)  # some of it beyond the calibrated range
    result = _quantize(x.reshape(4, -1), record) @ _weights(deployed, "fc/matmul")
    np.testing.assert_array_equal(deployed.run(x), _dequantize(result + _bias(deployed, "fc/matmul"), record))


CONVOLUTIONS = {
    "SAME": {"padding": "SAME"},
    "VALID": {"padding": "VALID"},
    "stride 2": {"padding": "SAME", "stride": 2},
    "dilation 2": {"padding": "SAME", "dilation": 2},
    "stride 2, VALID": {"padding": "VALID", "stride": 2},
}


@pytest.mark.parametrize("shift_n", [True, False], ids=["shifted", "not shifted"])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_a_convolution_computes_what_integers_do(tmp_path, case, shift_n):
    """With a batch norm, and padding with zeros that are not the quantized minimum."""
    padding, stride, dilation = (CONVOLUTIONS[case].get(key, 1) for key in ("padding", "stride", "dilation"))
    strides, dilations = [1, stride, stride, 1], [1, dilation, dilation, 1]

    def build(net):
        y = net.conv(image(), "net/conv", padding=padding, strides=strides, dilations=dilations)
        tf.nn.relu(net.batch_norm(y, "net/bn"), name="out")

    deployed = Deployed(build, ["out"], tmp_path, feeds=[batch() + 0.7], shift_n=shift_n)
    record = deployed.records["net/conv"]
    x = batch(7) + 0.7
    result = _convolve(_quantize(x, record), _weights(deployed, "net/conv"), stride, dilation, padding)
    result = _dequantize(result + _bias(deployed, "net/conv"), record)
    np.testing.assert_array_equal(deployed.run(x), np.maximum(result, 0))


def test_a_depthwise_convolution_computes_what_integers_do(tmp_path):
    deployed = Deployed(
        lambda net: tf.nn.relu(net.bias(net.depthwise(image(), "net/conv", multiplier=3), "net/bias"), name="out"),
        ["out"],
        tmp_path,
    )
    record = deployed.records["net/conv"]
    x = _quantize(batch(7), record)
    weights = _weights(deployed, "net/conv")
    results = [_convolve(x[..., c : c + 1], weights[:, :, c : c + 1], 1, 1, "SAME") for c in range(4)]
    result = np.concatenate(results, axis=3)
    result = _dequantize(result + _bias(deployed, "net/conv"), record)
    np.testing.assert_array_equal(deployed.run(batch(7)), np.maximum(result, 0))


# -- Average pooling -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
@pytest.mark.parametrize("window", [[2, 2], [2, 3], [1, 8], [8, 8]], ids=str)
def test_average_pooling(tmp_path, window, padding):
    def build(net):
        y = avg_pool(image(), "net/pool", ksize=[1, *window, 1], strides=[1, 2, 2, 1], padding=padding)
        tf.nn.relu(y, name="out")

    deployed = Deployed(build, ["out"], tmp_path)
    (dequant,) = deployed.of_type("AscendDequant")
    assert dequant.name == "net/dequant/AscendDequant"
    assert list(dequant.attr["ksize"].list.i) == window
    assert deployed.inputs("net/pool") == ["net/act_quant/AscendQuant"]
    assert deployed.of_type("AscendWeightQuant") == []
    record = deployed.records["net/pool"]
    assert (record.scale_w, record.shift_bit) == ((), ())
    words = deployed.constant(deployed.inputs(dequant.name)[1])
    np.testing.assert_array_equal(words, np.array([record.scale_d], np.float32).view(np.uint32))
    pooled = tf.nn.avg_pool2d(_quantize(batch(7), record).astype(np.float32), window, 2, padding).numpy()
    np.testing.assert_allclose(deployed.run(batch(7)), np.maximum(pooled * np.float32(record.scale_d), 0), rtol=1e-5)
    assert deployed.sqnr(batch(7)) > 20


# -- NCHW ----------------------------------------------------------------------------------------------------


def _channels_first(net):
    y = net.conv(image(shape=(None, 4, 8, 8)), "a/conv", channels=6, data_format="NCHW")
    y = tf.nn.relu(net.batch_norm(y, "a/bn", data_format="NCHW"))
    y = tf.nn.relu(net.bias(net.depthwise(y, "b/conv", multiplier=2, data_format="NCHW"), "b/bias", data_format="NCHW"))
    y = avg_pool(y, "c/pool", ksize=[1, 1, 2, 4], strides=[1, 1, 2, 4], data_format="NCHW")
    tf.nn.relu(y, name="out")


def test_channels_first(tmp_path):
    shape = (4, 4, 8, 8)
    deployed = Deployed(_channels_first, ["out"], tmp_path, feeds=[batch(0, shape)])
    assert {node.attr["data_format"].s for node in deployed.of_type("AscendDequant")} == {b"NCHW"}
    assert {node.attr["data_format"].s for node in deployed.of_type("BiasAdd")} == {b"NCHW"}
    windows = {node.name: list(node.attr["ksize"].list.i) for node in deployed.of_type("AscendDequant")}
    assert windows == {
        "a/dequant/AscendDequant": [1, 1],
        "b/dequant/AscendDequant": [1, 1],
        "c/dequant/AscendDequant": [2, 4],
    }
    assert [len(entry.scale_w) for entry in deployed.records.values()] == [6, 12, 0]
    assert deployed.sqnr(batch(7, shape)) > 25


# -- Sharing -------------------------------------------------------------------------------------------------


def _siblings(net):
    y = tf.nn.relu(image(), name="relu")
    tf.concat(
        [
            net.conv(y, "a/conv"),
            net.conv(y, "b/conv", size=1),
            avg_pool(y, "pool", strides=[1, 1, 1, 1], padding="SAME"),
        ],
        axis=3,
        name="out",
    )


def test_layers_fed_by_one_tensor_share_an_ascend_quant(tmp_path):
    deployed = Deployed(_siblings, ["out"], tmp_path)
    (quant,) = deployed.of_type("AscendQuant")
    assert sorted(deployed.users(quant.name)) == ["a/conv", "b/conv", "pool"]
    assert deployed.users("relu") == [quant.name]
    assert deployed.sqnr(batch(7)) > 25


def test_layers_with_other_factors_do_not(tmp_path):
    pb = write_pb(graph_of(_siblings), tmp_path / "float.pb")
    graph = graph_of(_siblings)
    amct.create_quant_config(str(tmp_path / "config.json"), graph)
    config = json.loads((tmp_path / "config.json").read_text())
    config["b/conv"]["activation_quant_params"]["asymmetric"] = False
    (tmp_path / "config.json").write_text(json.dumps(config))
    amct.quantize_model(graph, str(tmp_path / "config.json"), str(tmp_path / "record.txt"))
    run(graph, "out:0", batch())
    amct.save_model(pb, ["out"], str(tmp_path / "record.txt"), str(tmp_path / "model"))
    nodes = {node.name: node for node in read_pb(tmp_path / "model_quantized.pb").node if node.op == "AscendQuant"}
    assert sorted(nodes) == ["a/act_quant/AscendQuant", "b/act_quant/AscendQuant"]
    assert [nodes[name].attr["offset"].f for name in sorted(nodes)] == [-128, 0]


def test_shared_weights_are_saved_once(tmp_path):
    def build(net):
        weights = constant(net.random("shared", (3, 3, 4, 4)) / 6, "shared")
        y = image()
        for name in ("a", "b"):
            y = tf.nn.relu(
                tf.raw_ops.Conv2D(input=y, filter=weights, strides=[1, 1, 1, 1], padding="SAME", name=f"{name}/conv")
            )
        tf.identity(y, name="out")

    deployed = Deployed(build, ["out"], tmp_path)
    (weight_quant,) = deployed.of_type("AscendWeightQuant")
    assert deployed.users(weight_quant.name) == ["a/conv", "b/conv"]
    assert "shared" not in deployed.nodes
    assert deployed.sqnr(batch(7)) > 25


def test_shared_weights_of_a_float_layer_are_kept(tmp_path):
    def build(net):
        weights = constant(net.random("shared", (3, 3, 4, 4)) / 6, "shared")
        y = image()
        for name in ("a", "b"):
            y = tf.raw_ops.Conv2D(input=y, filter=weights, strides=[1, 1, 1, 1], padding="SAME", name=f"{name}/conv")
        tf.nn.relu(y, name="out")

    deployed = Deployed(build, ["out"], tmp_path, skip_layers=["b/conv"])
    assert deployed.inputs("b/conv")[1] == "shared"
    assert deployed.nodes[deployed.inputs("a/conv")[1]].op == "AscendWeightQuant"
    assert deployed.sqnr(batch(7)) > 25
