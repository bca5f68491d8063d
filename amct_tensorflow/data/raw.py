"""Raw .bin files: the values of one batch, or of several one behind the other."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from amct_tensorflow.data.inputs import InputSpec
from amct_tensorflow.data.private_graph import iterate
from amct_tensorflow.errors import AmctValueError

# What tf.io.decode_raw does not know is read as a type of the same width.
_STAND_INS = {tf.uint32: tf.int32, tf.uint64: tf.int64}


class RawSource:
    """Batches of .bin files in ascending order of their names."""

    of_images = False

    def __init__(self, path: str, files: list[str], spec: InputSpec) -> None:
        self._path, self._files, self._spec = path, files, spec

    def own_batch_size(self) -> int | None:
        """Returns the batch size if the first file is one batch."""
        size = os.path.getsize(self._files[0])
        if size == 0 or size % self._spec.sample_bytes:
            self._refuse(self._files[0], size, self._spec.sample_bytes, self._spec.describe(1))
        return size // self._spec.sample_bytes

    def check(self, batch_size: int) -> None:
        """Raises `AmctValueError` if a file is not a whole number of batches."""
        expected = batch_size * self._spec.sample_bytes
        for file in self._files:
            size = os.path.getsize(file)
            if size == 0 or size % expected:
                self._refuse(file, size, expected, self._spec.describe(batch_size))

    def first_file(self) -> tuple[str, int]:
        """Returns the first file and the number of samples that it is taken for."""
        return self._files[0], os.path.getsize(self._files[0]) // self._spec.sample_bytes

    @staticmethod
    def _refuse(file: str, size: int, expected: int, what: str) -> None:
        raise AmctValueError(
            f"{file} has {size} bytes, but a batch of {what} has {expected}: a file holds one batch or a whole number "
            "of them, so check input_shape and data_types"
        )

    def count(self, at_most: int) -> int:
        """Returns the number of samples."""
        return sum(map(os.path.getsize, self._files)) // self._spec.sample_bytes

    def batches(self, batch_size: int, batch_num: int) -> Iterator[np.ndarray]:
        """Yields so many batches."""
        spec = self._spec
        stored = _STAND_INS.get(spec.dtype, spec.dtype)

        def decode(content: tf.Tensor) -> tf.Tensor:
            values = tf.io.decode_raw(content, stored)
            values = values if stored == spec.dtype else tf.bitcast(values, spec.dtype)
            return tf.reshape(values, [batch_size, *spec.sample_shape])

        def build() -> tf.data.Dataset:
            # The files are read one piece at a time, however large they are.
            pieces = tf.data.FixedLengthRecordDataset(self._files, batch_size * spec.sample_bytes)
            return pieces.map(decode).prefetch(1)

        return iterate(build, batch_num)
