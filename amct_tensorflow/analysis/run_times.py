"""How long an int8 model takes in the runtimes that this machine has, beside its float model."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import tensorflow as tf

from amct_tensorflow.analysis import time_model
from amct_tensorflow.errors import AmctError, AmctRuntimeError
from amct_tensorflow.export.quantized_model import QuantizedModel
from amct_tensorflow.export.to_onnx import export_onnx
from amct_tensorflow.export.to_tensorflow import export_tensorflow
from amct_tensorflow.export.to_tflite import export_tflite
from amct_tensorflow.graph.model_file import extract, serialize
from amct_tensorflow.graph.sources import ModelSource, read_model
from amct_tensorflow.graph_passes.performing.restore_reals import drop_rounding, float_weights, restore_reals

BATCHES = (1, 32)


@dataclasses.dataclass(frozen=True)
class RunTime:
    """How long a model takes in one runtime.

    Attributes:
        runtime: what runs which model.
        milliseconds: of one run, by batch size; empty where it cannot run.
        reason: why it cannot, or None.
    """

    runtime: str
    milliseconds: dict[int, float]
    reason: str | None = None


def run_times(
    quantized_pb: ModelSource,
    outputs: list[str] | None = None,
    batches: Sequence[int] = BATCHES,
    around: Callable[[str], AbstractContextManager[None]] = lambda runtime: contextlib.nullcontext(),
) -> list[RunTime]:
    """Runs an int8 model, and the float model that its weights stand for, each in a process of its own.

    Inputs are random numbers. An input whose first size is known ignores the batch size.

    Args:
        quantized_pb: the model.
        outputs: names of its outputs; by default all that nothing consumes.
        batches: the batch sizes.
        around: makes a context, of the name of a runtime, in which it runs.

    Raises:
        AmctTypeError, AmctValueError: as export_onnx.
    """
    names = [tensor.name for tensor in QuantizedModel.load(quantized_pb, outputs).outputs]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for runtime in _RUNTIMES:
            with around(runtime.name):
                found.append(runtime.time(quantized_pb, names, folder, batches))
    return found


@dataclasses.dataclass(frozen=True)
class _Runtime:
    """What runs which model: its program in time_model, and what makes the file of the model."""

    name: str
    program: str
    make: Callable[[ModelSource, list[str], str], str]

    def time(self, model: ModelSource, outputs: list[str], folder: str, batches: Sequence[int]) -> RunTime:
        """Returns how long it takes, or why it cannot run."""
        try:
            file = self.make(model, outputs, folder)
            return RunTime(self.name, {batch: milliseconds(self.program, file, batch, outputs) for batch in batches})
        except AmctError as error:
            return RunTime(self.name, {}, str(error))


def milliseconds(program: str, file: str, batch: int, outputs: Sequence[str]) -> float:
    """Returns the time of one run, measured in a process of its own."""
    packages = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (packages, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, time_model.__file__, program, file, str(batch), *outputs],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise AmctRuntimeError(f"it does not run: {last}")
    return float(done.stdout.split()[-1])


def _float_pb(model: ModelSource, outputs: list[str], folder: str) -> str:
    loaded = QuantizedModel.load(model, outputs)
    moved = restore_reals(loaded.graph, loaded.layers, float_weights)
    drop_rounding(loaded.graph)
    return _write(loaded.graph, outputs, moved, os.path.join(folder, "float.pb"))


def _int8_pb(model: ModelSource, outputs: list[str], folder: str) -> str:
    return _write(read_model(model), outputs, {}, os.path.join(folder, "int8.pb"))


def _write(graph: tf.Graph, outputs: list[str], moved: dict[str, tf.Tensor], path: str) -> str:
    Path(path).write_bytes(serialize(extract(graph, outputs, moved, {}), path))
    return path


def _onnx(model: ModelSource, outputs: list[str], folder: str) -> str:
    if importlib.util.find_spec("onnxruntime") is None:
        raise AmctRuntimeError("it is not installed: run pip install onnxruntime")
    return export_onnx(model, os.path.join(folder, "int8.onnx"), outputs).files[0]


def _int8_ops(model: ModelSource, outputs: list[str], folder: str) -> str:
    return export_tensorflow(model, os.path.join(folder, "int8_ops.pb"), outputs).files[0]


def _tflite(model: ModelSource, outputs: list[str], folder: str) -> str:
    return export_tflite(model, os.path.join(folder, "int8.tflite"), outputs).files[0]


_RUNTIMES = (
    _Runtime("TensorFlow, float", "tensorflow", _float_pb),
    _Runtime("TensorFlow, as the chip computes", "tensorflow", _int8_pb),
    _Runtime("TensorFlow, int8", "tensorflow", _int8_ops),
    _Runtime("onnxruntime, int8", "onnxruntime", _onnx),
    _Runtime("LiteRT, int8", "tflite", _tflite),
)
