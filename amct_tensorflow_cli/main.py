"""The entry point: finds the command, and turns errors into a line and an exit code."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence

from amct_tensorflow_cli.commands import COMMANDS
from amct_tensorflow_cli.startup import import_package
from amct_tensorflow_cli.usage import PROGRAM, command_help, overview, version
from amct_tensorflow_cli.values import UsageError

DONE, FAILED, WRONG_USAGE, INTERRUPTED = 0, 1, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    at = next((at for at, argument in enumerate(arguments) if not argument.startswith("-")), len(arguments))
    leading, name, rest = arguments[:at], "".join(arguments[at : at + 1]), arguments[at + 1 :]
    verbose = any(switch in arguments for switch in ("-v", "--verbose"))
    try:
        code = _run(leading, name, rest, verbose)
        sys.stdout.flush()
        return code
    except UsageError as error:
        hint = f"{PROGRAM} {name} --help" if name in COMMANDS else f"{PROGRAM} --help"
        _say(f"error: {error}\nTry '{hint}'.")
        return WRONG_USAGE
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if verbose:
            traceback.print_exc()
        _say(f"error: {_describe(error)}")
        return FAILED


def _run(leading: list[str], name: str, rest: list[str], verbose: bool) -> int:
    for switch in leading:
        if switch not in ("-h", "--help", "--version", "-v", "--verbose"):
            raise UsageError(f"'{switch}' before a command is unknown: write the command first")
    if "--version" in leading:
        print(f"{PROGRAM} {version()}")
        return DONE
    if "-h" in leading or "--help" in leading or name in ("", "help"):
        asked = COMMANDS.get("".join(rest[:1])) if name == "help" else None
        print(overview() if asked is None else command_help(asked), end="")
        return DONE if leading or name else WRONG_USAGE
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"the commands are {', '.join(COMMANDS)}"
        raise UsageError(f"there is no command '{name}'; {hint}")
    command = COMMANDS[name]
    options = command.parse(rest)
    if options.help:
        print(command_help(command), end="")
        return DONE
    options["verbose"].value = verbose
    import_package(verbose=verbose)
    importlib.import_module(command.module).run(options)
    return DONE


def _say(message: str) -> None:
    print(f"{PROGRAM}: {message}", file=sys.stderr, flush=True)


def _describe(error: Exception) -> str:
    """Returns one line."""
    if "amct_tensorflow" not in sys.modules:  # it could not be imported
        if isinstance(error, ModuleNotFoundError) and error.name == "tensorflow":
            return 'TensorFlow is not installed: pip install "tensorflow>=2.16,<2.22"'
        return " ".join(str(error).split()) or type(error).__name__
    from amct_tensorflow_cli.failures import describe

    return describe(error)
