"""The text of --help and --version."""

from __future__ import annotations

import importlib.util
import shutil
import textwrap
from pathlib import Path

from amct_tensorflow_cli.command_table import COMMANDS
from amct_tensorflow_cli.commands import Command, Option

PROGRAM = "amct_tensorflow"
_COLUMN = 26


def overview() -> str:
    """Returns the help of the program."""
    commands = "\n".join(f"  {name:{_COLUMN - 2}}{command.summary}" for name, command in COMMANDS.items())
    return f"""\
{PROGRAM} makes int8 models for Ascend SoCs of frozen TensorFlow models (.pb).

usage: {PROGRAM} COMMAND --option value ...

commands:
{commands}

  -h, --help              print this; after a command, its options
  --version               print the version
  -v, --verbose           print every log line, TensorFlow's too, and tracebacks

start with:
  {PROGRAM} inspect --model model.pb
  {PROGRAM} calibration --model model.pb --save_path out/model --data_dir my_images --mean 127.5 --std 127.5
"""


def command_help(command: Command) -> str:
    """Returns the help of a command."""
    required = " ".join(f"--{option.name} {option.value}" for option in command.options() if option.required)
    parts = [f"usage: {PROGRAM} {command.name} {required} [--option value ...]", command.description]
    parts += [f"{title}:\n" + "\n".join(map(_option_help, options)) for title, options in command.groups]
    parts.append(f"example:\n{command.example}")
    return "\n\n".join(parts) + "\n"


def _option_help(option: Option) -> str:
    short = f"-{option.short}, " if option.short else ""
    name = f"  {short}--{option.name} {option.value}".rstrip()
    width = max(40, min(110, shutil.get_terminal_size((100, 24)).columns))
    alias = f" (also --{option.alias})" if option.alias else ""
    indent = " " * _COLUMN
    text = textwrap.fill(option.help + alias, width, initial_indent=indent, subsequent_indent=indent)
    return f"{name}\n{text}" if len(name) >= _COLUMN - 1 else name.ljust(_COLUMN) + text.lstrip()


def version() -> str:
    """Returns the package's version; importing the package for it would import TensorFlow."""
    package = importlib.util.find_spec("amct_tensorflow")
    assert package is not None and package.origin is not None
    spec = importlib.util.spec_from_file_location("_amct_version", Path(package.origin).with_name("_version.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.__version__)
