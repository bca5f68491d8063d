"""Image folders: decoded, resized and normalized as the model was trained."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from amct_tensorflow.data.inputs import InputSpec
from amct_tensorflow.data.private_graph import iterate
from amct_tensorflow.errors import AmctValueError


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """What is done to an image: (resized pixels of 0 to 255 - mean) / std.

    Attributes:
        size: height and width; by default those of the input.
        mean, std: one number, or one per channel in the order that the model gets them.
        channel_order: ``RGB`` or ``BGR``.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channel_order: str = "RGB"


class ImagePlan:
    """How encoded images become samples of one input."""

    def __init__(self, path: str, spec: InputSpec, preprocessing: Preprocessing) -> None:
        shape = spec.sample_shape
        if len(shape) != 3 or not {shape[0], shape[2]} & {1, 3}:
            raise AmctValueError(
                f"{path} holds images, but {spec.describe()} does not take [batch,height,width,channels] of 1 or 3 "
                "channels: give .npy or .bin files"
            )
        self._channels_first = shape[2] not in (1, 3)
        self._channels = shape[0] if self._channels_first else shape[2]
        self._size = shape[1:] if self._channels_first else shape[:2]
        self._spec, self._preprocessing = spec, preprocessing
        self._check(path)

    def _check(self, path: str) -> None:
        wanted = self._preprocessing
        if wanted.size is not None and wanted.size != self._size:
            raise AmctValueError(
                f"image_size is {list(wanted.size)}, but {self._spec.describe()} takes {list(self._size)}: "
                "leave image_size out"
            )
        for field, values in (("mean", wanted.mean), ("std", wanted.std)):
            if len(values) not in (1, self._channels):
                raise AmctValueError(
                    f"{field} has {len(values)} values, but the images in {path} are read with {self._channels} "
                    "channel(s): give one value, or one for each channel"
                )
        if not all(wanted.std):
            raise AmctValueError("std is 0, and pixels are divided by it: give what the model was trained with")
        if self._spec.dtype.is_integer and (any(wanted.mean) or any(value != 1 for value in wanted.std)):
            raise AmctValueError(
                f"mean and std make fractions of the pixels, but {self._spec.describe()} takes integers: leave them "
                "out, if the model prepares the pixels itself"
            )

    def sample(self, content: tf.Tensor) -> tf.Tensor:
        """Returns the sample of an encoded image."""
        wanted, dtype = self._preprocessing, self._spec.dtype
        image = tf.io.decode_image(content, channels=self._channels, expand_animations=False)
        image = tf.image.resize(image, self._size, antialias=True)
        if wanted.channel_order == "BGR":
            image = tf.reverse(image, [-1])
        image = (image - tf.constant(wanted.mean, tf.float32)) / tf.constant(wanted.std, tf.float32)
        if self._channels_first:
            image = tf.transpose(image, [2, 0, 1])
        image = tf.ensure_shape(image, self._spec.sample_shape)
        return tf.saturate_cast(tf.round(image), dtype) if dtype.is_integer else tf.cast(image, dtype)


class ImageSource:
    """Images taken evenly from the files in ascending order of their paths, so that all folders are seen."""

    of_images = True

    def __init__(self, path: str, files: list[str], spec: InputSpec, preprocessing: Preprocessing) -> None:
        self._files = files
        self._plan = ImagePlan(path, spec, preprocessing)

    def own_batch_size(self) -> int | None:
        """Returns None: images make batches of any size."""
        return None

    def check(self, batch_size: int) -> None:
        """Passes: any image is resized to fit."""

    def count(self, at_most: int) -> int:
        """Returns the number of images."""
        return len(self._files)

    def batches(self, batch_size: int, batch_num: int) -> Iterator[np.ndarray]:
        """Yields so many batches.

        Raises:
            AmctValueError: an image cannot be decoded; names it.
        """
        wanted = batch_size * batch_num
        chosen = [self._files[at * len(self._files) // wanted] for at in range(wanted)]

        def build() -> tf.data.Dataset:
            samples = tf.data.Dataset.from_tensor_slices(chosen).map(self._read, num_parallel_calls=tf.data.AUTOTUNE)
            return samples.batch(batch_size, drop_remainder=True).prefetch(1)

        done = 0
        with contextlib.closing(iterate(build, batch_num)) as batches:
            try:
                for batch in batches:
                    yield batch
                    done += batch_size
            except tf.errors.OpError as error:
                raise self._unreadable(chosen[done : done + batch_size], error) from error

    def _read(self, file: tf.Tensor) -> tf.Tensor:
        return self._plan.sample(tf.io.read_file(file))

    def _decoded(self, file: str) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensors(file).map(self._read)

    def _unreadable(self, files: Sequence[str], error: tf.errors.OpError) -> AmctValueError:
        """Returns the error that names the first image of a failed batch that cannot be decoded."""
        for file in files:
            try:
                next(iterate(functools.partial(self._decoded, file), 1))
            except tf.errors.OpError:
                return AmctValueError(f"{file} cannot be decoded as an image: remove or replace it")
        return AmctValueError(f"the images from {files[0]} on cannot be read: {error.message}")
