"""DmqBalance against its NumPy twin."""

from __future__ import annotations

import numpy as np
import numpy_twin as twin
import pytest

from amct_tensorflow.record import read_balance_factors

SHAPES = {
    "dense": ((7, 5), 1),
    "dense_from_the_end": ((7, 5), -1),
    "one_channel": ((7, 1), 1),
    "nhwc": ((2, 6, 5, 3), 3),
    "nhwc_from_the_end": ((2, 6, 5, 3), -1),
    "nchw": ((2, 3, 6, 5), 1),
    "nchw_from_the_end": ((2, 3, 6, 5), -3),
    "channels_first": ((3, 40), 0),
    "ndhwc": ((2, 3, 4, 5, 37), 4),
    "vector": ((9,), 0),
    "many": ((300, 33, 40), 2),
}


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def magnitudes(channels: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.01, 2, channels).astype(np.float32)


def largest(x: np.ndarray, axis: int) -> np.ndarray:
    return np.abs(np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1)).max(axis=1)


@pytest.mark.parametrize("strength", [0.2, 0.35, 0.8])
@pytest.mark.parametrize(("shape", "axis"), SHAPES.values(), ids=SHAPES)
def test_shapes(find_balance_factors, shape, axis, strength):
    x, weight_max = noise(shape), magnitudes(shape[axis])
    factors = find_balance_factors([x], weight_max, migration_strength=strength, channel_axis=axis)
    np.testing.assert_allclose(factors, twin.balance_factors(largest(x, axis), weight_max, strength), rtol=1e-5)


@pytest.mark.parametrize("gains", [(1, 1), (1, 5, 0.1), (-3, 1), (0, 1)], ids=str)
def test_batches(find_balance_factors, gains):
    batches = [noise((2 + i, 6, 6, 5), i) * np.float32(gain) for i, gain in enumerate(gains)]
    weight_max = magnitudes(5)
    expected = twin.balance_factors(largest(np.concatenate(batches), -1), weight_max, 0.5)
    np.testing.assert_allclose(find_balance_factors(batches, weight_max), expected, rtol=1e-5)


ZEROS = {
    "activation": ([2, 0, 3, 1], [1, 2, 4, 1]),
    "weight": ([2, 5, 3, 1], [1, 0, 4, 1]),
    "both": ([2, 0, 3, 1], [1, 0, 4, 1]),
    "each": ([0, 2, 0, 1], [1, 0, 0, 3]),
    "next_to_nothing": ([1e-8, 2, 1e-9, 1], [1, 1e-8, 1e-9, 3]),
    "all_activations": ([0, 0, 0, 0], [1, 2, 4, 1]),
    "all_weights": ([1, 2, 3, 4], [0, 0, 0, 0]),
    "no_channel_has_both": ([1, 0, 3, 0], [0, 2, 0, 4]),
}


@pytest.mark.parametrize(("activations", "weights"), ZEROS.values(), ids=ZEROS)
def test_channels_that_are_zero(find_balance_factors, activations, weights):
    activations, weights = np.float32(activations), np.float32(weights)
    factors = find_balance_factors([activations[np.newaxis]], weights)
    np.testing.assert_allclose(factors, twin.balance_factors(activations, weights, 0.5), rtol=1e-5)


@pytest.mark.parametrize("which", ["activations", "weights"])
def test_factors_are_1_where_nothing_can_be_balanced(find_balance_factors, which):
    activations = np.full((1, 3), 0 if which == "activations" else 2, np.float32)
    assert find_balance_factors([activations], np.full(3, 0 if which == "weights" else 2)) == [1, 1, 1]


def test_a_channel_of_no_activation_gets_the_largest_weight(find_balance_factors):
    """As the channels that are balanced have it afterwards."""
    factors = np.array(find_balance_factors([np.float32([[4, 9, 0]])], np.float32([1, 4, 8])))
    np.testing.assert_allclose(factors * [1, 4, 8], [2, 6, 6], rtol=1e-6)


def test_passes_data_on(open_book, dmq_balance):
    book = open_book(batch_num=2)
    for seed in range(4):
        x = noise((2, 3, 4), seed)
        np.testing.assert_array_equal(dmq_balance(book, x, weight_max=magnitudes(4), batch_num=2), x)


def test_later_batches_are_ignored(open_balance_book, dmq_balance):
    book = open_balance_book()
    dmq_balance(book, [[4.0]], weight_max=[1.0])
    for later in ([[100.0]], np.zeros((0, 1), np.float32), [[float("nan")]]):
        dmq_balance(book, later, weight_max=[1.0])
    book.write()
    assert read_balance_factors(book.path) == {"layer": (2.0,)}
