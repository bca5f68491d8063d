"""Performing: int8 weights behind an AscendWeightQuant, and integer biases.

w_int8 = clip(round(w / scale_w)), or the integers that the calibration found,
b_int32 = round(b / (scale_d * scale_w)), held in a float constant
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from amct_tensorflow.errors import AmctRuntimeError
from amct_tensorflow.graph.edit import at_root
from amct_tensorflow.graph.large_constants import add_constant
from amct_tensorflow.graph_passes.workspace import FloatArray, Layer, Workspace
from amct_tensorflow.ops import quantize_weights, tensorflow_ops
from amct_tensorflow.record import LayerRecord

INT32_MIN, INT32_MAX = -(2.0**31), 2.0**31 - 1
_LARGEST_FLOAT_IN_INT32 = 2.0**31 - 128


def deq_scales(layer: Layer, record: LayerRecord) -> FloatArray:
    """Returns scale_d * scale_w in float32: one value, or one per output channel."""
    assert layer.scale_w is not None
    return np.float32(record.scale_d) * layer.scale_w


class Int8Weights:
    """Makes the tensor of a layer's int8 weights; layers that share weights and scales share the constant."""

    def __init__(self) -> None:
        self._shared: dict[tuple[str, tuple[int, ...], bytes, int], tf.Tensor] = {}

    def __call__(self, workspace: Workspace, layer: Layer) -> tf.Tensor:
        """Returns the output of an AscendWeightQuant."""
        assert isinstance(layer.weights, np.ndarray) and layer.scale_w is not None
        key = (layer.weights_key, layer.channel_axes, layer.scale_w.tobytes(), id(layer.integers))
        if key not in self._shared:
            self._shared[key] = _ascend_weight_quant(workspace, layer, layer.weights, layer.scale_w)
            layer.inserted.append(self._shared[key].op)
        return self._shared[key]


def _ascend_weight_quant(workspace: Workspace, layer: Layer, weights: FloatArray, scale_w: FloatArray) -> tf.Tensor:
    axes = layer.channel_axes
    quantized = quantize_weights(weights, scale_w, axes) if layer.integers is None else layer.integers
    offset_shape = [size if axis in axes else 1 for axis, size in enumerate(weights.shape)]
    scope = workspace.scope_for(layer, "weight_quant")
    with at_root(workspace.graph):
        return tensorflow_ops().ascend_weight_quant(
            add_constant(quantized, scope + "weights"),
            tf.constant(np.zeros(offset_shape, np.int8), name=scope + "offset_w"),
            T=tf.float32,
            name=scope + "AscendWeightQuant",
        )


def quantized_bias(layer: Layer, record: LayerRecord) -> FloatArray:
    """Returns the layer's bias in units of its int32 result, integers held in float32 [channels].

    Raises:
        AmctRuntimeError: a value is beyond int32; names the layer.
    """
    assert isinstance(layer.bias, np.ndarray)
    ratio = layer.bias.astype(np.float64) / deq_scales(layer, record)
    bias = np.trunc(ratio + np.copysign(0.5, ratio))  # half away from zero
    if not ((bias >= INT32_MIN) & (bias <= INT32_MAX)).all():
        raise AmctRuntimeError(
            f'Quantized bias of layer "{layer.name}" exceed int32 range: [{INT32_MIN}, {INT32_MAX}], '
            "please add it to skip layer."
        )
    return np.minimum(bias, _LARGEST_FLOAT_IN_INT32).astype(np.float32)


def integer_bias(records: Mapping[str, LayerRecord], workspace: Workspace, layer: Layer) -> tf.Tensor:
    """Makes the constant of a layer's bias."""
    with at_root(workspace.graph):
        return tf.constant(
            quantized_bias(layer, records[layer.name]), name=workspace.scope_for(layer, "bias_quant") + "bias"
        )
