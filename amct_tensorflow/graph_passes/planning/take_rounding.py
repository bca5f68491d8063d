"""Planning: layers take the integers of their weights, and the corrections of their biases, that a calibration found.

Cases, by layer:

1. The calibration was not asked for any: nothing is done, and the weights become the nearest integers.
2. It found them for these weights under these factors: the layer takes them. One without a bias gets one where its
   result gains at least 0.5 dB by it.
3. The weights, or the factors of the record, are others since: as 1, with the reason.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from amct_tensorflow.graph_passes.forecasts import Forecast, cut_off, forecasts
from amct_tensorflow.graph_passes.remedies import advice_for, hint_for
from amct_tensorflow.graph_passes.workspace import Layer
from amct_tensorflow.ops import weight_fingerprint
from amct_tensorflow.record import LayerRecord, LayerRounding

_LEAST_GAIN = 0.5  # dB
_LEAST_SQNR = 10.0  # dB, of a layer that deserves no warning
# Weights that are folded by other arithmetic differ by 1e-7 or so. One step of one weight of a million is below in one
# case of a thousand.
_FINGERPRINT_TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class Taken:
    """What became of the rounding.

    Attributes:
        forecasts: of the layers that were calibrated with it, and are not 0 throughout, by name.
        advice: of those of them that lose much, why that is and what would help, in words.
        hints: what others could gain although they lose little as a whole, in words.
        reasons: why others take nothing, by name.
    """

    forecasts: dict[str, Forecast] = dataclasses.field(default_factory=dict)
    advice: dict[str, str] = dataclasses.field(default_factory=dict)
    hints: dict[str, str] = dataclasses.field(default_factory=dict)
    reasons: dict[str, str] = dataclasses.field(default_factory=dict)


def take_rounding(
    layers: list[Layer], records: Mapping[str, LayerRecord], rounding: Mapping[str, LayerRounding | None]
) -> Taken:
    """Runs the pass, with the final weights and the scales of the records."""
    taken = Taken()
    for layer in layers:
        if not layer.row.has_weights:
            continue
        if layer.name not in rounding:
            taken.reasons[layer.name] = "its calibration has seen no data, or was elsewhere"
            continue
        found = rounding[layer.name]
        reason = None if found is None else _reason_against(layer, records[layer.name], found)
        if reason is not None:
            taken.reasons[layer.name] = reason
        elif found is not None:
            expected = _take(layer, records[layer.name], found)
            if found.signal > 0:  # else it was its bias alone, which has nothing to lose
                taken.forecasts[layer.name] = expected
                if expected.sqnr < _LEAST_SQNR:
                    taken.advice[layer.name] = advice_for(layer, found, expected)
                elif (hint := hint_for(layer, found)) is not None:
                    taken.hints[layer.name] = hint
    return taken


def _reason_against(layer: Layer, record: LayerRecord, found: LayerRounding) -> str | None:
    assert isinstance(layer.weights, np.ndarray) and layer.scale_w is not None
    if (np.float32(found.scale_d), found.offset_d) != (np.float32(record.scale_d), record.offset_d):
        return "scale_d or offset_d of its record was changed"
    layout = layer.row.weight_layout(layer.op)
    if (
        found.inputs.mean.shape != (layout.taps, layout.groups * layout.width)
        or (found.weights is not None and found.weights.shape != layer.weights.shape)
        or (found.bias is not None and found.bias.size != layer.channels)
    ):
        return "its weights have another shape"
    now = weight_fingerprint(layer.weights, layer.scale_w, layer.channel_axes)
    if np.abs(now - found.fingerprint)[:2].max() > _FINGERPRINT_TOLERANCE * np.sqrt(now[2]):
        return "its weights, or scale_w of its record, were changed"
    return None


def _take(layer: Layer, record: LayerRecord, found: LayerRounding) -> Forecast:
    layer.integers = found.weights
    as_it_is, corrected = forecasts(layer, record, found)
    if found.bias is None or (layer.bias is None and corrected.sqnr < as_it_is.sqnr + _LEAST_GAIN):
        return as_it_is
    correction = (found.bias + cut_off(layer, record)).astype(np.float32)
    layer.bias = correction if layer.bias is None else layer.bias + correction
    return corrected
