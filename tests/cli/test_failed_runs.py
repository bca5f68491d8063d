"""A run that fails leaves the results of the one before, and no other files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from small_graphs import batch

from amct_tensorflow.post_training import one_call


def results() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path("out").iterdir()}


@pytest.fixture
def options(cli, model, samples) -> tuple[object, ...]:
    """A calibration that was run before."""
    options = ("calibration", "--model", model, "--save_path", "out/m", "--data_dir", samples)
    assert cli(*options).code == 0
    return options


def test_a_failed_calibration(failing, options, samples):
    before = results()
    values = batch(size=24)
    values[0, 0, 0, 0] = np.nan
    np.save(samples, values)
    failing(*options)
    assert len(before) == 5 and results() == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()], ids=["interrupt", "memory"])
@pytest.mark.parametrize("step", ["quantize_model", "save"])
def test_an_interrupted_one(cli, options, monkeypatch, step, error):
    def fail(*_):
        raise error

    before = results()
    monkeypatch.setattr(one_call, step, fail)
    assert cli(*options).code != 0
    assert results() == before


EVALUATOR = """
import sys
class Evaluator:
    def calibration(self, graph, outputs):
        {}
customize_evaluator = Evaluator()
"""


@pytest.mark.parametrize(("body", "words"), [("sys.exit(3)", "line 5: SystemExit: 3"), ("pass", "is not finished")])
def test_an_evaluator_that_does_nothing(failing, options, body, words):
    """Also one that ends the program: it is told, and the record is called by its own name."""
    before = results()
    Path("eva.py").write_text(EVALUATOR.format(body))
    line = failing(*options[:5], "--evaluator", "eva.py")
    assert words in line and ".tmp" not in line
    assert "quantize_model" not in line
    assert results() == before


def test_an_evaluator_that_is_a_folder(failing, options):
    assert "evaluator out is a folder" in failing(*options[:5], "--evaluator", "out")


def test_below_a_file(failing, model, samples):
    line = failing("calibration", "--model", model, "--save_path", f"{model}/m", "--data_dir", samples)
    assert f"{model} is a file, not a folder" in line


def test_a_folder_without_permission(failing, model, samples, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    line = failing("calibration", "--model", model, "--save_path", "o/m", "--data_dir", samples)
    assert "o/m_config.json cannot be written" in line and "Permission denied" in line


def test_a_result_that_is_a_folder(failing, model, samples):
    os.makedirs("out/m_record.txt")
    line = failing("calibration", "--model", model, "--save_path", "out/m", "--data_dir", samples)
    assert "'out/m_record.txt' is a folder" in line
    assert [path.name for path in Path("out").iterdir()] == ["m_record.txt"]


def test_a_file_of_somebody_else_in_the_place_of_a_result(failing, model, samples):
    os.makedirs("out")
    Path("out/m_record.txt.safetensors").write_bytes(b"weights")
    line = failing("calibration", "--model", model, "--save_path", "out/m", "--data_dir", samples)
    assert "out/m_record.txt.safetensors is in the place of" in line and "choose another save_path" in line
    assert Path("out/m_record.txt.safetensors").read_bytes() == b"weights"
    assert [path.name for path in Path("out").iterdir()] == ["m_record.txt.safetensors"]


def test_a_prefix_without_room_for_the_longest_ending(failing, model, samples):
    line = failing("calibration", "--model", model, "--save_path", "out/" + "m" * 230, "--data_dir", samples)
    assert "has 241 bytes, but at most 232" in line and "choose a shorter save_path" in line
    assert not Path("out").exists()
