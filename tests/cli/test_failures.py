"""Errors in the words of the command line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import amct_tensorflow as amct
from amct_tensorflow.errors import AmctValueError
from amct_tensorflow_cli.failures import _COMMAND_LINE_WORDS, describe


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
