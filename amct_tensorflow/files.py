"""Reading and writing a file as a whole, with clear errors."""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from amct_tensorflow.errors import AmctRuntimeError, did_you_mean
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
    """Writes one file; see `write_files`."""
    write_files({os.fspath(path): content}, kind=kind)


def write_files(contents: Mapping[str, bytes], *, kind: str) -> None:
    """Writes files atomically, all of them or none, creating their parent directories.

    The content goes to temporary files in the same folders first, so that a killed run leaves old files or new
    ones. A symbolic link is followed, not replaced.

    Args:
        contents: what to write, by path; files that exist are overwritten.
        kind: what the files are, in the error message.

    Raises:
        AmctRuntimeError: a path cannot be written.
    """
    unfinished: dict[Path, Path] = {}
    path = ""
    try:
        for path, content in contents.items():
            target = Path(os.path.realpath(path))
            if target.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished[target] = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
            unfinished[target].write_bytes(content)
        for target, temporary in unfinished.items():
            os.replace(temporary, target)
    except OSError as error:
        raise not_writable(f"{kind} {path}", path, error) from error
    finally:
        for temporary in unfinished.values():
            with contextlib.suppress(OSError):
                temporary.unlink()


def is_same_file(path: str, other: str) -> bool:
    """Tells whether two paths lead to one file, through links too; it need not exist."""
    return os.path.realpath(path) == os.path.realpath(other)


def similar_file(path: str) -> str:
    """Returns ``"; did you mean 'x'?"`` for a path that does not exist, or an empty string."""
    folder, name = os.path.split(path.rstrip("/"))
    siblings = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
    return did_you_mean(name, siblings)


def not_writable(what: str, path: str, error: OSError) -> AmctRuntimeError:
    """Returns the error for a file that cannot be written, `what` in words."""
    file = next((part for part in Path(path).parents if part.is_file()), None)
    reason = error.strerror if file is None else f"{file} is a file, not a folder"
    return AmctRuntimeError(f"{what} cannot be written ({reason}); give a path to a file in a writable folder")


def warn_if_exists(path: str, module: str) -> None:
    """Logs a warning, as the vendor's tool does, if `path` is about to be overwritten."""
    if os.path.exists(path):
        LOGGER.push_warning_message(f"The file already exists at {path}, and it will be overwritten by AMCT", module)
