"""The file beside a record: how weights are rounded, what that is a result of, and new statistics of batch norms.

It has the record's name and the ending ``.safetensors``, and that format: arrays by name, which any reader of the
format shows. ``layer NAME`` of its metadata is the key of the weights of a layer, which layers may share; empty if its
configuration asks for the nearest integers and no correction; ``crc32`` is the CRC-32 of all arrays. With a key K there
are

* ``K/weights``, int8 in the shape of the weights; not if they shall be the nearest integers;
* ``K/fingerprint``, float64 [3]: that of the weights in units of scale_w, see `weight_fingerprint`;

and for each layer with a key

* ``NAME/bias``, float32, to add to each output channel before the bias is quantized; not if it shall stay as it is;
* ``NAME/errors``, float64 [3]: mean squares, summed over the output channels, of the layer's result without its bias,
  of what the errors of the weights add to it, and of the part of these that a bias can take;
* ``NAME/activation``, float64 [3]: scale_d, offset_d and the mean square error of the quantized input;
* ``NAME/mean``, ``NAME/power``, ``NAME/nonzero``, ``NAME/largest``, float32 [taps, input channels]: of each value that
  an output sees the mean, the mean square, how often it is not 0, and the largest magnitude; it sees 0 beside the
  input;
* ``NAME/seen``, float32 [taps]: how often a tap of the kernel is inside the input.

``batch_norm NAME`` of the metadata, which is empty, names each batch norm with new statistics: ``NAME/batch_mean`` and
``NAME/batch_variance``, float32 [channels].
"""

from __future__ import annotations

import functools
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

_FORMAT_OF_ANY_VERSION = "amct_tensorflow weight rounding "
_FORMAT = _FORMAT_OF_ANY_VERSION + "1"
_TYPES = {"I8": np.int8, "F32": np.float32, "F64": np.float64}
_LAYER = "layer "
_BATCH_NORM = "batch_norm "


@dataclass(frozen=True)
class InputStatistics:
    """What the weights of a layer see of its input, float32 [taps, input channels] each; beside the input are zeros.

    Attributes:
        mean: the mean.
        power: the mean square.
        nonzero: the share of values that are not 0.
        largest: the largest magnitude.
        seen: the share of output positions at which a tap is inside the input, [taps].
    """

    mean: npt.NDArray[np.float32]
    power: npt.NDArray[np.float32]
    nonzero: npt.NDArray[np.float32]
    largest: npt.NDArray[np.float32]
    seen: npt.NDArray[np.float32]


@dataclass(frozen=True)
class LayerRounding:
    """What a calibration found beyond the record of a layer with weights.

    Attributes:
        weights: int8 of the shape of the weights; None for the nearest integers.
        bias: what to add to each output channel, float32; None for nothing.
        fingerprint: that of the weights in units of their scales.
        scale_d: the scale of the input that it was found with.
        offset_d: the offset, likewise.
        input_error: the mean square error of the quantized input.
        signal: the mean square of the result without its bias, summed over the output channels.
        weight_error: of what the errors of the weights add to the result, likewise; without `mean_error` if there is a
            `bias`.
        mean_error: the part of it that a bias can take.
        inputs: what the weights see of the input.
    """

    weights: npt.NDArray[np.int8] | None
    bias: npt.NDArray[np.float32] | None
    fingerprint: npt.NDArray[np.float64]
    scale_d: float
    offset_d: int
    input_error: float
    signal: float
    weight_error: float
    mean_error: float
    inputs: InputStatistics


@dataclass(frozen=True)
class BatchNormStatistics:
    """The mean and the variance of the input of a batch norm, float32 [channels]."""

    mean: npt.NDArray[np.float32]
    variance: npt.NDArray[np.float32]


class DamagedRounding(Exception):
    """The file cannot be read; the message says why, in words that follow "it"."""


def rounding_path(record_file: str | os.PathLike[str]) -> str:
    """Returns the path of the file beside a record, or beside what a link leads to; relative where the record's is."""
    record = os.path.realpath(record_file) if os.path.islink(record_file) else os.fspath(record_file)
    return record + ".safetensors"


def read_rounding(record_file: str | os.PathLike[str]) -> dict[str, LayerRounding | None] | None:
    """Reads the file beside a record.

    Args:
        record_file: the record.

    Returns:
        What was found, by layer; None for a layer whose configuration asks for nothing. None if there is no file.

    Raises:
        DamagedRounding: the file cannot be read, or is not of this form.
    """
    found = _read(record_file)
    if found is None:
        return None
    metadata, arrays = found
    keys = {name.removeprefix(_LAYER): key for name, key in metadata.items() if name.startswith(_LAYER)}
    return {layer: _layer_rounding(layer, key, arrays) if key else None for layer, key in keys.items()}


def read_batch_norms(record_file: str | os.PathLike[str]) -> dict[str, BatchNormStatistics]:
    """Reads the new statistics of batch norms, by name, from the file beside a record; none if it has none.

    Raises:
        DamagedRounding: it has some, but they cannot be read.
    """
    if not any(map(_is_batch_norm, _metadata(rounding_path(record_file)))):
        return {}
    metadata, arrays = _read(record_file) or ({}, {})
    names = [name.removeprefix(_BATCH_NORM) for name in filter(_is_batch_norm, metadata)]
    return {name: _batch_norm(name, arrays) for name in names}


def _is_batch_norm(key: str) -> bool:
    return key.startswith(_BATCH_NORM)


def _read(record_file: str | os.PathLike[str]) -> tuple[Mapping[str, str], dict[str, np.ndarray]] | None:
    """Returns the metadata and the arrays of the file beside a record, None if there is no file."""
    try:
        content = Path(rounding_path(record_file)).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DamagedRounding(f"cannot be read ({error.strerror})") from error
    metadata, arrays, checksum = _parse(content)
    if metadata.get("format") != _FORMAT:
        raise DamagedRounding("is of another format")
    if metadata.get("crc32") != checksum:
        raise DamagedRounding("is damaged")
    return metadata, arrays


def has_rounding(record_file: str | os.PathLike[str]) -> bool:
    """Tells whether a calibration has left a file beside its record that says something of a layer.

    Only the header is read.
    """
    metadata = _metadata(rounding_path(record_file))
    return _is_ours(metadata) and any(key for name, key in metadata.items() if name.startswith(_LAYER))


def is_foreign(path: str) -> bool:
    """Tells whether there is something at a path that is no rounding file, of this or another version.

    Only the header is read, whatever the size of the file.
    """
    return os.path.lexists(path) and not _is_ours(_metadata(path))


def _is_ours(metadata: Mapping[str, str]) -> bool:
    return metadata.get("format", "").startswith(_FORMAT_OF_ANY_VERSION)


def _metadata(path: str) -> Mapping[str, str]:
    """Reads the metadata in the header of a file; those that are text, so none of a file of another form."""
    try:
        if not os.path.isfile(path):
            return {}
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > os.path.getsize(path):
                return {}
            metadata = json.loads(file.read(size))["__metadata__"]
        return {key: value for key, value in metadata.items() if isinstance(value, str)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _parse(content: bytes) -> tuple[Mapping[str, str], dict[str, np.ndarray], str]:
    """Returns the metadata and the arrays of a file, and the checksum of their bytes."""
    try:
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        metadata = header.pop("__metadata__")
        if len(content) < start or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError
        arrays = {name: _array(content, start, **entry) for name, entry in header.items()}
        return metadata, arrays, f"{zlib.crc32(memoryview(content)[start:]):08x}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise DamagedRounding("is damaged") from error


def _array(content: bytes, start: int, *, dtype: str, shape: list[int], data_offsets: list[int]) -> np.ndarray:
    begin, end = data_offsets
    if not 0 <= begin <= end <= len(content) - start:
        raise ValueError
    return np.frombuffer(content[start + begin : start + end], _TYPES[dtype]).reshape(shape)


def _take(arrays: Mapping[str, np.ndarray], name: str, dtype: type, *shape: int | None) -> np.ndarray:
    """Returns an array of this type and shape, of any size where that is None.

    Raises:
        KeyError, ValueError: there is none.
    """
    array = arrays[name]
    fits = len(array.shape) == len(shape) and all(
        size in (None, found) for size, found in zip(shape, array.shape, strict=True)
    )
    if array.dtype != dtype or not fits:
        raise ValueError
    return array


def _batch_norm(name: str, arrays: Mapping[str, np.ndarray]) -> BatchNormStatistics:
    try:
        mean = _take(arrays, f"{name}/batch_mean", np.float32, None)
        return BatchNormStatistics(mean, _take(arrays, f"{name}/batch_variance", np.float32, mean.size))
    except (KeyError, ValueError) as error:
        raise DamagedRounding(f"lacks what it should have of batch norm {name}") from error


def _layer_rounding(layer: str, key: str, arrays: Mapping[str, np.ndarray]) -> LayerRounding:
    take = functools.partial(_take, arrays)

    try:
        scale_d, offset_d, input_error = map(float, take(f"{layer}/activation", np.float64, 3))
        signal, weight_error, mean_error = map(float, take(f"{layer}/errors", np.float64, 3))
        shape = take(f"{layer}/mean", np.float32, None, None).shape
        by_input = {
            name: take(f"{layer}/{name}", np.float32, *shape) for name in ("mean", "power", "nonzero", "largest")
        }
        weights, bias = arrays.get(f"{key}/weights"), arrays.get(f"{layer}/bias")
        return LayerRounding(
            weights=None if weights is None else take(f"{key}/weights", np.int8, *weights.shape),
            bias=None if bias is None else take(f"{layer}/bias", np.float32, None),
            fingerprint=take(f"{key}/fingerprint", np.float64, 3),
            scale_d=scale_d,
            offset_d=int(offset_d),
            input_error=input_error,
            signal=signal,
            weight_error=weight_error,
            mean_error=mean_error,
            inputs=InputStatistics(**by_input, seen=take(f"{layer}/seen", np.float32, shape[0])),
        )
    except (KeyError, ValueError, OverflowError) as error:
        raise DamagedRounding(f"lacks what it should have of layer {layer}") from error
