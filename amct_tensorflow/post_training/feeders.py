"""What runs a graph on data: batches or the user's evaluator."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol, runtime_checkable

import tensorflow as tf

from amct_tensorflow import progress
from amct_tensorflow.data import CalibrationData
from amct_tensorflow.data.given import Batches, Data, open_data
from amct_tensorflow.data.images import Preprocessing
from amct_tensorflow.model import Model
from amct_tensorflow.post_training.calibrate import calibrate
from amct_tensorflow.progress import counted

# Fewer samples than this say little about the range of values.
_FEW_SAMPLES = 16


@runtime_checkable
class Evaluator(Protocol):
    """An object of the user's that runs graphs on its data."""

    def calibration(self, graph: tf.Graph, outputs: list[str]) -> object:
        """Runs the outputs batch_num times."""


class Feeder(Protocol):
    """What runs a graph on data."""

    def prepare(self, batch_num: int) -> None:
        """Raises `AmctError` for too few data, before anything is changed."""

    def run(self, model: Model, text: str, times: int | None = None) -> None:
        """Runs the outputs batch_num times, or `times`, over the same data again and again; `text` says what for."""

    def used(self) -> str:
        """Returns what was fed, in words."""

    def hints(self) -> list[str]:
        """Returns what the user should know of the data."""


def feeder_of(data: Data | Evaluator, model: Model) -> Feeder:
    """Returns what runs a model on the data.

    Raises:
        AmctTypeError, AmctValueError: they cannot be the model's data.
    """
    if isinstance(data, Evaluator):
        return _EvaluatorFeeder(data)
    return _DataFeeder(open_data(data, model.graph, model.outputs, model.name))


class _EvaluatorFeeder:
    """The user's evaluator."""

    def __init__(self, evaluator: Any) -> None:
        self._evaluator = evaluator
        self._batch_num = 1

    def prepare(self, batch_num: int) -> None:
        """Leaves it to the evaluator how many batches it runs; save_model tells if they were too few."""
        self._batch_num = batch_num

    def run(self, model: Model, text: str, times: int | None = None) -> None:
        """Calls the evaluator, which runs batch_num batches, as often as that takes."""
        with progress.status(f"{text} with {self.used()}"), model.graph.as_default():
            for _ in range(0, times or self._batch_num, self._batch_num):
                self._evaluator.calibration(model.graph, model.output_names)

    def used(self) -> str:
        """Returns what it calls itself, or its class."""
        kind = type(self._evaluator)
        return kind.__name__ if kind.__str__ is object.__str__ else str(self._evaluator)

    def hints(self) -> list[str]:
        """Returns none: what it feeds is not seen here."""
        return []


class _DataFeeder:
    """Batches of data."""

    def __init__(self, data: Batches) -> None:
        self._data = data
        self._files = data if isinstance(data, CalibrationData) else None
        self._unit = "image" if self._files is not None and self._files.has_images else "sample"
        self._batch_num = self._batch_size = 0

    def prepare(self, batch_num: int) -> None:
        """Finds the batch size and checks that there are enough data."""
        self._batch_num, self._batch_size = batch_num, self._data.batch_size(batch_num)
        self._data.batches(batch_num)

    def run(self, model: Model, text: str, times: int | None = None) -> None:
        """Feeds the batches."""
        runs = times or self._batch_num
        with progress.batches(text, batches=runs, batch_size=self._batch_size, unit=self._unit) as advance:
            calibrate(model.graph, model.output_names, self._batches(runs, advance))
            advance()

    def _batches(self, runs: int, advance: Callable[[], None]) -> Iterator[Any]:
        """Yields the batches, from the first again when all are through; one is asked for when the last one is done."""
        again = itertools.chain.from_iterable(self._data.batches(self._batch_num) for _ in itertools.count())
        for at, batch in enumerate(itertools.islice(again, runs)):
            if at > 0:
                advance()
            yield batch

    def used(self) -> str:
        """Returns how many samples."""
        return counted(self._batch_num * self._batch_size, self._unit)

    def hints(self) -> list[str]:
        """Returns notes on few samples, unprepared images and how raw files were read."""
        hints = []
        samples = self._batch_num * self._batch_size
        if samples < _FEW_SAMPLES:
            hints.append(f"{counted(samples, 'sample')} may be too few; 16 to 32 of all kinds give better scales")
        if self._files is None:
            return hints
        plain = Preprocessing()
        done = self._files.preprocessing
        if self._files.has_images and (done.mean, done.std) == (plain.mean, plain.std):
            hints.append("images were fed as pixels of 0 to 255; give mean and std if the model takes other values")
        for file, found, what in self._files.raw_files():
            hints.append(f"{os.path.basename(file)} was read as {counted(found, 'sample')} for {what}")
        return hints
