"""Errors of a job in one line."""

from __future__ import annotations

import tensorflow as tf

from amct_tensorflow.errors import AmctError, sentence_of

# What the functions say -> what it is on the command line.
_COMMAND_LINE_WORDS = {
    "Open a session after quantize_model and run all outputs of its graph batch_num times, then call save_model": (
        "the evaluator must run all outputs batch_num times, in a session that it opens itself"
    ),
    "calibrate it with quantize_model, or pass its factors to convert_model": (
        "use the command calibration, or give --record_file"
    ),
    "calibrate first with quantize_model, or correct record_file": (
        "calibrate first with the command calibration, or correct --record_file"
    ),
    "or pass None for the defaults": "or leave the option out",
    "of the model that quantize_model made": "of the model",
    "config_defination": "--calibration_config",
    "call convert_qat_model": "use the command convert",
    "give mean and std": "give --mean and --std",
    "to skip_layers": "to skip_layers of a .cfg for --calibration_config",
}


def describe(error: BaseException) -> str:
    """Returns what went wrong, without TensorFlow's dump of nodes."""
    if isinstance(error, tf.errors.OpError):
        return _for_command_line(sentence_of(error))
    if isinstance(error, AmctError):
        return _for_command_line(" ".join(str(error).split()))
    if isinstance(error, MemoryError):
        return "there is not enough memory: take a smaller batch size"
    return f"{type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}; with -v the traceback is printed"


def _for_command_line(message: str) -> str:
    """Returns a message of the functions with what a user of the command line calls these things."""
    for words, ours in _COMMAND_LINE_WORDS.items():
        message = message.replace(words, ours)
    return message
