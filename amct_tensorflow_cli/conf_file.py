"""The chip compiler's file for quantization, which its option compression_optimize_conf names."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator

from amct_tensorflow.errors import AmctValueError, did_you_mean
from amct_tensorflow.files import read_file
from amct_tensorflow_cli.values import UsageError, input_shapes

_USED = ("input_data_dir", "input_shape", "config_file", "log")
_INFER = ("infer_soc", "infer_aicore_num", "infer_device_id", "infer_ip", "infer_port")
# Settings for the compiler itself, outside the block.
_ELSEWHERE = ("enable_first_layer_quantization",)
_LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "null": "error"}
_ENTRY = re.compile(r"""(?P<key>\w+)\s*:\s*(?P<value>"[^"]*"|'[^']*'|.*?)\s*[,;]?""")
# What a line is cut into: a comment, a brace, an entry whose value is quoted, or anything else up to one of these.
_PIECE = re.compile(r"""\s*(?:#.*|[{}]|\w+\s*:\s*(?:"[^"]*"|'[^']*')\s*[,;]?|[^{}#]+)""")


@dataclasses.dataclass(frozen=True)
class CompressionConf:
    """What the file says.

    Attributes:
        data_paths: a file or folder for each input.
        input_shape: name -> shape, None if the model shall tell.
        config_file: a simplified configuration, or None.
        log: the level to print at, or None.
        notes: what is in the file and has no effect, in sentences.
    """

    data_paths: list[str]
    input_shape: dict[str, list[int]] | None
    config_file: str | None
    log: str | None
    notes: list[str]


def read_conf(path: str) -> CompressionConf:
    """Reads the file.

    Raises:
        AmctRuntimeError: it cannot be read.
        AmctValueError: it is not written as it should be, or a key is unknown or missing.
    """
    content = read_file(path, kind="compression_optimize_conf", remedy="give the path of the chip compiler's file")
    inside, outside = _entries(path, content.decode("utf-8", errors="replace"))
    data = inside.get("input_data_dir", "")
    if not data:
        raise AmctValueError(f"{path} has no input_data_dir in its block 'calibration': name the files with the data")
    return CompressionConf(
        data_paths=[_existing(item.strip(), path) for item in re.split("[,;]", data) if item.strip()],
        input_shape=_input_shape(path, inside.get("input_shape")),
        config_file=_existing(inside["config_file"], path) if inside.get("config_file") else None,
        log=_level(path, inside.get("log")),
        notes=_notes(inside, outside),
    )


def _entries(path: str, text: str) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the entries inside the block and outside."""
    inside: dict[str, str] = {}
    outside: dict[str, str] = {}
    in_block = opened = False
    for number, piece in _pieces(text):
        where = f"line {number} of {path}"
        if not in_block and re.fullmatch(r"calibration\s*:?", piece):
            in_block = True
        elif in_block and not opened:
            if piece != "{":
                raise AmctValueError(f"{where} should be '{{', which opens the block 'calibration', not '{piece}'")
            opened = True
        elif in_block and piece == "}":
            in_block = opened = False
        else:
            _add(inside if in_block else outside, piece, where, (*_USED, *_INFER) if in_block else _ELSEWHERE)
    if in_block:
        raise AmctValueError(f"the block 'calibration' of {path} has no end: write '}}' behind it")
    return inside, outside


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """Yields the braces and entries with the numbers of their lines, without comments."""
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        for piece in map(str.strip, _PIECE.findall(line)):
            if piece and not piece.startswith("#"):
                yield number, piece


def _add(entries: dict[str, str], line: str, where: str, known: tuple[str, ...]) -> None:
    entry = _ENTRY.fullmatch(line)
    if entry is None:
        raise AmctValueError(f"{where} is not 'key: value': '{line}'")
    key = entry["key"]
    if key not in known:
        misplaced = key in (*_USED, *_INFER, *_ELSEWHERE)
        remedy = "; move it into or out of the block 'calibration'" if misplaced else did_you_mean(key, known)
        raise AmctValueError(f"{where} has the unknown key '{key}'{remedy or ': known are ' + ', '.join(known)}")
    if key in entries:
        raise AmctValueError(f"{where} has the key '{key}' a second time: keep one")
    entries[key] = entry["value"].strip("\"'")


def _existing(name: str, conf: str) -> str:
    """Returns a path relative to the working folder or, if there is nothing, to the file's own."""
    beside = os.path.join(os.path.dirname(conf), name)
    return beside if not os.path.exists(name) and os.path.exists(beside) else name


def _input_shape(path: str, text: str | None) -> dict[str, list[int]] | None:
    try:
        return input_shapes(text) if text else None
    except UsageError as error:
        raise AmctValueError(f"{path}: {error}") from error


def _level(path: str, text: str | None) -> str | None:
    if text and text.lower() not in _LEVELS:
        raise AmctValueError(f"log is '{text}' in {path}: give one of {', '.join(_LEVELS)}")
    return _LEVELS[text.lower()] if text else None


def _notes(inside: dict[str, str], outside: dict[str, str]) -> list[str]:
    notes = []
    ignored = [key for key in _INFER if key in inside]
    if ignored:
        notes.append(f"{', '.join(ignored)} have no effect: the calibration runs on this machine's CPU")
    notes += [f"{key} has no effect: it is for the chip's compiler" for key in outside]
    return notes
