"""Planning: do the scales of a record belong to the weights of the model, and to those before or after a fold?

Three facts about a layer under the scales of a record decide:

* reach, per scale: the weight of largest magnitude divided by 127 scales, so 1 where it becomes 127 or -127. Signs do
  not matter, as a batch norm may turn them; that there is a -128, too, is within rounding.
* misfit, per form of the weights, fused or unfused: var(log2 reach) + log2(largest reach)^2 / 20, the variance over
  the channels. Whoever made the scales did alike in all channels, be it head-room, clipping or rounding to a power of
  two, so the reaches of the right form lie together, wherever that is; the wrong form spreads them by the factors of
  the batch norm. The second term tells the forms apart where those factors are alike. It is all there is with one
  scale for all channels, which need not reach equally far then.
* SQNR: what the weights are to what their quantization adds to them, over the channels that are not dead.

A channel is dead if its weights want a scale below the least that a record may hold: its scale was made up (ARQ says
1.0) and proves nothing. So was one that reaches less than 2^-12.

Cases, where a record comes with a model that it was not calibrated on in this process:

1. The fused weights have the smaller misfit, or one that is equal up to rounding: folded.
2. The unfused weights have: the scales are theirs, and the layer is left unfused.
3. The form of 1 or 2 keeps less than 4 dB and the other does not, or with one scale, whose misfit says little, the
   other keeps 6 dB more: it is the other.
4. Both keep less than 4 dB: the record is of another model. Honest scales stay above that: over 90,000 simulated
   layers, with all rules of tests/graph_passes/planning/test_match_record.py, the least SQNR was 9.7 dB for normal
   weights and 4.9 dB for heavy tails (Student, 4 degrees of freedom). Scales that are 10 times too small leave 1 to
   4 dB of normal weights, those far too large 0 dB.
5. Otherwise the layer is quantized, with a warning if some weights are clipped or most of the range is not used.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from amct_tensorflow.errors import AmctRuntimeError
from amct_tensorflow.graph_passes.planning.along_channels import largest_weights
from amct_tensorflow.graph_passes.workspace import Layer
from amct_tensorflow.layers import BATCH_NORMS

_Doubles = npt.NDArray[np.float64]

_LEAST_SCALE = 2.0**-22  # of a channel that is not dead: FLT_EPSILON, and a factor of 2 for rounding on the way
_LEAST_REACH = 2.0**-12  # of a scale that was not made up
_LEVEL_WEIGHT = 0.05
_EQUAL_MISFITS = 3e-4  # batch norms whose factors are all 1 / sqrt(1 + 1e-3) stay below
_LEAST_SQNR = 4.0  # dB
_CLEAR_SQNR = 6.0  # dB, one bit
_MOST_OWN_REACH = 1.05  # rounding aside, 1 is the end of the int8 range
_LEAST_OWN_REACH = 0.95
_LEAST_RANGE_USED = 0.25


def check_own_scales(layer: Layer) -> None:
    """Raises `AmctRuntimeError` unless the weights fill the range, as those that were calibrated do.

    ARQ makes the weight of largest magnitude 127 or -128, so every reach of a channel that is not dead is 1 to 1.008.
    """
    reach, alive = _reach(layer), _alive(layer)
    if reach.max() > _MOST_OWN_REACH:
        raise AmctRuntimeError(
            f"the weights of layer {layer.name} are up to {reach.max():.3g} times as large as scale_w of the record "
            "allows: the record is of another model, calibrate this one"
        )
    if alive.any() and reach[alive].min() < _LEAST_OWN_REACH:
        raise AmctRuntimeError(
            f"the weights of layer {layer.name} use only {reach[alive].min():.3g} of the int8 range in some channel "
            "under scale_w of the record: the record is of another model, calibrate this one"
        )


def belongs_to_unfused(fused: Layer, unfused: Layer) -> str | None:
    """Returns the reason, in words, for which the scales are of the weights without the fusion, or None."""
    if not _is_of_unfused(fused, unfused):
        return None
    return (
        f"{_folded(fused)} is not folded: scale_w of the record is of the weights without it, with it they are "
        f"{_times(fused)} times what the scales allow"
    )


def check_fit(layer: Layer, other: Layer | None) -> str | None:
    """Returns a warning if scale_w clips some of the weights, or leaves most of the range unused; None if not.

    Args:
        layer: the form of the layer that is quantized.
        other: the form that is not, if it has two.

    Raises:
        AmctRuntimeError: the quantized weights are not those of the model any more; names the layer.
    """
    sqnr = _sqnr(layer)
    if not sqnr >= _LEAST_SQNR:  # what is not a number is not enough either
        raise AmctRuntimeError(
            f"the weights of layer {layer.name} keep an SQNR of only {sqnr:.1f} dB under scale_w of the record, "
            f"{_in_both_forms(layer, other)}: the record is of another model, or of weights that were changed since; "
            "compute its factors from this model"
        )
    largest = _reach(layer).max()
    if largest > _MOST_OWN_REACH:
        return (
            f"scale_w of layer {layer.name} clips {_clipped(layer):.2%} of its weights, which are up to {largest:.3g} "
            f"times as large as it allows and keep an SQNR of {sqnr:.1f} dB"
        )
    if largest < _LEAST_RANGE_USED and _alive(layer).any():
        return (
            f"scale_w of layer {layer.name} uses only {largest:.1%} of the int8 range: smaller scales would be more "
            "accurate"
        )
    return None


def _is_of_unfused(fused: Layer, unfused: Layer) -> bool:
    """Tells whether the scales are those of the unfused weights."""
    used = _in_use(fused, unfused)
    with_fold, without = _sqnr(fused), _sqnr(unfused)
    one_is_refused = (with_fold < _LEAST_SQNR) != (without < _LEAST_SQNR)
    if one_is_refused or (_is_one_scale(fused, used) and abs(with_fold - without) > _CLEAR_SQNR):
        return without > with_fold
    with_fold, without = (_misfit(form, used) for form in (fused, unfused))
    return with_fold > without + _EQUAL_MISFITS


def _in_use(fused: Layer, unfused: Layer) -> npt.NDArray[np.bool_]:
    """Tells which scales prove something: no dead channels, and no scales that were made up for one."""
    forms = (fused, unfused)
    used = np.all([_alive(form) & (_reach(form) > _LEAST_REACH) for form in forms], axis=0)
    return used if used.any() else np.ones_like(used)


def _is_one_scale(layer: Layer, used: npt.NDArray[np.bool_]) -> bool:
    assert layer.scale_w is not None
    return bool(np.ptp(layer.scale_w[used]) == 0)


def _misfit(layer: Layer, used: npt.NDArray[np.bool_]) -> float:
    """Returns how unlike the scales are to those that one rule would make of the layer's weights."""
    exponents = np.log2(np.maximum(_reach(layer)[used], _LEAST_REACH))
    spread = 0.0 if _is_one_scale(layer, used) else np.var(exponents)
    return float(spread + _LEVEL_WEIGHT * exponents.max() ** 2)


def _wanted_scales(layer: Layer) -> _Doubles:
    """Returns, per scale of the record, the one that makes the weight of largest magnitude 127 or -127."""
    return largest_weights(layer).astype(np.float64) / 127


def _reach(layer: Layer) -> _Doubles:
    assert layer.scale_w is not None
    return _wanted_scales(layer) / layer.scale_w


def _alive(layer: Layer) -> npt.NDArray[np.bool_]:
    return ~(_wanted_scales(layer) < _LEAST_SCALE)  # what is not a number is not dead


def _steps(layer: Layer) -> _Doubles:
    """Returns the weights in steps of their scales, as [weights of a channel, scales]."""
    assert isinstance(layer.weights, np.ndarray) and layer.scale_w is not None
    last = range(-len(layer.channel_axes), 0)
    by_channel = np.moveaxis(layer.weights, layer.channel_axes, last).astype(np.float64)
    return by_channel.reshape(-1, layer.scale_w.size) / layer.scale_w


def _sqnr(layer: Layer) -> float:
    """Returns the SQNR of the weights in dB; infinite if nothing is lost, or there is nothing to lose."""
    assert layer.scale_w is not None
    alive = _alive(layer)
    steps, scales = _steps(layer)[:, alive], layer.scale_w[alive]
    errors = np.clip(np.round(steps), -128, 127) - steps
    signal, noise = (float(np.sum(np.square(part * scales))) for part in (steps, errors))
    return float("inf") if noise == 0 else float(10 * np.log10(signal / noise))


def _clipped(layer: Layer) -> float:
    """Returns the share of the weights beyond the range."""
    steps = _steps(layer)
    return float(np.mean((steps > 127.5) | (steps < -128.5)))


def _folded(fused: Layer) -> str:
    """Names what is folded."""
    assert fused.folded is not None
    op = fused.op.graph.get_operation_by_name(fused.folded)
    return f"{'batch norm' if op.type in BATCH_NORMS else op.type} {op.name}"


def _times(layer: Layer) -> str:
    """Returns from where to where the reaches go."""
    reach = _reach(layer)
    least, most = (f"{value:.3g}" for value in (reach.min(), reach.max()))
    return most if least == most else f"{least} to {most}"


def _in_both_forms(layer: Layer, other: Layer | None) -> str:
    """Returns how large the weights are for the scales, in words."""
    if other is None:
        return f"being {_times(layer)} times as large as it allows"
    fused, unfused = (layer, other) if layer.folded is not None else (other, layer)
    return (
        f"being {_times(fused)} times as large as it allows with {_folded(fused)} folded in, {_times(unfused)} times "
        "without"
    )
