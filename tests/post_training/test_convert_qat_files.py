"""convert_qat_model: its record, what it refuses, and models that were frozen in other ways."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from qat_graphs import (
    Converted,
    batch,
    batch_norm,
    bias,
    conv,
    convolution,
    depthwise,
    fake_quant,
    flat,
    graph_of,
    image,
    matmul,
    per_channel,
    per_tensor,
    random,
    weights,
)
from small_graphs import conv_net, freeze, load

import amct_tensorflow as amct
from amct_tensorflow.errors import AmctRuntimeError, AmctTypeError, AmctValueError
from amct_tensorflow.record import read_record

tf1 = tf.compat.v1

OWN = ("AscendQuant", "AscendWeightQuant", "AscendDequant", "AscendAntiQuant")


# -- The record ----------------------------------------------------------------------------------------------


def net(quantized: bool):
    """A net with all that a record knows of: with its fake-quant ops or without."""

    def quant(x, name, low, high):
        return fake_quant(x, name, low, high) if quantized else x

    def build():
        channels, tensor = (per_channel, per_tensor) if quantized else (weights, weights)
        y = quant(image(), "fq1", -2.9, 2.6)
        y = quant(tf.nn.relu(batch_norm(conv(y, "a/conv", 6, channels), "a/bn")), "fq2", 0.0, 6.0)
        y = quant(tf.nn.relu(bias(depthwise(y, "b/depthwise", 2, tensor), "b/bias")), "fq3", 0.0, 6.0)
        y = quant(tf1.nn.avg_pool(y, 2, 2, "VALID", name="pool"), "fq4", 0.0, 5.37)
        tf.identity(bias(matmul(flat(y), "fc", 5, tensor), "fc_bias"), name="out")

    return build


def test_the_record(tmp_path):
    record = tmp_path / "new_folder" / "record.txt"
    Converted(net(True), tmp_path, record_file=str(record))
    found = read_record(str(record))
    assert list(found) == ["a/conv", "b/depthwise", "pool", "fc"]
    scale = (2.6 + 2.9) / 255
    assert found["a/conv"].scale_d == pytest.approx(scale)
    assert found["a/conv"].offset_d == round(2.9 / scale) - 128
    assert found["pool"].scale_d == pytest.approx(6 / 255) and found["pool"].offset_d == -128
    assert found["pool"].scale_w == ()
    assert found["b/depthwise"].scale_w == pytest.approx([np.abs(random("b/depthwise", [3, 3, 6, 2])).max() / 127])
    assert [entry.skip_fusion for entry in found.values()] == [False, False, False, True]
    assert all(set(entry.offset_w) <= {0} for entry in found.values())


def test_convert_model_with_the_record_gives_the_same_integers(tmp_path):
    record = str(tmp_path / "record.txt")
    converted = Converted(net(True), tmp_path, record_file=record)
    converted.assert_same(equal=0.4)
    float_pb = freeze(graph_of(net(False)), tmp_path / "float.pb")
    amct.convert_model(float_pb, ["out"], record, str(tmp_path / "twin"))
    twin = load(tmp_path / "twin_quantized.pb")
    constants = [
        {op.name: tf.get_static_value(op.outputs[0]) for op in graph.get_operations() if op.type == "Const"}
        for graph in (converted.graph, twin)
    ]
    assert constants[0].keys() == constants[1].keys()
    for name, value in constants[0].items():
        np.testing.assert_array_equal(value, constants[1][name], err_msg=name)
    for graph in (converted.graph, twin):
        assert [op.type for op in graph.get_operations()].count("AscendDequant") == 4


def test_without_a_record_file_only_the_model_is_written(tmp_path):
    Converted(convolution, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"qat.pb", "int8_quantized.pb", "int8_quant.json"}


# -- What is refused -----------------------------------------------------------------------------------------


def nothing_quantized():
    y = conv(fake_quant(image(), "fq"), "conv", make=weights)
    tf.nn.relu(y, name="out")


def no_layer():
    tf.nn.relu(fake_quant(image(), "fq"), name="out")


def fake_quant_of_a_constant():
    tf.add(image(), fake_quant(tf.constant(random("c", [4])), "fq"), name="out")


def bias_beyond_int32():
    y = matmul(fake_quant(flat(image()), "fq"), "fc")
    tf.nn.bias_add(y, np.float32([1, 2, 3, 4, 1e30]), name="out")


REFUSED = {
    "no_fake_quant": (conv_net, AmctValueError, r"qat\.pb has no fake-quant ops: it is no model of quantization-aware"),
    "no_quantized_layer": (
        nothing_quantized,
        AmctRuntimeError,
        r"no layer of .*qat\.pb can be quantized \(conv: no fake-quant op leads to its weights\): train it",
    ),
    "no_layer": (no_layer, AmctRuntimeError, r"no layer of .*qat\.pb can be quantized \(it has none\)"),
    "of_a_constant": (
        fake_quant_of_a_constant,
        AmctRuntimeError,
        r"no layer of .*qat\.pb can be quantized \(it has none\)",
    ),
    "bias": (bias_beyond_int32, AmctRuntimeError, 'Quantized bias of layer "fc" exceed int32 range'),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, tmp_path):
    build, error, words = REFUSED[case]
    graph = build() if build is conv_net else graph_of(build)
    with pytest.raises(error, match=words):
        Converted(graph, tmp_path, record_file=str(tmp_path / "record.txt"))
    assert [path.name for path in tmp_path.iterdir()] == ["qat.pb"]


def test_a_graph_that_is_quantized_already(tmp_path):
    converted = Converted(convolution, tmp_path)
    with pytest.raises(AmctValueError, match="the graph is already quantized, it contains Ascend"):
        amct.convert_qat_model(str(converted.file), ["out"], str(tmp_path / "again"))
    assert not list(tmp_path.glob("again*"))


@pytest.mark.parametrize("name", ["qat.pb", "int8_quantized.pb", "int8_quant.json"])
def test_a_record_file_that_would_overwrite_another(name, tmp_path):
    graph = graph_of(convolution)
    with pytest.raises(AmctValueError, match=r"record_file .* would overwrite .*: choose another name"):
        Converted(graph, tmp_path, record_file=str(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == ["qat.pb"]
    assert tf1.GraphDef.FromString((tmp_path / "qat.pb").read_bytes()) == graph.as_graph_def()


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"pb_model": 1}, AmctTypeError, "argument pb_model must be str or Graph or KerasModel, not int"),
        ({"outputs": "out"}, AmctTypeError, "outputs must be a list of op names, not str"),
        ({"outputs": ["ot"]}, AmctValueError, "output 'ot' does not exist in .*did you mean 'out'"),
        ({"save_path": ""}, AmctValueError, "save_path is empty"),
        ({"save_path": None}, AmctTypeError, "argument save_path must be str"),
        ({"record_file": ""}, AmctValueError, "record_file '' is a folder or empty"),
        ({"record_file": 3}, AmctTypeError, "argument record_file must be str, not int"),
        ({"pb_model": "nothing.pb"}, AmctValueError, "the model nothing.pb does not exist"),
    ],
    ids=str,
)
def test_bad_arguments(tmp_path, changes, error, words):
    pb = freeze(graph_of(convolution), tmp_path / "qat.pb")
    arguments = {"pb_model": pb, "outputs": ["out"], "save_path": str(tmp_path / "int8"), **changes}
    with pytest.raises(error, match=words):
        amct.convert_qat_model(**arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["qat.pb"]


# -- Other ways to freeze ------------------------------------------------------------------------------------


def test_frozen_by_tensorflow_1(tmp_path):
    """convert_variables_to_constants leaves Identity reads behind the constants."""
    with tf.Graph().as_default() as graph:
        variables = [
            tf1.get_variable(name, initializer=value, use_resource=False)
            for name, value in {
                "w": random("w", [3, 3, 4, 6]),
                "low": np.float32(-3),
                "high": np.float32(3),
                "x_low": np.float32(-2),
                "x_high": np.float32(2.5),
            }.items()
        ]
        w, low, high, x_low, x_high = variables
        x = tf.quantization.fake_quant_with_min_max_vars(image(), x_low, x_high, name="act_quant")
        kernel = tf.quantization.fake_quant_with_min_max_vars(w, low, high, narrow_range=True, name="weights_quant")
        tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME", name="conv"), name="out")
        with tf1.Session() as session:
            session.run([variable.initializer for variable in variables])
            frozen = tf1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), ["out"])
    with tf.Graph().as_default() as trained:
        tf.import_graph_def(frozen, name="")
    converted = Converted(trained, tmp_path)
    converted.assert_same()
    assert converted.count("AscendDequant") == 1 and converted.fake_quants == []


def test_with_variables_it_is_refused(tmp_path):
    def build():
        kernel = tf.convert_to_tensor(tf1.get_variable("w", initializer=random("w", [3, 3, 4, 6]), use_resource=False))
        x = fake_quant(image(), "fq")
        y = tf.nn.conv2d(x, fake_quant(kernel, "wfq", -3.0, 3.0), 1, "SAME", name="conv")
        tf.nn.relu(y, name="out")

    with pytest.raises(AmctValueError, match=r"layer conv gets its parameters from variables: freeze the model"):
        Converted(build, tmp_path)


def test_in_a_while_loop(tmp_path):
    """What is in the loop goes on as it was; its fake-quant ops may become pairs."""
    tf1.disable_control_flow_v2()
    try:

        def build():
            y = conv(fake_quant(image(), "fq"), "conv", 4)
            kernel = per_tensor("inner", [3, 3, 4, 4])

            def body(i, z):
                z = tf.nn.conv2d(fake_quant(z, "inner_fq", -6.0, 6.0), kernel, 1, "SAME", name="inner")
                return i + 1, z * 0.1

            _, y = tf.while_loop(lambda i, z: i < 3, body, (tf.constant(0), y))
            tf.identity(y, name="out")

        graph = graph_of(build)
    finally:
        tf1.enable_control_flow_v2()
    converted = Converted(graph, tmp_path)
    converted.assert_same(equal=0.4)
    assert converted.count("AscendDequant") == 1


def test_batch_of_another_size(tmp_path):
    converted = Converted(convolution, tmp_path)
    converted.assert_same(batch(1))
