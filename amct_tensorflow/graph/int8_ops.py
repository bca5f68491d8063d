"""The int8 ops that TensorFlow has of oneDNN, which no function of its API makes.

They read uint8, called quint8 here, whose zero point is 0, and int8 weights with one scale or one for each output
channel. A scale goes in as the range that it spans: 255 steps of an input or result, 127 of weights.

Two traps in them. The int32 totals of a convolution are only those where all scales are 1: with one for each channel
they are scaled to the largest and rounded. And an op that adds to a tensor in place ends the process where something
else still holds that tensor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.python.framework import op_def_registry

from amct_tensorflow.graph.large_constants import add_constant

UINT8_STEPS = 255
_WEIGHT_STEPS = 127
_CONVOLUTION, _DEPTHWISE, _PRODUCT = "_FusedQuantizedConv2D", "_FusedQuantizedDepthwiseConv2D", "_QuantizedMatMul"
OP_TYPES = (_CONVOLUTION, _DEPTHWISE, _PRODUCT)
_CONVOLUTIONS = {"Conv2D": _CONVOLUTION, "DepthwiseConv2dNative": _DEPTHWISE}
_CHANNELS_LAST, _CHANNELS_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)
_FIRST = "/channels_first"
_QUANTIZED = {"mode": "MIN_FIRST", "narrow_range": False, "axis": -1}


@dataclasses.dataclass(frozen=True)
class Factors:
    """What uint8 values mean: ``(q - zero_point) * scale``."""

    scale: np.float32
    zero_point: int

    def limits(self) -> list[tf.Tensor]:
        """Returns the reals of 0 and of 255."""
        return _constants(-self.zero_point * self.scale, (UINT8_STEPS - self.zero_point) * self.scale)


@dataclasses.dataclass(frozen=True, eq=False)
class Operand:
    """What an op reads.

    Attributes:
        values: quint8, with 0 as their zero point.
        scale: what a step of them is.
    """

    values: tf.Tensor
    scale: np.float32


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """What a layer computes with.

    Attributes:
        weights: int8.
        scales: what a step of them is, one value or one for each output channel.
        bias: in reals, one value for each output channel.
    """

    weights: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]

    def ranges(self) -> list[tf.Tensor]:
        """Returns what the ops take the scales from."""
        largest = self.scales * _WEIGHT_STEPS
        return _constants(-largest, largest)


def are_there() -> bool:
    """Tells whether this TensorFlow knows the ops."""
    return all(op_def_registry.get(name) is not None for name in OP_TYPES)


def quantize(data: tf.Tensor, factors: Factors, name: str) -> tf.Tensor:
    """Returns ``round(data / scale) + zero_point`` in quint8, rounded as AscendQuant does."""
    lowest, highest = factors.limits()
    return tf.raw_ops.QuantizeV2(
        input=data,
        min_range=lowest,
        max_range=highest,
        T=tf.quint8,
        round_mode="HALF_AWAY_FROM_ZERO",
        ensure_minimum_range=0.0,
        name=name,
        **_QUANTIZED,
    ).output


def dequantize(data: tf.Tensor, factors: Factors, name: str) -> tf.Tensor:
    """Returns the reals that quint8 values mean."""
    lowest, highest = factors.limits()
    return tf.raw_ops.Dequantize(input=data, min_range=lowest, max_range=highest, name=name, **_QUANTIZED)


def convolve(
    op: tf.Operation,
    data: Operand,
    kernel: Kernel,
    result_scale: np.float32 | None,
    name: str,
    padding: str | None = None,
    summand: Operand | None = None,
) -> tf.Tensor:
    """Returns what a Conv2D or DepthwiseConv2dNative computes, with the channels last.

    With the channels first, oneDNN's ops take hundreds of times as long.

    Args:
        op: whose attributes count.
        data: what it reads, with the channels last.
        kernel: the weights and the bias.
        result_scale: what a step of the result is, which is quint8 then; None for floats.
        name: of the op that puts out the result.
        padding: in the place of that of `op`.
        summand: what is added to a result in quint8; of its shape, and with values from `own_copy`.
    """
    attributes = {key: _attribute_of_axes(op, key) for key in ("strides", "dilations")}
    attributes["data_format"] = _attribute("NHWC")
    attributes["padding"] = op.node_def.attr["padding"] if padding is None else _attribute(padding)
    if padding is None:
        attributes["explicit_paddings"] = _attribute_of_axes(op, "explicit_paddings")
    attributes |= {key: _attribute(True) for key in ("is_filter_const", "is_bias_const")}
    attributes |= {"Tinput": _attribute(tf.quint8), "Tfilter": _attribute(tf.qint8), "Tbias": _attribute(tf.float32)}
    weights = _weights(kernel, name)
    if result_scale is not None:
        inputs = [data.values, weights, *_constants(kernel.bias)]
        ranges = [*_range(data.scale), *kernel.ranges()]
        fused: tuple[str, ...] = ("BiasAdd", "Requantize")
        if summand is not None:
            inputs, ranges = [*inputs, summand.values], [*ranges, *_range(summand.scale)]
            fused = ("BiasAdd", "Sum", "Relu", "Requantize")  # values below 0 are 0 in quint8 anyway
        inputs += [*ranges, *_range(result_scale)]
        return _convolution(_CONVOLUTIONS[op.type], inputs, tf.quint8, fused, attributes, name)
    steps = np.float64(data.scale) * kernel.scales
    ranges = [*_range(1.0), *_constants(-_WEIGHT_STEPS, _WEIGHT_STEPS)]  # scales of 1
    inputs = [data.values, weights, *_constants(np.rint(kernel.bias / steps)), *ranges]
    totals = _convolution(_CONVOLUTIONS[op.type], inputs, tf.qint32, ("BiasAdd",), attributes, f"{name}/totals")
    floats = tf.cast(tf.bitcast(totals, tf.int32), tf.float32)
    return tf.raw_ops.Mul(x=floats, y=_constants(steps)[0], name=name)


def _convolution(
    op_type: str,
    inputs: list[tf.Tensor],
    out: tf.DType,
    fused: Sequence[str],
    attributes: dict[str, Any],
    name: str,
) -> tf.Tensor:
    types = {"out_type": _attribute(out), "Tsummand": _attribute(out), "fused_ops": _attribute(fused)}
    return _add(op_type, inputs, [out, tf.float32, tf.float32], attributes | types, name)


def _attribute_of_axes(op: tf.Operation, key: str) -> Any:
    """Returns an attribute with as many numbers for each axis, as of data with the channels last."""
    numbers = list(op.get_attr(key))
    if op.get_attr("data_format") == b"NCHW" and numbers:
        per_axis = len(numbers) // 4
        parts = [numbers[per_axis * axis : per_axis * (axis + 1)] for axis in _CHANNELS_LAST]
        numbers = [number for part in parts for number in part]
    attribute = tf.compat.v1.AttrValue()
    attribute.list.i.extend(numbers)
    return attribute


def channels_last(data: tf.Tensor, name: str) -> tf.Tensor:
    """Returns quint8 or float values [N, C, H, W] as [N, H, W, C]; what `channels_first` made is taken back."""
    inner = data.op.inputs[0] if data.op.type == "Bitcast" else data
    if inner.op.type == "Transpose" and inner.op.name.endswith(_FIRST):
        source = inner.op.inputs[0]
        return tf.bitcast(source, data.dtype) if source.dtype != data.dtype else source
    return _transposed(data, _CHANNELS_LAST, name)


def channels_first(data: tf.Tensor, name: str) -> tf.Tensor:
    """Returns quint8 or float values [N, H, W, C] as [N, C, H, W]."""
    return _transposed(data, _CHANNELS_FIRST, f"{name}{_FIRST}")


def _transposed(data: tf.Tensor, axes: Sequence[int], name: str) -> tf.Tensor:
    if data.dtype != tf.quint8:
        return tf.transpose(data, axes, name=name)
    return tf.bitcast(tf.transpose(tf.bitcast(data, tf.uint8), axes, name=name), tf.quint8)


def own_copy(data: tf.Tensor, like: tf.Tensor, last: Sequence[int], name: str) -> tf.Tensor:
    """Returns quint8 values that nothing else holds, copied if need be; see above.

    Their sizes are checked in each run: the first is that of `like`, the others are `last`.
    """
    own = tf.raw_ops.Snapshot(input=tf.bitcast(data, tf.uint8), name=name)
    shape = tf.concat([tf.shape(like)[:1], last], 0)
    return tf.bitcast(tf.reshape(own, shape), tf.quint8)


def multiply(
    data: Operand, kernel: Kernel, result_scale: np.float32 | None, name: str, *, transposed: bool
) -> tf.Tensor:
    """Returns the product of a matrix and the weights, with the bias.

    Arguments as above; `transposed` tells whether the weights have their output channels first.
    """
    out = tf.float32 if result_scale is None else tf.quint8
    ranges = [*_range(data.scale), *kernel.ranges(), *([] if result_scale is None else _range(result_scale))]
    attributes = {
        **{"T1": tf.quint8, "T2": tf.qint8, "Tbias": tf.float32, "U": tf.float32, "Tout": out},
        **{"transpose_a": False, "transpose_b": transposed, "is_weight_const": True, "is_bias_const": True},
        **{"input_quant_mode": "SCALED", "output_quant_mode": "SCALED"},
        "fused_ops": ("BiasAdd", "Dequantize" if result_scale is None else "Requantize"),
    }
    results = [out] if result_scale is None else [out, tf.float32, tf.float32]
    inputs = [data.values, _weights(kernel, name), *_constants(kernel.bias), *ranges]
    return _add(_PRODUCT, inputs, results, {key: _attribute(value) for key, value in attributes.items()}, name)


def _add(
    op_type: str, inputs: list[tf.Tensor], results: list[tf.DType], attributes: dict[str, Any], name: str
) -> tf.Tensor:
    types = {
        "Thost_inputs": [tensor.dtype for tensor in inputs],
        "Thost_outputs": results,
        "Tdevice_inputs": [],
        "Tdevice_outputs": [],
    }
    attributes = attributes | {key: _attribute(value) for key, value in types.items()}
    graph = tf.compat.v1.get_default_graph()
    return graph.create_op(op_type, inputs, results, name=name, attrs=attributes).outputs[0]


def _weights(kernel: Kernel, name: str) -> tf.Tensor:
    return add_constant(kernel.weights.view(tf.qint8.as_numpy_dtype), f"{name}/weights")


def _range(scale: float | np.float32) -> list[tf.Tensor]:
    """Returns the reals of 0 and of 255 without a zero point."""
    return _constants(0.0, UINT8_STEPS * scale)


def _constants(*values: Any) -> list[tf.Tensor]:
    return [tf.constant(np.asarray(value, np.float32)) for value in values]


def _attribute(value: Any) -> Any:
    attribute = tf.compat.v1.AttrValue()
    if isinstance(value, bool):
        attribute.b = value
    elif isinstance(value, str):
        attribute.s = value.encode()
    elif isinstance(value, tf.DType):
        attribute.type = value.as_datatype_enum
    elif isinstance(value, tuple):
        attribute.list.s.extend(text.encode() for text in value)
    else:
        attribute.list.type.extend(dtype.as_datatype_enum for dtype in value)
    return attribute
