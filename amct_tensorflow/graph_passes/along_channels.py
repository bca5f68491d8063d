"""Parameters that lie along the output channels of a layer, and what they do to its weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from amct_tensorflow.graph.values import Value, broadcast_to, reshape, value_of
from amct_tensorflow.graph_passes.workspace import FloatArray, Layer


def along_channels(layer: Layer, parameter: tf.Tensor) -> Value | None:
    """Returns one value per output channel, or None for a parameter that varies along anything else.

    It may be a scalar, [C], or of more axes, all of 1 but that of the channels.
    """
    rank = layer.end.shape.rank
    if rank is None or not parameter.shape.is_fully_defined():
        return None
    channel_axis = 1 if layer.data_format == "NCHW" else rank - 1
    if not _lies_along(parameter.shape.as_list(), channel_axis, rank, layer.channels):
        return None
    return broadcast_to(reshape(value_of(parameter), [-1]), [layer.channels])


def _lies_along(shape: Sequence[int], axis: int, rank: int, channels: int) -> bool:
    """Tells whether a tensor of this shape broadcasts to `rank` axes without varying beyond `axis`."""
    if len(shape) > rank:
        return False
    padded = [1] * (rank - len(shape)) + list(shape)
    return all(size == 1 or (at == axis and size == channels) for at, size in enumerate(padded))


def largest_weights(layer: Layer) -> FloatArray:
    """Returns the largest magnitude of the weights under each of the layer's scales."""
    assert isinstance(layer.weights, np.ndarray)
    others = tuple(axis for axis in range(layer.weights.ndim) if axis not in layer.channel_axes)
    return np.reshape(np.abs(layer.weights).max(axis=others), -1)


def scale_outputs(layer: Layer, factor: Value, bias: Value | None) -> str | None:
    """Multiplies the layer's results by a factor per channel, and gives it the bias that it has then.

    Its weights are its own from here on: other layers that share the constant keep theirs. Scales that are known of
    the weights as they were, as after quantization-aware training, go along: scale_w' = scale_w * |f|, and the
    integers stay what they were, with the opposite sign where f is negative (-128 then becomes 127).

    Returns:
        Why the layer stays as it is, in words, or None.
    """
    assert layer.weights is not None
    with np.errstate(all="ignore"):  # what is not finite is refused below
        weights = layer.weights * reshape(factor, layer.along_channels())
    for value in (weights, bias):
        if isinstance(value, np.ndarray) and not np.isfinite(value).all():
            return "the folded parameters are not finite"
    layer.weights, layer.bias = weights, bias
    layer.weights_key = layer.name
    if layer.scale_w is not None and isinstance(factor, np.ndarray):
        layer.scale_w = (layer.scale_w * np.abs(factor)).astype(np.float32)
        layer.channel_axes = layer.row.channel_axes
    return None
