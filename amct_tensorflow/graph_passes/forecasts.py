"""What the result of a layer will lose in int8, computed from what its calibration has seen, without running it.

The result is a sum over the inputs k that an output o sees. Summed over the outputs, the mean squares are, without the
bias,

    signal            sum of w_o' H w_o for the second moments H of the input
    weight error      sum of e_o' H e_o for the errors e of the weights; without their mean if the bias takes it
    activation error  sum over k of n_k * sum over o of w_ko^2

with the noise n_k of a quantized input: scale^2 / 12 of the values that are not 0, but no more than their own mean
square, and what clipping loses. The first two come with the calibration (ops/numerics/compensated_rounding.h). Errors
of different inputs are taken to be independent, and clipping to lose in proportion to the mean square of an input.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from amct_tensorflow.graph_passes.workspace import Layer
from amct_tensorflow.record import LayerRounding

_Doubles = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Mean squares of a layer's result, and of what int8 adds to it; see above.

    Attributes:
        signal: the result.
        weight_error: of the weights.
        activation_error: of the activations.
    """

    signal: float
    weight_error: float
    activation_error: float

    @property
    def sqnr(self) -> float:
        """In dB, from -99 to 99."""
        noise = self.weight_error + self.activation_error
        ratio = self.signal / noise if noise > 0 else np.inf
        return float(np.clip(10 * np.log10(max(ratio, 1e-10)), -99.0, 99.0))


def forecast(layer: Layer, found: LayerRounding, *, corrected: bool) -> Forecast:
    """Returns the forecast of a layer in its final form, which still has its float weights.

    Args:
        layer: the layer.
        found: what its calibration found.
        corrected: whether it takes the correction of its bias, if there is one.
    """
    not_taken = 0.0 if corrected or found.bias is None else found.mean_error
    activation_error = float(np.sum(input_noise(found) * input_gains(layer)))
    return Forecast(found.signal, found.weight_error + not_taken, activation_error)


def input_gains(layer: Layer) -> _Doubles:
    """Returns the sum of the squares of the weights of each input, [taps, input channels]."""
    return np.square(weights_by_input(layer)).sum(axis=-1)


def weights_by_input(layer: Layer) -> _Doubles:
    """Returns the weights as [taps, input channels, output channels of a group]."""
    assert isinstance(layer.weights, np.ndarray)
    layout = layer.row.weight_layout(layer.op)
    weights = np.ascontiguousarray(layer.weights)
    steps = (layout.tap_step, layout.group_step, layout.channel_step, layout.output_step)
    view = np.lib.stride_tricks.as_strided(
        weights,
        (layout.taps, layout.groups, layout.width, layout.outputs),
        [step * weights.itemsize for step in steps],
        writeable=False,
    )
    return view.reshape(layout.taps, -1, layout.outputs).astype(np.float64)


def input_noise(found: LayerRounding) -> _Doubles:
    """Returns the mean square error of each quantized input, [taps, input channels]."""
    power = found.inputs.power.astype(np.float64)
    rounding = np.minimum(found.inputs.nonzero * found.scale_d**2 / 12, power)
    clipping = max(found.input_error - float(rounding.mean()), 0.0)
    mean_power = float(power.mean())
    return rounding + (clipping * power / mean_power if mean_power > 0 else 0.0)
