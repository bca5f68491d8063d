"""The one family of exceptions: every error a user can cause is an `AmctError`.

Each is also the built-in exception that the vendor's tool raises in its place, so that existing
``except ValueError`` or ``except RuntimeError`` blocks go on working. A message is one sentence: the layer or
field, what is wrong with it, and the remedy.
"""

from __future__ import annotations

import difflib
import re
import textwrap
from collections.abc import Iterable
from typing import Any

_COLOURS = re.compile(r"\x1b\[\d*m")
# Keras says before it in which call of which layer it was, and behind it with which arguments.
_REASON_OF_KERAS = re.compile(
    r".*Exception encountered when calling [^\n]*\n\s*\n\s*(.*?)\s*\n\s*\n\s*Arguments received", re.DOTALL
)

_HEADER = re.compile(r"Graph execution error:\s*")
# TensorFlow puts where the nodes were created and, for several errors, a header before the sentence of an op, or the
# function that it makes of an op outside of a session; nodes behind it.
_CREATED_AT = re.compile(r".*\nNode: '[^\n]*'\n|\{\{function_node [^}]*\}\}\s*", re.DOTALL)
_NODES = re.compile(r"\s*\[\[|\n\s*\n|\n?Original stack trace|\s*\[Op:")
_FIRST_OF_SEVERAL = re.compile(r"root error\(s\) found\.\s*\(0\)\s*[A-Z_ ]+:\s*(.*)", re.DOTALL)


class AmctError(Exception):
    """Base of every error that this package raises on purpose."""


class AmctValueError(AmctError, ValueError):
    """An argument, configuration field, record entry or model has a value that cannot be used."""


class AmctTypeError(AmctError, TypeError):
    """An argument or configuration field has the wrong type."""


class AmctRuntimeError(AmctError, RuntimeError):
    """A step cannot be done in the present state: not calibrated, not writable, no compiled ops."""


def reason_of(error: BaseException) -> str:
    """Returns the message of somebody else's error in one line that is not too long."""
    text = _COLOURS.sub("", str(error)).strip()
    of_keras = _REASON_OF_KERAS.search(text)
    if of_keras:
        text = of_keras[1]
    elif text.startswith("in user code:"):  # AutoGraph puts the lines that led to it before
        text = text.splitlines()[-1]
    return textwrap.shorten(text, 300, placeholder=" …") or type(error).__name__


def sentence_of(error: Any) -> str:
    """Returns the sentence of the op that raised a ``tf.errors.OpError``."""
    message = _CREATED_AT.sub("", error.message or type(error).__name__, count=1)
    message = _HEADER.sub("", message, count=1)
    several = _FIRST_OF_SEVERAL.search(message)
    message = several.group(1) if several else message
    return " ".join(_NODES.split(message.strip(), maxsplit=1)[0].split())


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Returns ``"; did you mean 'x'?"`` for the known name closest to `name`, or an empty string."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not close:
        # A forgotten or different scope is the common slip: compare the last components too.
        tails = {candidate.rsplit("/", 1)[-1]: candidate for candidate in reversed(known)}
        tail = difflib.get_close_matches(name.rsplit("/", 1)[-1], list(tails), n=1, cutoff=0.8)
        close = [tails[tail[0]]] if tail else []
    return f"; did you mean '{close[0]}'?" if close else ""
