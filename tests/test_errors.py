"""The exception family and its hints."""

from __future__ import annotations

import pytest

from amct_tensorflow.errors import AmctError, AmctRuntimeError, AmctTypeError, AmctValueError, did_you_mean


@pytest.mark.parametrize(
    ("error", "builtin"),
    [(AmctValueError, ValueError), (AmctTypeError, TypeError), (AmctRuntimeError, RuntimeError)],
)
def test_each_is_also_the_built_in(error, builtin):
    assert issubclass(error, AmctError) and issubclass(error, builtin)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("block/con", "block/conv"),
        ("conv", "block/conv"),
        ("other/Conv2D_1", "stem/Conv2D_1"),
        ("nothing/like/it", None),
    ],
)
def test_did_you_mean(name, hint):
    text = did_you_mean(name, ["block/conv", "stem/Conv2D_1"])
    assert text == (f"; did you mean '{hint}'?" if hint else "")


def test_did_you_mean_without_candidates():
    assert did_you_mean("x", []) == ""
