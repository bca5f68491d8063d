"""Progress in a terminal and elsewhere."""

from __future__ import annotations

import contextlib
import contextvars
import io
import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from amct_tensorflow import progress
from amct_tensorflow.log import LOGGER


@pytest.fixture(autouse=True)
def _shown():
    with progress.shown():
        yield


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@contextlib.contextmanager
def terminal() -> Iterator[Terminal]:
    """Puts one in the place of stderr; not a fixture, since pytest replaces stderr between setup and test."""
    with pytest.MonkeyPatch.context() as patch:
        screen = Terminal()
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", "100")
        patch.setattr(sys, "stderr", screen)
        yield screen
        assert sys.stderr is screen


def test_plain_lines(capsys, monkeypatch):
    """The first and the last, and one every few seconds."""
    clock = iter(range(0, 100, 2))
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: float(next(clock))))  # no one else's clock
    with progress.batches("calibrating 3 layers", batches=6, batch_size=8) as advance:
        for _ in range(6):
            advance()
    assert capsys.readouterr().err.splitlines() == [
        "calibrating 3 layers with 6 batches of 8 samples ...",
        "batch 3 of 6, 4.0 samples/s, 6 s left",
        "batch 6 of 6, 4.0 samples/s",
    ]


def test_nothing_outside_of_commands(capsys):
    context = contextvars.Context()  # in which nobody has called shown()
    with terminal() as screen:
        context.run(_make_progress)
    assert screen.getvalue() == capsys.readouterr().err == ""


def _make_progress() -> None:
    with progress.status("saving"), progress.batches("calibrating", batches=1, batch_size=8) as advance:
        advance()


def test_a_bar_with_log_lines_above_it():
    with terminal() as screen, progress.batches("calibrating 3 layers", batches=2, batch_size=8) as advance:
        advance()
        LOGGER.push_warning_message("look " * 40 + "here", "test")
        advance()
    text = screen.getvalue()
    assert "calibrating 3 layers" in text and "2/2 batches" in text and "samples/s" in text
    line = next(line for line in text.split("\n") if "look here" in line)
    assert (
        line.rstrip().endswith("[AMCT]:[test]: " + "look " * 40 + "here")
        and "batches" not in line.rpartition("\x1b[2K")[2]
    )


def test_status():
    with terminal() as screen, progress.status("saving"):
        pass
    assert "saving …" in screen.getvalue()


def test_plain_status(capsys):
    with progress.status("saving"):
        pass
    assert capsys.readouterr().err == "saving ...\n"


def test_calm_screen(capsys):
    """A message is printed once; what the summary has is not. Afterwards all is as before."""
    with progress.calm_screen():
        for message in (
            "first",
            "first",
            "Conv2D a: left float because of it",
            "x will be overwritten by AMCT",
            "last",
        ):
            LOGGER.push_warning_message(message, "test")
    LOGGER.push_warning_message("first", "test")
    lines = [line.rpartition(": ")[2] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["first", "last", "first"]


@pytest.mark.parametrize(("columns", "bar", "speed"), [(110, True, True), (90, False, True), (70, False, False)])
def test_a_narrow_terminal_loses_the_bar_first(monkeypatch, columns, bar, speed):
    with terminal() as screen:
        monkeypatch.setenv("COLUMNS", str(columns))
        with progress.batches("calibrating 3 layers", batches=2, batch_size=8) as advance:
            advance()
            advance()
    text = screen.getvalue()
    assert ("━" in text, "samples/s" in text) == (bar, speed)
    assert "calibrating 3 layers" in text and "2/2 batches" in text and "left" in text


def test_counted():
    assert [progress.counted(number, "batch", "batches") for number in (0, 1, 2)] == [
        "0 batches",
        "1 batch",
        "2 batches",
    ]
