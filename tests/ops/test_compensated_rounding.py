"""Rounding with compensation, against a plain NumPy twin in float64, through the file that it leads to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rounding_twin as twin
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy_twin import round_half_away
from rounding_runs import input_moments, matrix_layout, open_rounding, quant_ifmr, round_layer

from amct_tensorflow import ops
from amct_tensorflow.record import LayerRounding, read_rounding

OUTPUTS = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("rounding")


def mixed(random: np.random.Generator, count: int, inputs: int) -> np.ndarray:
    """Correlated inputs that are not 0 in the mean."""
    mixing = random.standard_normal((inputs, inputs)) + 2 * np.eye(inputs)
    return random.standard_normal((count, inputs)) @ mixing + random.standard_normal(inputs)


def with_dead(x: np.ndarray, value: float) -> np.ndarray:
    return np.where(np.arange(x.shape[1]) % 3 == 1, value, x)


def with_outliers(x: np.ndarray) -> np.ndarray:
    return np.concatenate([100 * x[:1], x[1:]])


# Name -> random, positions, inputs -> the input.
INPUTS = {
    "correlated": mixed,
    "independent": lambda random, count, inputs: random.standard_normal((count, inputs)),
    "ReLU": lambda random, count, inputs: np.maximum(mixed(random, count, inputs), 0),
    "dead": lambda random, count, inputs: with_dead(mixed(random, count, inputs), 0),
    "constant": lambda random, count, inputs: with_dead(mixed(random, count, inputs), 2.5),
    "outliers": lambda random, count, inputs: with_outliers(mixed(random, count, inputs)),
    "duplicates": lambda random, count, inputs: mixed(random, count, inputs)[:, np.arange(inputs) // 2],
    "all 0": lambda random, count, inputs: np.zeros((count, inputs)),
}

# Name -> weights, whose channels are the columns.
WEIGHTS = {
    "normal": lambda w: w,
    "some 0": lambda w: np.where(np.abs(w) < 0.5, 0, w),
    "uneven": lambda w: w * np.geomspace(1e-3, 1, w.shape[1]),
    "two values": lambda w: np.where(w > 0, 1.0, -0.7),  # at the ends of their scale, or not
}


def scales_of(weights: np.ndarray, per_channel: bool) -> np.ndarray:
    return ops.arq_scales(weights, (1,) if per_channel else (), layer="layer")


def assert_as_twin(
    found: LayerRounding,
    x: np.ndarray,
    weights: np.ndarray,
    scales: np.ndarray,
    *,
    compensate: bool = True,
    correct_bias: bool = True,
) -> tuple[np.ndarray, twin.Rounded, twin.Rounded]:
    """Compares integers, errors and biases; returns the losses, and what twin and nearest rounding make of it."""
    moments = twin.moments_of(x)
    factor = twin.factor_of(moments, noise=found.scale_d**2 / 12, about_0=not correct_bias)
    ratios = weights / scales
    expected = twin.round_weights(ratios, moments, factor, compensate=compensate)
    nearest = twin.round_weights(ratios, moments, factor, compensate=False)
    integers = nearest.integers if found.weights is None else found.weights
    errors = twin.fixed_point(ratios) - integers
    outcome, squares = twin.outcome_of(errors, moments, factor), np.square(scales.astype(np.float64))
    loss = outcome.loss
    assert (integers != expected.integers).any(axis=0).mean() < 0.1  # a near-tie changes the weights after it, too
    np.testing.assert_allclose(loss.sum(), expected.loss.sum(), rtol=0.01, atol=1e-12)
    size = scales * (np.abs(moments.mean) @ np.abs(errors))
    tolerance = 1e-6 * np.square(size).sum() + 1e-20
    total = np.sum(squares * (loss + outcome.left))
    np.testing.assert_allclose(found.weight_error, total, rtol=5e-3, atol=tolerance)
    of_mean = np.sum(squares * (np.square(outcome.mean_error) - outcome.left))
    np.testing.assert_allclose(found.mean_error, of_mean, rtol=5e-3, atol=tolerance)
    if correct_bias:
        near = 5e-3 * np.abs(scales * outcome.mean_error).max() + 1e-5 * size.max() + 1e-30
        np.testing.assert_allclose(found.bias, scales * outcome.taken, atol=near)
    else:
        assert found.bias is None
    return loss, expected, nearest


@pytest.mark.parametrize("per_channel", [True, False], ids=["per channel", "one scale"])
@pytest.mark.parametrize("correct_bias", [True, False], ids=["corrected", "not corrected"])
@pytest.mark.parametrize("name", INPUTS)
def test_as_the_twin(folder, name, correct_bias, per_channel):
    random = np.random.default_rng([len(name), per_channel])
    x = INPUTS[name](random, 200, 90).astype(np.float32)
    weights = random.standard_normal((90, OUTPUTS)).astype(np.float32)
    scales = scales_of(weights, per_channel)
    found = round_layer(
        folder, [x], weights, scales, channel_axes=(1,) if per_channel else (), correct_bias=correct_bias
    )
    assert_as_twin(found, x, weights, scales, correct_bias=correct_bias)


@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 130, 300])
def test_sizes_around_those_of_the_blocks_of_the_computation(folder, size):
    """64 rows, and 64 outputs, are worked on together; 256 columns are gathered together."""
    random = np.random.default_rng(size)
    x = mixed(random, 120, size).astype(np.float32)
    weights = random.standard_normal((size, size)).astype(np.float32)
    scales = scales_of(weights, True)
    assert_as_twin(round_layer(folder, [x], weights, scales, channel_axes=(1,)), x, weights, scales)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 80),
    inputs=st.integers(1, 40),
    of_inputs=st.sampled_from(sorted(INPUTS)),
    of_weights=st.sampled_from(sorted(WEIGHTS)),
    per_channel=st.booleans(),
    correct_bias=st.booleans(),
)
def test_never_worse_than_the_nearest(folder, seed, count, inputs, of_inputs, of_weights, per_channel, correct_bias):
    """In the sum over many outputs, and each that has weights which saturate; that of the others has a bound."""
    random = np.random.default_rng(seed)
    x = INPUTS[of_inputs](random, count, inputs).astype(np.float32)
    weights = WEIGHTS[of_weights](random.standard_normal((inputs, OUTPUTS))).astype(np.float32)
    scales = scales_of(weights, per_channel)
    found = round_layer(
        folder, [x], weights, scales, channel_axes=(1,) if per_channel else (), correct_bias=correct_bias
    )
    loss, expected, nearest = assert_as_twin(found, x, weights, scales, correct_bias=correct_bias)
    assert loss.sum() <= 1.001 * nearest.loss.sum() + 1e-9
    inside = (np.abs(found.weights.astype(int)) < 127).all(axis=0) & (np.abs(weights / scales).max(axis=0) >= 0.5)
    assert (loss[inside] <= 1.001 * expected.bound).all()


@pytest.mark.parametrize("per_channel", [True, False], ids=["per channel", "one scale"])
def test_compensation_gains_much_where_inputs_are_correlated(folder, per_channel):
    """Also on data that the rounding has not seen."""
    random = np.random.default_rng(0)
    mixing = random.standard_normal((24, 64))
    x, unseen = ((random.standard_normal((1024, 24)) @ mixing).astype(np.float32) for _ in range(2))
    weights = random.standard_normal((64, OUTPUTS)).astype(np.float32)
    scales = scales_of(weights, per_channel)
    options = {"channel_axes": (1,) if per_channel else ()}
    found = round_layer(folder, [x], weights, scales, **options)
    nearest = ops.quantize_weights(weights, scales, options["channel_axes"])
    lost, lost_before = (np.square(unseen @ (weights - scales * q)).sum() for q in (found.weights, nearest))
    assert lost < 0.3 * lost_before


# Name -> random, samples, inputs -> inputs that are independent: what few samples have in common is their chance.
INDEPENDENT = {
    "uniform": lambda random, count, inputs: random.uniform(-1, 1, (count, inputs)),
    "sparse": lambda random, count, inputs: (
        random.uniform(0, 1, (count, inputs)) * (random.random((count, inputs)) < 0.1)
    ),
    "binary": lambda random, count, inputs: random.random((count, inputs)) < 0.3,
}


@pytest.mark.parametrize(("count", "inputs"), [(1, 64), (8, 64), (32, 16), (32, 256), (128, 256)])
@pytest.mark.parametrize("name", INDEPENDENT)
def test_few_samples_do_no_harm_on_unseen_data(folder, name, count, inputs):
    random = np.random.default_rng(count)
    x, unseen = (INDEPENDENT[name](random, size, inputs).astype(np.float32) for size in (count, 2000))
    weights = random.standard_normal((inputs, OUTPUTS)).astype(np.float32)
    scales = scales_of(weights, True)
    found = round_layer(folder, [x], weights, scales, channel_axes=(1,))
    errors = [weights - scales * q for q in (found.weights, ops.quantize_weights(weights, scales, (1,)))]
    lost = np.square(unseen @ errors[0] - found.bias).sum()
    assert lost < 1.07 * np.square(unseen @ errors[1]).sum()  # 0.3 dB


def test_weights_that_the_scale_makes_128(folder):
    """The scale of a larger negative weight makes them so, and int8 holds 127: the bias takes what it can of that."""
    random = np.random.default_rng(0)
    x = random.uniform(0, 1, (256, 64)).astype(np.float32)
    weights = np.sign(random.standard_normal((64, OUTPUTS))).astype(np.float32)
    found = round_layer(folder, [x], weights, [1 / 128])
    assert found.weights.max() == 127 and found.weights.min() == -128
    difference = x @ (weights - found.weights / np.float32(128)) - found.bias
    before = np.square(x @ (weights - np.clip(128 * weights, -128, 127) / 128)).sum()
    assert np.square(difference).sum() < 0.02 * before
    np.testing.assert_allclose(found.weight_error, np.square(difference).sum(axis=1).mean(), rtol=0.2)


def hadamard(size: int) -> np.ndarray:
    """Columns of mean 0 that are orthogonal, in integers."""
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix[:, 1:]


@pytest.mark.parametrize("correct_bias", [True, False], ids=["corrected", "not corrected"])
def test_uncorrelated_inputs_give_the_nearest_integers(folder, correct_bias):
    random = np.random.default_rng(0)
    x = (hadamard(64) * random.uniform(0.1, 3, 63)).astype(np.float32)
    weights = random.standard_normal((63, OUTPUTS)).astype(np.float32)
    scales = scales_of(weights, True)
    found = round_layer(folder, [x], weights, scales, channel_axes=(1,), correct_bias=correct_bias)
    np.testing.assert_array_equal(found.weights, ops.quantize_weights(weights, scales, (1,)))


def test_ties_and_their_neighbours_stay_what_they_are(folder):
    """Weights of k + 1/2 steps, and the floats below and above, of uncorrelated inputs."""
    ties = np.arange(-128.5, 128.5, 1, dtype=np.float32)
    values = np.concatenate([ties, np.nextafter(ties, -np.inf, dtype=np.float32), np.nextafter(ties, np.float32(999))])
    weights = np.resize(values, (63, 16)).astype(np.float32)
    found = round_layer(folder, [hadamard(64)], weights)
    np.testing.assert_array_equal(found.weights, ops.quantize_weights(weights, [1.0], ()))


@pytest.mark.parametrize("below", [False, True], ids=["ties", "just below"])
def test_the_nearest_with_a_correction(folder, below):
    """No integers are kept, and the bias is that of the exact nearest ones, to the digits of the weights."""
    random = np.random.default_rng(1)
    ties = (random.integers(-120, 120, (30, 8)) + 0.5).astype(np.float32)
    ratios = np.nextafter(ties, np.float32(0)) if below else ties
    weights = np.concatenate([np.float32(0.25) * ratios, random.standard_normal((34, 8)).astype(np.float32)])
    x = (0.01 * mixed(random, 100, 64) + 3).astype(np.float32)
    found = round_layer(folder, [x], weights, [0.25], compensate=False)
    assert found.weights is None
    mean = x.astype(np.float64).mean(axis=0)
    errors = weights - 0.25 * ops.quantize_weights(weights, [0.25], ()).astype(np.float64)
    np.testing.assert_array_less(np.abs(found.bias - mean @ errors), 0.25 / 256 * np.abs(mean).sum())
    assert_as_twin(found, x, weights, np.float32([0.25]), compensate=False)


def test_without_a_correction_the_mean_counts(folder):
    """The inputs hardly vary about their means: what is compensated then is the error of the means."""
    random = np.random.default_rng(2)
    mean = random.uniform(1, 2, 64)
    x = (mean + 0.01 * random.standard_normal((256, 64))).astype(np.float32)
    weights = random.standard_normal((64, OUTPUTS)).astype(np.float32)
    scales = scales_of(weights, True)
    without, corrected = (
        round_layer(folder, [x], weights, scales, channel_axes=(1,), correct_bias=wanted) for wanted in (False, True)
    )
    assert without.bias is None and corrected.bias is not None
    assert without.mean_error < 0.01 * corrected.mean_error
    lost = [np.square(x @ (weights - scales * found.weights)).sum() for found in (without, corrected)]
    assert lost[0] < 0.05 * lost[1]


@pytest.mark.parametrize("sign", [1, -1], ids=["127", "-128"])
def test_weights_that_saturate(folder, sign):
    """What cannot be made up for beyond the ends of int8 stays within them."""
    random = np.random.default_rng(3)
    x = np.repeat(mixed(random, 100, 10), 2, axis=1).astype(np.float32)
    weights = sign * random.uniform(126.4, 128, (20, OUTPUTS)).astype(np.float32)
    found = round_layer(folder, [x], weights)
    assert_as_twin(found, x, weights, np.ones(1, np.float32))
    assert np.abs(found.weights.astype(int)).max() == (127 if sign == 1 else 128)


def test_outputs_below_half_a_step_stay_0(folder):
    """Their scale is not one of their weights; others beside them are rounded as ever."""
    random = np.random.default_rng(4)
    x = np.repeat(mixed(random, 100, 4), 8, axis=1).astype(np.float32)
    weights = random.standard_normal((32, 8)).astype(np.float32)
    weights[:, ::2] = random.uniform(-0.499, 0.499, (32, 4))
    found = round_layer(folder, [x], weights)
    assert not found.weights[:, ::2].any()
    assert found.weights[:, 1::2].any()
    assert_as_twin(found, x, weights, np.ones(1, np.float32))


def test_blocks_are_rounded_one_by_one(folder):
    """20 inputs in blocks of at most 8 are 7, 7 and 6; the errors of the means add up, the rest is on its own."""
    random = np.random.default_rng(5)
    x = mixed(random, 150, 20).astype(np.float32)
    weights = random.standard_normal((20, OUTPUTS)).astype(np.float32)
    scales = scales_of(weights, True)
    found = round_layer(folder, [x], weights, scales, channel_axes=(1,), most_block=8)
    signal, loss, mean_error, mean = 0.0, np.zeros(OUTPUTS), np.zeros(OUTPUTS), np.zeros(OUTPUTS)
    for part in (slice(0, 7), slice(7, 14), slice(14, 20)):
        moments = twin.moments_of(x[:, part])
        factor = twin.factor_of(moments, noise=found.scale_d**2 / 12, about_0=False)
        expected = twin.round_weights(weights[part] / scales, moments, factor)
        np.testing.assert_array_equal(found.weights[part], expected.integers)
        signal += np.einsum("io,ij,jo->", weights[part], moments.covariance, weights[part])
        mean_error += expected.mean_error
        loss += expected.loss
        mean += moments.mean @ weights[part]
    taken = mean_error * np.maximum(1 - loss / 150 / np.square(mean_error), 0)
    squares, left = np.square(scales, dtype=np.float64), np.square(mean_error - taken)
    np.testing.assert_allclose(found.weight_error, np.sum(squares * (loss + left)), rtol=1e-3)
    np.testing.assert_allclose(found.signal, signal + np.square(mean).sum(), rtol=1e-3)
    np.testing.assert_allclose(found.mean_error, np.sum(squares * (np.square(mean_error) - left)), rtol=1e-3)
    np.testing.assert_allclose(found.bias, scales * taken, rtol=1e-3, atol=1e-5)


def test_the_signal_is_that_of_the_product(folder):
    random = np.random.default_rng(6)
    x = mixed(random, 300, 40).astype(np.float32)
    weights = random.standard_normal((40, 12)).astype(np.float32)
    found = round_layer(folder, [x], weights, scales_of(weights, True), channel_axes=(1,))
    result = x.astype(np.float64) @ weights
    np.testing.assert_allclose(found.signal, np.square(result).sum(axis=1).mean(), rtol=1e-3)


def test_the_signal_of_many_outputs(folder):
    """What inputs have to do with each other is taken from 64 of them."""
    random = np.random.default_rng(6)
    x = mixed(random, 300, 40).astype(np.float32)
    weights = (random.standard_normal((40, 1000)) * np.geomspace(0.1, 10, 1000)).astype(np.float32)
    weights[:, :100] = 0
    found = round_layer(folder, [x], weights, scales_of(weights, True), channel_axes=(1,))
    result = x.astype(np.float64) @ weights
    np.testing.assert_allclose(found.signal, np.square(result).sum(axis=1).mean(), rtol=0.2)  # 0.8 dB


def test_the_errors_are_those_of_the_result(folder):
    """Without shrinkage, damping and noise, which many positions make small, they are what the result differs by."""
    random = np.random.default_rng(7)
    x = (mixed(random, 1024, 6) + 3).astype(np.float32)
    weights = random.standard_normal((6, OUTPUTS)).astype(np.float32)
    found = round_layer(folder, [x], weights, scales_of(weights, True), channel_axes=(1,), compensate=False)
    integers = ops.quantize_weights(weights, scales_of(weights, True), (1,))
    difference = x.astype(np.float64) @ (weights - scales_of(weights, True) * integers)
    np.testing.assert_allclose(found.bias, difference.mean(axis=0), atol=0.01 * np.abs(found.bias).max())
    np.testing.assert_allclose(found.mean_error, np.square(difference.mean(axis=0)).sum(), rtol=0.01)
    np.testing.assert_allclose(found.weight_error, difference.var(axis=0).sum(), rtol=0.02)


def test_inputs_that_were_never_anything_but_0_cost_nothing(folder):
    """A block of them, whose weights may be of any size."""
    x = np.concatenate([mixed(np.random.default_rng(10), 100, 8), np.zeros((100, 8))], axis=1).astype(np.float32)
    weights = np.random.default_rng(11).standard_normal((16, OUTPUTS)).astype(np.float32)
    weights[8:] *= 100
    scales = scales_of(weights, True)
    found = round_layer(folder, [x], weights, scales, channel_axes=(1,), most_block=8)
    moments = twin.moments_of(x[:, :8])
    factor = twin.factor_of(moments, noise=found.scale_d**2 / 12, about_0=False)
    errors = twin.fixed_point(weights[:8] / scales) - found.weights[:8]
    expected = np.sum(np.square(scales, dtype=np.float64) * twin.losses(errors, factor))
    np.testing.assert_allclose(found.weight_error, expected, rtol=2e-3)


# -- What is rounded together, and when ------------------------------------------------------------------------


def share_weights(folder: Path, inputs: dict[str, np.ndarray], weights: np.ndarray, seen: Sequence[str]) -> Any:
    """Calibrates those layers of several with the same weights that are `seen`."""
    book = open_rounding(folder, weights, scales_of(weights, True), layers=list(inputs), channel_axes=(1,))
    for name in seen:
        x = tf.constant(inputs[name])
        quant_ifmr(book, x, layers=[name])
        input_moments(book, x, layers=[name])
    ops.flush_record(book.path)
    book.close()
    return read_rounding(book.path)


def test_layers_that_share_weights(folder):
    """They get the same integers, which suit the inputs of all, and each the correction of its own mean."""
    random = np.random.default_rng(8)
    inputs = {
        "a": mixed(random, 100, 12).astype(np.float32) + 2,
        "b": np.float32(3) * mixed(random, 60, 12).astype(np.float32) - 1,
    }
    weights = random.standard_normal((12, OUTPUTS)).astype(np.float32)
    scales = scales_of(weights, True)
    found = share_weights(folder, inputs, weights, ["a", "b"])
    assert found["a"].weights is found["b"].weights
    moments = {name: twin.moments_of(x) for name, x in inputs.items()}
    together = twin.pooled([(moments[name], found[name].scale_d ** 2 / 12) for name in inputs])
    expected = twin.round_weights(weights / scales, together, twin.factor_of(together, noise=1, about_0=False))
    np.testing.assert_array_equal(found["a"].weights, expected.integers)
    errors = twin.fixed_point(weights / scales) - expected.integers
    signals = {name: np.square(x.astype(np.float64) @ weights).sum(axis=1).mean() for name, x in inputs.items()}
    squares = np.square(scales, dtype=np.float64)
    error = np.sum(squares * expected.loss)
    mean_signal = (100 * signals["a"] + 60 * signals["b"]) / 160
    for name in inputs:
        mean_error = moments[name].mean @ errors
        taken = mean_error * np.maximum(1 - expected.loss / moments[name].count / np.square(mean_error), 0)
        np.testing.assert_allclose(found[name].bias, scales * taken, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(found[name].signal, signals[name], rtol=1e-3)
        left = np.sum(squares * np.square(mean_error - taken))
        np.testing.assert_allclose(found[name].weight_error, error * signals[name] / mean_signal + left, rtol=1e-3)


def test_only_one_of_the_layers_that_share_weights_was_run(folder):
    """It is as if it were alone, and the file has nothing of the other."""
    random = np.random.default_rng(8)
    inputs = {name: mixed(random, 100, 12).astype(np.float32) for name in ("a", "b")}
    weights = random.standard_normal((12, OUTPUTS)).astype(np.float32)
    found = share_weights(folder, inputs, weights, ["b"])
    assert list(found) == ["b"]
    assert_as_twin(found["b"], inputs["b"], weights, scales_of(weights, True))


def test_a_layer_that_is_run_later_has_the_weights_rounded_anew(folder):
    random = np.random.default_rng(8)
    inputs = {name: mixed(random, 100, 12).astype(np.float32) for name in ("a", "b")}
    weights = random.standard_normal((12, OUTPUTS)).astype(np.float32)
    together = share_weights(folder, inputs, weights, ["a", "b"])
    book = open_rounding(folder, weights, scales_of(weights, True), layers=["a", "b"], channel_axes=(1,))
    for name, x in inputs.items():
        quant_ifmr(book, tf.constant(x), layers=[name])
        input_moments(book, tf.constant(x), layers=[name])
        ops.flush_record(book.path)
    book.close()
    found = read_rounding(book.path)
    for name in inputs:
        np.testing.assert_array_equal(found[name].weights, together[name].weights)
        np.testing.assert_array_equal(found[name].bias, together[name].bias)


def test_weights_that_an_op_finds(folder, quant_arq):
    """Those of variables: their scales and the integers are the ones that constants get."""
    random = np.random.default_rng(9)
    x = tf.constant(mixed(random, 100, 12), tf.float32)
    weights = random.standard_normal((12, 8)).astype(np.float32)
    expected = round_layer(folder, [x.numpy()], weights, scales_of(weights, True), channel_axes=(1,))
    book = ops.RecordBook(str(folder / "variables.txt"), batch_num=1)
    book.add_layer("layer", scale_w=None, wants_weights=True, wants_shift=False, skip_fusion=False)
    book.add_rounding(
        ["layer"],
        moments=["layer"],
        layout=matrix_layout(weights).numbers(),
        weights=None,
        shape=weights.shape,
        scales=None,
        channel_axes=(1,),
        compensate=True,
        correct_bias=True,
    )
    quant_ifmr(book, x)
    input_moments(book, x)
    assert read_rounding(book.path) is None
    quant_arq(book, weights, channel_axes=(1,))
    book.close()
    found = read_rounding(book.path)["layer"]
    np.testing.assert_array_equal(found.weights, expected.weights)
    np.testing.assert_array_equal(found.bias, expected.bias)
    np.testing.assert_allclose(found.fingerprint, expected.fingerprint)


def test_a_layer_without_a_plan_asks_for_nothing(folder):
    book = ops.RecordBook(str(folder / "record.txt"), batch_num=1)
    book.add_layer("layer", scale_w=[1.0], wants_weights=True, wants_shift=False, skip_fusion=False)
    quant_ifmr(book, tf.ones([3, 2]))
    book.close()
    assert read_rounding(book.path) == {"layer": None}


def test_without_data_there_is_nothing(folder):
    """Neither a batch at all, nor the last one yet."""
    book = open_rounding(folder, np.ones((2, 2), np.float32), [1.0], batch_num=2)
    book.write()
    ops.flush_record(book.path)
    assert read_rounding(book.path) is None
    quant_ifmr(book, tf.ones([3, 2]), 2)
    input_moments(book, tf.ones([3, 2]), batch_num=2)
    ops.flush_record(book.path)
    assert read_rounding(book.path) is None
    book.close()


def test_a_restart_gives_the_same_bytes(folder):
    random = np.random.default_rng(10)
    x = tf.constant(mixed(random, 100, 12), tf.float32)
    weights = random.standard_normal((12, 8)).astype(np.float32)
    book = open_rounding(folder, weights, scales_of(weights, True), channel_axes=(1,))
    contents = []
    for data in (x, 2 * x, x):
        ops.restart_calibration(book.path)
        quant_ifmr(book, data)
        input_moments(book, data)
        contents.append(Path(f"{book.path}.safetensors").read_bytes())
    book.close()
    assert contents[0] == contents[2] != contents[1]


def test_a_fresh_book_removes_what_an_earlier_one_left(folder):
    round_layer(folder, [np.ones((3, 2))], np.ones((2, 2), np.float32))
    assert (folder / "record.txt.safetensors").exists()
    book = open_rounding(folder, np.ones((2, 2), np.float32), [1.0])
    book.write()
    book.close()
    assert not (folder / "record.txt.safetensors").exists()


# -- Fingerprints ----------------------------------------------------------------------------------------------


def test_fingerprints_are_sums_of_weights_in_units_of_their_scales():
    """Two are linear, with factors from -1 to 1 that depend on nothing but the place; the last is of the squares."""
    random = np.random.default_rng(11)
    weights, others = random.standard_normal((2, 30, 5)).astype(np.float32)
    scales = random.uniform(0.5, 2, 5).astype(np.float32)
    first, second = (ops.weight_fingerprint(values, scales, (1,)) for values in (weights, others))
    both = ops.weight_fingerprint(weights + others, scales, (1,))
    np.testing.assert_allclose(both[:2], first[:2] + second[:2], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(first[2], np.square(weights / scales.astype(np.float64)).sum(), rtol=1e-6)
    factors = np.array([ops.weight_fingerprint(row, [1.0], ())[:2] for row in np.eye(500, dtype=np.float32)])
    assert np.abs(factors).max() <= 1
    np.testing.assert_allclose(factors.std(axis=0), 1 / np.sqrt(3), rtol=0.1)
    assert np.abs(np.corrcoef(factors.T)[0, 1]) < 0.15


def test_rounding_half_away():
    """The twin's rounding, at ties: what all of the above relies on."""
    np.testing.assert_array_equal(round_half_away(np.array([0.5, -0.5, 1.5, 0.49999997])), [1, -1, 2, 0])
