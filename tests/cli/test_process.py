"""The program as a process of its own, in a fresh folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from amct_tensorflow import __version__

WITHOUT_TENSORFLOW = """
import sys
from amct_tensorflow_cli.main import main
code = main(sys.argv[1:])
assert not any(name.partition(".")[0] in ("tensorflow", "amct_tensorflow", "numpy") for name in sys.modules)
sys.exit(code)
"""


def program(*arguments: object, launcher: tuple[str, ...] = ("-m", "amct_tensorflow_cli")):
    command = [sys.executable, *launcher, *map(str, arguments)]
    environment = {key: value for key, value in os.environ.items() if key != "TF_CPP_MIN_LOG_LEVEL"}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize(
    ("arguments", "code", "shown"),
    [
        (("--help",), 0, "usage:"),
        (("calibration", "--help"), 0, "usage:"),
        (("--version",), 0, f"amct_tensorflow {__version__}\n"),
        (("inspect",), 2, "--model is missing"),
        (("calibration", "--model", "m", "--save_path", "s", "--data_dir", "d", "--input_shape", "x"), 2, "Invalid"),
    ],
    ids=["help", "calibration", "version", "missing", "shape"],
)
def test_no_tensorflow_for_that(arguments, code, shown):
    result = program(*arguments, launcher=("-c", WITHOUT_TENSORFLOW))
    assert result.returncode == code, result.stderr
    assert shown in result.stdout + result.stderr


def test_a_whole_day(model, data, nearest):
    """inspect, calibration and convert print what they must, and nothing of TensorFlow's."""
    shown = program("inspect", "--model", model)
    assert shown.returncode == 0
    assert shown.stderr == f"reading {model} ...\n"
    assert '--input_shape "x:32,8,8,3"' in shown.stdout
    made = program(
        *("calibration", "--model", model, "--save_path", "out/m", "--data_dir", data, "--batch_num", 4),
        *("--input_shape", "x:4,8,8,3", "--data_types", "float32", *nearest),
        launcher=("-m", "amct_tensorflow"),
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("3 of 3 layers are quantized\ncalibrated with 16 samples in ")
    assert " s\nwritten:\n  out/m_quantized.pb " in made.stdout
    assert f"log: {os.path.abspath('amct_log/amct_tensorflow.log')}\nnext: " in made.stdout
    again = program("convert", "--model", model, "--record_file", "out/m_record.txt", "--save_path", "again/m")
    assert again.returncode == 0 and again.stderr == f"converting {model} ...\n"
    assert Path("again/m_quantized.pb").read_bytes() == Path("out/m_quantized.pb").read_bytes()
    assert "[save_model]" in Path("amct_log/amct_tensorflow.log").read_text()


def test_a_failed_job():
    result = program("inspect", "--model", "m.pb")
    assert result.returncode == 1
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert lines[0] == "reading m.pb ..."
    assert lines[1].startswith("amct_tensorflow: error: the model m.pb does not exist") and len(lines) == 2


def test_a_reader_that_went_away():
    """``amct_tensorflow … | head`` ends without a word, and with success."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "amct_tensorflow_cli", "--help"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    os.close(writer)
    assert (result.returncode, result.stderr) == (0, "")


# The signal may come at any moment after "here"; the hour is for a program that does not hear it.
EVALUATOR = """
import time
class Evaluator:
    def calibration(self, graph, outputs):
        print("here", flush=True)
        for _ in range(36_000):
            time.sleep(0.1)
customize_evaluator = Evaluator()
"""


def test_interrupted(model):
    Path("eva.py").write_text(EVALUATOR)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "amct_tensorflow_cli", "calibration", "--model", model]
    process = subprocess.Popen(
        [*command, "--save_path", "out/m", "--evaluator", "eva.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        # Ignored where the tests run in the background of a script, and then by all their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None and process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert err.splitlines()[-1] == "amct_tensorflow: interrupted" and "Traceback" not in err
