"""Commands and their options, and how they are parsed."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import re
from collections.abc import Callable
from typing import Literal

from absl import flags

from amct_tensorflow_cli.values import UsageError, check_data_options, output_list


@dataclasses.dataclass(frozen=True)
class Option:
    """An option: `value` is how its value is called in the help, empty for a switch.

    The first of its `choices` is the default.
    """

    name: str
    value: str
    help: str
    kind: Literal["text", "count", "switch", "choice"] = "text"
    required: bool = False
    short: str | None = None
    alias: str | None = None
    choices: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Command:
    """A command.

    Attributes:
        name: as it is typed.
        summary: one line for the list of commands.
        description: what it does and writes.
        example: command lines to copy.
        groups: its options under headings.
        module: has the function `run(options)`; imported once TensorFlow may be.
        check: raises `UsageError` for values that do not go together.
    """

    name: str
    summary: str
    description: str
    example: str
    groups: tuple[tuple[str, tuple[Option, ...]], ...]
    module: str
    check: Callable[[flags.FlagValues], None] = lambda values: None

    def options(self) -> list[Option]:
        """Returns the options of all groups."""
        return [option for _, options in self.groups for option in options]

    def parse(self, arguments: list[str]) -> flags.FlagValues:
        """Returns the values of the options.

        Raises:
            UsageError: an option is unknown, has no value or a wrong one, or is missing.
        """
        values = flags.FlagValues()
        for option in self.options():
            _define(option, values)
        _check_given(self, arguments)
        try:
            rest = values([self.name, *arguments])[1:]
        except flags.UnrecognizedFlagError as error:
            close = difflib.get_close_matches(error.flagname, [option.name for option in self.options()], n=1)
            hint = f"; did you mean --{close[0]}?" if close else f": {self.name} --help lists them"
            raise UsageError(f"there is no option --{error.flagname}{hint}") from error
        except flags.Error as error:
            raise UsageError(_in_our_words(str(error), self)) from error
        if values.help:
            return values
        if rest:
            raise UsageError(
                f"'{rest[0]}' belongs to no option: write --option value, and quote values that have a ';'"
            )
        for option in self.options():
            if option.required and not values[option.name].value:
                raise UsageError(f"--{option.name} is missing")
        if values.outputs is not None:
            output_list(values.outputs)
        if "data_dir" in values:
            check_data_options(values)
        self.check(values)
        return values


def _define(option: Option, values: flags.FlagValues) -> None:
    if option.kind == "switch":
        flags.DEFINE_boolean(option.name, False, option.help, short_name=option.short, flag_values=values)
    elif option.kind == "count":
        flags.DEFINE_integer(option.name, None, option.help, lower_bound=1, flag_values=values)
    elif option.kind == "choice":
        first, choices = option.choices[0], list(option.choices)
        flags.DEFINE_enum(option.name, first, choices, option.help, case_sensitive=False, flag_values=values)
    else:
        flags.DEFINE_string(option.name, None, option.help, flag_values=values)
    if option.alias is not None:
        flags.DEFINE_alias(option.alias, option.name, flag_values=values)


def _check_given(command: Command, arguments: list[str]) -> None:
    """Raises `UsageError` for an option behind which the next one stands in place of a value."""
    options = {f"--{name}": option for option in command.options() for name in (option.name, option.alias) if name}
    for argument, value in itertools.zip_longest(arguments, arguments[1:]):
        option = options.get(argument)
        if option is not None and option.value and (value is None or value.partition("=")[0] in options):
            raise UsageError(f"{argument} has no value: write {argument} {option.value}")


def _in_our_words(message: str, command: Command) -> str:
    """Returns what absl says of a value, where it speaks of flags."""
    found = re.match(r"flag --(?P<name>\w+)=(?P<value>.*?): ", message, re.DOTALL)
    option = None if found is None else {option.name: option for option in command.options()}.get(found["name"])
    wanted = None if option is None else _wanted(option)
    if found is None or wanted is None:
        return " ".join(message.split()).replace("flag", "option")
    return f"--{found['name']} '{found['value']}' is not {wanted}"


def _wanted(option: Option) -> str | None:
    if option.kind == "choice":
        return f"one of its values: write {' or '.join(option.choices)}"
    return {
        "count": "a whole number above 0: write for example 4",
        "switch": "needed: the option has no value",
    }.get(option.kind)
