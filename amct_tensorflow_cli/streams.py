"""The program's stdout and stderr, which must not be what stops a job."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any


class Lasting:
    """A stream that swallows what is written after its reader has gone; of stdout, other errors are told once."""

    def __init__(self, stream: Any, name: str, *, must_work: bool) -> None:
        self._stream, self._name, self._must_work = stream, name, must_work

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes, as streams do."""
        with self._guarded():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """Writes, as streams do."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Writes what is left."""
        with self._guarded():
            self._stream.flush()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            # What is still in its buffer must go somewhere, or Python complains when it ends.
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            if self._must_work and not isinstance(error, BrokenPipeError):
                raise OSError(error.errno, error.strerror, self._name) from error


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Has stdout and stderr outlive their readers, and print "?" for what their encoding does not have."""
    before = sys.stdout, sys.stderr
    # A closed one is None; its descriptor must not become that of a file which then gets the lines of C++ code.
    streams = [os.fdopen(os.open(os.devnull, os.O_WRONLY), "w") if stream is None else stream for stream in before]
    for stream in streams:
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    sys.stdout = Lasting(streams[0], "stdout", must_work=True)  # type: ignore[assignment]
    sys.stderr = Lasting(streams[1], "stderr", must_work=False)  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
