"""Bad input of export_onnx: one clear error, and nothing is written."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import tensorflow as tf
from small_models import Deployed, batch, graph_of, image, read_pb, write_pb

import amct_tensorflow as amct
from amct_tensorflow.errors import AmctError, AmctRuntimeError, AmctTypeError, AmctValueError

pytest.importorskip("tf2onnx")


def net(net):
    tf.nn.relu(net.bias(net.conv(image(), "conv"), "bias"), name="out")


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    return Deployed(net, ["out"], tmp_path_factory.mktemp("model"), feeds=[batch()])


@pytest.fixture
def refused(deployed, tmp_path):
    """Exports and returns the error; nothing may have been written."""

    def refused(kind, model=None, save_path="made/model.onnx", **arguments):
        with pytest.raises(kind) as raised:
            amct.export_onnx(str(model or deployed.file), str(tmp_path / save_path), **arguments)
        assert isinstance(raised.value, AmctError)
        assert not (tmp_path / "made").exists()
        return str(raised.value)

    return refused


def test_a_float_model(refused, deployed):
    assert "has no int8 layer that its outputs need: pass the <save_path>_quantized.pb" in refused(
        AmctValueError, deployed.pb
    )


def test_a_calibration_graph(refused, tmp_path):
    graph = graph_of(net)
    amct.create_quant_config(str(tmp_path / "config.json"), graph)
    amct.quantize_model(graph, str(tmp_path / "config.json"), str(tmp_path / "record.txt"))
    with pytest.raises(AmctValueError, match="has no int8 layer"):
        amct.export_onnx(graph, str(tmp_path / "m.onnx"))


def test_an_output_inside_a_layer(refused, deployed):
    for name in ("conv", "act_quant/AscendQuant", "weight_quant/AscendWeightQuant"):
        message = refused(AmctValueError, outputs=["out", name])
        assert f"output '{name}:0' of" in message and "is inside a quantized layer, where integers are" in message


def changed(deployed, tmp_path, change):
    graph_def = read_pb(deployed.file)
    change({node.name: node for node in graph_def.node}, graph_def)
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
    return write_pb(graph, tmp_path / "changed.pb")


def with_something_before_the_dequant(nodes, graph_def):
    relu = graph_def.node.add(name="between", op="Relu", input=[nodes["dequant/AscendDequant"].input[0]])
    relu.attr["T"].type = tf.float32.as_datatype_enum
    nodes["dequant/AscendDequant"].input[0] = "between"


def without_a_quant(nodes, graph_def):
    nodes["conv"].input[0] = "x"


def with_an_offset(nodes, graph_def):
    offset = nodes[nodes["weight_quant/AscendWeightQuant"].input[1]]
    offset.attr["value"].tensor.CopyFrom(tf.make_tensor_proto([[[[1]]]], tf.int8))


@pytest.mark.parametrize(
    ("change", "name", "what"),
    [
        (with_something_before_the_dequant, "dequant/AscendDequant", "is an AscendDequant behind Relu between"),
        (without_a_quant, "conv", "has no AscendQuant in front of it"),
        (with_an_offset, "conv", "has weights that are no int8 constant without offset"),
    ],
)
def test_a_form_that_this_version_does_not_write(refused, deployed, tmp_path, change, name, what):
    said = refused(AmctValueError, changed(deployed, tmp_path, change))
    assert said.startswith(f"{name} {what}") and said.endswith("quantize the float model again with this version")


def test_outputs(refused):
    assert "output 'outt' does not exist" in refused(AmctValueError, outputs=["outt"])
    assert "outputs is empty" in refused(AmctValueError, outputs=[])
    assert "outputs must be a list" in refused(AmctTypeError, outputs="out")


def test_an_op_that_onnx_cannot_express(refused, tmp_path):
    def build(net):
        tf.raw_ops.Digamma(x=net.conv(image(), "conv"), name="out")

    (tmp_path / "model").mkdir()
    deployed = Deployed(build, ["out"], tmp_path / "model")
    said = refused(AmctValueError, deployed.file)
    assert said == (
        "ONNX cannot express Digamma out: name outputs in front of it, and compute the rest outside of the model"
    )


def test_an_input_of_unknown_rank(refused, tmp_path):
    def build(net):
        y = net.matmul(tf.ensure_shape(image(shape=None), [None, 4]), "fc")
        tf.nn.relu(y, name="out")

    (tmp_path / "model").mkdir()
    deployed = Deployed(build, ["out"], tmp_path / "model", feeds=[batch(shape=(4, 4))])
    assert "input 'x' has an unknown number of axes" in refused(AmctValueError, deployed.file)


def test_a_model_that_is_not_valid(refused, monkeypatch):
    onnx = pytest.importorskip("onnx")

    def check_model(*_, **__):
        raise onnx.checker.ValidationError("Node (conv) is no good")

    monkeypatch.setattr(onnx.checker, "check_model", check_model)
    said = refused(AmctRuntimeError)
    assert "the ONNX model that tf2onnx makes is not valid (Node (conv) is no good): try another opset" in said


def test_whatever_tf2onnx_raises(refused, monkeypatch):
    convert = pytest.importorskip("tf2onnx.convert")

    def from_graph_def(*_, **__):
        raise KeyError("lost")

    monkeypatch.setattr(convert, "from_graph_def", from_graph_def)
    assert refused(AmctRuntimeError) == "tf2onnx cannot convert the model: 'lost'"


def test_opset(refused):
    assert "opset is 12, but must be 13 to" in refused(AmctValueError, opset=12)
    assert "opset is 999, but must be 13 to" in refused(AmctValueError, opset=999)
    refused(AmctTypeError, opset="17")


@pytest.mark.parametrize("missing", ["onnx", "tf2onnx", "onnx_ir"])
def test_a_missing_extra(refused, monkeypatch, missing):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find_spec(name))
    assert refused(AmctRuntimeError) == (
        f"{missing} is needed for that and not installed: run pip install 'amct_tensorflow[onnx]'"
    )


def test_a_path_without_a_name(refused):
    assert "has no file name" in refused(AmctValueError, save_path="made/.onnx")
    with pytest.raises(AmctValueError, match="has no file name"):
        amct.export_onnx("model.pb", "")


def test_a_folder_in_the_place_of_the_file(deployed, tmp_path):
    (tmp_path / "taken.onnx").mkdir()
    with pytest.raises(AmctRuntimeError, match=r"ONNX model .*taken.onnx cannot be written"):
        amct.export_onnx(str(deployed.file), str(tmp_path / "taken"))
    assert not list((tmp_path / "taken.onnx").iterdir())


def test_an_earlier_file_is_replaced_with_a_warning(deployed, tmp_path, capsys):
    for _ in range(2):
        report = amct.export_onnx(str(deployed.file), str(tmp_path / "model"))
    assert report.files == (str(tmp_path / "model.onnx"),)
    assert capsys.readouterr().err.count("will be overwritten") == 1


def test_a_line_for_each_layer(deployed, tmp_path, capsys):
    amct.export_onnx(str(deployed.file), str(tmp_path / "model"))
    said = capsys.readouterr()
    lines = (said.out + said.err).splitlines()
    assert any("Conv2D conv: left float because its result is an output, and not quantized" in line for line in lines)
    assert any("0 of 1 quantized layers run in int8 in onnxruntime" in line for line in lines)
    assert Path(tmp_path / "model.onnx").exists()
