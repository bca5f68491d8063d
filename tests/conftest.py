"""Fixtures for all tests."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No test may depend on the machine being idle.
settings.register_profile("amct", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("amct")

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "graph_passes")]  # for the helpers of all


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real models, data and golden vectors, beside the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the real models and data in {folder}")
    return folder


@pytest.fixture(autouse=True)
def _own_working_directory(tmp_path_factory, monkeypatch):
    """Keeps amct_log out of the repository."""
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))


@functools.cache
def _load_cases(folder: Path, name: str) -> list[dict]:
    content = json.loads((folder / "golden" / f"{name}.json").read_text())
    return content["cases"] if isinstance(content, dict) else content  # some have a note beside them


@functools.cache
def _load_inputs(folder: Path):
    spec = importlib.util.spec_from_file_location("golden_inputs", folder / "golden" / "inputs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def golden_batches(shared):
    """Returns the batches of a case of a golden file."""
    if not (shared / "golden").is_dir():
        pytest.skip(f"needs the golden vectors in {shared}")
    return _load_inputs(shared).make


@pytest.fixture
def golden(shared, golden_batches):
    """Returns the cases of one golden file, each with its batches."""
    return lambda name: [(case, golden_batches(case)) for case in _load_cases(shared, name)]
