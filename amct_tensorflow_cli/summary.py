"""What a job prints on stdout at its end."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence

from amct_tensorflow.log import LOG_FILE
from amct_tensorflow.progress import are, counted

_MOST_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a job did.

    Attributes:
        model: path of the int8 model.
        float_size: of the model that it started from, in bytes.
        files: all that were written, the model first.
        layers: type and name of each, and why it is left in float, None if it is quantized.
        facts: lines about the run.
        hints: sentences about the run.
    """

    model: str
    float_size: int
    files: Sequence[str]
    layers: Sequence[tuple[str, str, str | None]]
    facts: Sequence[str] = ()
    hints: Sequence[str] = ()


def print_summary(done: Summary) -> None:
    """Prints what was quantized, the files, and what comes next."""
    left = [f"{op_type} {name}: {reason}" for op_type, name, reason in done.layers if reason is not None]
    quantized = len(done.layers) - len(left)
    total = counted(len(done.layers), "layer")
    print(f"{quantized} of {total} {are(quantized)} quantized" + (", left float:" if left else ""))
    print_listed(left)
    for fact in done.facts:
        print(fact)
    ratio = _compared(os.path.getsize(done.model), done.float_size)
    print_files({**dict.fromkeys(done.files, ""), done.model: f"{ratio} than the float model"})
    for hint in done.hints:
        print(f"note: {hint}")
    print_log()
    print("next: compare its accuracy with the float model's, then give it to the chip's compiler, or to a CPU:")
    print(f"  amct_tensorflow export --model {done.model} --format onnx --save_path {done.model.removesuffix('.pb')}")


def print_log() -> None:
    """Prints where the log is, if there is one."""
    if os.path.exists(LOG_FILE):
        print(f"log: {os.path.abspath(LOG_FILE)}")


def print_listed(lines: Sequence[str]) -> None:
    """Prints the first lines, and how many more there are."""
    for line in lines[:_MOST_SHOWN]:
        print(f"  {line}")
    if len(lines) > _MOST_SHOWN:
        print(f"  and {len(lines) - _MOST_SHOWN} more, see {LOG_FILE}")


def print_files(notes: Mapping[str, str]) -> None:
    """Prints the files that were written, their sizes, and a note on each, which may be empty."""
    print("written:")
    width = max(map(len, notes))
    for path, note in notes.items():
        print(f"  {path:{width}}  {_kilobytes(os.path.getsize(path))}{note and f'  {note}'}")


def _compared(size: int, float_size: int) -> str:
    return f"{float_size / size:.2f} times smaller" if size < float_size else f"{size / float_size:.2f} times larger"


def _kilobytes(size: int) -> str:
    return f"{size / 1000:,.1f} kB".rjust(12)
