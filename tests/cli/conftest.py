"""Running commands in this process, where TensorFlow is there already."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from small_graphs import batch, conv_net, freeze

import amct_tensorflow as amct
from amct_tensorflow_cli.main import main


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys) -> Callable[..., Result]:
    """Runs a command line; its output then is in the result."""

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Result(code, *capsys.readouterr())

    yield run
    amct.set_logging_level("info", "info")


@pytest.fixture
def failing(cli) -> Callable[..., str]:
    """Runs a command line that fails; returns its one line of error."""

    def run(*arguments: object, code: int = 1) -> str:
        result = cli(*arguments)
        assert result.code == code, result
        assert "Traceback" not in result.err
        line = [line for line in result.err.splitlines() if line.startswith("amct_tensorflow: error: ")]
        assert len(line) == 1, result.err
        return line[0]

    return run


@pytest.fixture
def model(tmp_path) -> str:
    """conv_net: x [?, 8, 8, 3] -> out, 3 layers."""
    return freeze(conv_net(), tmp_path / "model.pb")


@pytest.fixture
def nearest(tmp_path) -> tuple[str, str]:
    """Options of a calibration whose model is the one that `convert` makes of its record."""
    path = tmp_path / "nearest.cfg"
    path.write_text("batch_num: 1 weight_rounding: nearest bias_correction: false")
    return "--calibration_config", str(path)


@pytest.fixture
def data(tmp_path) -> Path:
    """Four .bin batches of 4 for `model`."""
    folder = tmp_path / "data"
    folder.mkdir()
    for at in range(4):
        batch(at).tofile(folder / f"{at}.bin")
    return folder


@pytest.fixture
def samples(tmp_path) -> Path:
    """24 samples for `model` in one array."""
    np.save(tmp_path / "samples.npy", batch(size=24))
    return tmp_path / "samples.npy"
