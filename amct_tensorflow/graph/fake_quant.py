"""The fake-quant ops that quantization-aware training leaves in a TensorFlow graph, as factors.

Each computes (q - z) * s with q = round(x / s) + z, clipped to its range of integers. Sources of the formulas:
TensorFlow's documentation of fake_quant_with_min_max_vars and quantize_and_dequantize_v2, and its kernels.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from amct_tensorflow.graph.constants import constant_value
from amct_tensorflow.graph.edit import at_root, replace_uses

_MIN_MAX = ("FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxVarsPerChannel", "FakeQuantWithMinMaxArgs")
_QUANTIZE_AND_DEQUANTIZE = ("QuantizeAndDequantizeV2", "QuantizeAndDequantizeV3", "QuantizeAndDequantizeV4")
FAKE_QUANT_TYPES = (*_MIN_MAX, *_QUANTIZE_AND_DEQUANTIZE)

_FLOAT_EPSILON = 2.0**-23
_INT8_MIN, _INT8_MAX = -128, 127

FloatArray = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class FakeQuant:
    """What a fake-quant op does to 8-bit integers: q_int8 = clip(round(x / scale) + offset).

    Attributes:
        op: the op.
        scale: one value, or one per slice along `axis`; 0, or next to it, where only zeros come out.
        offset: likewise, in [-128, 127].
        axis: the axis with scales of its own, -1 for the last; None for one scale.
    """

    op: tf.Operation
    scale: FloatArray
    offset: npt.NDArray[np.int32]
    axis: int | None

    @property
    def is_symmetric(self) -> bool:
        """Whether zero is the integer 0, or next to it, wherever not only zeros come out.

        Next to it is where TensorFlow's rounding of a range like -2 to 2 puts it, whose middle is no integer.
        """
        return bool(self._is_in_the_middle[self.scale >= _FLOAT_EPSILON].all())

    @property
    def _is_in_the_middle(self) -> npt.NDArray[np.bool_]:
        return np.abs(self.offset) <= 1

    def symmetric_scale(self) -> FloatArray:
        """Returns scales that need no offsets: `scale` where zero is 0 or next to it, else the least to reach as far.

        With zero next to 0, only the value at the wider end, of 128 or -129 steps, becomes its neighbour, which costs
        less than coarser steps for all. Where only zeros come out the scale is 1: any will do.
        """
        low, high = (_INT8_MIN - self.offset) * self.scale, (_INT8_MAX - self.offset) * self.scale
        wider = np.maximum(low / _INT8_MIN, high / _INT8_MAX)
        scale = np.where(self._is_in_the_middle, self.scale, wider).astype(np.float32)
        return np.where(scale < _FLOAT_EPSILON, np.float32(1.0), scale)

    def along_axis(self, values: FloatArray) -> FloatArray:
        """Returns `values`, one or one per slice along `axis`, in the shape of what the op puts out."""
        shape = self.op.outputs[0].shape.as_list()
        if self.axis is not None:
            values = np.moveaxis(values.reshape([-1] + [1] * (len(shape) - 1)), 0, self.axis)
        return np.broadcast_to(values, shape)

    def reason_against_activations(self) -> str | None:
        """Returns why an AscendQuant cannot do the same, in words, or None."""
        if self.axis is not None:
            return "it has a scale per channel, as only weights may"
        if self.scale[0] < _FLOAT_EPSILON:
            return "its range is empty, as if it had never been trained"
        return None


def read_fake_quant(op: tf.Operation) -> FakeQuant | str:
    """Returns the factors of an op of FAKE_QUANT_TYPES, or the reason, in words, for which it has none."""
    if op.inputs[0].dtype != tf.float32:
        return f"its type is {op.inputs[0].dtype.name}, only float32 is supported"
    bits = _num_bits(op)
    if bits != 8:
        return f"it has {bits} bits, only 8 are supported" if bits else "its number of bits is computed"
    if op.type in _QUANTIZE_AND_DEQUANTIZE:
        return _read_quantize_and_dequantize(op)
    ends = _ends(op)
    if ends is None:
        return "its range is computed, not constant"
    scale, zero_point = _nudged(*ends, lowest=1 if op.get_attr("narrow_range") else 0)
    axis = -1 if op.type == "FakeQuantWithMinMaxVarsPerChannel" else None
    return _fake_quant(op, scale, zero_point + _INT8_MIN, axis)


def make_computable(quant: FakeQuant) -> None:
    """Puts a QuantizeAndDequantizeV3 in the place of V2 and V4 with a scale per channel.

    It does the same, and TensorFlow's CPU kernels of the others refuse to, which stops a model that was trained on a
    GPU from being converted without one. V3 always rounds half to even.
    """
    op = quant.op
    if quant.axis is None or op.type not in ("QuantizeAndDequantizeV2", "QuantizeAndDequantizeV4"):
        return
    with at_root(op.graph):
        same = tf.raw_ops.QuantizeAndDequantizeV3(
            input=op.inputs[0],
            input_min=op.inputs[1],
            input_max=op.inputs[2],
            num_bits=op.get_attr("num_bits"),
            name=f"{op.name}/v3",
            **{key: op.get_attr(key) for key in ("signed_input", "range_given", "narrow_range", "axis")},
        )
    replace_uses(op.outputs[0], same)


def _fake_quant(op: tf.Operation, scale: FloatArray, offset: npt.ArrayLike, axis: int | None) -> FakeQuant | str:
    if not ((scale >= 0) & (scale <= 1 / _FLOAT_EPSILON)).all():
        return "its range is upside down, too wide or not finite"
    return FakeQuant(op, scale, np.broadcast_to(np.asarray(offset, np.int32), scale.shape), axis)


def _num_bits(op: tf.Operation) -> int | None:
    if op.type == "QuantizeAndDequantizeV3":
        bits = constant_value(op.inputs[3])
        return None if bits is None else int(bits)
    return int(op.get_attr("num_bits"))


def _ends(op: tf.Operation) -> tuple[FloatArray, FloatArray] | None:
    """Returns minimum and maximum, each of rank 1."""
    if op.type == "FakeQuantWithMinMaxArgs":
        ends = [np.float32(op.get_attr("min")), np.float32(op.get_attr("max"))]
    else:
        ends = [constant_value(op.inputs[1]), constant_value(op.inputs[2])]
    if any(end is None for end in ends):
        return None
    low, high = (np.asarray(end, np.float32).reshape(-1) for end in ends)
    return low, high


def _nudged(low: FloatArray, high: FloatArray, *, lowest: int) -> tuple[FloatArray, npt.NDArray[np.int32]]:
    """Returns scale and zero point, in integers from `lowest` to 255; zero falls on an integer."""
    scale = (high - low) / np.float32(255 - lowest)
    with np.errstate(all="ignore"):
        exact = np.nan_to_num(np.float32(lowest) - low / scale)
    clipped = np.clip(exact, lowest, 255)
    return scale, np.floor(clipped + np.float32(0.5)).astype(np.int32)


def _read_quantize_and_dequantize(op: tf.Operation) -> FakeQuant | str:
    axis = int(op.get_attr("axis"))
    along = None if axis < 0 else axis
    ends = _ends(op) if op.get_attr("range_given") else _range_of_constant(op, along)
    if ends is None:
        return "its range is computed in every run"
    low, high = ends
    signed = op.get_attr("signed_input")
    lowest = (-127 if op.get_attr("narrow_range") else -128) if signed else 0
    highest = 127 if signed else 255
    # The end that needs the wider step decides; the other one then has integers to spare.
    from_low = low / np.float32(lowest) if lowest else np.zeros_like(low)
    scale = np.maximum(np.maximum(from_low, high / np.float32(highest)), 0)
    return _fake_quant(op, scale, 0 if signed else _INT8_MIN, along)


def _range_of_constant(op: tf.Operation, axis: int | None) -> tuple[FloatArray, FloatArray] | None:
    value = constant_value(op.inputs[0])
    if value is None:
        return None
    others = tuple(at for at in range(value.ndim) if at != axis)
    return np.reshape(value.min(axis=others), -1), np.reshape(value.max(axis=others), -1)
