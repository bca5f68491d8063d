"""What every estimator of an activation range must do; a new one is a line in ESTIMATORS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

Factors = tuple[np.float32, int]


@dataclass(frozen=True)
class Estimator:
    """How to run an op on batches, and so that nothing is searched or cut off.

    For the latter, there are options, or the batches are followed by others that are still to come. A histogram that
    moves from range to range makes batching matter, by so much at most.
    """

    op: str
    options: dict[str, Any]
    symmetric: bool
    min_max_options: dict[str, Any]
    batches_to_come: int = 0
    batching_matters: float = 1e-6


IFMR_MIN_MAX = {"search_start": 1.0, "search_end": 1.0, "max_percentile": 1.0, "min_percentile": 1.0}
HFMG: dict[str, Any] = {"min_max_options": {}, "batches_to_come": 1, "batching_matters": 0.01}
ESTIMATORS = {
    "ifmr_offset": Estimator("quant_ifmr", {"with_offset": True}, symmetric=False, min_max_options=IFMR_MIN_MAX),
    "ifmr_symmetric": Estimator("quant_ifmr", {"with_offset": False}, symmetric=True, min_max_options=IFMR_MIN_MAX),
    "hfmg_offset": Estimator("quant_hfmg", {"with_offset": True}, symmetric=False, **HFMG),
    "hfmg_symmetric": Estimator("quant_hfmg", {"with_offset": False}, symmetric=True, **HFMG),
}


@pytest.fixture(params=ESTIMATORS)
def estimator(request) -> Estimator:
    return ESTIMATORS[request.param]


@pytest.fixture
def run_op(estimator, open_book, request) -> Callable[[Any, int], Any]:
    """Runs the estimator's op on a batch of a calibration that wants so many."""
    run = request.getfixturevalue(estimator.op)

    def start(batch_num: int, **options: Any) -> Callable[[Any], Any]:
        book = open_book(batch_num=batch_num)
        return lambda batch: run(book, batch, batch_num=batch_num, **estimator.options, **options)

    return start


@pytest.fixture
def estimate(run_op) -> Callable[..., Factors]:
    """Returns the scale and the offset of batches."""

    def run(*batches: np.ndarray, batches_to_come: int = 0, **options: Any) -> Factors:
        calibration = run_op(len(batches) + batches_to_come, **options)
        for batch in batches:
            factors = calibration(batch)
        return factors.scale.numpy(), int(factors.offset)

    return run


@pytest.fixture
def estimate_min_max(estimator, estimate) -> Callable[..., Factors]:
    options = {"batches_to_come": estimator.batches_to_come, **estimator.min_max_options}
    return lambda *batches: estimate(*batches, **options)


def quantize(x: Any, factors: Factors) -> np.ndarray:
    scale, offset = factors
    return np.clip(np.rint(np.asarray(x, np.float64) / scale) + offset, -128, 127)


def dequantize(q: np.ndarray, factors: Factors) -> np.ndarray:
    scale, offset = factors
    return (q - offset) * np.float64(scale)


def normal(size: int = 5000, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


TENSORS = {
    "normal": normal(),
    "positive": np.abs(normal()),
    "negative": -np.abs(normal()),
    "one_value": np.float32([0.25]),
    "zeros": np.zeros(100, np.float32),
    "negative_zeros": np.full(100, -0.0, np.float32),
    "tiny": normal() * np.float32(1e-12),
    "subnormal": np.full(100, 1e-44, np.float32),
    "around_epsilon": normal() * np.float32(1.2e-7 * 60),
    "large": normal() * np.float32(1e8),
    "one_outlier": np.append(normal(), np.float32(1e6)),
    "many": np.tile(normal(50_000), 12),  # more than are kept as they are
    "many_zeros": np.zeros(600_000, np.float32),
    "scalar": np.float32(3),
    "rank_5": normal(720).reshape(2, 3, 4, 5, 6),
}


@pytest.mark.parametrize("tensor", TENSORS)
def test_scale_is_positive_and_finite(estimate, tensor):
    scale, _ = estimate(TENSORS[tensor])
    assert np.isfinite(scale) and scale > 0
    assert 2.0**-23 <= scale <= 2.0**23


@pytest.mark.parametrize("tensor", TENSORS)
def test_zero_is_representable(estimate, tensor):
    factors = estimate(TENSORS[tensor])
    assert -128 <= factors[1] <= 127
    assert dequantize(quantize(0, factors), factors) == 0


@pytest.mark.parametrize("tensor", ["zeros", "negative_zeros", "tiny", "subnormal", "many_zeros"])
def test_nothing_to_scale_gives_scale_1(estimator, estimate, tensor):
    assert estimate(TENSORS[tensor]) == (1.0, 0 if estimator.symmetric else -128)


@pytest.mark.parametrize("size", [1, 1000, 600_000])
@pytest.mark.parametrize("value", [3.0, -3.0, 1e-4, -0.1, 1e7])
def test_a_constant_is_met_exactly(estimate, value, size):
    factors = estimate(np.full(size, value, np.float32))
    assert dequantize(quantize(value, factors), factors) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("size", [5000, 600_000])
def test_the_order_of_values_is_irrelevant(estimate, size):
    values = normal(size)
    expected = estimate(values)
    for order in (np.argsort(values), np.argsort(-values), np.random.default_rng(1).permutation(size)):
        scale, offset = estimate(values[order])
        assert scale == pytest.approx(expected[0], rel=1e-6)
        assert offset == expected[1]


@pytest.mark.parametrize("size", [6000, 600_000])
def test_batching_is_irrelevant(estimator, estimate, size):
    values = normal(size).reshape(60, -1)
    expected = estimate(values)
    for sizes in ([30], [1, 2], [50, 59], [20, 40]):
        scale, offset = estimate(*np.split(values, sizes))
        assert scale == pytest.approx(expected[0], rel=estimator.batching_matters)
        assert offset == pytest.approx(expected[1], abs=128 * estimator.batching_matters)
    assert estimate(values.reshape(6, 10, -1)) == expected  # and so is the shape


@pytest.mark.parametrize("tensor", ["normal", "positive", "negative", "one_value", "large", "one_outlier", "many"])
def test_is_min_max_when_nothing_is_searched_or_cut_off(estimator, estimate_min_max, tensor):
    values = TENSORS[tensor]
    low, high = min(values.min(), np.float32(0)), max(values.max(), np.float32(0))
    if estimator.symmetric:
        expected = (high / np.float32(127) if high > -low else -low / np.float32(128), 0)
    else:
        scale = (high - low) / np.float32(255)
        expected = (scale, int(np.floor(-low / scale + 0.5)) - 128)
    assert estimate_min_max(values) == expected


@pytest.mark.parametrize("tensor", ["normal", "positive", "negative", "one_outlier", "large", "rank_5"])
def test_min_max_loses_at_most_half_a_step(estimator, estimate_min_max, tensor):
    values = TENSORS[tensor]
    factors = estimate_min_max(values)
    error = np.abs(dequantize(quantize(values, factors), factors) - values)
    # With an offset the zero point is rounded too: one end may be cut by half a step.
    assert error.max() <= factors[0] * (0.5 if estimator.symmetric else 1) * 1.001


def test_min_max_covers_the_ranges_of_all_batches(estimate_min_max):
    values = normal(3000).reshape(3, -1) * np.float32([[1], [5], [0.1]])
    assert estimate_min_max(*values) == estimate_min_max(values.ravel())


def test_data_of_twice_the_size_have_twice_the_scale(estimate):
    scale, offset = estimate(normal())
    assert estimate(normal() * 2) == (scale * 2, offset)


def test_clips_a_lone_outlier_no_further_than_it_searches(estimate):
    scale, _ = estimate(TENSORS["one_outlier"])
    assert scale * 255 >= 0.69e6


@pytest.mark.parametrize("batches_before", [0, 1, 5], ids=["calibrating", "last", "done"])
def test_passes_data_on(run_op, batches_before):
    calibration = run_op(2)
    for _ in range(batches_before):
        calibration(normal())
    for tensor in (normal(seed=1), normal(720).reshape(2, 3, 4, 5, 6)):
        np.testing.assert_array_equal(calibration(tensor).y, tensor)


def test_passes_the_gradient_on(run_op):
    calibration = run_op(1)
    x = tf.Variable(normal(6).reshape(2, 3))
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(calibration(x).y * [[1.0, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(tape.gradient(y, x), [[1, 2, 3], [4, 5, 6]])
