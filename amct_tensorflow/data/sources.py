"""From a folder or file to the reader of its kind."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from typing import Protocol

import numpy as np

from amct_tensorflow.data.arrays import ArraySource
from amct_tensorflow.data.images import ImageSource, Preprocessing
from amct_tensorflow.data.inputs import InputSpec
from amct_tensorflow.data.raw import RawSource
from amct_tensorflow.data.records import RecordSource
from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.files import similar_file


class Source(Protocol):
    """The data of one input. `of_images` tells whether its samples are made of encoded images."""

    of_images: bool

    def own_batch_size(self) -> int | None:
        """Returns the batch size that the files dictate, if they do."""

    def check(self, batch_size: int) -> None:
        """Raises `AmctValueError` for files that do not hold samples of the input."""

    def count(self, at_most: int) -> int:
        """Returns the number of samples; beyond `at_most` it need not be exact."""

    def batches(self, batch_size: int, batch_num: int) -> Iterator[np.ndarray]:
        """Yields so many batches."""


_SUFFIXES = {
    "raw": (".bin",),
    "array": (".npy", ".npz"),
    "image": (".jpg", ".jpeg", ".png", ".bmp", ".gif"),
    "record": (".tfrecord", ".tfrecords"),
}
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
_KNOWN = ".bin, .npy, .npz, images (jpg, png, bmp, gif) and TFRecords"


def open_source(path: str, spec: InputSpec, preprocessing: Preprocessing) -> Source:
    """Returns the reader of a folder, or of a single file.

    Images are also looked for in subfolders. Other files than those known are passed over.

    Raises:
        AmctValueError: the path does not exist, has no data or data of several kinds, or `preprocessing` is meant
            for images and it has none.
    """
    files = _files(path)
    kinds = {kind for kind in map(_kind, files) if kind is not None}
    if not kinds:
        raise AmctValueError(f"{path} has no calibration data for {spec.describe()}: put {_KNOWN} there")
    if len(kinds) > 1:
        examples = [next(file for file in files if _kind(file) == kind) for kind in sorted(kinds)]
        raise AmctValueError(f"{path} mixes kinds of data ({', '.join(examples)}): keep one kind in a folder")
    kind = kinds.pop()
    data = [file for file in files if _kind(file) == kind]
    if kind in ("image", "record"):
        reader = ImageSource if kind == "image" else RecordSource
        return reader(path, data, spec, preprocessing)
    if preprocessing != Preprocessing():
        raise AmctValueError(
            f"{path} holds {os.path.splitext(data[0])[1]} files, which are fed as they are: image_size, mean, std and "
            "channel_order are for images"
        )
    plain: Callable[[str, list[str], InputSpec], Source] = RawSource if kind == "raw" else ArraySource
    return plain(path, data, spec)


def _files(path: str) -> list[str]:
    """Returns the files of a folder by name, those of subfolders only if they are images."""
    if os.path.isfile(path):
        return [path]
    if not os.path.isdir(path):
        hint = similar_file(path) or ": name a folder or file that exists"
        raise AmctValueError(f"data_dir {path} does not exist{hint}")
    found = []
    for folder, _, names in os.walk(path, onerror=_raise, followlinks=True):
        files = [os.path.join(folder, name) for name in names if not name.startswith(".")]
        found += files if folder == path else [file for file in files if _kind(file) == "image"]
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _kind(file: str) -> str | None:
    name = os.path.basename(file).lower()
    for kind, suffixes in _SUFFIXES.items():
        if name.endswith(suffixes):
            return kind
    return "record" if _SHARD.search(name) else None
