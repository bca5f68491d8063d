"""Batches of whatever users give as the data of a model."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, Protocol, TypeAlias

import numpy as np
import tensorflow as tf

from amct_tensorflow.data.calibration_data import LARGEST_DEFAULT_BATCH, too_few_batches
from amct_tensorflow.data.data_files import DataFiles
from amct_tensorflow.data.feeds import placeholder_of
from amct_tensorflow.errors import AmctTypeError, AmctValueError, reason_of
from amct_tensorflow.graph.ends import needed_inputs
from amct_tensorflow.graph.sessions import iterate
from amct_tensorflow.progress import counted

Data: TypeAlias = str | os.PathLike[str] | DataFiles | np.ndarray | Mapping[Any, Any] | Iterable[Any]


class Batches(Protocol):
    """The data of a model, in batches."""

    def batch_size(self, batch_num: int) -> int:
        """Returns how many samples a batch has if so many batches are taken."""

    def batches(self, batch_num: int | None) -> Iterator[Any]:
        """Returns an iterator over so many batches, or over all; may be called again, but for all of an iterator.

        Raises:
            AmctValueError: there are too few data; where that is known, it is raised at once.
        """


def open_data(data: Data, graph: tf.Graph, outputs: Sequence[tf.Tensor], where: str) -> Batches:
    """Returns the batches of data.

    Args:
        data: an array of samples, or a dictionary of them by input; a `tf.data.Dataset`, a list or an iterator of
            batches; a folder or file, a list of these, or `DataFiles`.
        graph: the model's graph.
        outputs: its outputs.
        where: how messages call the model.

    Raises:
        AmctTypeError, AmctValueError: they are nothing of this, or cannot be the model's data.
    """
    if isinstance(data, (list, tuple)) and data and all(isinstance(path, (str, os.PathLike)) for path in data):
        data = DataFiles(data)
    if isinstance(data, (str, os.PathLike)):
        data = DataFiles(data)
    if isinstance(data, DataFiles):
        return data.open(graph, outputs, where)
    inputs = [tensor for tensor in needed_inputs(graph, outputs) if tensor.op.type != "PlaceholderWithDefault"]
    if isinstance(data, np.ndarray) or tf.is_tensor(data):
        return _Samples(_of_only_input(data, inputs))
    if isinstance(data, Mapping):
        if not data:
            raise AmctValueError("data has no arrays: give one for each input")
        return _Samples({placeholder_of(graph, key, where): value for key, value in data.items()})
    if isinstance(data, tf.data.Dataset):
        return _of_dataset(data, inputs)
    if not isinstance(data, Iterable):
        raise AmctTypeError(
            f"data must be arrays, a tf.data.Dataset, an iterator of batches or a folder, not {type(data).__name__}"
        )
    return _Stream(data)


class _Samples:
    """Samples of all inputs in memory, or mapped into it; only what a batch needs is copied."""

    def __init__(self, arrays: Mapping[tf.Tensor, Any]) -> None:
        self._arrays = {tensor: _with_samples(tensor, value) for tensor, value in arrays.items()}
        lengths = {tensor.op.name: len(array) for tensor, array in self._arrays.items()}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{length} for '{name}'" for name, length in lengths.items())
            raise AmctValueError(f"data has different numbers of samples, {listed}: give as many for each input")
        self._length = next(iter(lengths.values()))
        fixed = {tensor.shape[0] for tensor in self._arrays if tensor.shape.rank} - {None}
        self._fixed = fixed.pop() if fixed else None

    def batch_size(self, batch_num: int) -> int:
        """Returns that of the model, or as many as there are, up to 32."""
        return self._fixed or max(1, min(LARGEST_DEFAULT_BATCH, self._length // batch_num))

    def batches(self, batch_num: int | None) -> Iterator[dict[tf.Tensor, np.ndarray]]:
        """Returns an iterator over batches; the last one of all may be smaller, where the model allows that."""
        size = self.batch_size(batch_num or 1)
        if self._length < size * (batch_num or 1):
            raise too_few_batches("data", self._length, size, batch_num or 1)
        used = self._length if batch_num is None else size * batch_num
        return self._cut(size, used - used % size if self._fixed else used)

    def _cut(self, size: int, used: int) -> Iterator[dict[tf.Tensor, np.ndarray]]:
        for start in range(0, used, size):
            end = min(start + size, used)
            yield {tensor: np.asarray(array[start:end]) for tensor, array in self._arrays.items()}


class _Stream:
    """Batches one after the other. Those of an iterator, which cannot start again, are kept for the next time."""

    def __init__(self, batches: Iterable[Any]) -> None:
        self._batches = batches
        self._rest = batches if isinstance(batches, Iterator) else None
        self._kept: list[Any] = []

    def batch_size(self, batch_num: int) -> int:
        """Returns that of the first batch."""
        first = next(self.batches(1))
        values = next(iter(first.values()), ()) if isinstance(first, Mapping) else first
        return _length(values) or 1

    def batches(self, batch_num: int | None) -> Iterator[Any]:
        """Returns an iterator over the first batches, or all."""
        if batch_num is None:
            return self._all()
        known = _length(self._batches)
        if known is not None and known < batch_num:
            raise _too_few(known, batch_num)
        return self._take(batch_num)

    def _take(self, batch_num: int) -> Iterator[Any]:
        source = self._again() if self._rest is not None else iterate(self._batches)
        for found in range(batch_num):
            try:
                yield next(source)
            except StopIteration:
                raise _too_few(found, batch_num) from None

    def _all(self) -> Iterator[Any]:
        if isinstance(self._batches, tf.data.Dataset) and self._batches.cardinality() == tf.data.INFINITE_CARDINALITY:
            raise AmctValueError("data is a tf.data.Dataset without end: say with batch_num how many batches to take")
        if self._rest is None:
            return iterate(self._batches)
        return itertools.chain(self._kept, self._rest)

    def _again(self) -> Iterator[Any]:
        assert self._rest is not None
        yield from list(self._kept)
        for batch in self._rest:
            self._kept.append(batch)
            yield batch


class _SampleStream(_Stream):
    """Samples of a dataset one after the other."""

    def __init__(self, dataset: tf.data.Dataset, fixed: int | None) -> None:
        super().__init__(dataset)
        self._dataset, self._fixed = dataset, fixed

    def batch_size(self, batch_num: int) -> int:
        """Returns that of the model, or as many as there are, up to 32."""
        known = _length(self._dataset)
        most = LARGEST_DEFAULT_BATCH if known is None else min(LARGEST_DEFAULT_BATCH, known // batch_num)
        return self._fixed or max(1, most)

    def batches(self, batch_num: int | None) -> Iterator[Any]:
        """Returns an iterator over batches; the last one of all may be smaller, where the model allows that."""
        size, known = self.batch_size(batch_num or 1), _length(self._dataset)
        if known is not None and known < size * (batch_num or 1):
            raise too_few_batches("data", known, size, batch_num or 1)
        whole = batch_num is not None or self._fixed is not None
        return _Stream(self._dataset.batch(size, drop_remainder=whole)).batches(batch_num)


def _of_dataset(dataset: tf.data.Dataset, inputs: Sequence[tf.Tensor]) -> Batches:
    """Returns batches of a dataset of batches, or of samples: their elements have one axis less than the inputs."""
    specs = dataset.element_spec
    if not isinstance(specs, Mapping):
        specs = {inputs[0].op.name: specs} if len(inputs) == 1 else {}
    by_name = {tensor.op.name: tensor for tensor in inputs}
    fed = {by_name.get(str(name).removesuffix(":0")): spec for name, spec in specs.items()}
    if not fed or not all(_is_sample(spec, tensor) for tensor, spec in fed.items()):
        return _Stream(dataset)
    return _SampleStream(dataset, next(tensor.shape[0] for tensor in fed if tensor is not None))


def _is_sample(spec: Any, tensor: tf.Tensor | None) -> bool:
    """Tells whether an element of a dataset is a sample of an input, without the axis of the batch."""
    shape = getattr(spec, "shape", None)
    if tensor is None or tensor.shape.rank is None or shape is None or shape.rank is None:
        return False
    return bool(shape.rank == tensor.shape.rank - 1)


def _length(items: Any) -> int | None:
    """Returns how many there are, if that is known."""
    try:
        return len(items) if isinstance(items, Sized) else None
    except TypeError:  # so says a dataset of unknown length, and an array without axes
        return None


def _of_only_input(data: Any, inputs: Sequence[tf.Tensor]) -> dict[tf.Tensor, Any]:
    if len(inputs) != 1:
        names = ", ".join(tensor.op.name for tensor in inputs) or "none"
        raise AmctTypeError(
            f"data must be a dictionary of arrays by the names of the inputs, which are {names}, not one array"
        )
    return {inputs[0]: data}


def _with_samples(tensor: tf.Tensor, value: Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:  # of several lengths
        raise AmctValueError(
            f"the data for the input '{tensor.op.name}' are no array ({reason_of(error)}): feed numbers in a regular "
            "shape"
        ) from error
    if array.ndim == 0:
        raise AmctTypeError(
            f"the data for the input '{tensor.op.name}' must be an array of samples, not {type(value).__name__}"
        )
    return array


def _too_few(found: int, batch_num: int) -> AmctValueError:
    return AmctValueError(
        f"data has {counted(found, 'batch', 'batches')}, but batch_num is {batch_num}: give more of them, or lower "
        "batch_num"
    )
