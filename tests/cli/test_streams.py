"""stdout and stderr of all kinds: without Unicode, closed, full, narrow."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from amct_tensorflow_cli.main import main
from amct_tensorflow_cli.streams import lasting


def start(*arguments: object, **options: object) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), **options.pop("env", {})}
    command = [sys.executable, "-m", "amct_tensorflow_cli", *map(str, arguments)]
    return subprocess.Popen(command, text=True, env=environment, **options)


def calibration(model: object, samples: object) -> tuple[object, ...]:
    return ("calibration", "--model", model, "--save_path", "out/m", "--data_dir", samples)


def test_without_unicode(model):
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    process = start("inspect", "--model", model, stdout=subprocess.PIPE, env=plain)
    out, _ = process.communicate()
    assert process.returncode == 0
    assert "3x3x3x4" in out


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_readers_that_went_away(model, samples, stream):
    """The files are written, and that is success."""
    reader, writer = os.pipe()
    os.close(reader)
    process = start(*calibration(model, samples), **{stream: writer})
    os.close(writer)
    assert process.wait() == 0
    assert len(list(Path("out").iterdir())) == 5


def test_closed_from_the_start(model, samples):
    process = start(*calibration(model, samples), preexec_fn=lambda: os.closerange(1, 3))
    assert process.wait() == 0
    assert len(list(Path("out").iterdir())) == 5


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk():
    with open("/dev/full", "w") as full:
        process = start("--help", stdout=full, stderr=subprocess.PIPE)
        _, err = process.communicate()
    assert process.returncode == 1
    assert err.splitlines() == ["amct_tensorflow: error: stdout: No space left on device"]


class Interrupting:
    """Stands for a module while which is imported Ctrl-C is pressed."""

    __spec__ = None

    def __getattr__(self, name: str) -> object:
        raise KeyboardInterrupt


@pytest.mark.parametrize("module", ["streams", "dispatch"])
def test_an_early_interruption(capsys, monkeypatch, module):
    monkeypatch.setitem(sys.modules, f"amct_tensorflow_cli.{module}", Interrupting())
    assert main(["inspect", "--model", "m.pb"]) == 130
    assert capsys.readouterr().err == "amct_tensorflow: interrupted\n"


class Broken(io.StringIO):
    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error

    def write(self, text: str) -> int:
        raise self._error

    def fileno(self) -> int:
        raise OSError


@pytest.mark.parametrize("error", [BrokenPipeError(), OSError(errno.ENOSPC, "full")], ids=["gone", "full"])
def test_lasting(monkeypatch, error):
    """stderr never fails; stdout fails where not only its reader has gone."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Broken(error))
        patch.setattr(sys, "stderr", Broken(error))
        with lasting():
            print("to nobody", file=sys.stderr)
            if isinstance(error, BrokenPipeError):
                print("to nobody")
            else:
                with pytest.raises(OSError, match=r"full: 'stdout'"):
                    print("to nobody")
