"""Batches for all inputs of a model."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from amct_tensorflow.arguments import check_types
from amct_tensorflow.data.images import Preprocessing
from amct_tensorflow.data.inputs import InputSpec, specs_from_shapes
from amct_tensorflow.data.raw import RawSource
from amct_tensorflow.data.sources import open_source
from amct_tensorflow.errors import AmctTypeError, AmctValueError
from amct_tensorflow.progress import counted

# Calibration gains little from more samples than this in one batch, and memory grows with it.
LARGEST_DEFAULT_BATCH = 32


class CalibrationData:
    """Folders or files of samples, one for each input.

    Attributes:
        preprocessing: what is done to images.

    Raises:
        AmctValueError: a folder or file cannot be used.
    """

    def __init__(
        self, specs: Sequence[InputSpec], paths: Sequence[str], preprocessing: Preprocessing | None = None
    ) -> None:
        if len(paths) != len(specs):
            names = ", ".join(spec.name for spec in specs)
            given, wanted = counted(len(paths), "folder"), counted(len(specs), "input")
            raise AmctValueError(
                f"data_dir names {given} for {wanted} ({names}): give one for each, in this order, and quote the ';' "
                "between them"
            )
        self.preprocessing = preprocessing or Preprocessing()
        self._specs, self._paths = list(specs), list(paths)
        self._sources = [open_source(path, spec, self.preprocessing) for path, spec in zip(paths, specs, strict=True)]
        known = {spec.batch_size for spec in specs if spec.batch_size is not None}
        if len(known) > 1 and None in {spec.batch_size for spec in specs}:
            raise AmctValueError(f"the inputs take batches of {sorted(known)}: give input_shape for all of them")
        self._known_batch_size = known.pop() if len(known) == 1 else None
        for spec, source in zip(specs, self._sources, strict=True):
            if spec.batch_size is not None:
                source.check(spec.batch_size)

    @property
    def has_images(self) -> bool:
        """Whether a folder or file holds images."""
        return any(source.of_images for source in self._sources)

    def raw_files(self) -> list[tuple[str, int, str]]:
        """Returns the first raw file of each input that has some, how many samples it is taken for, and of what."""
        return [
            (*source.first_file(), spec.describe())
            for spec, source in zip(self._specs, self._sources, strict=True)
            if isinstance(source, RawSource)
        ]

    def batch_size(self, batch_num: int) -> int:
        """Returns the samples in a batch: as given, as in raw files, or as many as there are up to 32."""
        if self._specs[0].batch_size is not None:
            return self._specs[0].batch_size
        if self._known_batch_size is not None:
            return self._known_batch_size
        own = [size for size in (source.own_batch_size() for source in self._sources) if size is not None]
        if own:
            return own[0]
        most = LARGEST_DEFAULT_BATCH * batch_num
        return max(1, min(LARGEST_DEFAULT_BATCH, *(source.count(most) // batch_num for source in self._sources)))

    def batches(self, batch_num: int | None) -> Iterator[dict[str, np.ndarray]]:
        """Returns an iterator over `batch_num` feed dicts, or over all that whole batches can be made of.

        Raises:
            AmctValueError: there are too few data; raised at once, not by the iterator.
        """
        if batch_num is None:
            count = min(source.count(sys.maxsize) for source in self._sources)
            default = self.batch_size(_even_number(count))
            batch_num = max(1, count // default)
        else:
            default = self.batch_size(batch_num)
        sizes = [spec.batch_size or default for spec in self._specs]
        for source, path, size in zip(self._sources, self._paths, sizes, strict=True):
            source.check(size)
            found = source.count(size * batch_num)
            if found < size * batch_num:
                raise too_few_batches(path, found, size, batch_num)
        return self._feeds([source.batches(size, batch_num) for source, size in zip(self._sources, sizes, strict=True)])

    def _feeds(self, streams: Sequence[Iterator[np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
        for arrays in zip(*streams, strict=True):
            yield {spec.name: array for spec, array in zip(self._specs, arrays, strict=True)}


def _even_number(count: int) -> int:
    """Returns a number of batches of up to 32 samples in which as many samples as possible are used."""
    sizes = range(LARGEST_DEFAULT_BATCH, LARGEST_DEFAULT_BATCH // 2, -1)
    size = max(sizes, key=lambda size: count - count % size)
    return max(1, count // size)


def too_few_batches(where: str, found: int, size: int, batch_num: int) -> AmctValueError:
    """Returns the error for data that are found to have fewer samples than batch_num batches of a size."""
    return AmctValueError(
        f"The number of given data batches is not enough: batch_num is {batch_num}, but {where} has "
        f"{_supply(found, size)}; {_remedy(found, size, batch_num)}"
    )


def _supply(found: int, size: int) -> str:
    samples = counted(found, "sample")
    return (
        samples
        if size == 1 or found == 0
        else f"{samples}, which make {counted(found // size, 'batch', 'batches')} of {size}"
    )


def _remedy(found: int, size: int, batch_num: int) -> str:
    """Returns what can be done about it: only what is above 1 can be lowered."""
    lower = [words for words, value in (("batch_num", batch_num), ("the batch size", size)) if value > 1]
    return "add data" + (f", or lower {' or '.join(lower)}" if found and lower else "")


@check_types(input_shape=dict, data_dirs=(list, tuple), data_types=(list, tuple), batch_num=int)
def load_data(
    input_shape: Mapping[str, list[int]], data_dirs: list[str], data_types: list[Any], batch_num: int
) -> Iterator[dict[str, np.ndarray]]:
    """Returns an iterator over feed dicts with the calibration data of all inputs.

    Args:
        input_shape: name -> shape of each input, the batch size first. The names are the keys of the feed dicts.
        data_dirs: a folder or file for each input, in that order: .bin files of one batch each (or a whole number of
            batches), .npy or .npz arrays of samples, images, or TFRecords of images.
        data_types: ``"float32"``, ``"int8"``, …, or a type of NumPy or TensorFlow, for each input: that of the batches,
            and of the values in .bin files.
        batch_num: the number of batches.

    Raises:
        AmctTypeError: an argument has the wrong type, or a data type is unknown.
        AmctValueError: shapes and files do not fit, or there are too few batches.
    """
    if batch_num < 1:
        raise AmctValueError(f"batch_num is {batch_num}: give a number above 0")
    _check_strings(input_shape, "input_shape", "names of inputs")
    _check_strings(data_dirs, "data_dirs", "paths")
    return CalibrationData(specs_from_shapes(input_shape, data_types), data_dirs).batches(batch_num)


def _check_strings(values: Iterable[Any], argument: str, what: str) -> None:
    for value in values:
        if not isinstance(value, str):
            raise AmctTypeError(f"{argument} must hold {what}, not {type(value).__name__}")
