"""From arguments to the command that they name."""

from __future__ import annotations

import difflib
import importlib

from amct_tensorflow_cli.command_table import COMMANDS
from amct_tensorflow_cli.startup import import_package
from amct_tensorflow_cli.usage import PROGRAM, command_help, overview, version
from amct_tensorflow_cli.values import UsageError

_DONE, _WRONG_USAGE = 0, 2


def dispatch(arguments: list[str], *, verbose: bool) -> int:
    """Runs the command; returns the exit code.

    Raises:
        UsageError: what was typed cannot be understood.
    """
    leading, name, rest = _split(arguments)
    for switch in leading:
        if switch not in ("-h", "--help", "--version", "-v", "--verbose"):
            raise UsageError(f"'{switch}' before a command is unknown: write the command first")
    if "--version" in leading:
        print(f"{PROGRAM} {version()}")
        return _DONE
    if "-h" in leading or "--help" in leading or name in ("", "help"):
        asked = COMMANDS.get("".join(rest[:1])) if name == "help" else None
        print(overview() if asked is None else command_help(asked), end="")
        return _DONE if leading or name else _WRONG_USAGE
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else f"the commands are {', '.join(COMMANDS)}"
        raise UsageError(f"there is no command '{name}'; {hint}")
    command = COMMANDS[name]
    options = command.parse(rest)
    if options.help:
        print(command_help(command), end="")
        return _DONE
    options["verbose"].value = verbose
    import_package(verbose=verbose)
    importlib.import_module(command.module).run(options)
    return _DONE


def help_of(arguments: list[str]) -> str:
    """Returns the command line that explains what was typed."""
    name = _split(arguments)[1]
    return f"{PROGRAM} {name} --help" if name in COMMANDS else f"{PROGRAM} --help"


def _split(arguments: list[str]) -> tuple[list[str], str, list[str]]:
    """Returns what stands before the command, the command, and what stands behind it."""
    at = next((at for at, argument in enumerate(arguments) if not argument.startswith("-")), len(arguments))
    return arguments[:at], "".join(arguments[at : at + 1]), arguments[at + 1 :]
