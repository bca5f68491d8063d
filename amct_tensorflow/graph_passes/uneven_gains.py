"""Planning: a batch norm whose gains are too uneven for one weight scale is better not folded.

With one scale for all channels, the weights of a channel keep an SQNR of sum(w^2) / (count * scale^2 / 12), where the
largest weight of all channels makes the scale. A batch norm multiplies each channel by its gain: where these differ
much, and not as the weights do already, the weights of most channels become a few steps of the scale or none. The batch
norm of a trained network evens its channels out, so that there the fold gains more often than it costs.

Cases, for a layer with one scale whose weights are constants:

1. The channels keep, on average, within 12 dB (two bits) of what they keep without the fold: folded.
2. They keep less: not folded.
"""

from __future__ import annotations

import numpy as np

from amct_tensorflow.graph_passes.workspace import FloatArray, Layer

_MOST_LOSS = 12.0  # dB


def reason_against_gains(layer: Layer) -> str | None:
    """Returns why what is folded into a layer should not be, in words, or None."""
    if layer.folded is None or layer.channel_axes or not isinstance(layer.weights, np.ndarray):
        return None
    unfused = layer.unfused().weights
    assert isinstance(unfused, np.ndarray)
    loss = _mean_sqnr(layer, unfused) - _mean_sqnr(layer, layer.weights)
    if not loss > _MOST_LOSS:
        return None
    return (
        f"{layer.folded} is not folded: its gains differ so much that weights of one scale would lose {loss:.0f} dB of "
        "the average channel"
    )


def _mean_sqnr(layer: Layer, weights: FloatArray) -> float:
    """Returns the SQNR of the weights of a channel under one scale, in dB, on average over those that are not zero."""
    others = tuple(axis for axis in range(weights.ndim) if axis not in layer.row.channel_axes)
    power = np.square(weights, dtype=np.float64).mean(axis=others)
    step = np.abs(weights).max() / 127.0
    alive = power > 0
    return float(np.mean(10 * np.log10(power[alive] / (step**2 / 12)))) if alive.any() else 0.0
