"""--compression_optimize_conf: the chip compiler's file."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_graphs import batch

from amct_tensorflow.errors import AmctError
from amct_tensorflow.record import read_record
from amct_tensorflow_cli.conf_file import read_conf

FULL = """
# for the board
calibration:
{
  input_data_dir: ./data.bin,d2.bin
  input_shape: in:16,16;in1:16,16
  config_file: simple_config.cfg   # layers
  infer_soc: Ascendxxx
  infer_aicore_num: 10
  infer_device_id: 0
  infer_ip: x.x.x.x
  infer_port: 8000
  log: info
}
enable_first_layer_quantization:true
"""


def write(folder: Path, text: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "opt.conf").write_text(text)
    return str(folder / "opt.conf")


def test_every_key(tmp_path):
    conf = read_conf(write(tmp_path, FULL))
    assert conf.data_paths == ["./data.bin", "d2.bin"]
    assert conf.input_shape == {"in": [16, 16], "in1": [16, 16]}
    assert (conf.config_file, conf.log) == ("simple_config.cfg", "info")
    compiled, first_layer = conf.notes
    assert "infer_soc, infer_aicore_num, infer_device_id, infer_ip, infer_port have no effect" in compiled
    assert "enable_first_layer_quantization has no effect" in first_layer


@pytest.mark.parametrize(
    "text",
    [
        'calibration {\n input_data_dir: "a;b"\n log: "Null",\n}',
        "calibration: {\n\n\tinput_data_dir : 'a;b;'\n log:null\n}\n",
        "\ufeffcalibration\n{\ninput_data_dir:a,b  # two\nlog: error;\n}",
        'calibration {input_data_dir: "a,b" log: error}',
        "calibration: { input_data_dir: a,b\nlog: null }  # the end",
        "# it's \"ours\ncalibration { # don't\ninput_data_dir: 'a;b' # \"two\"\nlog: null # 'x\n}",
    ],
    ids=["quoted", "spaces", "comment", "one_line", "end_behind", "quotes_in_comments"],
)
def test_ways_to_write_it(tmp_path, text):
    conf = read_conf(write(tmp_path, text))
    assert (conf.data_paths, conf.input_shape, conf.config_file, conf.log) == (["a", "b"], None, None, "error")
    assert conf.notes == []


def test_paths_beside_the_file(tmp_path):
    """A path is that of the working folder or, if there is nothing, of the file's."""
    folder = tmp_path / "conf"
    path = write(folder, "calibration {\n input_data_dir: a.bin, b.bin\n config_file: c.cfg\n}")
    for name in ("a.bin", "b.bin", "c.cfg"):
        (folder / name).touch()
    Path("a.bin").touch()
    conf = read_conf(path)
    assert conf.data_paths == ["a.bin", str(folder / "b.bin")]
    assert conf.config_file == str(folder / "c.cfg")


def test_a_value_with_the_sign_of_comments(tmp_path):
    assert read_conf(write(tmp_path, 'calibration { input_data_dir: "./a#1" }  # one')).data_paths == ["./a#1"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no input_data_dir in its block 'calibration'"),
        ("calibration {\n log: info\n}", "has no input_data_dir"),
        ("calibration {\n input_data_dir: a\n", "has no end: write '}'"),
        ("calibration\n input_data_dir: a\n}", "line 2 of .* should be '{'"),
        (
            "calibration {\n input_data_dirs: a\n}",
            "line 2 .* unknown key 'input_data_dirs'; did you mean 'input_data_dir'",
        ),
        ("calibration {\n zzz: a\n}", "unknown key 'zzz': known are input_data_dir"),
        ("input_data_dir: a\n", "unknown key 'input_data_dir'; move it into or out of the block"),
        ("calibration {\n input_data_dir\n}", "line 2 of .* is not 'key: value'"),
        ("calibration {\n log: info\n log: info\n}", "line 3 of .* 'log' a second time"),
        ("calibration {\n input_data_dir: a\n log: loud\n}", "log is 'loud'"),
        ("calibration {\n input_data_dir: a\n input_shape: x,1\n}", "Invalid input_shape"),
    ],
)
def test_errors(tmp_path, text, words):
    with pytest.raises(AmctError, match=words):
        read_conf(write(tmp_path, text))


def test_calibration(cli, model, tmp_path):
    """The data, the shape and the configuration are the file's, and its level is printed."""
    batch(size=8).tofile(tmp_path / "data.bin")
    (tmp_path / "simple.cfg").write_text('batch_num: 2\nskip_layers: "head/fc"\n')
    lines = f"input_data_dir: {tmp_path}/data.bin\ninput_shape: x:4,8,8,3\nconfig_file: simple.cfg"
    conf = write(tmp_path, f"calibration:\n{{\n{lines}\ninfer_soc: Ascend\nlog: info\n}}\n")
    options = ("calibration", "--model", model, "--save_path", "out/m", "--compression_optimize_conf", conf)
    code, _, err = cli(*options)
    assert code == 0, err
    assert read_record("out/m_record.txt").keys() == {"block/conv", "head/pool"}
    assert "infer_soc have no effect" in err and "INFO - [AMCT]:[quantize_model]" in err


def test_missing_file(failing, model):
    options = ("calibration", "--model", model, "--save_path", "out/m", "--compression_optimize_conf", "x.conf")
    assert "compression_optimize_conf x.conf cannot be read" in failing(*options)
