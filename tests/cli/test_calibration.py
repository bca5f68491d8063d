"""The command calibration, in this process."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from small_graphs import batch, conv_net, freeze, load, prepare, run

import amct_tensorflow as amct
from amct_tensorflow.post_training import one_call
from amct_tensorflow.record import read_batch_norms, read_record

tf1 = tf.compat.v1
SHAPE = ("--input_shape", "x:4,8,8,3", "--data_types", "float32")


def test_results_are_those_of_the_functions(cli, model, data, tmp_path):
    """All four files, the same bytes as from the four calls."""
    code, out, err = cli(
        *("calibration", "--model", model, "--save_path=out/m", "--outputs=out:0", "--data_dir", data),
        *("--batch_num", 2, *SHAPE),
    )
    assert code == 0, err
    graph = conv_net()
    record = prepare(graph, tmp_path, batch_num=2)
    for at in range(2):
        run(graph, batch(at))
    amct.save_model(model, ["out"], record, str(tmp_path / "m"))
    for ours, theirs in (
        ("quantized.pb", "m_quantized.pb"),
        ("config.json", "config.json"),
        ("record.txt", "record.txt"),
    ):
        assert Path(f"out/m_{ours}").read_bytes() == (tmp_path / theirs).read_bytes(), ours
    assert "3 of 3 layers are quantized\n" in out
    for name in ("quantized.pb", "quant.json", "config.json", "record.txt", "record.txt.safetensors"):
        assert re.search(rf"^  out/m_{name} ", out, re.MULTILINE)
    assert err.splitlines() == [
        f"reading {model} ...",
        "inserting calibration ops ...",
        "calibrating 3 layers with 2 batches of 4 samples ...",
        err.splitlines()[3],
        "saving ...",
    ]
    assert err.splitlines()[3].startswith("batch 2 of 2, ")


def test_only_what_must_be_said(cli, model, samples):
    """Outputs, shapes and types are those of the model; the batch size is that of the data."""
    code, out, err = cli("calibration", "--model", model, "--save_path", "out/", "--data_dir", samples)
    assert code == 0, err
    assert sorted(path.name for path in Path("out").iterdir()) == [
        *("config.json", "quant.json", "quantized.pb", "record.txt", "record.txt.safetensors")
    ]
    assert "1 batch of 24" in err
    assert "note:" not in out


def test_running_again_is_as_calm(cli, model, samples):
    for _ in range(2):
        code, _, err = cli("calibration", "--model", model, "--save_path", "out/m", "--data_dir", samples)
        assert code == 0
        assert "WARNING" not in err and "INFO" not in err


def test_verbose_prints_the_log(cli, model, samples):
    code, _, err = cli("calibration", "-v", "--model", model, "--save_path", "out/m", "--data_dir", samples)
    assert code == 0
    assert "INFO - [AMCT]:[quantize_model]: Conv2D block/conv: quantized" in err


def test_few_samples_are_worth_a_note(cli, model, data):
    out = cli("calibration", "--model", model, "--save_path", "out/m", "--data_dir", data, *SHAPE).out
    assert "note: 4 samples may be too few" in out


def test_images_without_preprocessing_are_worth_a_note(cli, model, tmp_path):
    for at in range(16):
        pixels = np.random.default_rng(at).integers(0, 256, (8, 8, 3), np.uint8)
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / f"{at}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    options = ("calibration", "--model", model, "--save_path", "out/m", "--data_dir", tmp_path / "images")
    assert "note: images were fed as pixels of 0 to 255" in cli(*options).out
    assert "note:" not in cli(*options, "--mean", "127.5", "--std=127.5").out


def test_left_out_layers_are_in_the_summary(cli, data, tmp_path):
    with conv_net().as_default() as graph:
        scores = graph.get_tensor_by_name("out:0")
        tf.identity(tf.matmul(scores, scores, transpose_b=True, name="late"), "end")
    model = freeze(graph, tmp_path / "model.pb")
    code, out, err = cli("calibration", "--model", model, "--save_path", "out/m", "--data_dir", data, *SHAPE)
    assert code == 0
    assert "3 of 4 layers are quantized, left float:\n  MatMul late: its weights 'out:0' are computed" in out
    assert "left float" not in err


def test_a_model_with_several_inputs(cli, tmp_path):
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, 8], name="x")
        ids = tf1.placeholder(tf.int32, [None], name="ids")
        keep = tf1.placeholder_with_default(1.0, [], name="keep")
        y = tf.matmul(x * keep, np.ones((8, 8), np.float32), name="fc")
        tf.add(y, tf.one_hot(ids, 8), name="out")
    model = freeze(graph, tmp_path / "model.pb")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((16, 8)))
    np.save(tmp_path / "ids.npy", np.arange(16, dtype=np.int64) % 8)
    folders = f"{tmp_path}/ids.npy;{tmp_path}/x.npy"
    options = ("calibration", "--model", model, "--save_path", "out/m", "--data_dir", folders)
    code, _, err = cli(*options, "--input_shape", "ids:8;x:0:8,8", "--batch_num", 2)
    assert code == 0, err
    assert read_record("out/m_record.txt").keys() == {"fc"}


def test_a_simplified_configuration(cli, model, samples, tmp_path):
    """Layers are chosen by the .cfg; --batch_num takes precedence over its batch_num."""
    (tmp_path / "quant.cfg").write_text('batch_num: 3\nskip_layers: "head/fc"\n')
    options = ("calibration", "--model", model, "--save_path", "out/m", "--data_dir", samples)
    options += ("--calibration_config", tmp_path / "quant.cfg")
    code, out, err = cli(*options)
    assert code == 0, err
    assert "3 batches of 8" in err
    assert "2 of 3 layers are quantized, left float:\n  MatMul head/fc: the configuration has no entry for it" in out
    code, _, err = cli(*options, "--batch_num", 2)
    assert code == 0 and "2 batches of 12" in err
    assert json.loads(Path("out/m_config.json").read_text())["batch_num"] == 2


def test_layers_that_are_balanced_first(cli, model, samples, tmp_path):
    """A .cfg with a dmq_balancer: the data go through the balance graph, then through the calibration graph."""
    (tmp_path / "quant.cfg").write_text("common_config {\n dmq_balancer {\n migration_strength: 0.5\n }\n}\n")
    options = ("calibration", "--model", model, "--save_path", "out/m", "--data_dir", samples)
    code, out, err = cli(*options, "--calibration_config", tmp_path / "quant.cfg")
    assert code == 0, err
    assert "inserting balance ops ...\nbalancing 2 layers with 1 batch of 24 samples ..." in err
    assert "calibrating 3 layers with 1 batch of 24 samples ..." in err
    assert "3 of 3 layers are quantized" in out
    assert read_record("out/m_record.txt")["block/conv"].tensor_balance_factor


def test_new_statistics_of_batch_norms(cli, tmp_path):
    """A .cfg with update_bn: the data go round until there were enough, then through the calibration graph."""
    random = np.random.default_rng(0)
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 8, 8, 3], name="x")
        y = tf.nn.conv2d(x, random.standard_normal((3, 3, 3, 4)).astype(np.float32), 1, "SAME", name="conv")
        of_channels = {name: np.ones(4, np.float32) for name in ("scale", "offset", "mean", "variance")}
        tf.raw_ops.FusedBatchNormV3(x=y, **of_channels, is_training=False, name="bn")
    model, samples = tmp_path / "bn.pb", tmp_path / "samples.npy"
    model.write_bytes(graph.as_graph_def().SerializeToString())
    np.save(samples, random.standard_normal((16, 8, 8, 3)).astype(np.float32))
    (tmp_path / "quant.cfg").write_text("batch_num: 2 update_bn: true bn_update_config { bn_update_iterations: 5 }")
    options = ("calibration", "--model", model, "--save_path", "out/m", "--data_dir", samples)
    code, _, err = cli(*options, "--calibration_config", tmp_path / "quant.cfg")
    assert code == 0, err
    assert "inserting ops for batch norms ...\nupdating batch norms with 5 batches of 8 samples ..." in err
    assert "calibrating 1 layer with 2 batches of 8 samples ..." in err
    assert list(read_batch_norms("out/m_record.txt")) == ["bn"]


def test_mobilenet_v2_with_an_image_folder(cli, shared):
    model = shared / "data" / "mobilenet_v2" / "mobilenet_v2_1.0_224_frozen.pb"
    code, out, err = cli(
        *("calibration", "--model", model, "--save_path", "out/m", "--data_dir", shared / "data" / "imagenet"),
        *("--mean", "127.5", "--std", "127.5"),
    )
    assert code == 0, err
    assert "54 of 54 layers are quantized" in out and "1 batch of 32" in err
    load("out/m_quantized.pb")


# Errors


def test_missing_model(failing, data):
    line = failing("calibration", "--model", "m.pb", "--save_path", "out/m", "--data_dir", data)
    assert "the model m.pb does not exist" in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--outputs", "outt"), "output 'outt' does not exist in"),
        (("--outputs", "out:3"), "op 'out' has 1 output(s)"),
        (("--input_shape", "input:4,8,8,3"), "input 'input' does not exist in"),
        (("--input_shape", "x:4,9,8,3"), "[4, 9, 8, 3], but the model takes (None, 8, 8, 3)"),
        (("--data_types", "float8"), "Unsupported data type[float8]!"),
        (("--batch_num", 5, *SHAPE), "The number of given data batches is not enough"),
        (("--input_shape", "x:3,8,8,3"), "bytes, but a batch of input 'x:0' (float32 [3,8,8,3]) has 2304"),
        (("--mean", "1"), "are for images"),
        (("--calibration_config", "missing.cfg"), "missing.cfg"),
    ],
    ids=["output", "index", "input", "shape", "type", "few", "size", "mean", "cfg"],
)
def test_what_does_not_fit(failing, model, data, options, words):
    assert words in failing("calibration", "--model", model, "--save_path", "out/m", "--data_dir", data, *options)
    assert not list(Path(".").glob("out/*.pb"))


def test_values_that_do_not_fit_the_input(failing, tmp_path, data):
    with tf.Graph().as_default() as graph:
        ids = tf1.placeholder(tf.int32, [None, 8], name="ids")
        tf.matmul(tf.cast(ids, tf.float32), np.ones((8, 8), np.float32), name="out")
    model = freeze(graph, tmp_path / "model.pb")
    options = ("--input_shape", "ids:4,8", "--data_types", "float32")
    line = failing("calibration", "--model", model, "--save_path", "out/m", "--data_dir", data, *options)
    assert "data_types gives float32 for 'ids:0', which takes int32" in line


def test_a_forgotten_input(failing, tmp_path, data):
    with tf.Graph().as_default() as graph:
        x, y = (tf1.placeholder(tf.float32, [None, 8], name=name) for name in "xy")
        tf.add(tf.matmul(x, np.ones((8, 8), np.float32)), y, name="out")
    model = freeze(graph, tmp_path / "model.pb")
    options = ("calibration", "--model", model, "--save_path", "out/m", "--data_dir", data)
    assert "input_shape misses 'y:0'" in failing(*options, "--input_shape", "x:4,8")
    assert "data_dir names 1 folder for 2 inputs (x:0, y:0): give one for each" in failing(*options)


def test_several_outputs(failing, tmp_path, data):
    with conv_net().as_default() as graph:
        tf.identity(graph.get_tensor_by_name("block/relu:0"), "side")
    model = freeze(graph, tmp_path / "model.pb")
    line = failing("calibration", "--model", model, "--save_path", "out/m", "--data_dir", data)
    assert '"out:0;side:0"' in line


def test_what_an_op_finds_is_one_sentence(failing, model, samples):
    values = batch(size=4)
    values[0, 0, 0, 0] = np.nan
    np.save(samples, values)
    line = failing("calibration", "--model", model, "--save_path", "out/m", "--data_dir", samples)
    assert 'layer "block/conv" has invalid value inf or nan' in line
    assert "[[" not in line and "node" not in line


def test_tensorflows_own_errors_are_one_line(failing, tmp_path, samples):
    with conv_net().as_default() as graph:
        tf.reshape(graph.get_tensor_by_name("out:0"), [10], name="end")
    line = failing(
        "calibration", "--model", freeze(graph, tmp_path / "m.pb"), "--save_path", "o", "--data_dir", samples
    )
    assert line.endswith("Input to reshape is a tensor with 120 values, but the requested shape has 10")


def test_verbose_shows_the_traceback(cli):
    result = cli("inspect", "--model", "m.pb", "-v")
    assert result.code == 1 and "Traceback (most recent call last)" in result.err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (MemoryError(), 1, "error: there is not enough memory"),
        (OSError(28, "No space left on device", "x"), 1, "error: x: No space left on device"),
        (OSError(28, "No space left on device"), 1, "error: No space left on device"),
        (ZeroDivisionError("one\ntwo"), 1, "error: ZeroDivisionError: one two; with -v the traceback is printed"),
    ],
    ids=["interrupt", "memory", "disk", "unnamed_disk", "bug"],
)
def test_whatever_happens_is_one_line(cli, monkeypatch, model, data, error, code, words):
    def fail(*_):
        raise error

    monkeypatch.setattr(one_call, "_plan", fail)
    result = cli("calibration", "--model", model, "--save_path", "out/m", "--data_dir", data)
    assert result.code == code
    assert result.err.splitlines()[-1] == f"amct_tensorflow: {words}" or words in result.err.splitlines()[-1]
