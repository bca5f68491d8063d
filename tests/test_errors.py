"""The exception family and its hints."""

from __future__ import annotations

import pytest
import tensorflow as tf

from amct_tensorflow.errors import (
    AmctError,
    AmctRuntimeError,
    AmctTypeError,
    AmctValueError,
    did_you_mean,
    sentence_of,
)


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


CREATED = (
    "Graph execution error:\n\nDetected at node 'a' defined at (most recent call last):\n  File 'x.py'\nNode: 'a'\n"
)


@pytest.mark.parametrize(
    "message",
    [
        "It broke at 3: [1,2]",
        "It broke at 3: [1,2]\n\t [[{{node a}}]]",
        "Graph execution error:\n\nIt broke at 3: [1,2]",
        "It broke\n at 3: [1,2]\n\t [[{{node a}}]]\n\t [[b/_7]]",
        CREATED + "It broke at 3: [1,2]\n\t [[{{node a}}]]",
        CREATED
        + CREATED[24:]
        + "2 root error(s) found.\n  (0) INVALID_ARGUMENT: It broke at 3: [1,2]\n\t [[{{node a}}]]\n"
        "\t [[{{node b}}]]\n  (1) INVALID_ARGUMENT: It broke at 4\n\t [[{{node a}}]]\n0 successful operations.",
        "It broke at 3: [1,2]\n\nOriginal stack trace for 'a':\n  File 'x.py'",
    ],
    ids=["plain", "header", "node", "two_lines", "created", "several", "stack"],
)
def test_the_sentence_of_an_op(message):
    assert sentence_of(tf.errors.InvalidArgumentError(None, None, message)) == "It broke at 3: [1,2]"


def test_an_op_error_without_a_message():
    assert sentence_of(tf.errors.CancelledError(None, None, "")) == "CancelledError"
