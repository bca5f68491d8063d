"""Why a layer loses much in int8, and what would help: from the numbers of its forecast, without running anything.

What another way to quantize the layer would give is computed as the forecast is (graph_passes/forecasts.py). The error
of the weights, which only a calibration knows, is taken to change as it would if all weights were rounded to the
nearest: by scale^2 / 12, but no more than the square of the weight, times the mean square of the input.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from amct_tensorflow.graph_passes.forecasts import Forecast, input_noise, weights_by_input
from amct_tensorflow.graph_passes.workspace import Layer
from amct_tensorflow.layers import FoundLayer
from amct_tensorflow.record import LayerRounding

_Doubles = npt.NDArray[np.float64]

_STRENGTHS = (0.5, 0.4, 0.6, 0.3, 0.7, 0.2, 0.8)  # of equal ones, to a dB, the first is named
_LEAST_GAIN = 3.0  # dB, for something to be called a remedy, both over the present and over a result of 0
_TINY = float(np.finfo(np.float64).tiny)
_HEAVY_TAIL = 30.0  # of the largest value against the root of the mean square


@dataclasses.dataclass(frozen=True)
class Remedy:
    """A way to quantize a layer better.

    Attributes:
        reason: what is wrong with the present one, in words.
        advice: what to do, in words.
        sqnr: the forecast with it, in dB.
    """

    reason: str
    advice: str
    sqnr: float


def advice_for(layer: Layer, found: LayerRounding, now: Forecast) -> str:
    """Returns why the layer loses what it does, and what would help, in words.

    Args:
        layer: the layer in its final form, which still has its float weights.
        found: what its calibration found.
        now: its forecast.
    """
    best = max(_remedies(layer, found, now), key=lambda remedy: remedy.sqnr, default=None)
    if best is not None and best.sqnr >= max(now.sqnr, 0.0) + _LEAST_GAIN:
        return f"{best.reason}; {best.advice} would give about {best.sqnr:.0f} dB, skip_layers keeps it float"
    if now.weight_error > now.activation_error:
        if layer.folded is not None:
            return (
                f"its weights with {layer.folded} folded in are hard to round; try skip_fusion_layers, or skip_layers"
            )
        return "its weights are hard to round; put it into skip_layers"
    if found.inputs.largest.max() > _HEAVY_TAIL * np.sqrt(found.inputs.power.mean()):
        return (
            f"its input has a heavy tail, up to {found.inputs.largest.max():.3g} where most is about "
            f"{np.sqrt(found.inputs.power.mean()):.3g}; try act_algo hfmg or a search_range from 0.1, or skip_layers"
        )
    return "its result is small against the inputs that it is summed from; put it into skip_layers"


def hint_for(layer: Layer, found: LayerRounding) -> str | None:
    """Returns what a layer that may lose little as a whole could gain, in words; None if that is not much.

    The largest output channels hide in its forecast that smaller ones lose by a scale that is not theirs.
    """
    if not _wants_channel_wise(layer):
        return None
    present = _present_form(layer, found)
    better = dataclasses.replace(present, channel_wise=True)
    of_input = input_noise(found)[..., None] * np.square(present.weights)
    others = present.by_output(of_input)
    used = present.by_output(present.weights != 0) > 0
    ratios = (present.rounding_errors() + others)[used] / np.maximum((better.rounding_errors() + others)[used], _TINY)
    gain = float(np.mean(10 * np.log10(np.maximum(ratios, _TINY)))) if used.any() else 0.0
    if gain < _LEAST_GAIN:
        return None
    return f"channel_wise true would give its output channels {gain:.0f} dB more on average"


def _wants_channel_wise(layer: Layer) -> bool:
    return not layer.channel_axes and not FoundLayer(layer.op, layer.row, None).one_scale


def _present_form(layer: Layer, found: LayerRounding) -> _Form:
    power = found.inputs.power.astype(np.float64)
    return _Form(layer, weights_by_input(layer), power, found.scale_d, bool(layer.channel_axes))


def _remedies(layer: Layer, found: LayerRounding, now: Forecast) -> Iterator[Remedy]:
    present = _present_form(layer, found)
    if _wants_channel_wise(layer):
        yield _channel_wise(present, now)
    if layer.balance is None:
        yield max(
            (_balanced(present, found, now, strength) for strength in _STRENGTHS), key=lambda item: round(item.sqnr)
        )


@dataclasses.dataclass(frozen=True)
class _Form:
    """A form in which a layer can be quantized.

    Attributes:
        layer: the layer.
        weights: as [taps, input channels, output channels of a group].
        power: the mean square of the input, [taps, input channels].
        scale_d: the scale of the input.
        channel_wise: whether each output channel has a scale of its own.
    """

    layer: Layer
    weights: _Doubles
    power: _Doubles
    scale_d: float
    channel_wise: bool

    def largest_weights(self) -> _Doubles:
        """Returns the largest magnitude for each output, [groups, outputs]."""
        layout = self.layer.row.weight_layout(self.layer.op)
        by_input = np.abs(self.weights).max(axis=0).reshape(layout.groups, layout.width, layout.outputs)
        largest: _Doubles = by_input.max(axis=1)
        return np.broadcast_to(largest.max(axis=0), largest.shape) if layout.batched else largest

    def scales(self) -> _Doubles:
        """Returns the scales of the weights, [groups, outputs]."""
        largest = self.largest_weights()
        return (largest if self.channel_wise else np.full_like(largest, largest.max())) / 127

    def by_output(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Returns the sums of what each weight has over the inputs of its group, [groups, outputs]."""
        layout = self.layer.row.weight_layout(self.layer.op)
        return values.sum(axis=0).reshape(layout.groups, layout.width, layout.outputs).sum(axis=1)

    def rounding_errors(self) -> _Doubles:
        """Returns what rounding all weights to the nearest adds to each output, [groups, outputs]."""
        width = self.layer.row.weight_layout(self.layer.op).width
        scales = np.repeat(self.scales(), width, axis=0)  # [input channels, outputs of their group]
        return self.by_output(self.power[..., None] * np.minimum(np.square(scales) / 12, np.square(self.weights)))

    def result_step(self) -> float:
        """Returns the mean square of the scales of the integer result."""
        return float(np.mean(np.square(self.scales() * self.scale_d)))

    def forecast_from(self, present: _Form, now: Forecast, activation_error: float) -> Forecast:
        """Returns the forecast of this form, given that of the present one."""
        weights = self.rounding_errors().sum() / max(present.rounding_errors().sum(), _TINY)
        shift = self.result_step() / max(present.result_step(), _TINY)
        return Forecast(now.signal, now.weight_error * weights, activation_error, now.shift_error * shift)


def _channel_wise(present: _Form, now: Forecast) -> Remedy:
    better = dataclasses.replace(present, channel_wise=True)
    return Remedy(
        f"its output channels differ {_spread(present.largest_weights())} in their weights, which share one scale_w",
        "channel_wise true",
        better.forecast_from(present, now, now.activation_error).sqnr,
    )


def _balanced(present: _Form, found: LayerRounding, now: Forecast, strength: float) -> Remedy:
    ranges = found.inputs.largest.max(axis=0).astype(np.float64)
    factors = _factors(ranges, np.abs(present.weights).max(axis=(0, 2)), strength)
    better = dataclasses.replace(
        present,
        weights=present.weights * factors[:, None],
        power=present.power / np.square(factors),
        scale_d=present.scale_d * float((ranges / factors).max() / max(ranges.max(), _TINY)),
    )
    noise = np.minimum(found.inputs.nonzero * better.scale_d**2 / 12, better.power)
    activation_error = float(np.sum(noise * np.square(better.weights).sum(axis=-1)))
    return Remedy(
        f"its input channels differ {_spread(ranges)} in range, and share one scale_d",
        f"dmq_balancer_param {strength}, with quantize_preprocess,",
        better.forecast_from(present, now, activation_error).sqnr,
    )


def _factors(ranges: _Doubles, weights: _Doubles, strength: float) -> _Doubles:
    """Returns what DMQ would divide each input channel by; a channel of zeros does not matter."""
    used = (ranges > 0) & (weights > 0)
    return np.where(used, np.where(used, ranges, 1) ** strength / np.where(used, weights, 1) ** (1 - strength), 1.0)


def _spread(values: _Doubles) -> str:
    """Returns by how much the largest value exceeds the least that is not 0, in words."""
    positive = values[values > 0]
    return f"{positive.max() / positive.min():.3g}-fold" if positive.size else "not"
