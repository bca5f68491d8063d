"""Planning: do the scales of a record belong to the weights of the model, and to those before or after a fold?

A scale belongs to weights that reach the end of the int8 range with it. Cases, where a record comes with a model
that it was not calibrated on in this process:

1. The weights, folded where there is a batch norm, do not go beyond the range: as it should be.
2. They do, but the unfolded weights do not, or the unfolded fill the range and the folded do not: the scales are
   those of the unfolded weights, and the layer is left unfused.
3. Both do, in up to 1 % of the weights: whoever made the record clips on purpose.
4. Both do, in more: the record is of another model.
"""

from __future__ import annotations

import numpy as np

from amct_tensorflow.errors import AmctRuntimeError
from amct_tensorflow.graph_passes.workspace import FloatArray, Layer

_MOST_REACH = 1.05  # rounding aside, 1 is the end of the int8 range
_LEAST_REACH = 0.95
_MOST_CLIPPED = 0.01


def check_own_scales(layer: Layer) -> None:
    """Raises `AmctRuntimeError` unless the weights stay in the range, as those that were calibrated do."""
    reach = float(_reach(layer).max())
    if reach > _MOST_REACH:
        raise AmctRuntimeError(
            f"the weights of layer {layer.name} are up to {reach:.3g} times as large as scale_w of the record allows: "
            "the record is of another model, calibrate this one"
        )


def belongs_to_unfused(fused: Layer, unfused: Layer) -> str | None:
    """Returns the reason, in words, for which the scales are of the weights without the batch norm, or None."""
    with_norm, without = _reach(fused), _reach(unfused)
    if without.max() > _MOST_REACH or (with_norm.max() <= _MOST_REACH and not _fills_better(without, with_norm)):
        return None
    return (
        f"batch norm {fused.folded} is not folded: scale_w of the record is of the weights without it, with "
        f"it they are {with_norm.min():.3g} to {with_norm.max():.3g} times what the scales allow"
    )


def check_clipping(layer: Layer) -> str | None:
    """Returns a warning if scale_w clips some of the weights, None if not.

    Raises:
        AmctRuntimeError: it clips more than a purpose could explain; names the layer.
    """
    reach = float(_reach(layer).max())
    if reach <= _MOST_REACH:
        return None
    clipped = _clipped(layer)
    if clipped > _MOST_CLIPPED:
        raise AmctRuntimeError(
            f"the weights of layer {layer.name} are up to {reach:.3g} times as large as scale_w of the record allows, "
            f"which clips {clipped:.1%} of them: the record is of another model, or of weights that were changed "
            "since; compute its factors from this model"
        )
    return (
        f"scale_w of layer {layer.name} clips {clipped:.2%} of its weights, which are up to {reach:.3g} times as large "
        "as it allows"
    )


def _reach(layer: Layer) -> FloatArray:
    """Returns, per scale, the largest weight in ends of the int8 range: 127 upwards, 128 downwards."""
    assert isinstance(layer.weights, np.ndarray) and layer.scale_w is not None
    others = tuple(axis for axis in range(layer.weights.ndim) if axis not in layer.channel_axes)
    ends = np.maximum(layer.weights.max(axis=others) / 127, layer.weights.min(axis=others) / -128)
    return np.asarray(np.reshape(np.maximum(ends, 0), -1) / layer.scale_w, np.float32)


def _fills_better(one: FloatArray, other: FloatArray) -> bool:
    """Tells whether every channel of the one fills the range and some channel of the other does not."""
    in_use = one > 0  # a channel of zeros fills nothing, whatever its scale
    return bool(in_use.any() and one[in_use].min() >= _LEAST_REACH and other[in_use].min() < _LEAST_REACH)


def _clipped(layer: Layer) -> float:
    """Returns the share of the weights beyond the range."""
    assert isinstance(layer.weights, np.ndarray) and layer.scale_w is not None
    scales = layer.scale_w.reshape(layer.along_channels() if layer.channel_axes else [])
    steps = layer.weights / scales
    return float(np.mean((steps > 127.5) | (steps < -128.5)))
