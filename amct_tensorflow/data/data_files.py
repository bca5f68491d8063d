"""Files of data and how they are read, checked against the placeholders of a model."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from amct_tensorflow.data.calibration_data import CalibrationData
from amct_tensorflow.data.images import Preprocessing
from amct_tensorflow.data.inputs import InputSpec, check_against, check_complete, input_specs, specs_from_shapes
from amct_tensorflow.errors import AmctTypeError, AmctValueError
from amct_tensorflow.graph.ends import find_placeholder, needed_inputs

_CHANNEL_ORDERS = ("RGB", "BGR")


@dataclasses.dataclass(frozen=True)
class DataFiles:
    """Data in files: images, .npy, .npz, .bin or TFRecord files.

    Attributes:
        paths: a folder or file, or one for each input, in the order of `input_shape` or of the model.
        input_shape: name -> shape of each input, the batch size first; by default what the model says.
        data_types: types of the values in .bin files, one for each input; those of the inputs by default.
        image_size: height and width that images are resized to; that of the input by default.
        mean, std: images become (pixel of 0 to 255 - mean) / std; one number, or one per channel.
        channel_order: order of the channels that the model takes, ``RGB`` or ``BGR``.

    Raises:
        AmctTypeError, AmctValueError: a field has another type, or a value that cannot be meant.
    """

    paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
    input_shape: Mapping[str, Sequence[int]] | None = None
    data_types: Sequence[Any] | None = None
    image_size: Sequence[int] | None = None
    mean: float | Sequence[float] = 0.0
    std: float | Sequence[float] = 1.0
    channel_order: str = "RGB"

    def __post_init__(self) -> None:
        if not self.folders or not all(isinstance(path, str) for path in self.folders):
            raise AmctTypeError(f"paths must be a folder or file, or a list of them, not {self.paths!r}")
        if self.channel_order not in _CHANNEL_ORDERS:
            raise AmctValueError(f"channel_order is {self.channel_order!r}: give RGB or BGR")
        if self.image_size is not None and len(_numbers(self.image_size, "image_size")) != 2:
            raise AmctValueError(f"image_size is {self.image_size!r}: give height and width")
        _numbers(self.mean, "mean")
        _numbers(self.std, "std")

    @property
    def folders(self) -> list[str]:
        """The paths, one for each input."""
        paths = [self.paths] if isinstance(self.paths, (str, os.PathLike)) else self.paths
        return [os.fspath(path) if isinstance(path, os.PathLike) else path for path in paths]

    @property
    def preprocessing(self) -> Preprocessing:
        """What is done to images."""
        size = None if self.image_size is None else (int(self.image_size[0]), int(self.image_size[1]))
        return Preprocessing(size, _numbers(self.mean, "mean"), _numbers(self.std, "std"), self.channel_order)

    def open(self, graph: tf.Graph, outputs: Sequence[tf.Tensor], where: str) -> CalibrationData:
        """Opens the files for the placeholders that the outputs need.

        Raises:
            AmctTypeError, AmctValueError: names, shapes, types or files do not fit the model, `where`, or one another.
        """
        needed = needed_inputs(graph, outputs)
        if self.input_shape is None:
            tensors = [tensor for tensor in needed if tensor.op.type != "PlaceholderWithDefault"]
            if not tensors:
                raise AmctValueError(f"{where} has no input that its outputs need: name other outputs")
            specs = input_specs(tensors, self.data_types, self.preprocessing.size)
        else:
            tensors = [find_placeholder(graph, name, where) for name in self.input_shape]
            shapes = {tensor.name: shape for tensor, shape in zip(tensors, self.input_shape.values(), strict=True)}
            for tensor in tensors:
                check_against(tensor, shapes[tensor.name])
            check_complete(list(shapes), needed)
            types = self.data_types or [tensor.dtype.name for tensor in tensors]
            specs = specs_from_shapes(shapes, types)
        for tensor, spec in zip(tensors, specs, strict=True):
            _check_type(tensor, spec)
        return CalibrationData(specs, self.folders, self.preprocessing)


def _numbers(value: Any, field: str) -> tuple[float, ...]:
    try:
        numbers = tuple(map(float, np.asarray(value, np.float64).reshape(-1)))
    except (TypeError, ValueError):
        numbers = ()
    if not numbers or not np.all(np.isfinite(numbers)):
        raise AmctTypeError(f"{field} must be a number or a list of numbers, not {value!r}")
    return numbers


def _check_type(tensor: tf.Tensor, spec: InputSpec) -> None:
    if not np.can_cast(spec.dtype.as_numpy_dtype, tensor.dtype.as_numpy_dtype, "same_kind"):
        raise AmctValueError(
            f"data_types gives {spec.dtype.name} for '{tensor.name}', which takes {tensor.dtype.name}: correct it"
        )
