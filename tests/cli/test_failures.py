"""The one line that is left of TensorFlow's errors."""

from __future__ import annotations

import pytest
import tensorflow as tf

from amct_tensorflow_cli.failures import op_sentence

CREATED = (
    "Graph execution error:\n\nDetected at node 'a' defined at (most recent call last):\n  File 'x.py'\nNode: 'a'\n"
)


@pytest.mark.parametrize(
    "message",
    [
        "It broke at 3: [1,2]",
        "It broke at 3: [1,2]\n\t [[{{node a}}]]",
        "It broke\n at 3: [1,2]\n\t [[{{node a}}]]\n\t [[b/_7]]",
        CREATED + "It broke at 3: [1,2]\n\t [[{{node a}}]]",
        CREATED
        + CREATED[24:]
        + "2 root error(s) found.\n  (0) INVALID_ARGUMENT: It broke at 3: [1,2]\n\t [[{{node a}}]]\n"
        "\t [[{{node b}}]]\n  (1) INVALID_ARGUMENT: It broke at 4\n\t [[{{node a}}]]\n0 successful operations.",
        "It broke at 3: [1,2]\n\nOriginal stack trace for 'a':\n  File 'x.py'",
    ],
    ids=["plain", "node", "two_lines", "created", "several", "stack"],
)
def test_sentence(message):
    assert op_sentence(tf.errors.InvalidArgumentError(None, None, message)) == "It broke at 3: [1,2]"


def test_no_message():
    assert op_sentence(tf.errors.CancelledError(None, None, "")) == "CancelledError"
