"""Parameters that lie along the output channels of layers, and what they do to their weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from amct_tensorflow.graph.values import Value, broadcast_to, reshape, value_of
from amct_tensorflow.graph_passes.planning.front import Front, Span
from amct_tensorflow.graph_passes.workspace import FloatArray, Layer


def along_channels(front: Front, parameter: tf.Tensor) -> Value | None:
    """Returns one value per output channel, or None for a parameter that varies along anything else.

    It may be a scalar, [C], or of more axes, all of 1 but those of the channels.
    """
    rank = front.tensor.shape.rank
    if rank is None or front.span is None or not parameter.shape.is_fully_defined():
        return None
    sizes = _along(parameter.shape.as_list(), front.span, rank)
    if sizes is None:
        return None
    spread = broadcast_to(reshape(value_of(parameter), sizes), front.span.sizes)
    return spread if len(sizes) == 1 else reshape(spread, [front.channels])


def _along(shape: Sequence[int], span: Span, rank: int) -> list[int] | None:
    """Returns the sizes in `span` of a tensor of this shape, broadcast to `rank` axes; None if it varies beyond."""
    padded = [1] * (rank - len(shape)) + list(shape)
    end = span.first + len(span.sizes)
    sizes = padded[span.first : end]
    fits = all(size in (1, channels) for size, channels in zip(sizes, span.sizes, strict=True))
    beyond = [*padded[: span.first], *padded[end:]]
    return sizes if len(shape) <= rank and fits and all(size == 1 for size in beyond) else None


def largest_weights(layer: Layer) -> FloatArray:
    """Returns the largest magnitude of the weights under each of the layer's scales."""
    assert isinstance(layer.weights, np.ndarray)
    others = tuple(axis for axis in range(layer.weights.ndim) if axis not in layer.channel_axes)
    return np.reshape(np.abs(layer.weights).max(axis=others), -1)


def lacks_weights(layer: Layer) -> npt.NDArray[np.bool_]:
    """Tells under which of the layer's scales all integers are 0: there the scale does not matter to the weights."""
    assert layer.scale_w is not None
    return largest_weights(layer) / layer.scale_w < 0.5


def scale_outputs(front: Front, factor: Value, bias: Value | None) -> str | None:
    """Multiplies the results of layers by a factor per channel, and gives them the bias that they have then.

    Their weights are their own from here on: other layers that share the constant keep theirs. Scales that are known of
    the weights as they were, as after quantization-aware training, go along: scale_w' = scale_w * |f|, and the
    integers stay what they were, with the opposite sign where f is negative (-128 then becomes 127).

    Returns:
        Why the layers stay as they are, in words, or None.
    """
    factors = front.parts(factor)
    biases: list[Value | None] = [None] * len(factors) if bias is None else [*front.parts(bias)]
    weights = [_scaled_weights(layer, each) for layer, each in zip(front.layers, factors, strict=True)]
    for value in (*weights, *biases):
        if isinstance(value, np.ndarray) and not np.isfinite(value).all():
            return "the folded parameters are not finite"
    for layer, each, of_layer, bias_of_layer in zip(front.layers, factors, weights, biases, strict=True):
        layer.weights, layer.bias = of_layer, bias_of_layer
        layer.weights_key = layer.name
        if layer.scale_w is not None and isinstance(each, np.ndarray):
            layer.scale_w = (layer.scale_w * np.abs(each)).astype(np.float32)
            layer.channel_axes = layer.row.channel_axes
    return None


def _scaled_weights(layer: Layer, factor: Value) -> Value:
    assert layer.weights is not None
    with np.errstate(all="ignore"):  # what is not finite is refused afterwards
        return layer.weights * reshape(factor, layer.along_channels())
