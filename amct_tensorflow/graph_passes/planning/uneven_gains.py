"""Planning: a batch norm whose gains are too uneven for one weight scale is better not folded.

With one scale for all channels, the weights of a channel keep an SQNR of sum(w^2) / (count * scale^2 / 12), where the
largest weight of all channels makes the scale. A batch norm multiplies each channel by its gain: where these differ
much, and not as the weights do already, the weights of most channels become a few steps of the scale or none. The batch
norm of a trained network evens its channels out, so that there the fold gains more often than it costs.

Cases, for a layer with one scale whose weights are constants:

1. The channels keep, on average, within 12 dB (two bits) of what they keep without the fold: folded. What a single
   channel loses counts as 20 dB at most, as some batch norms all but switch channels off.
2. They keep less: not folded.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from amct_tensorflow.graph_passes.workspace import FloatArray, Layer

_MOST_LOSS = 12.0  # dB
_LARGEST_OF_A_CHANNEL = 20.0  # dB
_TINY = np.finfo(np.float64).tiny


def reason_against_gains(layer: Layer) -> str | None:
    """Returns why what is folded into a layer should not be, in words, or None."""
    if layer.folded is None or layer.channel_axes or not isinstance(layer.weights, np.ndarray):
        return None
    unfused = layer.unfused().weights
    assert isinstance(unfused, np.ndarray)
    losses = _sqnr(layer, unfused) - _sqnr(layer, layer.weights)
    loss = np.mean(np.clip(losses, -_LARGEST_OF_A_CHANNEL, _LARGEST_OF_A_CHANNEL))
    if not loss > _MOST_LOSS:
        return None
    return (
        f"{layer.folded} is not folded: its gains differ so much that weights of one scale would lose {loss:.0f} dB of "
        "the average channel"
    )


def _sqnr(layer: Layer, weights: FloatArray) -> npt.NDArray[np.float64]:
    """Returns the SQNR of the weights of each channel under one scale, in dB; the least float for channels of zeros."""
    others = tuple(axis for axis in range(weights.ndim) if axis not in layer.row.channel_axes)
    power = np.square(weights, dtype=np.float64).mean(axis=others).reshape(-1)
    noise = (np.abs(weights).max() / 127.0) ** 2 / 12
    return 10 * np.log10(np.maximum(power, _TINY) / max(noise, _TINY))
