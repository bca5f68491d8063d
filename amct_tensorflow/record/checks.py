"""The rules for the factors of one layer.

Source: vendor documentation of the record file, and the messages of the vendor's record parser, with which
ours begin.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from amct_tensorflow.errors import AmctRuntimeError, AmctValueError
from amct_tensorflow.record.layer_record import LayerRecord

_FLOAT32_SMALLEST = 2.0**-149
_FLOAT32_EPSILON = 2.0**-23
_FLOAT32_LARGEST = (2 - 2.0**-23) * 2.0**127

_USABLE_RECIPROCAL = _FLOAT32_EPSILON, 1 / _FLOAT32_EPSILON  # it and its reciprocal can be computed with in float32

_KNOWN_TYPES = {
    "dst_type": ("INT4", "INT8"),
    "act_type": ("INT4", "INT8", "INT16"),
    "wts_type": ("INT4", "INT6", "INT7", "INT8"),
}


def check_values(layer: str, record: LayerRecord, *, source: str) -> None:
    """Checks the factors of a layer as far as this is possible without the graph.

    Args:
        layer: the layer's name.
        record: its factors.
        source: the file that they are read from or written to, in words.

    Raises:
        AmctValueError: a factor is out of range, or belongs to a feature that is not supported yet.
        AmctRuntimeError: factors that belong together differ in number, or a type is unknown.
    """
    where = f"in layer {layer} of {source}"
    if record.scale_d is not None:
        _check_scales("scale_d", (record.scale_d,), where)
    if record.offset_d is not None and not -128 <= record.offset_d <= 127:
        raise AmctValueError(
            f"offset_d's value should be in [-128, 127] {where}, but is {record.offset_d}; "
            "correct it or calibrate again"
        )
    _check_scales("scale_w", record.scale_w, where)
    _check_each("offset_w", record.offset_w, where, "should be 0", 0, 0)
    _check_shift_bits(record.shift_bit, where)
    _check_lengths(record, where)
    _check_types(record, where)
    _check_each(
        "tensor_balance_factor",
        record.tensor_balance_factor,
        where,
        "should be in [FLT_EPSILON, 1/FLT_EPSILON]",
        *_USABLE_RECIPROCAL,
    )
    _check_unsupported(record, where)


def check_layer(
    name: str,
    record: LayerRecord,
    *,
    op_type: str,
    has_weights: bool,
    channels: int,
    input_channels: int,
    supports_shift: bool,
) -> None:
    """Checks the factors of a layer against the operation that they are for.

    An empty record (`LayerRecord.is_empty`) is for the caller to leave out before.

    Args:
        name: the layer's name.
        record: its factors, which `read_record` has checked already.
        op_type: type of the operation.
        has_weights: whether this type has weights to quantize; average pooling has none.
        channels: how many weight factors there may be besides one: the number of output channels.
        input_channels: how many `tensor_balance_factor` there may be: the number of input channels.
        supports_shift: whether this type takes `shift_bit`.

    Raises:
        AmctRuntimeError: a factor is missing, or there is one that the operation does not take.
        AmctValueError: a scale is too small or too large to compute with.
    """
    weight_factors = ("scale_w", "offset_w")
    undesirable = (*weight_factors, "tensor_balance_factor")
    for field in ("scale_d", "offset_d", *(weight_factors if has_weights else ())):
        if getattr(record, field) in (None, ()):
            raise AmctRuntimeError(
                f"cannot find {field} of layer {name} in record_file, please check data calibration process!"
            )
    for field in () if has_weights else undesirable:
        if getattr(record, field):
            raise AmctRuntimeError(
                f"find undesirable {field} of layer {name} in record_file: {op_type} has no weights, delete it"
            )
    if record.shift_bit and not supports_shift:
        raise AmctRuntimeError(
            f"shift_bit is not support, please delete shift_bit of layer {name} in record_file: {op_type} takes none"
        )
    # What a record may hold is more than what can be computed with: 1 / scale_d goes into the model.
    for field, scales in (("scale_d", (record.scale_d or 0.0,)), ("scale_w", record.scale_w)):
        _check_each(
            field,
            scales,
            f"in layer {name} of record_file",
            "should be in [FLT_EPSILON, 1 / FLT_EPSILON]",
            *_USABLE_RECIPROCAL,
        )
    if has_weights and len(record.scale_w) not in (1, channels):
        expected = f"1 or to its {channels} output channels" if channels > 1 else "1"
        raise AmctRuntimeError(
            f"scale_w's length, offset_w's length({len(record.scale_w)}) should be equal to {expected} "
            f"for the {op_type} layer {name}; match the record file and the model"
        )
    if record.tensor_balance_factor and len(record.tensor_balance_factor) != input_channels:
        raise AmctRuntimeError(
            f"tensor_balance_factor's length({len(record.tensor_balance_factor)}) should be equal to the "
            f"{input_channels} input channels of the {op_type} layer {name}; match the record file and the model"
        )


def check_activation(key: str, record: LayerRecord, *, symmetric: bool, op_type: str) -> None:
    """Checks the factors of an input that carries activations.

    Args:
        key: the layer's name, or ``name:index`` for an input of it that has an entry of its own.
        record: the factors of the entry.
        symmetric: whether the input is quantized without offset.
        op_type: type of the operation.

    Raises:
        AmctRuntimeError: a factor is missing, or there is an offset.
    """
    if record.scale_d is None:
        raise AmctRuntimeError(
            f"cannot find scale_d of layer {key} in record_file, please check data calibration process!"
        )
    if symmetric and record.offset_d:
        raise AmctRuntimeError(
            f"offset_d of layer {key} in record_file is {record.offset_d}: both inputs of a {op_type} are quantized "
            "symmetrically, calibrate it with asymmetric false"
        )


def _check_each(field: str, values: Sequence[float], where: str, rule: str, low: float, high: float) -> None:
    """Raises for the first value that is not in [low, high]."""
    array = np.asarray(values, np.float64)
    legal = (low <= array) & (array <= high)  # false for nan
    if not legal.all():
        index = int(np.argmin(legal))
        which = field if len(values) == 1 else f"{field}[{index}]"
        raise AmctValueError(
            f"{field}'s value {rule} {where}, but {which} is {values[index]}; correct it or calibrate again"
        )


def _check_scales(field: str, scales: Sequence[float], where: str) -> None:
    rule = "shoule be in positivate range of float32"  # the vendor's spelling
    _check_each(field, scales, where, rule, _FLOAT32_SMALLEST, _FLOAT32_LARGEST)


def _check_shift_bits(shift_bit: Sequence[int], where: str) -> None:
    if any(shift_bit):
        _check_each("shift_bit", shift_bit, where, "should be in [1, 16] or all be 0", 1, 16)


def _check_lengths(record: LayerRecord, where: str) -> None:
    lengths = {"scale_w": len(record.scale_w), "offset_w": len(record.offset_w)}
    if record.shift_bit and not record.scale_w:  # of a layer without weights, whose result has one scale
        lengths = {"shift_bit": len(record.shift_bit), "scale_d": 1}
    elif record.shift_bit:
        lengths["shift_bit"] = len(record.shift_bit)
    if len(set(lengths.values())) > 1:
        names = " and ".join(f"{field}'s length({length})" for field, length in lengths.items())
        raise AmctRuntimeError(f"{names} should be equal {where}; give as many of each")


def _check_types(record: LayerRecord, where: str) -> None:
    for field, known in _KNOWN_TYPES.items():
        value = getattr(record, field)
        if value is not None and value not in known:
            raise AmctRuntimeError(f"Do not support {field} {value} {where}; use INT8")


def _check_unsupported(record: LayerRecord, where: str) -> None:
    """Refuses what the format has and this version does not do, once it is known to be legal."""
    if record.cluster:
        if len(record.cluster) not in (16, 32):
            raise AmctValueError(f"cluster's length should be 16 or 32 {where}, but is {len(record.cluster)}")
        rule = "should be in [-128, 127]"
        _check_each("cluster", record.cluster, where, rule, -128, 127)
        raise AmctValueError(f"cluster {where} is not supported yet; calibrate without it")
    for field in _KNOWN_TYPES:
        if getattr(record, field) not in (None, "INT8"):
            raise AmctValueError(f"{field} {getattr(record, field)} {where} is not supported yet; use INT8")
