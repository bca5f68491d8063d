"""Errors of a job in one line."""

from __future__ import annotations

import re

import tensorflow as tf

from amct_tensorflow.errors import AmctError

# TensorFlow puts where the nodes were created and, for several errors, a header before the sentence; nodes behind it.
_CREATED_AT = re.compile(r".*\nNode: '[^\n]*'\n", re.DOTALL)
_NODES = re.compile(r"\s*\[\[|\n\s*\n|\n?Original stack trace")
_FIRST_OF_SEVERAL = re.compile(r"root error\(s\) found\.\s*\(0\)\s*[A-Z_ ]+:\s*(.*)", re.DOTALL)


def describe(error: BaseException) -> str:
    """Returns what went wrong, without TensorFlow's dump of nodes."""
    if isinstance(error, tf.errors.OpError):
        return op_sentence(error)
    if isinstance(error, AmctError):
        return " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return "there is not enough memory: take a smaller batch size"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return f"{type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}; with -v the traceback is printed"


def op_sentence(error: tf.errors.OpError) -> str:
    """Returns the sentence that the op raised."""
    message = _CREATED_AT.sub("", error.message or type(error).__name__, count=1)
    several = _FIRST_OF_SEVERAL.search(message)
    message = several.group(1) if several else message
    return " ".join(_NODES.split(message.strip(), maxsplit=1)[0].split())
