"""The validator of JSON objects: every field is described by data, and one function checks them all."""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from amct_tensorflow.errors import AmctTypeError, AmctValueError, did_you_mean

REQUIRED: Any = object()
_ANYTHING: Any = object()


@dataclass(frozen=True)
class Kind:
    """A JSON type: in words, as a test, and how a value of it is kept."""

    words: str
    matches: Callable[[Any], bool]
    keep: Callable[[Any], Any] = lambda value: value


@dataclass(frozen=True)
class Rule:
    """Which values of a kind are legal: in words that follow "must be", and as a test of the kept value."""

    words: str
    accepts: Callable[[Any], bool]


@dataclass(frozen=True)
class Field:
    """One key of a JSON object.

    Attributes:
        name: the key.
        kind: the type of its value.
        rule: which values are legal; all, if None.
        default: the value of a missing key; None where a missing key stays missing, or `REQUIRED`.
        works: the one legal value that this version supports, None for a missing key; all, if not given.
    """

    name: str
    kind: Kind
    rule: Rule | None = None
    default: Any = None
    works: Any = _ANYTHING


@dataclass(frozen=True)
class Schema:
    """The fields of a JSON object, in the order in which they are written.

    `conflict` takes what the user gave and the same completed with defaults, and returns what is wrong with
    several fields together, in words, or None.
    """

    fields: tuple[Field, ...]
    conflict: Callable[[Mapping[str, Any], Mapping[str, Any]], str | None] = lambda given, values: None

    @property
    def keys(self) -> list[str]:
        """The names of the fields."""
        return [field.name for field in self.fields]


@dataclass(frozen=True)
class Section:
    """A JSON object that was found legal: its values, with defaults for those that were missing."""

    schema: Schema
    values: Mapping[str, Any]
    where: str

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def check_supported(self, remedies: Mapping[str, str] | None = None) -> None:
        """Raises AmctValueError for a legal value that this version cannot carry out.

        Args:
            remedies: what to do about a field, by name, where the user did not write it in JSON.
        """
        for field in self.schema.fields:
            value = self.values.get(field.name)
            if field.works is not _ANYTHING and value != field.works:
                usual = "remove it" if field.works is None else f"set it to {json.dumps(field.works)}"
                remedy = (remedies or {}).get(field.name, usual)
                raise AmctValueError(
                    f"{field.name} {reprlib.repr(value)} in {self.where} is not supported yet; {remedy}"
                )


class JsonObject(dict[str, Any]):
    """A JSON object that remembers all its keys as they were written, repeated ones too."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.keys_written = [key for key, _ in pairs]


def check_object(
    schema: Schema, given: Mapping[str, Any], *, where: str, defaults: Mapping[str, Any] | None = None
) -> Section:
    """Validates a JSON object.

    Args:
        schema: the fields that it may have.
        given: the object.
        where: where it stands, for the messages: ``"layer conv1 of config file x.json"``.
        defaults: values of missing keys that depend on the case, instead of those in the schema.

    Returns:
        The legal values, in the order of the schema.

    Raises:
        AmctTypeError: a value has the wrong type.
        AmctValueError: a key is unknown, repeated or missing, a value is out of range, or fields conflict.
    """
    check_not_repeated(getattr(given, "keys_written", given), where)
    for key in given:
        if key not in schema.keys:
            hint = did_you_mean(key, schema.keys) or f"; the known ones are {', '.join(schema.keys)}"
            raise AmctValueError(f"Unknown parameter {key} in {where}{hint}")
    values = {}
    for field in schema.fields:
        default = (defaults or {}).get(field.name, field.default)
        if field.name in given:
            values[field.name] = check_value(field, given[field.name], where=where)
        elif default is REQUIRED:
            raise AmctValueError(f"{field.name} is missing in {where}; add it")
        elif default is not None:
            values[field.name] = default
    conflict = schema.conflict(given, values)
    if conflict:
        raise AmctValueError(f"{conflict} in {where}")
    return Section(schema, values, where)


def check_value(field: Field, value: Any, *, where: str) -> Any:
    """Returns the value in the form in which it is kept: numbers as float, lists as tuples.

    Raises:
        AmctTypeError: the value has the wrong type.
        AmctValueError: the value is out of range.
    """
    shown = reprlib.repr(value)
    if not field.kind.matches(value):
        kind = type(value).__name__
        raise AmctTypeError(f"Type of {field.name} should be {field.kind.words}, but is {kind} {shown} in {where}")
    kept = field.kind.keep(value)
    if field.rule and not field.rule.accepts(kept):
        raise AmctValueError(f"The {field.name} must be {field.rule.words}, but is {shown} in {where}")
    return kept


def check_not_repeated(names: Iterable[str], where: str) -> None:
    """Raises AmctValueError if a name is there more than once."""
    seen: set[str] = set()
    repeated = []
    for name in names:
        if name in seen and name not in repeated:
            repeated.append(name)
        seen.add(name)
    if repeated:
        raise AmctValueError(f"Please delete repeated items in {where}, repeated items are {', '.join(repeated)}")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_integer(value) or isinstance(value, float)


def _is_list(value: Any, of: Callable[[Any], bool]) -> bool:
    return isinstance(value, (list, tuple)) and all(of(item) for item in value)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _to_float(value: float) -> float:
    """Returns the number as float: infinity for an integer that no float can hold."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


BOOL = Kind("true or false", lambda value: isinstance(value, bool))
INTEGER = Kind("an integer", _is_integer)
NUMBER = Kind("a number", _is_number, _to_float)
STRING = Kind("a string", _is_string)
OBJECT = Kind("an object", _is_object)
NUMBERS = Kind(
    "a list of numbers", lambda value: _is_list(value, _is_number), lambda value: tuple(map(_to_float, value))
)
STRINGS = Kind("a list of strings", lambda value: _is_list(value, _is_string), tuple)
OBJECTS = Kind("a list of objects", lambda value: _is_list(value, _is_object), tuple)


def one_of(*legal: Any) -> Rule:
    """Returns the rule that only these values are legal."""
    return Rule(" or ".join(map(str, legal)), lambda value: value in legal)
