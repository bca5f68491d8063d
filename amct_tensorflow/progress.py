"""Progress of long steps of a command on stderr: a live bar or spinner in a terminal, a few plain lines elsewhere.

While something live is shown, rich takes over sys.stderr and puts the lines of the log above it.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from amct_tensorflow.log import LOGGER

_SHOWN = contextvars.ContextVar("shown", default=False)
_SECONDS_BETWEEN_LINES = 5.0
# The least columns for the bar, and for the speed; the time left is always shown.
_WIDTH_FOR_BAR, _WIDTH_FOR_SPEED = 100, 75


def counted(number: int, one: str, many: str | None = None) -> str:
    """Returns ``"1 layer"`` or ``"3 layers"``."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def are(number: int) -> str:
    """Returns the verb for so many."""
    return "is" if number == 1 else "are"


@contextlib.contextmanager
def shown() -> Iterator[None]:
    """Lets progress be shown; a script that calls functions of the package gets its log only."""
    token = _SHOWN.set(True)
    try:
        yield
    finally:
        _SHOWN.reset(token)


@contextlib.contextmanager
def status(text: str) -> Iterator[None]:
    """Shows what is being done, for a step whose length is not known."""
    if not _SHOWN.get():
        yield
        return
    console = _Screen(stderr=True)
    if console.is_terminal:
        dots, spinner = ("...", "line") if console.options.ascii_only else ("…", "dots")
        with console.status(Text(f"{text} {dots}", overflow="ellipsis", no_wrap=True), spinner=spinner):
            yield
    else:
        print(f"{text} ...", file=sys.stderr, flush=True)
        yield


@contextlib.contextmanager
def batches(text: str, *, batches: int, batch_size: int, unit: str = "sample") -> Iterator[Callable[[], None]]:
    """Shows how far a loop over batches is; the function that it gives is to be called after each batch.

    `text` says what the loop does, `unit` what batch_size counts, one of them.
    """
    if not _SHOWN.get():
        yield lambda: None
        return
    console = _Screen(stderr=True)
    if not console.is_terminal:
        yield _PlainLines(text, batches, batch_size, unit).advance
        return
    with Progress(*_columns(console), console=console, transient=True) as bar:
        task = bar.add_task(text, total=batches, speed="")
        start, done = time.monotonic(), 0

        def advance() -> None:
            nonlocal done
            done += 1
            speed = done * batch_size / max(time.monotonic() - start, 1e-9)
            bar.update(task, advance=1, speed=f"{speed:.1f} {unit}s/s")

        yield advance


def _columns(console: Console) -> list[ProgressColumn]:
    columns: list[ProgressColumn] = [
        SpinnerColumn("line" if console.options.ascii_only else "dots"),
        TextColumn("{task.description}"),
    ]
    if console.width >= _WIDTH_FOR_BAR:
        columns.append(BarColumn(20))
    columns.append(TextColumn("{task.completed}/{task.total} batches"))
    if console.width >= _WIDTH_FOR_SPEED:
        columns.append(TextColumn("{task.fields[speed]}"))
    return [*columns, TimeRemainingColumn(compact=True), TextColumn("left")]


class _Screen(Console):
    """Leaves it to the terminal to wrap lines of the log, so that they can be searched and copied as they are."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints, a plain text as it is."""
        if len(objects) == 1 and isinstance(objects[0], Text):
            options["soft_wrap"] = True
        super().print(*objects, **options)


class _PlainLines:
    """The first and the last batch, and one line every few seconds between them."""

    def __init__(self, text: str, batches: int, batch_size: int, unit: str) -> None:
        self._batches, self._batch_size, self._done, self._unit = batches, batch_size, 0, unit
        self._start = self._last = time.monotonic()
        self._print(f"{text} with {counted(batches, 'batch', 'batches')} of {counted(batch_size, unit)} ...")

    def advance(self) -> None:
        """Counts a batch."""
        self._done += 1
        now = time.monotonic()
        if self._done == self._batches or now - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = now
            per_batch = (now - self._start) / self._done
            left = f", {(self._batches - self._done) * per_batch:.0f} s left" if self._done < self._batches else ""
            speed = self._batch_size / max(per_batch, 1e-9)
            self._print(f"batch {self._done} of {self._batches}, {speed:.1f} {self._unit}s/s{left}")

    @staticmethod
    def _print(line: str) -> None:
        print(line, file=sys.stderr, flush=True)


class _Calm(logging.Filter):
    """Passes a message once, and none that a closing summary repeats."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Tells whether a record is printed."""
        message = record.getMessage()
        repeated = message in self._seen or "left float because" in message or "will be overwritten by AMCT" in message
        self._seen.add(message)
        return not repeated


@contextlib.contextmanager
def calm_screen() -> Iterator[None]:
    """Keeps lines off the screen that were printed before or that a closing summary has; the log file gets them."""
    with LOGGER.filtered_console(_Calm()):
        yield
