"""Control edges that order nothing are told from those that do."""

from __future__ import annotations

import pytest

from amct_tensorflow.graph.waits import idle_ops

KINDS = {
    "x": "Placeholder",
    "w": "Const",
    "late": "Const",
    "read": "Identity",
    "start": "NoOp",
    "end": "NoOp",
    "layer": "Conv2D",
    "passed": "Identity",
    "printed": "PrintV2",
    "all": "NoOp",
}
NEEDS = {
    "x": [],
    "w": [],
    "late": ["start"],
    "read": ["w", "start"],
    "start": ["x"],
    "end": ["read", "late"],
    "layer": ["x", "read"],
    "passed": ["layer"],
    "printed": ["x"],
    "all": ["end", "printed"],
}


def test_what_is_idle():
    assert idle_ops(KINDS, NEEDS) == {"x", "w", "late", "read", "start", "end"}


@pytest.mark.parametrize("kind", ["Switch", "VarHandleOp", "Assert"])
def test_nothing_behind_what_does_something_is_idle(kind):
    assert idle_ops({**KINDS, "x": kind}, NEEDS) == {"w"}


def test_a_loop_ends():
    kinds = {"a": "Identity", "b": "Identity", "c": "NoOp"}
    assert idle_ops(kinds, {"a": ["b"], "b": ["a"], "c": ["a"]}) == set()


def test_an_op_that_is_needed_twice():
    assert idle_ops({"w": "Const", "a": "NoOp"}, {"w": [], "a": ["w", "w"]}) == {"w", "a"}
