"""The entry point: turns errors into a line and an exit code.

It imports next to nothing before `main` can answer to Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130
_PROGRAM = "amct_tensorflow"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    try:
        from amct_tensorflow_cli.streams import lasting

        with lasting():
            return _guarded(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED


def _guarded(arguments: list[str]) -> int:
    from amct_tensorflow_cli.values import UsageError

    verbose = any(switch in arguments for switch in ("-v", "--verbose"))
    try:
        from amct_tensorflow_cli.dispatch import dispatch

        code = dispatch(arguments, verbose=verbose)
        sys.stdout.flush()
        return code
    except UsageError as error:
        from amct_tensorflow_cli.dispatch import help_of

        _say(f"error: {error}\nTry '{help_of(arguments)}'.")
        return WRONG_USAGE
    except Exception as error:
        if verbose:
            import traceback

            traceback.print_exc()
        _say(f"error: {_describe(error)}")
        return FAILED


def _say(message: str) -> None:
    print(f"{_PROGRAM}: {message}", file=sys.stderr, flush=True)


def _describe(error: Exception) -> str:
    """Returns one line."""
    if isinstance(error, OSError) and error.strerror is not None:
        return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
    if "amct_tensorflow" not in sys.modules:  # it could not be imported
        if isinstance(error, ModuleNotFoundError) and error.name == "tensorflow":
            return 'TensorFlow is not installed: pip install "tensorflow>=2.16,<2.22"'
        return " ".join(str(error).split()) or type(error).__name__
    from amct_tensorflow_cli.failures import describe

    return describe(error)
