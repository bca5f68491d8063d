"""The one line that is left of TensorFlow's errors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tensorflow as tf

import amct_tensorflow as amct
from amct_tensorflow.errors import AmctValueError
from amct_tensorflow_cli.failures import _COMMAND_LINE_WORDS, describe, op_sentence

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


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("config_defination x.cfg is wrong", "--calibration_config x.cfg is wrong"),
        ("repair them, or add the layer to skip_layers", "add the layer to skip_layers of a .cfg for --calib"),
        ("calibrate it with quantize_model, or pass its factors to convert_model", "use the command calibration"),
    ],
)
def test_words_of_the_command_line(message, shown):
    assert shown in describe(AmctValueError(message))


@pytest.mark.parametrize("words", list(_COMMAND_LINE_WORDS))
def test_the_words_that_are_replaced_are_said(words):
    """A message that was changed would be left as it is."""
    sources = [
        path.read_text() for path in Path(amct.__file__).parent.rglob("*") if path.suffix in (".py", ".h", ".cc")
    ]
    assert any(words in re.sub(r'"\s*\n\s*f?"', "", source) for source in sources)
