"""Importing TensorFlow without its chatter."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator

from rich.console import Console

from amct_tensorflow_cli.streams import Lasting


def import_package(*, verbose: bool) -> None:
    """Imports amct_tensorflow, and TensorFlow with it."""
    if verbose:
        importlib.import_module("amct_tensorflow")
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    warnings.simplefilter("ignore")
    if "amct_tensorflow" not in sys.modules:
        with _native_stderr_hidden(), _spinner():
            importlib.import_module("amct_tensorflow")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)


@contextlib.contextmanager
def _native_stderr_hidden() -> Iterator[None]:
    """Hides what C++ code writes to stderr while it loads, before its log level counts; Python's lines are shown."""
    try:
        ours = sys.stderr.fileno() == 2
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:  # nobody sees descriptor 2, or it is not ours to redirect
        yield
        return
    sys.stderr.flush()
    kept, before = os.dup(2), sys.stderr
    with (
        open(os.devnull, "wb") as null,
        os.fdopen(kept, "w", buffering=1, encoding=before.encoding, errors="replace") as shown,
    ):
        os.dup2(null.fileno(), 2)
        sys.stderr = Lasting(shown, "stderr", must_work=False)  # type: ignore[assignment]
        try:
            yield
        finally:
            sys.stderr.flush()
            sys.stderr = before
            os.dup2(kept, 2)


def _spinner() -> contextlib.AbstractContextManager[object]:
    console = Console(stderr=True)
    if not console.is_terminal:
        return contextlib.nullcontext()
    ascii_only = console.options.ascii_only
    return console.status(
        "starting TensorFlow ..." if ascii_only else "starting TensorFlow …", spinner="line" if ascii_only else "dots"
    )
