"""Files under temporary names, until a job has succeeded."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence

from amct_tensorflow.arguments import check_file_path
from amct_tensorflow.errors import AmctError
from amct_tensorflow.files import not_writable


def check_writable(path: str) -> None:
    """Raises an `AmctError` for a path where no file can be written."""
    check_file_path(path, "save_path")
    folder = os.path.dirname(os.path.abspath(path))
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder):
        raise not_writable(path, path, NotADirectoryError(20, "Not a directory"))
    if not os.access(folder, os.W_OK | os.X_OK):
        raise not_writable(path, path, PermissionError(13, f"{folder}: Permission denied"))


def _make_folder(path: str) -> None:
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    except OSError as error:
        raise not_writable(path, path, error) from error


def _stand_in(target: str, earlier: Mapping[str, str]) -> str:
    for other, stand_in in earlier.items():
        start, path = os.path.realpath(other) + ".", os.path.realpath(target)
        if path.startswith(start):
            return f"{stand_in}.{path.removeprefix(start)}"
    return os.path.join(os.path.dirname(target), f".{uuid.uuid4().hex}.tmp")


@contextlib.contextmanager
def staged(targets: Sequence[str]) -> Iterator[list[str]]:
    """Gives paths beside those of the targets, which take their places at the end; after an error they are gone.

    A target whose name continues that of an earlier one gets a path that continues the earlier one's; it need not be
    written. An error names the target in place of its stand-in.
    """
    stand_ins: list[str] = []
    for target in targets:
        stand_ins.append(_stand_in(target, dict(zip(targets, stand_ins, strict=False))))
    try:
        for target in targets:
            _make_folder(target)
        yield stand_ins
        for target, stand_in in zip(targets, stand_ins, strict=True):
            if os.path.exists(stand_in):
                os.replace(stand_in, os.path.realpath(target))
    except AmctError as error:
        message = original = str(error)
        for target, stand_in in zip(targets, stand_ins, strict=True):
            message = message.replace(os.path.basename(stand_in), os.path.basename(target))
        if message == original:
            raise
        raise type(error)(message) from error
    finally:
        for stand_in in stand_ins:
            with contextlib.suppress(OSError):
                os.unlink(stand_in)
