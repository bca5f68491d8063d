"""The command export, and what other commands say of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from amct_tensorflow.analysis import run_times as module

pytest.importorskip("tf2onnx")


@pytest.fixture
def int8(cli, model, samples):
    assert cli("calibration", "--model", model, "--save_path", "out/m", "--data_dir", samples).code == 0
    return "out/m_quantized.pb"


def test_export(cli, int8):
    code, out, err = cli("export", "--model", int8, "--save_path", "made/m", "--format", "onnx")
    assert code == 0, err
    assert out.startswith("3 of 3 quantized layers run in int8 in onnxruntime\n")
    assert "inputs: x\noutputs: out\nwritten:\n  made/m.onnx" in out
    assert Path("made/m.onnx").exists()
    assert err == f"exporting {int8} ...\n"


def test_opset_and_outputs(cli, int8):
    onnx = pytest.importorskip("onnx")
    options = ("export", "--model", int8, "--save_path", "m.onnx", "--opset", "18", "--outputs", "block/relu:0")
    code, out, err = cli(*options)
    assert code == 0, err
    assert "outputs: block/relu\n" in out
    assert onnx.load("m.onnx").opset_import[0].version == 18


def test_tflite(cli, int8):
    options = ("export", "--model", int8, "--save_path", "made/m", "--format", "tflite")
    code, out, err = cli(*options, "--integer_io")
    assert code == 0, err
    assert out.startswith("2 of 3 quantized layers run in int8 in LiteRT, in float:\n  MatMul head/fc: ")
    assert "inputs: x\noutputs: out\nwritten:\n  made/m.tflite" in out
    assert Path("made/m.tflite").exists()


def test_tensorflow(cli, int8):
    code, out, err = cli("export", "--model", int8, "--save_path", "made/m", "--format", "tensorflow")
    assert code == 0, err
    assert "quantized layers run in int8 in TensorFlow" in out
    assert "inputs: x\noutputs: out\nwritten:\n  made/m.pb" in out


def test_the_model_itself_is_not_overwritten(failing, int8):
    before = Path(int8).read_bytes()
    options = ("export", "--model", int8, "--save_path", int8.removesuffix(".pb"), "--format", "tensorflow")
    assert "would overwrite the model out/m_quantized.pb: choose another name" in failing(*options)
    assert Path(int8).read_bytes() == before


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--format", "tflite", "--opset", "17"), "--opset is for --format onnx: leave it out"),
        (("--integer_io",), "--integer_io is for --format tflite: leave it out"),
    ],
)
def test_options_of_the_other_format(failing, int8, options, said):
    assert said in failing("export", "--model", int8, "--save_path", "m", *options, code=2)


def test_bad_input(failing, model, int8):
    assert "has no int8 layer" in failing("export", "--model", model, "--save_path", "m")
    assert "output 'no' does not exist" in failing("export", "--model", int8, "--save_path", "m", "--outputs", "no")
    assert "opset is 3" in failing("export", "--model", int8, "--save_path", "m", "--opset", "3")
    line = failing("export", "--model", int8, "--save_path", "m", "--format", "xla", code=2)
    assert "--format 'xla' is not one of its values: write onnx or tflite or tensorflow" in line
    assert not Path("m.onnx").exists()


def test_calibration_names_it(cli, model, samples):
    _, out, _ = cli("calibration", "--model", model, "--save_path", "out/m", "--data_dir", samples)
    command = out.splitlines()[-1].strip()
    assert command == "amct_tensorflow export --model out/m_quantized.pb --format onnx --save_path out/m_quantized"
    assert cli(*command.split()[1:]).code == 0
    assert Path("out/m_quantized.onnx").exists()


@pytest.mark.parametrize("config", [None, "target: ascend", "target: onnxruntime"])
@pytest.mark.parametrize("target", [None, "onnxruntime"])
def test_target(cli, model, samples, tmp_path, config, target):
    options = ["calibration", "--model", model, "--save_path", "out/m", "--data_dir", samples]
    if config is not None:
        (tmp_path / "a.cfg").write_text(config)
        options += ["--calibration_config", tmp_path / "a.cfg"]
    assert cli(*options, *([] if target is None else ["--target", target])).code == 0
    expected = target or (config or "target: ascend").partition(": ")[2]
    assert f'"target":"{expected}"' in Path("out/m_config.json").read_text()
    assert ("shift_bit" in Path("out/m_record.txt").read_text()) == (expected == "ascend")


def test_inspect_says_where_it_runs(cli, int8):
    _, out, _ = cli("inspect", "--model", int8)
    assert "3 of 3 layers are quantized already." in out
    assert f"amct_tensorflow export --model {int8} --format onnx --save_path out/m_quantized" in out


def test_inspect_with_times(cli, int8, monkeypatch):
    monkeypatch.setattr(module, "milliseconds", lambda program, file, batch, outputs: 1.5 * batch)
    code, out, err = cli("inspect", "--model", int8, "--time")
    assert code == 0, err
    table = out.splitlines()[-6:]
    assert table[0].split() == ["runtime", "batch", "1", "batch", "32"]
    assert table[1].split() == ["TensorFlow,", "float", "1.50", "ms", "48.00", "ms"]


def test_times_of_a_float_model(failing, model):
    assert "--time is for an int8 model, <save_path>_quantized.pb" in failing("inspect", "--model", model, "--time")
