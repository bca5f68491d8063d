"""What a job prints on stdout at its end."""

from __future__ import annotations

import os
from collections.abc import Sequence

from amct_tensorflow.deploy import ResultFiles
from amct_tensorflow.inspect_model import inspect_model
from amct_tensorflow.log import LOG_FILE

_MOST_SHOWN = 8


def result_path(model: str, save_path: str, name: str) -> str:
    """Returns the path of a file beside the results of a model.

    Raises:
        AmctValueError: the results cannot have this save_path.
    """
    return ResultFiles.of(save_path, model).model.removesuffix("quantized.pb") + name


def print_summary(model: str, save_path: str, others: Sequence[str], hints: Sequence[str]) -> None:
    """Prints what was quantized, the files, and what comes next.

    Args:
        model: the float model.
        save_path: folder and prefix of the results.
        others: the files besides those of save_model.
        hints: sentences about the run.
    """
    results = ResultFiles.of(save_path, model)
    saved = results.model
    _print_layers(model, saved)
    print("written:")
    files = [saved, results.mapping, *others]
    width = max(map(len, files))
    for path in files:
        size = os.path.getsize(path)
        ratio = f"  {os.path.getsize(model) / size:.2f} times smaller than the float model" if path == saved else ""
        print(f"  {path:{width}}  {_kilobytes(size)}{ratio}")
    for hint in hints:
        print(f"note: {hint}")
    print(
        f"next: compare its accuracy with the float model's (`import amct_tensorflow`, then load {saved}), "
        "then give that file to the chip's compiler"
    )


def _print_layers(model: str, saved: str) -> None:
    after = inspect_model(saved)
    quantized = {layer.name for layer in after.layers if layer.quantized}
    left = [layer for layer in inspect_model(model).layers if layer.name not in quantized]
    print(f"{len(quantized)} of {len(quantized) + len(left)} layers are quantized" + (", left float:" if left else ""))
    for layer in left[:_MOST_SHOWN]:
        print(f"  {layer.op_type} {layer.name}: {layer.reason or 'the configuration leaves it out'}")
    if len(left) > _MOST_SHOWN:
        print(f"  and {len(left) - _MOST_SHOWN} more, see {LOG_FILE}")


def _kilobytes(size: int) -> str:
    return f"{size / 1000:,.1f} kB".rjust(12)
