"""QuantHfmg against its NumPy twin, and what sets it apart from other range estimators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy_twin as twin
import pytest

DISTRIBUTIONS = {
    "normal": lambda rng, size: rng.standard_normal(size),
    "laplace": lambda rng, size: rng.laplace(size=size),
    "relu": lambda rng, size: np.maximum(rng.standard_normal(size), 0),
    "shifted_up": lambda rng, size: rng.standard_normal(size) + 10,
    "negative": lambda rng, size: -np.abs(rng.standard_normal(size)) - 0.1,
    "narrow": lambda rng, size: 1000 + rng.random(size) * 1e-3,
    "tiny": lambda rng, size: rng.standard_normal(size) * 1e-6,
    "huge": lambda rng, size: rng.standard_normal(size) * 1e8,
}


def draw(distribution: str, shape: int | tuple[int, ...] = 20_000, seed: int = 0) -> np.ndarray:
    values = DISTRIBUTIONS[distribution](np.random.default_rng(seed), int(np.prod(shape)))
    return values.astype(np.float32).reshape(shape)


@pytest.fixture
def assert_like_twin(calibrate, quant_hfmg):
    def check(batches, **options):
        options = {"num_of_bins": 1024} | options
        scale, offset = calibrate(batches, op=quant_hfmg, **options)
        expected_scale, expected_offset = twin.hfmg(batches, **options)
        assert scale == pytest.approx(expected_scale, rel=1e-6)
        assert offset == expected_offset

    return check


@pytest.mark.parametrize("with_offset", [True, False], ids=["offset", "symmetric"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_one_batch(assert_like_twin, distribution, with_offset):
    assert_like_twin([draw(distribution)], with_offset=with_offset)


@pytest.mark.parametrize("shape", [(), (1,), (2,), (1, 1, 1, 1), (3, 5, 7), (2, 9, 9, 3), (600_000,)], ids=str)
def test_shapes(assert_like_twin, shape):
    assert_like_twin([draw("laplace", shape)])


@pytest.mark.parametrize("num_of_bins", [1024, 2048, 4096, 8192])
def test_numbers_of_bins(assert_like_twin, num_of_bins):
    assert_like_twin([draw("laplace", 3000)], num_of_bins=num_of_bins)


@pytest.mark.parametrize("num_bits", [2, 4, 6, 12, 16])
def test_bit_widths(assert_like_twin, num_bits):
    assert_like_twin([draw("laplace")], num_bits=num_bits)


@pytest.mark.parametrize("with_offset", [True, False], ids=["offset", "symmetric"])
@pytest.mark.parametrize(
    "gains",
    [(1, 1, 1), (1, 2, 4), (4, 2, 1), (0.001, 1, 1000), (1, -1, 3), (0, 1, 2), (1e-12, 1e-12, 1), (1, 1.0001, 1.001)],
    ids=str,
)
@pytest.mark.parametrize("distribution", ["normal", "relu", "shifted_up"])
def test_batches_of_other_ranges(assert_like_twin, distribution, gains, with_offset):
    batches = [draw(distribution, 5000, seed) * np.float32(gain) for seed, gain in enumerate(gains)]
    assert_like_twin(batches, with_offset=with_offset)


@pytest.mark.parametrize("constant", [3.0, -3.0])
def test_a_constant_then_data(assert_like_twin, constant):
    assert_like_twin([np.full(1000, constant, np.float32), draw("normal", 5000)])


def test_batches_of_other_sizes(assert_like_twin):
    assert_like_twin([draw("laplace", size, size) for size in (1, 10_000, 300_000, 77)])


@pytest.mark.parametrize("distribution", ["laplace", "narrow"])
def test_clips_the_same_on_either_side(calibrate, quant_hfmg, distribution):
    """The vendor's C++ lets clipping on the left go free."""
    values = draw(distribution)
    scale, _ = calibrate([values], op=quant_hfmg, with_offset=False)
    mirrored, _ = calibrate([-values], op=quant_hfmg, with_offset=False)
    assert scale == pytest.approx(mirrored, rel=0.01)


def test_bins_narrower_than_float_epsilon(calibrate, quant_hfmg):
    values = draw("normal")
    scale, offset = calibrate([values], op=quant_hfmg)
    assert calibrate([values * np.float32(2.0**-14)], op=quant_hfmg) == (scale * np.float32(2.0**-14), offset)


@pytest.mark.parametrize("size", [5000, 3_000_000])
def test_twice_the_same_bits(calibrate, quant_hfmg, size):
    """The threads do not matter."""
    batches = np.array_split(draw("laplace", size), 2)
    first, second = (calibrate(batches, op=quant_hfmg) for _ in range(2))
    assert first[0].tobytes() == second[0].tobytes()
    assert first[1] == second[1]


@pytest.mark.parametrize("with_offset", [True, False], ids=["offset", "symmetric"])
def test_min_max_before_the_last_batch(open_book, quant_hfmg, with_offset):
    """Only the factors after it are recorded."""
    batches = [draw("normal", seed=seed) for seed in range(3)]
    book = open_book(batch_num=3)
    book.write()
    for seen in (1, 2):
        factors = quant_hfmg(book, batches[seen - 1], batch_num=3, with_offset=with_offset)
        low, high = np.min(batches[:seen]), np.max(batches[:seen])
        expected = twin.range_factors(low, high, with_offset, 8)
        assert (factors.scale.numpy(), int(factors.offset)) == expected
        assert "scale_d" not in Path(book.path).read_text()
    last = quant_hfmg(book, batches[2], batch_num=3, with_offset=with_offset)
    assert f"scale_d: {last.scale.numpy():.10g}" in Path(book.path).read_text()


def test_batches_after_batch_num_are_ignored(open_book, quant_hfmg):
    book = open_book(batch_num=2)
    for seed in range(2):
        final = quant_hfmg(book, draw("normal", seed=seed), batch_num=2)
    for later in ([100.0], [], [float("nan")]):
        result = quant_hfmg(book, later, batch_num=2)
        assert (result.scale, result.offset) == (final.scale, final.offset)
