"""QuantIfmr beyond the number of values that it keeps: its histogram against an exact search over all values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy_twin as twin
import pytest
import tensorflow as tf

LIMIT = 480 * 1024  # CalibrationData::kMostValues
SIZE = 520_000


def lognormal_with_outliers(rng, size):
    x = np.exp(rng.standard_normal(size))
    x[:: size // 10] *= 10
    return x


def bimodal(rng, size):
    low = rng.random(size) < 0.8
    return np.where(low, rng.standard_normal(size) * 0.3, rng.standard_normal(size) * 0.05 + 4)


DISTRIBUTIONS = {
    "normal": lambda rng, size: rng.standard_normal(size),
    "laplace": lambda rng, size: rng.laplace(size=size),
    "relu": lambda rng, size: np.maximum(rng.standard_normal(size), 0),
    "relu6": lambda rng, size: np.clip(rng.standard_normal(size) * 3, 0, 6),
    "lognormal_outliers": lognormal_with_outliers,
    "pixels": lambda rng, size: rng.integers(0, 256, size),
    "pixels_around_0": lambda rng, size: rng.integers(0, 256, size) / 127.5 - 1,
    "bimodal": bimodal,
    "shifted_up": lambda rng, size: rng.standard_normal(size) + 10,
    "shifted_down": lambda rng, size: rng.standard_normal(size) - 3,
    "negative": lambda rng, size: -np.abs(rng.standard_normal(size)) - 0.1,
    "tiny": lambda rng, size: rng.standard_normal(size) * 1e-4,
    "vanishing": lambda rng, size: rng.standard_normal(size) * 1e-10,
    "huge": lambda rng, size: rng.standard_normal(size) * 1e8,
    "mostly_zeros": lambda rng, size: np.where(rng.random(size) < 0.99, 0, rng.standard_normal(size)),
    "binary": lambda rng, size: rng.random(size) < 0.1,
    "quantized": lambda rng, size: np.round(rng.standard_normal(size) * 30) * 0.0237,
}


def draw(distribution: str, size: int = SIZE, seed: int = 0) -> np.ndarray:
    return DISTRIBUTIONS[distribution](np.random.default_rng(seed), size).astype(np.float32)


def assert_near_best(factors, values: np.ndarray, **options):
    """The factors are of a candidate of the exact search whose loss over all values is within 0.1 % of the least."""
    scale, offset = factors
    candidates = twin.ifmr_candidates(values, **options)
    scales = np.array([np.inf if candidate.scale is None else candidate.scale for candidate in candidates])
    nearest = int(np.argmin(np.abs(scales - scale)))
    # Percentiles below 1 start from the mean of a bin; candidates are 0.8 % apart.
    assert scale == pytest.approx(scales[nearest], rel=5e-4)
    losses = twin.ifmr_losses(values, candidates)
    assert losses[nearest] <= losses.min() * 1.001
    assert offset == candidates[nearest].offset


@pytest.mark.parametrize("percentile", [0.999999, 0.9999, 0.99])
@pytest.mark.parametrize("with_offset", [True, False], ids=["offset", "symmetric"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_near_the_exact_search(calibrate, distribution, with_offset, percentile):
    values = draw(distribution)
    assert values.size > LIMIT
    options = {"with_offset": with_offset, "max_percentile": percentile, "min_percentile": percentile}
    assert_near_best(calibrate([values], **options), values, **options)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("num_bits", [2, 4, 6])
def test_other_bit_widths(calibrate, num_bits, seed):
    values = draw("laplace", seed=seed)
    assert_near_best(calibrate([values], num_bits=num_bits), values, num_bits=num_bits)


@pytest.mark.parametrize("spike", np.random.default_rng(0).uniform(0, 6, 16).round(4))
def test_a_value_that_occurs_often(calibrate, spike):
    """The loss hangs on where exactly it lies between two steps: its bin alone would not tell."""
    values = np.full(SIZE, spike, np.float32)
    values[:2] = 0, 6
    assert_near_best(calibrate([values]), values)


def test_percentiles_that_differ(calibrate):
    options = {"max_percentile": 0.99, "min_percentile": 0.999}
    values = draw("laplace")
    assert_near_best(calibrate([values], **options), values, **options)


@pytest.mark.parametrize("with_offset", [True, False], ids=["offset", "symmetric"])
@pytest.mark.parametrize(
    "gains",
    [(1, 2, 4), (4, 2, 1), (0.001, 1, 1000), (1000, 1, 0.001), (1, -1, 3), (1e-12, 1e-12, 1)],
    ids=["growing", "shrinking", "growing_fast", "shrinking_fast", "changing_sign", "nothing_then_something"],
)
@pytest.mark.parametrize("distribution", ["normal", "relu", "laplace"])
def test_batches_of_other_ranges(calibrate, distribution, gains, with_offset):
    batches = [draw(distribution, SIZE // 3, seed) * np.float32(gain) for seed, gain in enumerate(gains)]
    assert_near_best(calibrate(batches, with_offset=with_offset), np.concatenate(batches), with_offset=with_offset)


def test_zeros_then_data(calibrate):
    batches = [np.zeros(SIZE, np.float32), draw("normal")]
    assert_near_best(calibrate(batches), np.concatenate(batches))


@pytest.mark.parametrize("distribution", ["normal", "relu6", "pixels_around_0"])
@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)], ids=["forward", "backward"])
@pytest.mark.parametrize("batches", [1, 2, 7, 30])
def test_any_split_of_the_values(calibrate, distribution, order, batches):
    values = np.sort(draw(distribution))[order]  # sorted: each batch has another range
    assert_near_best(calibrate(np.array_split(values, batches)), values)


def test_ragged_last_batch(calibrate):
    values = draw("normal", 48 * 14_000).reshape(48, 14_000)
    assert_near_best(calibrate([values[:20], values[20:40], values[40:]]), values)


@pytest.mark.parametrize("sizes", [(LIMIT - 1, 1), (LIMIT, 1), (1, LIMIT), (LIMIT,)], ids=str)
def test_around_the_limit(calibrate, sizes):
    values = draw("laplace", sum(sizes))
    assert_near_best(calibrate(np.split(values, np.cumsum(sizes)[:-1])), values)


@pytest.mark.parametrize("distribution", ["normal", "lognormal_outliers", "pixels"])
def test_twice_the_same_bits(calibrate, distribution):
    batches = np.array_split(draw(distribution), 3)
    first, second = calibrate(batches), calibrate(batches)
    assert first[0].tobytes() == second[0].tobytes()
    assert first[1] == second[1]


def test_batches_after_batch_num_are_ignored(open_book, quant_ifmr):
    values = draw("normal")
    book = open_book(batch_num=2)
    for batch in np.split(values, 2):
        final = quant_ifmr(book, batch, batch_num=2)
    for _ in range(2):
        later = quant_ifmr(book, values * 100, batch_num=2)
    assert (later.scale, later.offset) == (final.scale, final.offset)
    assert_near_best((final.scale.numpy(), int(final.offset)), values)


def test_batch_num_is_awaited(open_book, quant_ifmr):
    """Before the last batch the factors are those of the range so far; only the last ones are recorded."""
    batches = [draw("normal") * np.float32(gain) for gain in (1, 3)]
    book = open_book(batch_num=2)
    book.write()
    first = quant_ifmr(book, batches[0], batch_num=2)
    span = max(batches[0].max(), 0) - min(batches[0].min(), 0)
    assert first.scale.numpy() == pytest.approx(span / 255, rel=1e-6)
    assert "scale_d" not in Path(book.path).read_text()
    second = quant_ifmr(book, batches[1], batch_num=2)
    assert_near_best((second.scale.numpy(), int(second.offset)), np.concatenate(batches))
    assert f"scale_d: {second.scale.numpy():.10g}" in Path(book.path).read_text()


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("size", [33_000, 400_000])
def test_values_that_are_kept_are_searched_exactly(calibrate, distribution, size):
    """A histogram only rules out candidates that are no good."""
    values = draw(distribution, size)
    best = twin.ifmr(values)
    scale, offset = calibrate([values])
    if np.isclose(scale, best.scale, rtol=1e-6):
        assert offset == best.offset
        return
    losses = twin.ifmr_losses(values, twin.ifmr_candidates(values))
    chosen = [np.isclose(scale, candidate.scale, rtol=1e-6) for candidate in twin.ifmr_candidates(values)]
    assert losses[chosen].min() <= losses.min() * (1 + 1e-6)  # a tie but for rounding


@pytest.mark.parametrize("outlier", [1e3, -1e3, 1e8], ids=str)
@pytest.mark.parametrize("batches", [1, 3])
def test_values_far_beyond_all_others(calibrate, outlier, batches):
    """The range is guessed from some values first; these are not among them."""
    values = draw("normal", 3 * SIZE)
    values[[1234, -4321]] = outlier
    options = {"max_percentile": 1.0, "min_percentile": 1.0, "search_start": 1.0, "search_end": 1.0}
    scale, _ = calibrate(np.split(values, batches), **options)
    assert scale == pytest.approx((max(values.max(), 0) - min(values.min(), 0)) / 255, rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("at", [0, 77_777, -1])
def test_a_batch_that_is_not_finite_counts_for_nothing(open_book, quant_ifmr, bad, at):
    values = draw("normal")
    expected = quant_ifmr(open_book(), values)
    book = open_book(batch_num=2, path="other.txt")
    quant_ifmr(book, values[: SIZE // 2], batch_num=2)
    spoilt = values.copy() * 100
    spoilt[at] = bad
    with pytest.raises(tf.errors.InvalidArgumentError, match="nan"):
        quant_ifmr(book, spoilt, batch_num=2)
    factors = quant_ifmr(book, values[SIZE // 2 :], batch_num=2)
    assert factors.scale.numpy() == pytest.approx(expected.scale.numpy(), rel=1e-6)
