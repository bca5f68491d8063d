"""Forecasts of what layers lose in int8, against what they lose; and what is advised against it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hard_graphs import HARD_GRAPHS
from small_models import Deployed, batch, constant, flat, image, sqnr

from amct_tensorflow.graph_passes.forecasts import Forecast, forecasts, input_gains, input_noise, weights_by_input
from amct_tensorflow.graph_passes.pipelines import plan_deployment
from amct_tensorflow.graph_passes.planning.take_rounding import Taken
from amct_tensorflow.graph_passes.remedies import advice_for
from amct_tensorflow.graph_passes.workspace import Layer
from amct_tensorflow.inventory import Inventory
from amct_tensorflow.layers import FoundLayer
from amct_tensorflow.post_training.deploy import FloatModel
from amct_tensorflow.record import LayerRounding, read_rounding


def plan_of(deployed: Deployed) -> tuple[Taken, dict[str, Layer]]:
    """Plans once more what save_model planned."""
    source = FloatModel.load(deployed.pb, deployed.outputs)
    workspace = source.workspace(Inventory.of(source.graph), deployed.records, deployed.record)
    taken = plan_deployment(workspace, deployed.records, read_rounding(deployed.record))
    return taken, {layer.name: layer for layer in workspace.layers}


# -- Against what is measured ----------------------------------------------------------------------------------


def convolution(**attributes: Any) -> Callable[..., Any]:
    return lambda net, x: net.conv(x, "layer", channels=16, **attributes)


def dense(net: Any, x: tf.Tensor) -> tf.Tensor:
    return net.matmul(flat(tf.nn.avg_pool2d(x, 2, 2, "VALID")), "layer", channels=16)


# Layer -> its input -> its result, without a bias.
LAYERS = {
    "conv": convolution(),
    "conv 1x1": convolution(size=1),
    "conv, strides": convolution(strides=[1, 2, 2, 1]),
    "conv, dilations": convolution(dilations=[1, 2, 2, 1]),
    "conv, VALID": convolution(padding="VALID"),
    "depthwise": lambda net, x: net.depthwise(x, "layer", multiplier=2),
    "transposed": lambda net, x: tf.raw_ops.Conv2DBackpropInput(
        input_sizes=[16, 16, 16, 5],
        filter=net.parameter(net.random("layer", (3, 3, 5, 4)) / 6, "layer_w"),
        out_backprop=x,
        strides=[1, 2, 2, 1],
        padding="SAME",
        name="layer",
    ),
    "dense": dense,
}

# What stands between the data and the layer.
INPUTS = {
    "plain": lambda x: x,
    "ReLU": tf.nn.relu,
    "far from 0": lambda x: x + np.float32(5),
    "sparse": lambda x: tf.nn.relu(x - np.float32(1.5)),
    "ranges": lambda x: x * np.float32([0.1, 1, 0.3, 3]),
}

WAYS = {
    "default": {},
    "nearest": {"weight_rounding": "nearest"},
    "neither": {"weight_rounding": "nearest", "bias_correction": False},
    "not shifted": {"shift_n": False},
    "symmetric": {"activation_offset": False},
}


def measured(deployed: Deployed, feed: np.ndarray) -> float:
    """Returns the SQNR of the layer, of its result without the bias."""
    float_, int8 = deployed.run_float(feed, "out"), deployed.run(feed, "out")
    bias = tf.make_ndarray(deployed.float_graph.get_operation_by_name("bias_b").get_attr("value"))
    return sqnr(float_ - bias, int8 - bias)


def one_layer(layer: str, of_input: str) -> Callable[..., Any]:
    def build(net):
        y = LAYERS[layer](net, INPUTS[of_input](image(shape=(16, 8, 8, 4))))
        tf.identity(net.bias(y, "bias"), name="out")

    return build


def smooth(seed: int) -> np.ndarray:
    """Images whose neighbouring pixels have something in common."""
    coarse = batch(seed, (16, 4, 4, 4)).repeat(2, axis=1).repeat(2, axis=2)
    return coarse + 0.5 * batch(100 + seed, (16, 8, 8, 4))


def assert_forecast(tmp_path: Path, layer: str, of_input: str, way: str) -> None:
    feeds = [smooth(seed) for seed in range(4)]
    deployed = Deployed(one_layer(layer, of_input), ["out"], tmp_path, feeds=feeds, **WAYS[way])
    taken, _ = plan_of(deployed)
    if way == "neither":
        assert taken.forecasts == {} and taken.reasons == {}
        return
    got = np.mean([measured(deployed, feed) for feed in feeds])
    assert abs(taken.forecasts["layer"].sqnr - got) < 1.5


@pytest.mark.parametrize("of_input", INPUTS)
@pytest.mark.parametrize("layer", LAYERS)
def test_forecasts(tmp_path, layer, of_input):
    assert_forecast(tmp_path, layer, of_input, "default")


@pytest.mark.parametrize("way", list(WAYS)[1:])
@pytest.mark.parametrize("layer", ["conv", "depthwise", "dense"])
def test_forecasts_of_other_ways_to_quantize(tmp_path, layer, way):
    assert_forecast(tmp_path, layer, "ReLU", way)


# -- The parts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((100.0, 1.0, 0.0, 0.0), 20),
        ((100.0, 0.5, 0.3, 0.2), 20),
        ((1.0, 10.0, 0.0, 0.0), -10),
        ((1.0, 0.0, 0.0, 0.0), 99),
        ((0.0, 1.0, 0.0, 0.0), -99),
        ((0.0, 0.0, 0.0, 0.0), 99),
    ],
    ids=str,
)
def test_sqnr(parts, expected):
    assert Forecast(*parts).sqnr == pytest.approx(expected)


@pytest.mark.parametrize("layer", LAYERS)
def test_weights_by_input(tmp_path, layer):
    """A layer whose input is 1 at all its taps gives the sum of its weights, for each output."""
    _, layers = plan_of(Deployed(one_layer(layer, "plain"), ["out"], tmp_path, feeds=[smooth(0)]))
    found = layers["layer"]
    weights, layout = weights_by_input(found), found.row.weight_layout(found.op)
    assert weights.shape == (layout.taps, layout.groups * layout.width, layout.outputs)
    by_output = weights.reshape(layout.taps, layout.groups, layout.width, layout.outputs).sum(axis=(0, 2)).ravel()
    axes = tuple(axis for axis in range(found.weights.ndim) if axis not in found.row.channel_axes)
    np.testing.assert_allclose(by_output, found.weights.sum(axis=axes).ravel(), atol=1e-5)
    np.testing.assert_allclose(input_gains(found).sum(), np.square(found.weights).sum(), rtol=1e-5)


def noise_of(found: LayerRounding, **values: Any) -> np.ndarray:
    """Returns the noise where the scale is 1."""
    error = values.pop("input_error")
    inputs = dataclasses.replace(found.inputs, **{key: np.float32(value) for key, value in values.items()})
    return input_noise(dataclasses.replace(found, inputs=inputs, scale_d=1.0, input_error=error))


def test_noise_of_the_input(tmp_path):
    """scale^2 / 12 of what is not 0, but at most the mean square, and clipping in proportion to this."""
    deployed = Deployed(one_layer("dense", "plain"), ["out"], tmp_path, feeds=[smooth(0)])
    found = read_rounding(deployed.record)["layer"]
    given = {"nonzero": [[1.0, 0.5, 0.0, 1.0]], "power": [[4.0, 2.0, 0.0, 0.01]]}
    rounding = np.array([[1 / 12, 1 / 24, 0, 0.01]])
    np.testing.assert_allclose(noise_of(found, input_error=rounding.mean(), **given), rounding, rtol=1e-5)
    np.testing.assert_allclose(noise_of(found, input_error=rounding.mean() / 2, **given), rounding / 2, rtol=1e-5)
    clipped = rounding + 0.3 * np.array([[4.0, 2.0, 0.0, 0.01]]) / 1.5025
    np.testing.assert_allclose(noise_of(found, input_error=rounding.mean() + 0.3, **given), clipped, rtol=1e-5)
    half = {"nonzero": [[0.5, 0.25, 0.0, 0.5]], "power": [[2.0, 1.0, 0.0, 0.005]], "seen": [0.5]}
    np.testing.assert_allclose(noise_of(found, input_error=rounding.mean() + 0.3, **half), clipped / 2, rtol=1e-5)
    zeros = {"nonzero": np.zeros((1, 4)), "power": np.zeros((1, 4))}
    np.testing.assert_array_equal(noise_of(found, input_error=0.0, **zeros), np.zeros((1, 4)))


def test_what_a_shift_cuts_off(tmp_path):
    """Bits that are dropped lose (4^N - 1) / 12 squares of the step, and their mean unless a bias takes it."""
    deployed = Deployed(one_layer("dense", "plain"), ["out"], tmp_path, feeds=[smooth(0)])
    _, layers = plan_of(deployed)
    layer, found = layers["layer"], read_rounding(deployed.record)["layer"]
    record = dataclasses.replace(deployed.records["layer"], shift_bit=(3,))
    step = record.scale_d * record.scale_w[0]
    as_it_is, corrected = forecasts(layer, record, found)
    assert corrected.shift_error == pytest.approx(16 * step**2 * 63 / 12, rel=1e-5)
    assert corrected.weight_error == found.weight_error
    assert as_it_is.shift_error == pytest.approx(16 * step**2 * (63 / 12 + 3.5**2), rel=1e-5)
    assert as_it_is.weight_error == found.weight_error + found.mean_error
    _, nearest = forecasts(layer, record, dataclasses.replace(found, bias=None))
    assert (nearest.shift_error, nearest.weight_error) == (as_it_is.shift_error, found.weight_error)


# -- Remedies --------------------------------------------------------------------------------------------------


def imported(graph: tf.Graph) -> Callable[..., Any]:
    """Fills a graph with the ops of another one."""
    return lambda net: tf.import_graph_def(graph.as_graph_def(), name="")


def test_inputs_of_other_ranges_want_balance(tmp_path):
    """The graph of three branches, whose last layer balance is for; the other layers deserve no advice."""
    hard = HARD_GRAPHS["ranges"]
    feeds = [hard.batch(seed) for seed in range(2)]
    taken, _ = plan_of(Deployed(imported(hard.build()), ["out"], tmp_path, feeds=feeds))
    assert set(taken.advice) == {"out"}
    expected = r"its input channels differ .*-fold in range, and share one scale_d; dmq_balancer_param 0\.5, with "
    assert re.match(expected + r"quantize_preprocess, would give about [34]\d dB, skip_layers", taken.advice["out"])


def test_what_is_balanced_already_is_not_to_be_balanced(tmp_path):
    hard = HARD_GRAPHS["ranges"]
    deployed = Deployed(imported(hard.build()), ["out"], tmp_path, feeds=[hard.batch(0)])
    taken, layers = plan_of(deployed)
    layers["out"].balance = np.ones(24, np.float32)
    advice = advice_for(layers["out"], read_rounding(deployed.record)["out"], taken.forecasts["out"])
    assert "dmq" not in advice and "skip_layers" in advice


def uneven_columns(net: Any) -> None:
    """A MatMul of which one output is 30 times as large as the others, to which its scale adds noise."""
    weights = net.random("w", (256, 16)) / 16 * np.float32([1, *[0.03] * 15])
    tf.raw_ops.MatMul(a=flat(image()), b=constant(weights, "w"), name="out")


def test_columns_of_other_ranges_want_scales_of_their_own(tmp_path, monkeypatch):
    """Only of a layer that may have them: which one that is, the table says, and is not the question here."""
    deployed = Deployed(uneven_columns, ["out"], tmp_path, feeds=[batch(0, (64, 8, 8, 4))], shift_n=False)
    taken, layers = plan_of(deployed)
    layer, found = layers["out"], read_rounding(deployed.record)["out"]
    now = dataclasses.replace(taken.forecasts["out"], weight_error=found.signal / 5)  # as if that was all that is lost
    advice = {}
    for able in (True, False):
        monkeypatch.setattr(FoundLayer, "one_scale", not able)
        layer.channel_axes = ()
        advice[able] = advice_for(layer, found, now)
    expected = r"its output channels differ .*-fold in their weights, which share one scale_w; channel_wise true would"
    assert re.match(expected, advice[True])
    assert "channel_wise" not in advice[False] and "skip_layers" in advice[False]


def columns(deployed: Deployed, feed: np.ndarray) -> np.ndarray:
    """Returns the SQNR of each output channel."""
    float_, int8 = deployed.run_float(feed, "out"), deployed.run(feed, "out")
    return np.array([sqnr(float_[:, column], int8[:, column]) for column in range(float_.shape[1])])


def test_a_hint_at_columns_that_the_largest_hides(tmp_path):
    """The layer as a whole loses little; most of its columns lose much, and the number is what they gain."""
    feed, deployed = batch(0, (64, 8, 8, 4)), []
    for each in (False, True):
        (tmp_path / str(each)).mkdir()
        params = {"weight_quant_params": {"channel_wise": each}}
        deployed.append(Deployed(uneven_columns, ["out"], tmp_path / str(each), feeds=[feed], out=params))
    (one, _), (each, _) = map(plan_of, deployed)
    assert one.forecasts["out"].sqnr > 25 and one.advice == each.advice == each.hints == {}
    found = re.fullmatch(r"channel_wise true would give its output channels (\d+) dB more on average", one.hints["out"])
    gains = columns(deployed[1], feed) - columns(deployed[0], feed)
    assert abs(int(found[1]) - gains.mean()) < 2 and gains.mean() > 10


@pytest.mark.parametrize("layer", LAYERS)
def test_no_hint_at_layers_that_nothing_is_wrong_with(tmp_path, layer):
    assert plan_of(Deployed(one_layer(layer, "plain"), ["out"], tmp_path, feeds=[smooth(0)]))[0].hints == {}


@pytest.fixture
def plain(tmp_path) -> tuple[Layer, LayerRounding, Forecast]:
    """A dense layer that nothing is wrong with."""
    deployed = Deployed(one_layer("dense", "plain"), ["out"], tmp_path, feeds=[smooth(0)])
    taken, layers = plan_of(deployed)
    return layers["layer"], read_rounding(deployed.record)["layer"], taken.forecasts["layer"]


def test_weights_that_are_hard_to_round(plain):
    layer, found, now = plain
    layer.balance = np.ones(64, np.float32)
    lost = dataclasses.replace(now, weight_error=now.signal)
    assert advice_for(layer, found, lost) == "its weights are hard to round; put it into skip_layers"
    layer.folded = "norm"
    assert advice_for(layer, found, lost).startswith(
        "its weights with norm folded in are hard to round; try skip_fusion"
    )


def test_a_heavy_tail(plain):
    layer, found, now = plain
    layer.balance = np.ones(64, np.float32)
    lost = dataclasses.replace(now, activation_error=now.signal)
    tail = dataclasses.replace(found.inputs, largest=1000 * found.inputs.largest)
    advice = advice_for(layer, dataclasses.replace(found, inputs=tail), lost)
    assert advice.startswith("its input has a heavy tail") and "act_algo hfmg" in advice
    assert advice_for(layer, found, lost).startswith("its result is small against the inputs")


@pytest.mark.parametrize("layer", ["conv", "depthwise", "dense"])
def test_advice_is_found_for_every_kind_of_layer(tmp_path, layer):
    deployed = Deployed(one_layer(layer, "ranges"), ["out"], tmp_path, feeds=[smooth(0)])
    taken, layers = plan_of(deployed)
    assert advice_for(layers["layer"], read_rounding(deployed.record)["layer"], taken.forecasts["layer"])


def test_no_remedy_is_named_that_leaves_next_to_nothing(tmp_path):
    """Whatever is done, the result stays worse than one of 0."""
    deployed = Deployed(one_layer("dense", "ranges"), ["out"], tmp_path, feeds=[smooth(0)])
    _, layers = plan_of(deployed)
    lost = Forecast(1.0, 1e9, 1e9, 1e9)
    found = dataclasses.replace(read_rounding(deployed.record)["layer"], signal=1.0)
    assert "would give" not in advice_for(layers["layer"], found, lost)


def test_inputs_of_0_have_no_forecast(tmp_path):
    taken, _ = plan_of(Deployed(one_layer("conv", "plain"), ["out"], tmp_path, feeds=[0 * smooth(0)]))
    assert taken.forecasts == taken.advice == taken.reasons == {}
