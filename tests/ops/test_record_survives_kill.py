"""A calibration that is killed leaves the record file of some earlier moment, whole, and so is the file beside it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from amct_tensorflow.ops import build
from amct_tensorflow.record import LayerRecord, read_record, read_rounding

FOLDER = Path(__file__).parent
LAYERS = 1500


def wait_for(condition: Callable[[], bool], process: subprocess.Popen) -> None:
    """Waits as long as it takes; a process that ends before fails the test."""
    while not condition():
        assert process.poll() is None, "the process has ended"
        time.sleep(0.001)


def test_ops_that_are_killed(tmp_path):
    path = tmp_path / "record.txt"
    package = str(FOLDER.parents[1])
    process = subprocess.Popen(
        [sys.executable, str(FOLDER / "calibrate_many_layers.py"), str(path), str(LAYERS), "4"],
        env=os.environ | {"PYTHONPATH": package, "TF_CPP_MIN_LOG_LEVEL": "3"},
        cwd=tmp_path,
        stdin=subprocess.PIPE,
    )
    try:
        wait_for(lambda: path.exists() and path.read_text().count("scale_d") >= 2, process)
    finally:
        process.kill()
    assert process.wait() == -9  # killed at work, or where it waits before the last layer
    done = read_calibrated(path)
    assert 2 <= done < LAYERS


def read_calibrated(path: Path) -> int:
    """Returns how many layers have factors; these come first, are right, and the others have none."""
    records = list(read_record(path).items())
    assert [name for name, _ in records] == [f"net/layer_{i}/Conv2D" for i in range(LAYERS)]
    done = sum(record.scale_d is not None for _, record in records)
    untouched = LayerRecord(scale_w=(1.0,), offset_w=(0,))
    for i, (_, record) in enumerate(records):
        scale = float(np.float32(i + 1) / np.float32(255))
        assert record == (replace(untouched, scale_d=scale, offset_d=-128) if i < done else untouched)
    return done


@pytest.fixture(scope="module")
def record_writer(compiler, numerics, tmp_path_factory) -> Path:
    """The program of record_writer.cc."""
    program = tmp_path_factory.mktemp("record_writer") / "record_writer"
    books = [build.OPS_DIR / "calibration" / f"{name}_book.cc" for name in ("record", "rounding")]
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread"]
    command = [*compiler, *flags, FOLDER / "record_writer.cc", *books, *numerics, "-o", program]
    subprocess.run([str(part) for part in command], check=True)
    return program


def test_many_kills_while_writing(record_writer, tmp_path):
    path = tmp_path / "record.txt"
    random.seed(0)
    for _ in range(20):
        path.unlink(missing_ok=True)
        process = subprocess.Popen([str(record_writer), str(path), "300"], cwd=tmp_path)
        try:
            wait_for(path.exists, process)
            time.sleep(random.uniform(0, 0.02))  # so that it is somewhere in its work
        finally:
            process.kill()
        assert process.wait() == -9
        assert_one_moment(path)


def assert_one_moment(path: Path) -> None:
    """All layers are of the same write, and those of scale_d k + 1 of scale_w k.

    The file beside the record, here of layers that ask for the nearest integers, is whole, and there once they have
    scale_d.
    """
    records = read_record(path)
    assert len(records) == 300
    (record,) = set(records.values())
    (write,) = record.scale_w
    offset = int(write) % 256 - 128
    assert (record.scale_d, record.offset_d) in [(None, None), (write + 1, offset)]
    rounding = read_rounding(path)
    if record.scale_d is not None or rounding is not None:
        assert rounding == dict.fromkeys(records)
