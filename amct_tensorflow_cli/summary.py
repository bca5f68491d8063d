"""What a job prints on stdout at its end."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence

from amct_tensorflow.analysis.inspect_model import FAKE_QUANTIZED, NOT_NEEDED, LayerReport, inspect_model
from amct_tensorflow.log import LOG_FILE
from amct_tensorflow.post_training.deploy import ResultFiles
from amct_tensorflow.progress import are, counted
from amct_tensorflow.record import read_record
from amct_tensorflow_cli.model import Model

_MOST_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a job did.

    Attributes:
        model: the model that it started from.
        save_path: folder and prefix of the results.
        record_file: has the factors of the quantized layers.
        others: the files besides those of save_model.
        unrecorded: why layers that could be quantized have no factors.
        facts: lines about the run.
        hints: sentences about the run.
    """

    model: Model
    save_path: str
    record_file: str
    others: Sequence[str]
    unrecorded: str
    facts: Sequence[str] = ()
    hints: Sequence[str] = ()


def result_path(model: str, save_path: str, name: str) -> str:
    """Returns the path of a file beside the results of a model.

    Raises:
        AmctValueError: the results cannot have this save_path.
    """
    return ResultFiles.of(save_path, model).model.removesuffix("quantized.pb") + name


def print_summary(done: Summary) -> None:
    """Prints what was quantized, the files, and what comes next."""
    _print_layers(done)
    for fact in done.facts:
        print(fact)
    _print_files(done)
    for hint in done.hints:
        print(f"note: {hint}")
    print_log()
    model = ResultFiles.of(done.save_path, done.model.path).model
    print("next: compare its accuracy with the float model's, then give it to the chip's compiler, or to a CPU:")
    print(f"  amct_tensorflow export --model {model} --format onnx --save_path {model.removesuffix('.pb')}")


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


def _print_layers(done: Summary) -> None:
    recorded = {name for name, record in read_record(done.record_file).items() if not record.is_empty}
    layers = inspect_model(done.model.source, done.model.output_names).layers
    left = [layer for layer in layers if layer.name not in recorded or layer.reason == NOT_NEEDED]
    quantized = len(layers) - len(left)
    print(
        f"{quantized} of {counted(len(layers), 'layer')} {are(quantized)} quantized" + (", left float:" if left else "")
    )
    print_listed([f"{layer.op_type} {layer.name}: {_reason(layer, done)}" for layer in left])


def _reason(layer: LayerReport, done: Summary) -> str:
    return done.unrecorded if layer.reason in (None, FAKE_QUANTIZED) else str(layer.reason)


def _print_files(done: Summary) -> None:
    results = ResultFiles.of(done.save_path, done.model.path)
    ratio = _compared(os.path.getsize(results.model), done.model.size)
    print_files({results.model: f"{ratio} than the float model", **dict.fromkeys((results.mapping, *done.others), "")})


def _compared(size: int, float_size: int) -> str:
    return f"{float_size / size:.2f} times smaller" if size < float_size else f"{size / float_size:.2f} times larger"


def _kilobytes(size: int) -> str:
    return f"{size / 1000:,.1f} kB".rjust(12)
