"""SearchN against its NumPy twin."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy_twin as twin
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amct_tensorflow.record import read_record

SHAPES = {
    "conv": (2, 5, 5, 8),
    "one_channel": (2, 5, 5, 1),
    "conv3d": (2, 3, 4, 5, 6),
    "dense": (64, 10),
    "large": (4, 64, 64, 24),  # more than one block of rows, and of threads
    "many_channels": (3, 1, 1, 1500),
    "vector": (300,),
}


def draw(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).laplace(size=shape).astype(np.float32)


def deq_scales(channels: int, seed: int = 0) -> np.ndarray:
    """Returns scales under which most outputs need a shift of 1 to 12."""
    return (10 ** np.random.default_rng(seed).uniform(-8, -4, channels)).astype(np.float32)


@pytest.mark.parametrize("batches", [1, 3])
@pytest.mark.parametrize("per_channel", [True, False], ids=["per_channel", "one_scale"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_near_the_exact_search(find_shifts, shape, per_channel, batches):
    outputs = [draw(shape, seed) * np.float32(1 + seed) for seed in range(batches)]
    scales = deq_scales(shape[-1] if per_channel else 1)
    assert_least_error(find_shifts(outputs, scales), outputs, scales)


def assert_least_error(shifts, outputs, scales):
    """Sums in another order may swap shifts of equal error, nothing else."""
    errors = twin.search_n_errors(outputs, scales)
    chosen = errors[np.arange(len(shifts)), np.array(shifts) - 1]
    np.testing.assert_allclose(chosen, errors.min(axis=1), rtol=1e-4)
    assert np.mean(np.array(shifts) == twin.search_n(outputs, scales)) >= 0.99


@pytest.mark.parametrize("shape", [(64, 10), (3, 70, 50, 10)], ids=["exact", "histograms"])
def test_channels_that_share_their_range(find_shifts, shape):
    """What any of them has reached passes through each, and none has a smaller shift than alone."""
    outputs = draw(shape) * np.geomspace(0.01, 1, 10).astype(np.float32)
    scales = np.geomspace(1e-8, 1e-4, 10).astype(np.float32)
    alone, shared = (np.array(find_shifts([outputs], scales, share_range=share)) for share in (False, True))
    assert (shared >= alone).all() and (shared > alone).sum() >= 5
    largest = np.abs(outputs).max() / scales
    passes = 2.0**shared * 32767.5 > largest
    assert passes[shared < 16].all() and (2.0 ** (shared - 1) * 32767 <= largest)[shared > alone].all()


def test_one_scale_shares_nothing(find_shifts):
    outputs = draw((64, 10))
    assert find_shifts([outputs], [1e-6], share_range=True) == find_shifts([outputs], [1e-6])


@pytest.mark.parametrize("batches", [1, 2])
@pytest.mark.parametrize("shape", [(2, 8, 5), (2, 8, 5, 5), (2, 1, 5, 5), (64, 10), (2, 3, 70, 70)], ids=str)
def test_channels_after_the_batch(find_shifts, shape, batches):
    outputs = [draw(shape, seed) for seed in range(batches)]
    last = [np.moveaxis(output, 1, -1) for output in outputs]
    scales = deq_scales(shape[1])
    assert_least_error(find_shifts(outputs, scales, data_format="NCHW"), last, scales)


@pytest.mark.parametrize("exponent", range(15, 32))
@pytest.mark.parametrize("sign", [1, -1], ids=["positive", "negative"])
@pytest.mark.parametrize("batches", [1, 2])
def test_largest_value_is_a_power_of_two(find_shifts, exponent, sign, batches):
    """Where clip16(floor(s / 2^N)) just clips, or just does not."""
    outputs = [np.full((2, 3), sign * 2.0**exponent, np.float32)] * batches
    one = np.ones(3, np.float32)
    assert find_shifts(outputs, one) == twin.search_n(outputs, one)


@pytest.mark.parametrize("s", [0, 1, -1, 32767, 32768, -32768, -32769, 65534, 65535, 65536, -65536, -65538])
def test_single_integers(find_shifts, s):
    output = [np.float32([[s]])]
    assert find_shifts(output, np.ones(1, np.float32)) == twin.search_n(output, np.ones(1, np.float32))


def test_more_than_16_bits_too_many(find_shifts):
    """Nothing passes unclipped: the largest shift loses least."""
    assert find_shifts([np.float32([[1e12]])], np.ones(1, np.float32)) == [16]


def test_zeros_shift_by_one(find_shifts):
    assert find_shifts([np.zeros((2, 3), np.float32)], np.ones(3, np.float32)) == [1, 1, 1]


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32 - 1), channels=st.integers(1, 9), rows=st.integers(1, 70), batches=st.integers(1, 3))
def test_random_tensors(find_shifts, seed, channels, rows, batches):
    outputs = [draw((rows, channels), seed + i) for i in range(batches)]
    scales = deq_scales(channels, seed)
    assert_least_error(find_shifts(outputs, scales), outputs, scales)


def test_scale_is_the_product_of_both_inputs(open_book, search_n, find_shifts):
    output = draw((20, 4))
    expected = find_shifts([output], deq_scales(4) * np.float32(0.5))
    assert find_shifts([output], deq_scales(4), scale_d=0.5) == expected


def test_all_batches_count_with_the_final_scale(open_book, search_n):
    """Factors change from batch to batch until QuantIfmr has seen all."""
    book = open_book(batch_num=2, wants_shift=True)
    outputs = [draw((20, 1), seed) for seed in range(2)]
    for output, scale in zip(outputs, [1e-5, 3e-5], strict=True):
        search_n(book, output, scale_w=[1], scale_d=scale, batch_num=2)
    (expected,) = twin.search_n(outputs, np.float32([3e-5]))
    assert f"shift_bit: {expected}\n" in Path(book.path).read_text()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.05, 0.2])
@pytest.mark.parametrize("spread", [1.0005, 1.01, 1.03, 1.1])
@pytest.mark.parametrize("n", [1, 5])
def test_values_barely_beyond_what_passes(find_shifts, n, spread, share):
    """Beyond the values that are kept, a histogram of the largest ones tells what a shift clips."""
    random = np.random.default_rng(int(1000 * spread))
    limit = np.float32(2.0 ** (15 + n))
    output = random.uniform(-1, 1, (60_000, 3)).astype(np.float32) * limit * np.float32(0.99)
    beyond = random.random(output.shape) < share
    beyond[7] = True
    output[beyond] = limit * random.uniform(1, spread, np.count_nonzero(beyond)).astype(np.float32)
    one = np.ones(3, np.float32)
    shifts = np.array(find_shifts([output], one))
    errors = twin.search_n_errors([output], one)
    # Bits that are dropped are taken for random, which is off by 1 / sqrt(60,000).
    assert np.all(errors[np.arange(3), shifts - 1] <= 1.02 * errors.min(axis=1))


def test_order_and_batching_are_irrelevant(find_shifts):
    output = draw((30_000, 6)) * np.float32([1, 3, 10, 30, 100, 300])
    scales = deq_scales(6, seed=1)
    expected = find_shifts([output], scales)
    for order in (np.argsort(output[:, 0]), np.argsort(-np.abs(output[:, 3]))):
        assert find_shifts([output[order]], scales) == expected
        assert find_shifts(np.split(output[order], [10, 20, 15_000]), scales) == expected


def test_a_batch_that_is_not_finite_counts_for_nothing(open_book, search_n, find_shifts):
    output = draw((30_000, 4))
    expected = find_shifts([output], deq_scales(4))
    book = open_book(batch_num=2, wants_shift=True, path="other.txt", scale_w=np.ones(4))
    halves = np.split(output, 2)
    search_n(book, halves[0], scale_w=deq_scales(4), batch_num=2)
    spoilt = halves[1] * 1000
    spoilt[-1, -1] = np.nan
    with pytest.raises(tf.errors.InvalidArgumentError, match="nan"):
        search_n(book, spoilt, scale_w=deq_scales(4), batch_num=2)
    search_n(book, halves[1], scale_w=deq_scales(4), batch_num=2)
    assert list(read_record(book.path)["layer"].shift_bit) == expected


def test_passes_data_and_gradient_on(open_book, search_n):
    book = open_book(wants_shift=True)
    x = tf.Variable(draw((2, 3)))
    with tf.GradientTape() as tape:
        y = search_n(book, x, scale_w=[1, 1, 1])
        loss = tf.reduce_sum(y * [[1.0, 2, 3], [4, 5, 6]])
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(tape.gradient(loss, x), [[1, 2, 3], [4, 5, 6]])


def test_batches_after_batch_num_are_ignored(open_book, search_n):
    book = open_book(wants_shift=True)
    search_n(book, draw((20, 1)), scale_w=[1e-5])
    before = Path(book.path).read_text()
    search_n(book, draw((20, 1)) * 1000, scale_w=[1e-5])
    assert Path(book.path).read_text() == before
