"""The table of the command inspect."""

from __future__ import annotations

import tensorflow as tf
from small_graphs import conv_net, freeze


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
