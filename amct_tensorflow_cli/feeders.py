"""What runs a graph on data: files or the user's evaluator."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np

import amct_tensorflow as amct
from amct_tensorflow import progress
from amct_tensorflow.data import CalibrationData, Preprocessing
from amct_tensorflow.progress import counted
from amct_tensorflow_cli import evaluator as evaluators
from amct_tensorflow_cli.model import Model

# Fewer samples than this say little about the range of values.
_FEW_SAMPLES = 16


class Feeder(Protocol):
    """What runs a graph on data."""

    def prepare(self, batch_num: int) -> None:
        """Raises `AmctError` for too few data, before anything is changed."""

    def run(self, model: Model, text: str) -> None:
        """Runs the outputs batch_num times; `text` says what for."""

    def used(self) -> str:
        """Returns what was fed, in words."""

    def hints(self) -> list[str]:
        """Returns what the user should know of the data."""


class EvaluatorFeeder:
    """The user's evaluator."""

    def __init__(self, path: str, evaluator: Any) -> None:
        self._path, self._evaluator = path, evaluator

    def prepare(self, batch_num: int) -> None:
        """Leaves it to the evaluator how many batches it runs; save_model tells if they were too few."""

    def run(self, model: Model, text: str) -> None:
        """Calls the evaluator."""
        with progress.status(f"{text} with {self._path}"):
            evaluators.calibrate(self._evaluator, self._path, model.graph, model.output_names)

    def used(self) -> str:
        """Returns its path."""
        return self._path

    def hints(self) -> list[str]:
        """Returns none: what it feeds is not seen here."""
        return []


class DataFeeder:
    """Files of data."""

    def __init__(self, data: CalibrationData, preprocessing: Preprocessing) -> None:
        self._data, self._preprocessing = data, preprocessing
        self._unit = "image" if data.has_images else "sample"
        self._batch_num = self._batch_size = 0

    def prepare(self, batch_num: int) -> None:
        """Finds the batch size and checks that there are enough data."""
        self._batch_num, self._batch_size = batch_num, self._data.batch_size(batch_num)
        self._data.batches(batch_num)

    def run(self, model: Model, text: str) -> None:
        """Feeds the batches."""
        with progress.batches(text, batches=self._batch_num, batch_size=self._batch_size, unit=self._unit) as advance:
            amct.calibrate(model.graph, model.output_names, self._batches(advance))
            advance()

    def _batches(self, advance: Callable[[], None]) -> Iterator[dict[str, np.ndarray]]:
        """Yields the batches; the next one is asked for when the last one is done."""
        for at, batch in enumerate(self._data.batches(self._batch_num)):
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
        if self._data.has_images and (self._preprocessing.mean, self._preprocessing.std) == ((0.0,), (1.0,)):
            hints.append("images were fed as pixels of 0 to 255; give --mean and --std if the model takes other values")
        for file, found, what in self._data.raw_files():
            hints.append(f"{os.path.basename(file)} was read as {counted(found, 'sample')} for {what}")
        return hints
