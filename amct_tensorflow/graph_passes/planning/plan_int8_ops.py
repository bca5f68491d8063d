"""Planning: which layers of a deployed graph the int8 ops of TensorFlow can compute, and with what.

    conv(x, w)  =  conv(q, w) - zero_point * sum(w),   where q = x + zero_point is what is in the uint8 values

so a zero point goes into the bias. Where the op pads, it does so with 0 instead of the zero point: the values are
padded before.

Cases:

1. Conv2D, DepthwiseConv2dNative.
2. MatMul, BatchMatMul, by constants that are one matrix.
3. Groups of channels, batches of constants, two computed tensors, other types: there is no int8 op.
4. AvgPool: there is one, but it rounds the averages to the steps of the input.
5. A padding whose size depends on that of the input, which is unknown, where the zero point is not 0: left float.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from amct_tensorflow.graph.int8_ops import Factors
from amct_tensorflow.graph_passes.planning.find_deployed import (
    UINT8_ZERO,
    DeployedLayer,
    IntegerWeights,
    offset_of,
    scale_of,
)
from amct_tensorflow.layers import TABLE, channel_axes_of, data_format
from amct_tensorflow.stencils import Stencil

CONVOLUTIONS = ("Conv2D", "DepthwiseConv2dNative")
PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")


@dataclasses.dataclass(frozen=True, eq=False)
class Int8Layer:
    """A layer that an int8 op computes.

    Attributes:
        layer: as it is in the deployed graph.
        weights: its integers.
        sums: of the weights, for each output channel.
        bias: in reals, likewise.
        paddings: with what to pad its data before, for each axis; None if the op itself may pad.
    """

    layer: DeployedLayer
    weights: IntegerWeights
    sums: npt.NDArray[np.int64]
    bias: npt.NDArray[np.float64]
    paddings: list[list[int]] | None

    @classmethod
    def of(cls, layer: DeployedLayer) -> Int8Layer:
        """Plans a layer against which there is no reason."""
        weights, bias = layer.integers(), layer.bias()
        channel_axes = channel_axes_of(layer.op)
        others = tuple(axis for axis in range(weights.values.ndim) if axis not in channel_axes)
        sums = weights.values.sum(axis=others, dtype=np.int64).reshape(-1)
        biases = np.broadcast_to(np.float64(0) if bias is None else bias.astype(np.float64), sums.shape)
        pads = factors_of(layer.quants[0]).zero_point != 0 and layer.op.type in CONVOLUTIONS
        paddings = _paddings(layer.op) if pads else None
        return cls(layer, weights, sums, biases, paddings if paddings and np.any(paddings) else None)


def is_transposed(op: tf.Operation) -> bool:
    """Tells whether the weights of a product have their output channels first."""
    return bool(op.get_attr("transpose_b" if op.type == "MatMul" else "adj_y"))


def factors_of(quant: tf.Operation) -> Factors:
    """Returns what the uint8 values mean that take the place of the int8 values of an AscendQuant."""
    return Factors(scale_of(quant), offset_of(quant) + UINT8_ZERO)


def reason_against_int8_op(layer: DeployedLayer) -> str | None:
    """Returns why a layer must compute in float, in words, or None."""
    op = layer.op
    if op.type in CONVOLUTIONS:
        return _reason_against_convolution(layer)
    if op.type in PRODUCTS:
        return _reason_against_product(layer)
    if op.type == "AvgPool":
        return "TensorFlow's int8 op would round the averages to the steps of its input"
    return f"TensorFlow has no int8 op for {op.type}"


def _reason_against_convolution(layer: DeployedLayer) -> str | None:
    op, row = layer.op, TABLE[layer.op.type]
    if op.inputs[0].shape.rank is None or not row.groups_are_known(op):
        return "the number of channels of its input is unknown"
    if row.groups(op) > 1:
        return "TensorFlow has no int8 op for groups of channels"
    if factors_of(layer.quants[0]).zero_point and _paddings(op) is None:
        return "how it pads depends on sizes of its input that are unknown"
    return None


def _reason_against_product(layer: DeployedLayer) -> str | None:
    op = layer.op
    if layer.weight_input is None:
        return "TensorFlow has no int8 op for products of two computed tensors"
    if op.inputs[layer.weight_input].shape.rank != 2:
        return "TensorFlow has no int8 op for batches of matrices"
    if op.inputs[0].shape.rank is None:
        return "the rank of its input is unknown"
    return None


def _paddings(op: tf.Operation) -> list[list[int]] | None:
    """Returns how much a convolution pads before and behind each axis of its data; None if that is unknown."""
    stencil, shape = Stencil.of(op), op.inputs[0].shape.as_list()
    spatial = slice(2, None) if data_format(op) == "NCHW" else slice(1, -1)
    kernel = op.inputs[1].shape.as_list()[:2]
    pads: list[list[int]] = []
    for axis, size in enumerate(shape[spatial]):
        if stencil.padding == "SAME":
            stride, extent = stencil.strides[axis], (kernel[axis] - 1) * stencil.dilations[axis] + 1
            if size is None and stride > 1:
                return None
            size = size or stride
            total = max((math.ceil(size / stride) - 1) * stride + extent - size, 0)
            pads.append([total // 2, total - total // 2])
        else:
            pads.append(list(stencil.explicit_paddings[2 * axis : 2 * axis + 2]) or [0, 0])
    channels_first = spatial.start == 2
    return [[0, 0], *([[0, 0]] if channels_first else []), *pads, *([] if channels_first else [[0, 0]])]
