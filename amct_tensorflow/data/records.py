"""TFRecord files of tf.train.Example with encoded images, as ImageNet is usually stored."""

from __future__ import annotations

import contextlib
import functools
import gzip
import itertools
import zlib
from collections.abc import Generator, Iterator

import numpy as np
import tensorflow as tf

from amct_tensorflow.data.images import ImagePlan, Preprocessing
from amct_tensorflow.data.inputs import InputSpec
from amct_tensorflow.data.private_graph import iterate
from amct_tensorflow.errors import AmctValueError

_FEATURE = "image/encoded"


class RecordSource:
    """The images of the records, file after file in ascending order of their names."""

    of_images = True

    def __init__(self, path: str, files: list[str], spec: InputSpec, preprocessing: Preprocessing) -> None:
        self._path, self._files = path, files
        self._plan = ImagePlan(path, spec, preprocessing)

    def own_batch_size(self) -> int | None:
        """Returns None: records make batches of any size."""
        return None

    def check(self, batch_size: int) -> None:
        """Passes: any image is resized to fit."""

    def count(self, at_most: int) -> int:
        """Returns the number of records, at most `at_most`, for which all before must be read."""

        def build() -> tf.data.Dataset:
            return _counted(_records(self._files).take(at_most))

        return int(next(self._guarded(iterate(build, 1))))

    def batches(self, batch_size: int, batch_num: int) -> Iterator[np.ndarray]:
        """Yields so many batches.

        Raises:
            AmctValueError: a file is damaged, or its records have no images.
        """

        def build() -> tf.data.Dataset:
            samples = _records(self._files).map(self._read)
            return samples.batch(batch_size, drop_remainder=True).prefetch(1)

        return self._guarded(iterate(build, batch_num))

    def _read(self, record: tf.Tensor) -> tf.Tensor:
        example = tf.io.parse_single_example(record, {_FEATURE: tf.io.FixedLenFeature([], tf.string)})
        return self._plan.sample(example[_FEATURE])

    def _guarded(self, elements: Generator[np.ndarray, None, None]) -> Iterator[np.ndarray]:
        with contextlib.closing(elements):
            try:
                yield from elements
            except tf.errors.DataLossError as error:
                raise AmctValueError(f"the TFRecord file {self._damaged()} is damaged: write it again") from error
            except tf.errors.OpError as error:
                raise AmctValueError(
                    f"{self._path} has a record without an image that can be decoded: calibration needs "
                    f"tf.train.Example with '{_FEATURE}'"
                ) from error

    def _damaged(self) -> str:
        """Returns the first file that cannot be read to its end."""
        for file in self._files:
            try:
                next(iterate(lambda file=file: _counted(_records([file])), 1))  # type: ignore[misc]
            except tf.errors.OpError:
                return file
        return self._path


def _records(files: list[str]) -> tf.data.Dataset:
    """Returns the records of the files in their order, some of which may be compressed with gzip."""
    parts = [
        tf.data.TFRecordDataset(list(group), compression_type="GZIP" if compressed else "")
        for compressed, group in itertools.groupby(files, _is_compressed)
    ]
    return functools.reduce(lambda before, behind: before.concatenate(behind), parts)


def _is_compressed(file: str) -> bool:
    """Tells whether a file is of gzip: its first bytes alone could also be the length of a record."""
    try:
        with gzip.open(file) as content:
            content.read(1)
    except (OSError, EOFError, zlib.error):
        return False
    return True


def _counted(records: tf.data.Dataset) -> tf.data.Dataset:
    return tf.data.Dataset.from_tensors(records.reduce(np.int64(0), lambda count, record: count + 1))
