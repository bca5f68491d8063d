"""The command convert: which job it calls with what, and what it prints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from small_graphs import freeze

tf1 = tf.compat.v1


@pytest.fixture
def trained(tmp_path) -> str:
    """A convolution with fake-quant nodes at its input and weights."""
    random = np.random.default_rng(0)
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, 8, 8, 3], name="x")
        x = tf.quantization.fake_quant_with_min_max_vars(x, -1.0, 1.0, name="quant_x")
        weights = tf.constant(random.uniform(-1, 1, (3, 3, 3, 4)).astype(np.float32))
        weights = tf.quantization.fake_quant_with_min_max_vars(weights, -1.0, 1.0, narrow_range=True, name="quant_w")
        tf.nn.relu(tf.nn.conv2d(x, weights, 1, "SAME", name="conv"), name="out")
    return freeze(graph, tmp_path / "trained.pb")


def test_a_record_gives_the_calibrated_model_again(cli, model, samples, nearest):
    calibration = ("calibration", "--model", model, "--save_path", "out/m", "--data_dir", samples)
    assert cli(*calibration, *nearest).code == 0
    options = ("convert", "--model", model, "--record_file", "out/m_record.txt", "--save_path", "again/m")
    code, out, err = cli(*options, "--outputs", "out:0")
    assert code == 0, err
    assert Path("again/m_quantized.pb").read_bytes() == Path("out/m_quantized.pb").read_bytes()
    assert "3 of 3 layers are quantized\n" in out and "again/m_quant.json" in out and "m_record" not in out
    assert err == f"converting {model} ...\n"


def test_fake_quant_nodes(cli, trained):
    """Without a record the ranges of training become one, which is kept."""
    code, out, err = cli("convert", "--model", trained, "--save_path", "out/m")
    assert code == 0, err
    assert "1 of 1 layer is quantized\n" in out and "out/m_record.txt" in out
    assert 'key: "conv"' in Path("out/m_record.txt").read_text()


def test_outputs(failing, model):
    options = ("convert", "--model", model, "--save_path", "out/m")
    assert "output 'outt' does not exist" in failing(*options, "--outputs", "outt", "--record_file", "r.txt")
    assert "has no fake-quant ops" in failing(*options)


def test_a_missing_record(failing, model):
    line = failing("convert", "--model", model, "--save_path", "out/m", "--record_file", "r.txt")
    assert "r.txt" in line


def test_a_result_that_would_be_the_model(failing, model, tmp_path):
    path = tmp_path / "m_quantized.pb"
    path.write_bytes(Path(model).read_bytes())
    line = failing("convert", "--model", path, "--save_path", tmp_path / "m", "--record_file", "r.txt")
    assert "would overwrite the model" in line
