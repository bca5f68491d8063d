"""Tables on stdout."""

from __future__ import annotations

from rich.console import Console

# Wide enough for any name where there is no terminal: files and pipes have no edge.
_PIPE_WIDTH = 10_000
# Narrower terminals get the name of a layer on a line of its own.
WIDTH_FOR_TABLE = 100


def console_of_stdout() -> Console:
    """Returns a console for tables."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=_PIPE_WIDTH)
