"""Calibration keeps at most 2 MB of a tensor, however many values it sees, but for the second moments.

The numerics compile by themselves, with Eigen.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from amct_tensorflow.ops import build

MOST_BYTES = 2_000_000
MOST_BLOCK = 1024  # inputs of a weight, whose second moments are kept together
SOURCE = Path(__file__).with_name("state_size.cc")
FLAGS = ("-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=undefined")


@pytest.fixture(scope="module")
def state_size(compiler, numerics, tmp_path_factory) -> subprocess.CompletedProcess:
    """The finished run of state_size.cc."""
    program = tmp_path_factory.mktemp("state_size") / "state_size"
    subprocess.run([*compiler, *FLAGS, str(SOURCE), *numerics, "-o", str(program)], check=True)
    return subprocess.run([str(program)], capture_output=True, text=True, check=False)


@pytest.fixture
def cases(state_size) -> list[list[str]]:
    """One [name, bytes, "usable"] per case."""
    lines = [line.split() for line in state_size.stdout.splitlines()]
    assert len(lines) >= 30
    return lines


def test_state_is_bounded(state_size, cases):
    assert state_size.returncode == 0
    others = {name: int(size) for name, size, _ in cases if not name.startswith("moments_")}
    assert {name: size for name, size in others.items() if size > MOST_BYTES} == {}


def test_moments_take_memory_by_their_inputs(cases):
    """Of K inputs a weight K * min(K, MOST_BLOCK) floats, and 32 bytes of each value and group, for any data."""
    of_moments = [(name.split("_"), int(size)) for name, size, _ in cases if name.startswith("moments_")]
    assert len(of_moments) == 6
    for (_, groups, width, taps), size in of_moments:
        inputs = int(width) * int(taps)
        values = int(groups) * inputs
        gram = 4 * values * min(inputs, MOST_BLOCK)
        assert gram * 3 / 4 < size - 32 * (values + int(groups)) <= gram + 500, (groups, width, taps)


def test_hfmg_keeps_its_bins_only(cases):
    assert {int(size) <= 8 * 8192 + 200 for name, size, _ in cases if name.startswith("hfmg_")} == {True}


def test_factors_are_usable(cases):
    assert [name for name, _, usable in cases if usable != "usable"] == []


def test_behaviour_is_defined(state_size):
    """The sanitizer reports, for example, integers that overflow."""
    assert state_size.stderr == ""


def test_every_numeric_header_was_compiled(compiler):
    rule = subprocess.run([*compiler, "-MM", str(SOURCE)], capture_output=True, text=True, check=True).stdout
    compiled = {Path(word).name for word in rule.split() if "/numerics/" in word}
    of_sources = {"dense_copy.h", "dense_eigen.h"}  # which the numerics' own sources include
    assert compiled | of_sources == {path.name for path in (build.OPS_DIR / "numerics").glob("*.h")}
