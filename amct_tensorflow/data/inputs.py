"""What the inputs of a model take, from input_shape, data_types and the placeholders."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from amct_tensorflow.errors import AmctTypeError, AmctValueError

_DATA_TYPES = {
    dtype.name: dtype
    for dtype in (
        *(tf.float64, tf.float32, tf.float16),
        *(tf.int8, tf.int16, tf.int32, tf.int64),
        *(tf.uint8, tf.uint16, tf.uint32, tf.uint64),
        tf.bool,
    )
}


@dataclasses.dataclass(frozen=True)
class InputSpec:
    """One input of a model.

    Attributes:
        name: the key of its batches in a feed dict.
        sample_shape: the shape of one sample, without the batch.
        batch_size: None to take what the data have.
        dtype: the type of the batches, and of the values in raw files.
    """

    name: str
    sample_shape: tuple[int, ...]
    batch_size: int | None
    dtype: tf.DType

    @property
    def sample_bytes(self) -> int:
        """The size of one sample in a raw file."""
        return math.prod(self.sample_shape) * self.dtype.size

    def describe(self, batch_size: int | None = None) -> str:
        """Returns words like ``input 'x' (float32 [4,8,8,3])``."""
        shape = [batch_size or self.batch_size or "batch", *self.sample_shape]
        return f"input '{self.name}' ({self.dtype.name} [{','.join(map(str, shape))}])"


def specs_from_shapes(input_shape: Mapping[str, Sequence[int]], data_types: Sequence[Any]) -> list[InputSpec]:
    """Returns the inputs in the order of `input_shape`; the first dimension of a shape is the batch.

    Raises:
        AmctTypeError: a data type does not exist.
        AmctValueError: a shape is not made of positive numbers, or the lists have different lengths.
    """
    if not input_shape:
        raise AmctValueError("input_shape is empty: give the name and the shape of each input")
    _check_length("data_types", data_types, input_shape)
    specs = []
    for (name, shape), data_type in zip(input_shape.items(), data_types, strict=True):
        shape = _checked_shape(name, shape)
        specs.append(InputSpec(name, shape[1:], shape[0], _dtype(data_type)))
    return specs


def input_specs(
    placeholders: Sequence[tf.Tensor],
    data_types: Sequence[str] | None = None,
    image_size: tuple[int, int] | None = None,
) -> list[InputSpec]:
    """Returns the inputs as the placeholders have them, for data whose input_shape is not given.

    Args:
        placeholders: of known shape but for the batch.
        data_types: of raw files; by default those of the placeholders.
        image_size: height and width for placeholders that leave them open.

    Raises:
        AmctTypeError: a data type does not exist.
        AmctValueError: a shape is not known, or there are more or fewer data types.
    """
    if data_types is not None:
        _check_length("data_types", data_types, {tensor.name: None for tensor in placeholders})
    specs = []
    for index, tensor in enumerate(placeholders):
        batch_size, sample_shape = _known_shape(tensor, image_size)
        dtype = tensor.dtype if data_types is None else _dtype(data_types[index])
        specs.append(InputSpec(tensor.name, sample_shape, batch_size, dtype))
    return specs


def check_against(placeholder: tf.Tensor, shape: Sequence[int]) -> None:
    """Raises `AmctValueError` if a placeholder does not take batches of this shape."""
    if not placeholder.shape.is_compatible_with(list(shape)):
        raise AmctValueError(
            f"input_shape gives '{placeholder.name}' the shape {list(shape)}, but the model takes {placeholder.shape}: "
            "adjust it"
        )


def check_complete(given: Sequence[str], placeholders: Sequence[tf.Tensor]) -> None:
    """Raises `AmctValueError` if a placeholder is not among the tensor names given."""
    missing = [
        tensor.name
        for tensor in placeholders
        if tensor.name not in given and tensor.op.type != "PlaceholderWithDefault"
    ]
    if missing:
        raise AmctValueError(
            f"input_shape misses '{missing[0]}', which the outputs need: add it and its data, or freeze the model with "
            "a constant in its place"
        )


def _check_length(field: str, values: Sequence[str], inputs: Mapping[str, object]) -> None:
    if len(values) != len(inputs):
        raise AmctValueError(
            f"{field} has {len(values)} entries for {len(inputs)} inputs ({', '.join(inputs)}): give one for each"
        )


def _checked_shape(name: str, shape: Any) -> tuple[int, ...]:
    sizes = list(shape) if isinstance(shape, (list, tuple, np.ndarray)) else []
    if not sizes or not all(map(_is_size, sizes)):
        raise AmctValueError(
            f"input_shape of '{name}' is {shape!r}: give its dimensions as positive numbers, the batch size first"
        )
    return tuple(map(int, sizes))


def _is_size(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) > 0


def _dtype(given: Any) -> tf.DType:
    name = _type_name(given)
    if name not in _DATA_TYPES:
        raise AmctTypeError(f"Unsupported data type[{name}]! Use one of {', '.join(_DATA_TYPES)}")
    return _DATA_TYPES[name]


def _type_name(given: Any) -> str:
    """Returns the name of a type that is given by it, or as one of NumPy's or TensorFlow's."""
    if isinstance(given, type) and issubclass(given, np.generic):
        given = np.dtype(given)
    return str(given.name) if isinstance(given, (np.dtype, tf.DType)) else str(given)


def _known_shape(tensor: tf.Tensor, image_size: tuple[int, int] | None) -> tuple[int | None, tuple[int, ...]]:
    """Returns the batch size, if it is known, and the shape of a sample."""
    shape = None if tensor.shape.rank is None else tensor.shape.as_list()
    if shape and image_size is not None and len(shape) == 4:
        at = 2 if shape[1] in (1, 3) and shape[3] not in (1, 3) else 1
        shape[at : at + 2] = [size or wanted for size, wanted in zip(shape[at : at + 2], image_size, strict=True)]
    if not shape or None in shape[1:]:
        raise AmctValueError(
            f"the shape of input '{tensor.name}' is {tensor.shape} in the model: give all of it with input_shape"
        )
    return shape[0], tuple(shape[1:])
