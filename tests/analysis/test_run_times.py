"""run_times: what it runs, and what it says where something cannot run."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from small_graphs import batch, conv_net, freeze, int8_model, load, run

from amct_tensorflow.analysis import run_times as module
from amct_tensorflow.analysis import time_model
from amct_tensorflow.analysis.run_times import run_times
from amct_tensorflow.errors import AmctRuntimeError, AmctValueError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(int8_model(conv_net, batch, tmp_path_factory.mktemp("model"), "batch_num: 2"))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(time_model, "_SECONDS", 0.0)


def test_every_runtime_runs_its_own_model(model, monkeypatch, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    ran = []

    def milliseconds(program, file, batch_size, outputs):
        if file.endswith("float.pb"):
            made = run(load(file), batch())
            np.testing.assert_allclose(made, run(conv_net(), batch()), atol=0.1)
            assert not {node.op for node in load(file).as_graph_def().node} & {"AscendQuant", "AscendDequant"}
        ran.append((program, file.rsplit("/", 1)[1], batch_size, outputs))
        return float(len(ran))

    monkeypatch.setattr(module, "milliseconds", milliseconds)
    found = run_times(model, batches=[1, 4])
    assert [(line.runtime, line.milliseconds) for line in found] == [
        ("TensorFlow, float", {1: 1.0, 4: 2.0}),
        ("TensorFlow, as the chip computes", {1: 3.0, 4: 4.0}),
        ("TensorFlow, int8", {1: 5.0, 4: 6.0}),
        ("onnxruntime, int8", {1: 7.0, 4: 8.0}),
        ("LiteRT, int8", {1: 9.0, 4: 10.0}),
    ]
    assert ran[0] == ("tensorflow", "float.pb", 1, ["out:0"])
    assert ran[5] == ("tensorflow", "int8_ops.pb", 4, ["out:0"])
    assert ran[7] == ("onnxruntime", "int8.onnx", 4, ["out:0"])
    assert ran[9] == ("tflite", "int8.tflite", 4, ["out:0"])


def test_what_cannot_run_is_said(model, monkeypatch):
    def milliseconds(program, *_):
        raise AmctRuntimeError(f"{program} is tired")

    monkeypatch.setattr(module, "milliseconds", milliseconds)
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert [(line.milliseconds, line.reason) for line in run_times(model)] == [
        ({}, "tensorflow is tired"),
        ({}, "tensorflow is tired"),
        ({}, "tensorflow is tired"),
        ({}, "it is not installed: run pip install onnxruntime"),
        ({}, "tflite is tired"),
    ]


def test_a_float_model(tmp_path):
    with pytest.raises(AmctValueError, match="has no int8 layer"):
        run_times(freeze(conv_net(), tmp_path / "model.pb"))


def test_a_process_of_its_own(model):
    assert module.milliseconds("tensorflow", model, 2, ["out:0"]) > 0


def test_a_process_that_fails(model):
    with pytest.raises(AmctRuntimeError, match=r"it does not run: .*nothing"):
        module.milliseconds("tensorflow", model, 2, ["nothing:0"])


@pytest.mark.usefixtures("quick")
def test_the_programs(model, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tf2onnx")
    onnx = module._onnx(model, ["out:0"], str(tmp_path))
    time_model.main("tensorflow", model, "3", "out:0")
    time_model.main("onnxruntime", onnx, "3", "out:0")
    time_model.main("tflite", module._tflite(model, ["out:0"], str(tmp_path)), "3", "out:0")
    assert all(float(line) > 0 for line in capsys.readouterr().out.splitlines()[-3:])


@pytest.mark.usefixtures("quick")
def test_sizes_that_are_not_known(tmp_path):
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, None, 3], name="x")
        tf.nn.relu(x, name="out")
    with pytest.raises(SystemExit, match="leaves sizes of an input open"):
        time_model.main("tensorflow", freeze(graph, tmp_path / "model.pb"), "3", "out:0")
