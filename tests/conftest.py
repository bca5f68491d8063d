"""Fixtures for all tests."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No test may depend on the machine being idle.
settings.register_profile("amct", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("amct")

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent))  # for the helpers beside the tests


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
