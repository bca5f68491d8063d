"""NumPy files: arrays of samples [N, ...], or single samples, cut into batches."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from amct_tensorflow.data.inputs import InputSpec
from amct_tensorflow.data.private_graph import iterate
from amct_tensorflow.errors import AmctValueError


class ArraySource:
    """Samples of .npy and .npz files in ascending order of their names."""

    of_images = False

    def __init__(self, path: str, files: list[str], spec: InputSpec) -> None:
        self._path, self._spec = path, spec
        self._arrays = [_samples(file, spec) for file in files]

    def own_batch_size(self) -> int | None:
        """Returns None: samples make batches of any size."""
        return None

    def check(self, batch_size: int) -> None:
        """Passes: the arrays were checked when they were opened."""

    def count(self, at_most: int) -> int:
        """Returns the number of samples."""
        return sum(map(len, self._arrays))

    def batches(self, batch_size: int, batch_num: int) -> Iterator[np.ndarray]:
        """Yields so many batches."""
        dtype = self._spec.dtype

        def samples() -> Iterator[np.ndarray]:
            for array in self._arrays:
                for sample in array:
                    yield np.asarray(sample, dtype.as_numpy_dtype)

        def build() -> tf.data.Dataset:
            signature = tf.TensorSpec(self._spec.sample_shape, dtype)
            dataset = tf.data.Dataset.from_generator(samples, output_signature=signature)
            return dataset.batch(batch_size, drop_remainder=True)

        return iterate(build, batch_num)


def _samples(file: str, spec: InputSpec) -> np.ndarray:
    """Returns the array [N, ...] of a file."""
    arrays = _load(file)
    array = arrays.get(spec.name) if spec.name in arrays else arrays.get(spec.name.removesuffix(":0"))
    if array is None:
        array = _only_fitting(file, arrays, spec)
    if array.shape == spec.sample_shape:
        array = array[np.newaxis]
    if array.shape[1:] != spec.sample_shape or array.ndim == 0:
        raise AmctValueError(
            f"{file} has the shape {list(array.shape)}, but {spec.describe()} takes samples of "
            f"{list(spec.sample_shape)}: store [N,{','.join(map(str, spec.sample_shape))}]"
        )
    if not np.can_cast(array.dtype, spec.dtype.as_numpy_dtype, "same_kind"):
        raise AmctValueError(f"{file} holds {array.dtype}, but {spec.describe()} takes {spec.dtype.name}: convert it")
    return array


def _load(file: str) -> dict[str, np.ndarray]:
    try:
        # A plain .npy stays on the disk, and only what is used is read.
        loaded = np.load(file, mmap_mode="r", allow_pickle=False)
        return {"": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    except PermissionError as error:
        raise AmctValueError(f"{file} cannot be read ({error.strerror}); make it readable") from error
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        raise AmctValueError(f"{file} is not a NumPy file of numbers ({error}): write it with np.save") from error


def _only_fitting(file: str, arrays: dict[str, np.ndarray], spec: InputSpec) -> np.ndarray:
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    fitting = [array for array in arrays.values() if array.shape[1:] == spec.sample_shape]
    if len(fitting) != 1:
        listed = ", ".join(f"{key} {list(array.shape)}" for key, array in arrays.items()) or "nothing"
        raise AmctValueError(
            f"{file} holds {listed}, so it is not clear what is for {spec.describe()}: call one of them '{spec.name}'"
        )
    return fitting[0]
