"""The command compare, in this process."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from small_graphs import CONV_NET_LAYERS, batch

import amct_tensorflow as amct


def test_a_table_with_the_worst_first(cli, model, samples):
    amct.quantize(model, batch(size=24), "out/m")
    options = ("compare", "--model", model, "--quantized", "out/m_quantized.pb", "--data_dir", samples)
    code, out, err = cli(*options, "--json", "out/found.json")
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].split() == [
        "layer",
        "type",
        "own",
        "dB",
        "accumulated",
        "dB",
        "cosine",
        "mean",
        "error",
        "largest",
        "clipped",
    ]
    assert {line.split()[0] for line in lines[1:4]} == set(CONV_NET_LAYERS)
    own = [float(line.split()[2]) for line in lines[1:4]]
    assert own == sorted(own)
    assert "of 24 samples:" in out
    assert re.search(r"^  out:0: \d+\.\d dB, cosine 0\.\d+, .*, top-1 the same for \d+\.\d\d%$", out, re.MULTILINE)
    assert lines[-1] == "written: out/found.json"
    found = json.loads(Path("out/found.json").read_text())
    assert [layer["name"] for layer in found["layers"]] == [line.split()[0] for line in lines[1:4]]
    assert "of 20 samples:" in cli(*options, "--batch_num", 5).out  # of 4


def test_a_narrow_terminal(cli, model, samples, monkeypatch):
    amct.quantize(model, batch(size=24), "out/m")
    monkeypatch.setattr("amct_tensorflow_cli.tables._PIPE_WIDTH", 60)
    _, out, _ = cli("compare", "--model", model, "--quantized", "out/m_quantized.pb", "--data_dir", samples)
    assert re.search(r"^block/conv\n  type Conv2D, own dB \d", out, re.MULTILINE)


def test_what_fails(failing, model, samples, tmp_path):
    options = ("compare", "--model", model, "--data_dir", samples)
    assert "--quantized is missing" in failing(*options, code=2)
    assert "nowhere_quantized.pb does not exist" in failing(*options, "--quantized", "nowhere_quantized.pb")
    assert "--data_dir is missing" in failing("compare", "--model", model, "--quantized", "a", code=2)
    amct.quantize(model, batch(size=24), "out/m")
    np.save(tmp_path / "other.npy", np.zeros((4, 3, 3, 3), np.float32))
    line = failing(*options[:3], "--data_dir", tmp_path / "other.npy", "--quantized", "out/m_quantized.pb")
    assert "takes samples of [8, 8, 3]" in line
