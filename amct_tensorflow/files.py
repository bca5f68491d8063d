"""Reading and writing a file as a whole, with clear errors."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from amct_tensorflow.errors import AmctRuntimeError
from amct_tensorflow.log import LOGGER


def read_file(path: str | os.PathLike[str], *, kind: str, remedy: str) -> bytes:
    """Returns the content of a file.

    Args:
        path: the file.
        kind: what the file is, in the error message: ``"record file"``.
        remedy: what the user should do when it cannot be read.

    Raises:
        AmctRuntimeError: the file does not exist, is a directory or may not be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise AmctRuntimeError(f"{kind} {path} cannot be read ({error.strerror}); {remedy}") from error


def write_file(path: str | os.PathLike[str], content: bytes, *, kind: str) -> None:
    """Writes a file atomically, creating its parent directories.

    The content goes to a temporary file in the same folder first, so that a killed run leaves the old file or
    the new one. A symbolic link is followed, not replaced.

    Args:
        path: the file; one that exists is overwritten.
        content: what to write.
        kind: what the file is, in the error message.

    Raises:
        AmctRuntimeError: the path cannot be written.
    """
    target = Path(os.path.realpath(path))
    unfinished = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            unfinished.write_bytes(content)
            os.replace(unfinished, target)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise AmctRuntimeError(
            f"{kind} {path} cannot be written ({error.strerror}); give a path to a file in a writable folder"
        ) from error


def warn_if_exists(path: str, module: str) -> None:
    """Logs a warning, as the vendor's tool does, if `path` is about to be overwritten."""
    if os.path.exists(path):
        LOGGER.push_warning_message(
            f"The file already exists at {os.path.abspath(path)}, and it will be overwritten by AMCT", module
        )
