"""Scripts written for the vendor's tool run as they are: see tests/vendor_scripts, and the command line's samples."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from small_graphs import freeze

import amct_tensorflow as amct

tf1 = tf.compat.v1

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "samples" / "mobilenetv2"
SCRIPTS = Path(__file__).parent / "vendor_scripts"
OUTPUT = "MobilenetV2/Predictions/Softmax"


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A sample's folder: model/model.pb, and images in data/ as .npy and as one .bin for the command line."""
    monkeypatch.syspath_prepend(str(SAMPLE))
    from digits import load_digits

    images = load_digits().train_images[:32]
    (tmp_path / "model").mkdir()
    (tmp_path / "data" / "calibration").mkdir(parents=True)
    (tmp_path / "model" / "model.pb").write_bytes((SAMPLE / "mobilenet_v2_0.35_32_digits.pb").read_bytes())
    np.save(tmp_path / "data" / "images.npy", images)
    images.tofile(tmp_path / "data" / "calibration" / "calibration.bin")
    return tmp_path


def start(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    done = start(folder, *command)
    assert done.returncode == 0, done.stderr
    return done


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_calibration(folder):
    done = run(folder, str(SCRIPTS / "calibration.py"))
    origin, quantized = re.findall(r"Model Prediction: (\d+) (\S+)", done.stdout)
    assert origin[0] == quantized[0]
    assert abs(float(origin[1]) - float(quantized[1])) < 0.1
    assert files(folder / "outputs" / "calibration") == [
        "config.json",
        "model_quant.json",
        "model_quantized.pb",
        "record.txt",
        "record.txt.safetensors",
    ]
    assert re.search(r"INFO - \[AMCT\]:\[save_model\]: The model is saved in <.*model_quantized\.pb>", done.stderr)
    assert (folder / "amct_log" / "amct_tensorflow.log").exists()


def test_convert_model(folder):
    run(folder, str(SCRIPTS / "calibration.py"))
    record = folder / "outputs" / "calibration" / "record.txt"
    done = run(folder, str(SCRIPTS / "convert.py"), "model/model.pb", OUTPUT, str(record))
    assert float(done.stdout.split()[-1]) >= 0.97
    assert files(folder / "outputs" / "convert") == ["model_quant.json", "model_quantized.pb"]
    assert "WARNING - [AMCT]:[sample]: converted" in done.stderr


def test_convert_qat_model(folder):
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, 32, 32, 3], name="input")
        weights = np.random.default_rng(0).standard_normal((3, 3, 3, 8)).astype(np.float32)
        x = tf.quantization.fake_quant_with_min_max_vars(x, -1.0, 1.0)
        weights = tf.quantization.fake_quant_with_min_max_vars(weights, -4.0, 4.0, narrow_range=True)
        tf.reduce_mean(tf.nn.conv2d(x, weights, 2, "SAME", name="conv"), [1, 2], name="out")
    model = freeze(graph, folder / "model" / "qat.pb")
    done = run(folder, str(SCRIPTS / "convert.py"), model, "out", "")
    assert float(done.stdout.split()[-1]) >= 0.97
    assert files(folder / "outputs" / "convert") == ["model_quant.json", "model_quantized.pb", "record.txt"]


def test_command_line(folder):
    command = [
        *("-m", "amct_tensorflow", "calibration", "--model", "model/model.pb", "--outputs", f"{OUTPUT}:0"),
        *("--input_shape", "input:32,32,32,3", "--data_type", "float32", "--data_dir", "./data/calibration/"),
        *("--save_path", "output"),
    ]
    run(folder, *command)
    assert {"output_quantized.pb", "output_quant.json"} <= set(files(folder))


EVALUATOR = """
import numpy as np
import amct_tensorflow.common.cmd_line_utils.data_handler as data_handler
import tensorflow as tf
class Evaluator():
    def calibration(self, graph, infer_output):
        with tf.Session(config=tf.ConfigProto(allow_soft_placement=True)) as sess:
            sess.run(tf.global_variables_initializer())
            for feed in data_handler.load_data(
                    {'input:0': [32, 32, 32, 3]}, ['./data/calibration'], ['float32'], 1):
                sess.run(infer_output, feed_dict={name: data.astype(TYPE) for name, data in feed.items()})
customize_evaluator = Evaluator()
"""
WITH_EVALUATOR = (
    *("-m", "amct_tensorflow", "calibration", "--model", "model/model.pb", "--outputs", f"{OUTPUT}:0"),
    *("--evaluator", "evaluator.py", "--save_path", "output"),
)


@pytest.mark.parametrize("of_numpy", ["np.float32", "float"])
def test_command_line_with_an_evaluator_of_tensorflow_1(folder, of_numpy):
    (folder / "evaluator.py").write_text(EVALUATOR.replace("TYPE", of_numpy))
    run(folder, *WITH_EVALUATOR)
    assert {"output_quantized.pb", "output_quant.json"} <= set(files(folder))


def test_what_numpy_has_removed_is_said_with_its_line(folder):
    (folder / "evaluator.py").write_text(EVALUATOR.replace("TYPE", "np.float"))
    done = start(folder, *WITH_EVALUATOR)
    assert done.returncode == 1
    assert (
        "evaluator evaluator.py failed in line 11: AttributeError: module 'numpy' has no attribute 'float'"
        in done.stderr
    )


def test_both_names_of_the_preprocessing():
    assert amct.quantized_preprocess is amct.quantize_preprocess
