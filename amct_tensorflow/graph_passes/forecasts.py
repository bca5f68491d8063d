"""What the result of a layer will lose in int8, computed from what its calibration has seen, without running it.

The result is a sum over the inputs k that an output o sees. Summed over the outputs, the mean squares are, without the
bias,

    signal            sum of w_o' H w_o for the second moments H of the input
    weight error      sum of e_o' H e_o for the errors e of the weights; without their mean if the bias takes it
    activation error  sum over k of n_k * sum over o of w_ko^2

    shift error       sum of d_o^2 * (4^N_o - 1) / 12 for the N_o bits that the shift of the integer result drops

with the scale d_o of that result, and the noise n_k of a quantized input: scale^2 / 12 of the values that are not 0,
but no more than their own mean square, and what clipping loses. The first two come with the calibration
(ops/numerics/compensated_rounding.h), and so does the error of the input as a whole. Errors of different inputs are
taken to be independent, and clipping to lose in proportion to the mean square of an input.

Values of unseen data beyond the range of the calibration, of the input or of the shifted result, are not in it: few
samples have them, but can lose more than all others together, and how much does not follow from the samples that there
are. A forecast from each of these with the range of the others, and ones from larger parts of them, were right more
often for some nets and less often for others.

The dropped bits are cut off, so that the result is too low by d_o * (2^N_o - 1) / 2 in the mean, which a bias can take.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from amct_tensorflow.graph_passes.deploy_parameters import deq_scales
from amct_tensorflow.graph_passes.planning.along_channels import lacks_weights
from amct_tensorflow.graph_passes.workspace import Layer
from amct_tensorflow.record import LayerRecord, LayerRounding

_Doubles = npt.NDArray[np.float64]

_TINY = float(np.finfo(np.float64).tiny)


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Mean squares of a layer's result, and of what int8 adds to it; see above.

    Attributes:
        signal: the result.
        weight_error: of the weights.
        activation_error: of the activations.
        shift_error: of the shift of the result.
    """

    signal: float
    weight_error: float
    activation_error: float
    shift_error: float

    @property
    def sqnr(self) -> float:
        """In dB, from -99 to 99."""
        noise = self.weight_error + self.activation_error + self.shift_error
        ratio = self.signal / noise if noise > 0 else np.inf
        return float(np.clip(10 * np.log10(max(ratio, 1e-10)), -99.0, 99.0))


def forecasts(layer: Layer, record: LayerRecord, found: LayerRounding) -> tuple[Forecast, Forecast]:
    """Returns the forecast of a layer in its final form, which still has its float weights, and of it once corrected.

    Args:
        layer: the layer.
        record: its factors.
        found: what its calibration found. Where that is no correction of the bias, the two are the same.
    """
    activation_error = float(np.sum(input_noise(found) * input_gains(layer)))
    scales, steps = _result_steps(layer, record)
    shift_error = float(np.sum(np.square(scales) * (np.square(steps) - 1)) / 12)
    corrected = Forecast(found.signal, found.weight_error, activation_error, shift_error)
    not_taken = 0.0 if found.bias is None else found.mean_error
    as_it_is = dataclasses.replace(
        corrected,
        weight_error=corrected.weight_error + not_taken,
        shift_error=shift_error + float(np.sum(np.square(cut_off(layer, record)))),
    )
    return as_it_is, as_it_is if found.bias is None else corrected


def cut_off(layer: Layer, record: LayerRecord) -> _Doubles:
    """Returns what the shift takes from the mean of each output channel."""
    scales, steps = _result_steps(layer, record)
    return scales * (steps - 1) / 2


def _result_steps(layer: Layer, record: LayerRecord) -> tuple[_Doubles, _Doubles]:
    """Returns for each output channel the scale of its integer result, and how many of these the shift makes one."""
    scales = np.broadcast_to(deq_scales(layer, record).astype(np.float64), [layer.channels])
    if layer.channel_axes:  # a channel without weights gets a scale that suits its bias, and loses nothing
        scales = np.where(lacks_weights(layer), 0.0, scales)
    return scales, np.broadcast_to(np.exp2(np.array(record.shift_bit or [0], np.float64)), [layer.channels])


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
    """Returns the mean square error of each quantized input, [taps, input channels].

    What is beside the input has none; the error of the input as a whole is that of what is inside.
    """
    power = found.inputs.power.astype(np.float64)
    rounding = np.minimum(found.inputs.nonzero * found.scale_d**2 / 12, power)
    inside = max(float(found.inputs.seen.mean()), _TINY)
    excess = found.input_error - float(rounding.mean()) / inside
    if excess <= 0:  # values that lie on steps, such as the integers of an image, lose less
        return rounding * (found.input_error * inside / max(float(rounding.mean()), _TINY))
    return rounding + excess * inside * power / max(float(power.mean()), _TINY)
