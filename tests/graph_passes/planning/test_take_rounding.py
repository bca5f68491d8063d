"""Layers take what their calibration found for them, or say why not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from small_models import Deployed, batch, constant, flat, graph_of, image, write_pb

from amct_tensorflow.graph_passes.forecasts import cut_off
from amct_tensorflow.graph_passes.pipelines import plan_deployment
from amct_tensorflow.graph_passes.planning.take_rounding import Taken
from amct_tensorflow.graph_passes.workspace import Layer
from amct_tensorflow.inventory import Inventory
from amct_tensorflow.ops import arq_scales, quantize_weights, weight_fingerprint
from amct_tensorflow.post_training.deploy import FloatModel
from amct_tensorflow.record import LayerRecord, LayerRounding, read_record, read_rounding


def model(net: Any) -> None:
    """x -> conv, bias, ReLU -> square: MatMul of 256 x 256, bias, ReLU -> bare: MatMul without a bias."""
    y = tf.nn.relu(net.bias(net.conv(image(), "conv", channels=4), "conv_bias"))
    y = tf.nn.relu(net.bias(net.matmul(flat(y), "square", channels=256), "square_bias"))
    net.matmul(y, "bare")


@pytest.fixture(scope="module")
def deployed(tmp_path_factory) -> Deployed:
    folder = tmp_path_factory.mktemp("model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # Channels that depend on each other, or there would be nothing to make up for.
        feeds = [batch(seed) @ np.float32(np.eye(4) + 0.7) for seed in range(2)]
        return Deployed(model, ["bare"], folder, feeds=feeds)


@pytest.fixture
def rounding(deployed) -> dict[str, LayerRounding | None]:
    return dict(read_rounding(deployed.record))


@pytest.fixture
def take(deployed, rounding, tmp_path) -> Callable[..., tuple[Taken, dict[str, Layer]]]:
    """Plans the deployment of the model with the fixture's rounding."""

    def run(
        parameter: Callable[..., Any] = constant, records: Mapping[str, LayerRecord] | None = None
    ) -> tuple[Taken, dict[str, Layer]]:
        source = FloatModel.load(write_pb(graph_of(model, parameter), tmp_path / "model.pb"), ["bare"])
        records = records or deployed.records
        workspace = source.workspace(Inventory.of(source.graph), records, deployed.record)
        taken = plan_deployment(workspace, records, rounding)
        return taken, {layer.name: layer for layer in workspace.layers}

    return run


def change(rounding: dict[str, Any], name: str, **values: Any) -> None:
    rounding[name] = dataclasses.replace(rounding[name], **values)


# -- What is taken ---------------------------------------------------------------------------------------------


def test_integers_and_biases(take, rounding, deployed):
    """The bias takes the correction, and what the shift cuts off."""
    taken, layers = take()
    assert set(taken.forecasts) == {"conv", "square", "bare"}
    assert taken.reasons == taken.advice == {}
    for name, layer in layers.items():
        np.testing.assert_array_equal(layer.integers, rounding[name].weights)
    for name in ("conv", "square"):
        before = deployed_constant(deployed, f"{name}_bias_b")
        expected = before + rounding[name].bias + cut_off(layers[name], deployed.records[name])
        np.testing.assert_allclose(layers[name].bias, expected, rtol=1e-5, atol=1e-7)


def deployed_constant(deployed: Deployed, name: str) -> np.ndarray:
    """Returns a constant of the float model."""
    return tf.make_ndarray(deployed.float_graph.get_operation_by_name(name).get_attr("value"))


def test_a_calibration_that_was_asked_for_nothing(take, rounding):
    rounding["conv"] = None
    taken, layers = take()
    assert layers["conv"].integers is None and "conv" not in taken.forecasts
    assert taken.reasons == {}


def test_the_nearest_integers_with_a_correction(take, rounding):
    change(rounding, "conv", weights=None)
    taken, layers = take()
    assert layers["conv"].integers is None and "conv" in taken.forecasts
    assert np.abs(layers["conv"].bias - take_without(take, rounding)["conv"].bias).max() > 0


def take_without(take: Callable[..., Any], rounding: dict[str, Any]) -> dict[str, Layer]:
    """Returns the layers as they are without any rounding."""
    rounding.clear()
    return take()[1]


# -- The gain of a bias ----------------------------------------------------------------------------------------

DECIBEL = 10**0.1


@pytest.mark.parametrize(("gain", "gets_one"), [(0.0, False), (0.49, False), (0.51, True), (3.0, True)])
def test_a_layer_without_a_bias_gets_one_if_it_gains(take, rounding, deployed, gain, gets_one):
    """At least 0.5 dB of its result, of all errors together; a layer that has one takes it in any case."""
    deployed_without_shift = {
        name: dataclasses.replace(record, shift_bit=tuple(0 for _ in record.shift_bit))
        for name, record in deployed.records.items()
    }
    for name in ("bare", "square"):
        found = rounding[name]
        noise = found.weight_error + take(records=deployed_without_shift)[0].forecasts[name].activation_error
        change(rounding, name, mean_error=noise * (DECIBEL**gain - 1))
    taken, layers = take(records=deployed_without_shift)
    assert (layers["bare"].bias is not None) == gets_one
    if gets_one:
        np.testing.assert_array_equal(layers["bare"].bias, rounding["bare"].bias)
    expected = 0.0 if gets_one else gain
    before = 10 * np.log10(rounding["bare"].signal / (rounding["bare"].weight_error + taken_noise(taken)))
    assert taken.forecasts["bare"].sqnr == pytest.approx(before - expected, abs=1e-6)
    bias = deployed_constant(deployed, "square_bias_b") + rounding["square"].bias
    np.testing.assert_allclose(layers["square"].bias, bias, rtol=1e-5, atol=1e-7)


def taken_noise(taken: Taken) -> float:
    return taken.forecasts["bare"].activation_error + taken.forecasts["bare"].shift_error


def test_without_a_correction_no_layer_gets_a_bias(take, rounding):
    change(rounding, "bare", bias=None, mean_error=rounding["bare"].signal)
    assert take()[1]["bare"].bias is None


# -- Results of 0 ----------------------------------------------------------------------------------------------


def test_a_result_of_0_has_nothing_to_lose(take, rounding):
    """That of a dead branch, whose output is the bias: no forecast, and no warning."""
    change(rounding, "conv", signal=0.0)
    taken, layers = take()
    assert set(taken.forecasts) == {"square", "bare"} and taken.advice == taken.reasons == {}
    np.testing.assert_array_equal(layers["conv"].integers, rounding["conv"].weights)


# -- What is not taken -----------------------------------------------------------------------------------------


def assert_left(taken: Taken, layers: dict[str, Layer], name: str, reason: str) -> None:
    """This layer only is as if nothing was found."""
    assert taken.reasons == {name: reason}
    assert layers[name].integers is None and name not in taken.forecasts
    assert all(layer.integers is not None for other, layer in layers.items() if other != name)


@pytest.mark.parametrize("field", ["scale_d", "offset_d"])
def test_other_factors_of_the_input(take, deployed, field):
    record = deployed.records["square"]
    value = {"scale_d": float(np.nextafter(np.float32(record.scale_d), np.float32(1))), "offset_d": record.offset_d + 1}
    changed = dataclasses.replace(record, **{field: value[field]})
    taken, layers = take(records={**deployed.records, "square": changed})
    assert_left(taken, layers, "square", "scale_d or offset_d of its record was changed")


def test_other_scales_of_the_weights(take, deployed):
    record = deployed.records["conv"]
    changed = dataclasses.replace(record, scale_w=tuple(1.001 * scale for scale in record.scale_w))
    taken, layers = take(records={**deployed.records, "conv": changed})
    assert_left(taken, layers, "conv", "its weights, or scale_w of its record, were changed")


def step(row: int, column: int, steps: float = 1.0) -> Callable[..., Any]:
    """Parameters of which one weight of the large layer is another by so many steps."""

    def parameter(value: Any, name: str) -> Any:
        value = np.array(value, np.float32)
        if name == "square_w":
            value[row, column] += steps * arq_scales(value, (), layer="square")[0]
        return constant(value, name)

    return parameter


def test_one_step_of_one_weight_of_65536(take):
    taken, layers = take(step(100, 17))
    assert_left(taken, layers, "square", "its weights, or scale_w of its record, were changed")


def test_weights_that_were_computed_in_another_order_are_the_same(take):
    """Differences of 1e-7 in all of them, as folding by other arithmetic leaves."""

    def parameter(value: Any, name: str) -> Any:
        noise = 1 + 1e-7 * np.random.default_rng(0).standard_normal(np.shape(value))
        return constant(value * noise if name.endswith("_w") else value, name)

    taken, layers = take(parameter)
    assert taken.reasons == {}
    assert all(layer.integers is not None for layer in layers.values())


def test_nearly_every_step_of_a_weight_is_noticed():
    """Of 65,536 weights; it depends on the factors that its place has in the sums."""
    random = np.random.default_rng(0)
    weights = random.standard_normal((256, 256)).astype(np.float32)
    scales = arq_scales(weights, (1,), layer="layer")
    before, noticed = weight_fingerprint(weights, scales, (1,)), 0
    for row, column in random.integers(0, 256, (100, 2)):
        changed = weights.copy()
        changed[row, column] += scales[column]
        difference = np.abs(weight_fingerprint(changed, scales, (1,)) - before)[:2].max()
        noticed += difference > 1e-5 * np.sqrt(before[2])
    assert noticed >= 90


@pytest.mark.parametrize("field", ["weights", "bias"])
def test_another_shape(take, rounding, field):
    value = getattr(rounding["square"], field)
    change(rounding, "square", **{field: value[:-1]})
    assert_left(*take(), "square", "its weights have another shape")


def test_a_layer_that_was_calibrated_elsewhere(take, rounding):
    del rounding["conv"]
    assert_left(*take(), "conv", "its calibration has seen no data, or was elsewhere")


def test_without_any_rounding(take, rounding, deployed):
    """As it was before there was one."""
    rounding.clear()
    taken, layers = take()
    assert set(taken.reasons) == {"conv", "square", "bare"} and taken.forecasts == {}
    assert all(layer.integers is None for layer in layers.values())
    assert layers["bare"].bias is None
    np.testing.assert_array_equal(layers["conv"].bias, deployed_constant(deployed, "conv_bias_b"))


# -- Advice ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sqnr", "advised"), [(9.9, True), (10.1, False)])
def test_advice_below_10_db(take, rounding, sqnr, advised):
    """And only of the layer that deserves it."""
    expected = take()[0].forecasts["square"]
    wanted = expected.signal / 10 ** (sqnr / 10)
    rest = expected.activation_error + expected.shift_error
    change(rounding, "square", weight_error=wanted - rest)
    taken, _ = take()
    assert taken.forecasts["square"].sqnr == pytest.approx(sqnr)
    assert set(taken.advice) == ({"square"} if advised else set())


def test_the_deployed_graph_has_the_integers(deployed):
    """To the end: what stands in the file of the model."""
    for name in ("conv", "square"):
        found = read_rounding(deployed.record)[name]
        weights = deployed.constant(deployed.inputs(deployed.inputs(name)[1])[0])
        np.testing.assert_array_equal(weights, found.weights)
        values = deployed_constant(deployed, f"{name}_w")
        scale_w = np.array(read_record(deployed.record)[name].scale_w, np.float32)
        nearest = quantize_weights(values, scale_w, () if scale_w.size == 1 else (3,))
        assert 0 < (weights != nearest).mean() < 0.9
