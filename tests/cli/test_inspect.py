"""The table of the command inspect."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tensorflow as tf
from small_graphs import batch, conv_net, freeze, prepare

import amct_tensorflow as amct
from amct_tensorflow.graph import int8_ops
from amct_tensorflow.record import read_record


def test_a_float_model(cli, model):
    code, out, err = cli("inspect", "--model", model)
    assert (code, err) == (0, f"reading {model} ...\n")
    table = [line.split() for line in out.splitlines()]
    assert table[0] == ["layer", "type", "weights", "(or", "output)", "int8", "batch", "norm"]
    assert ["block/conv", "Conv2D", "3×3×3×4", "yes"] in table
    assert ["head/pool", "AvgPool", "(?×1×1×4)", "yes"] in table
    assert "3 of 3 layers can be quantized; 0 batch norms are folded into them." in out
    assert out.endswith('  --outputs "out:0"\n  --input_shape "x:32,8,8,3"\n')


def test_a_quantized_model(cli, model, samples):
    assert cli("calibration", "--model", model, "--save_path", "out/m", "--data_dir", samples).code == 0
    out = cli("inspect", "--model", "out/m_quantized.pb").out
    assert "is a quantized model already" in out and "3 of 3 layers are quantized already." in out
    assert "--input_shape" not in out
    table = [line.split() for line in out.splitlines()]
    assert table[0] == "layer type input from to scale_d offset_d weights from to scale_w N note".split()  # noqa: SIM905
    record = read_record("out/m_record.txt")["head/fc"]
    row = next(row for row in table if row and row[0] == "head/fc")
    assert row[1] == "MatMul" and row[4:6] == [f"{record.scale_d:.4g}", str(record.offset_d)]
    assert row[8:] == [f"{record.scale_w[0]:.4g}", str(record.shift_bit[0])]
    assert next(row for row in table if row and row[0] == "head/pool")[6:] == ["0"]


def test_what_stayed_float_in_a_quantized_model_and_what_is_suspicious(cli, model, tmp_path, monkeypatch):
    (tmp_path / "quant.cfg").write_text('skip_layers: "head/fc"')
    amct.quantize(model, np.zeros((8, 8, 8, 3), np.float32), "out/m", config=tmp_path / "quant.cfg")
    out = cli("inspect", "--model", "out/m_quantized.pb").out
    assert re.search(r"^block/conv .* scale_d is 1: right for pixels of 0 to 255", out, re.MULTILINE)
    assert re.search(r"^head/fc +MatMul +float: it was left float when the model was quantized", out, re.MULTILINE)
    monkeypatch.setattr("amct_tensorflow_cli.tables._PIPE_WIDTH", 60)
    out = cli("inspect", "--model", "out/m_quantized.pb").out
    assert re.search(r"^block/conv\n  type Conv2D, input from -?\d.*, note scale_d is 1", out, re.MULTILINE)


def test_an_input_that_is_quantized_alone(cli, tmp_path):
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 8, 8, 3], name="x")
        y = [tf.nn.conv2d(x, np.ones((3, 3, 3, 4), np.float32) / 27, 1, "SAME", name=name) for name in ("a", "b")]
        tf.nn.relu(tf.add(*y, name="sum"), name="out")
    model = freeze(graph, tmp_path / "model.pb")
    amct.quantize(model, batch(size=16), "out/m", target="onnxruntime")
    out = cli("inspect", "--model", "out/m_quantized.pb").out
    assert len(re.findall(r"^sum +AddV2 .* an input that is quantized alone", out, re.MULTILINE)) == 2


def test_a_model_for_the_int8_ops_of_tensorflow(cli, model, monkeypatch):
    amct.quantize(model, batch(size=24), "out/m", target="onnxruntime")
    if not int8_ops.are_there():
        pytest.skip("this TensorFlow has no int8 ops")
    amct.export_tensorflow("out/m_quantized.pb", "out/int8")
    out = cli("inspect", "--model", "out/int8.pb").out
    assert "out/int8.pb is an int8 model for TensorFlow's own int8 ops" in out
    assert "can be quantized" not in out and "head/" not in out
    monkeypatch.setattr("amct_tensorflow_cli.tables._PIPE_WIDTH", 60)
    assert "head/" not in cli("inspect", "--model", "out/int8.pb").out


def test_a_calibration_graph(cli, tmp_path):
    graph = conv_net()
    prepare(graph, tmp_path)
    out = cli("inspect", "--model", freeze(graph, tmp_path / "calibration.pb")).out
    assert re.search(r"^block/conv/quantized +Conv2D .* is quantized", out, re.MULTILINE)
    assert "is a calibration graph: start from the float model" in out


def test_reasons(cli, tmp_path):
    with conv_net().as_default() as graph:
        scores = graph.get_tensor_by_name("out:0")
        tf.matmul(scores, scores, transpose_b=True, name="late")
    out = cli("inspect", "--model", freeze(graph, tmp_path / "m.pb")).out
    line = next(line for line in out.splitlines() if line.startswith("late"))
    assert "no: its weights 'out:0' are computed" in line


def test_errors(failing, model):
    assert "the model m.pb does not exist" in failing("inspect", "--model", "m.pb")
    assert "output 'outt' does not exist" in failing("inspect", "--model", model, "--outputs", "outt")


def test_narrow_terminals(cli, model, monkeypatch):
    """A name has a line of its own and is never broken."""
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    lines = cli("inspect", "--model", model).out.splitlines()
    at = lines.index("block/conv")
    assert lines[at + 1] == "  Conv2D  3×3×3×4  int8: yes"
