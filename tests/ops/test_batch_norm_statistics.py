"""BatchNormStatistics against NumPy and the golden vectors, and the file that it writes beside the record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from amct_tensorflow import ops
from amct_tensorflow.record import (
    BatchNormStatistics,
    DamagedRounding,
    has_rounding,
    read_batch_norms,
    read_rounding,
    rounding_path,
)

InvalidArgument = tf.errors.InvalidArgumentError
MEAN, VARIANCE = np.float32([0.25, -3, 0]), np.float32([1.5, 2, 0.1])  # those of open_batch_norms


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def expected(batches: Sequence[np.ndarray], fraction: float, mean=MEAN, variance=VARIANCE):
    """The accumulators of Caffe, with a start of weight 1."""
    weight, mean, variance = 1.0, np.float64(mean), np.float64(variance)
    for batch in batches:
        rows = np.float64(batch).reshape(-1, batch.shape[-1])
        weight = fraction * weight + 1
        mean = fraction * mean + rows.mean(axis=0)
        variance = fraction * variance + rows.var(axis=0, ddof=1)
    return mean / weight, variance / weight


def assert_found(book: ops.RecordBook, name: str, statistics) -> None:
    found = read_batch_norms(book.path)[name]
    np.testing.assert_allclose(found.mean, statistics[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.variance, statistics[1], rtol=1e-5)


@pytest.mark.parametrize("fraction", [0.001, 0.5, 0.999])
@pytest.mark.parametrize("shape", [(7, 3), (2, 5, 4, 3), (2, 3, 1, 4, 3)], ids=str)
@pytest.mark.parametrize("count", [1, 4])
def test_moving_statistics(open_batch_norms, batch_norm_statistics, fraction, shape, count):
    batches = [noise(seed, *shape) * (seed + 1) + seed for seed in range(count)]
    opened = open_batch_norms(batch_num=count)
    for batch in batches:
        batch_norm_statistics(opened, batch, batch_num=count, fraction=fraction)
    assert_found(opened, "bn", expected(batches, fraction))


def test_the_mean_passes_through(open_batch_norms, batch_norm_statistics):
    batch = noise(0, 5, 3)
    np.testing.assert_allclose(batch_norm_statistics(open_batch_norms(), batch), batch.mean(axis=0), rtol=1e-6)


def test_batches_of_different_sizes(open_batch_norms, batch_norm_statistics):
    batches = [noise(0, 2, 3), noise(1, 50, 3)]
    opened = open_batch_norms(batch_num=2)
    for batch in batches:
        batch_norm_statistics(opened, batch, batch_num=2)
    assert_found(opened, "bn", expected(batches, 0.5))


def test_nothing_is_written_before_all_are_complete(open_batch_norms, batch_norm_statistics):
    opened = open_batch_norms("a", "b", batch_num=2)
    opened.write()
    for name in ("a", "a", "b"):
        batch_norm_statistics(opened, noise(0, 5, 3), name=name, batch_num=2)
        assert not Path(rounding_path(opened.path)).exists()
    assert (ops.batches_seen(opened.path, "a"), ops.batches_seen(opened.path, "b")) == (2, 1)
    batch_norm_statistics(opened, noise(1, 5, 3), name="b", batch_num=2)
    assert set(read_batch_norms(opened.path)) == {"a", "b"}
    assert not has_rounding(opened.path) and read_rounding(opened.path) == {}


def test_more_batches_are_ignored_until_the_calibration_restarts(open_batch_norms, batch_norm_statistics):
    opened, first, second = open_batch_norms(), noise(0, 5, 3), noise(1, 5, 3)
    for batch in (first, second):
        batch_norm_statistics(opened, batch)
        assert_found(opened, "bn", expected([first], 0.5))
    ops.restart_calibration(opened.path)
    batch_norm_statistics(opened, second)
    assert_found(opened, "bn", expected([second], 0.5))


def test_final_statistics_stay_through_a_calibration(open_book, quant_ifmr):
    opened = open_book("net/conv")
    opened.add_batch_norm("net/bn", MEAN, VARIANCE, is_final=True)
    opened.write()  # they are there before the first batch
    for _ in range(2):
        assert_found(opened, "net/bn", (MEAN, VARIANCE))
        quant_ifmr(opened, [1.0, 2.0], layers=["net/conv"])
        ops.restart_calibration(opened.path)
    assert read_rounding(opened.path) == {"net/conv": None}


def test_a_new_calibration_forgets_them(open_book):
    first, second = open_book("net/conv"), open_book("net/conv")
    second.add_batch_norm("net/bn", MEAN, VARIANCE, is_final=True)
    second.write()
    assert read_batch_norms(second.path)
    first = open_book("net/conv")
    first.write()
    assert read_batch_norms(first.path) == {}


# What is refused


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((0, 3)), 'the input of batch norm "bn" is empty: feed batches of at least one sample'),
        ([[1.0, np.nan, 2], [1, 2, 3]], 'the input of batch norm "bn" has invalid value inf or nan: feed real data'),
        ([[1.0, np.inf, 2], [1, 2, 3]], 'the input of batch norm "bn" has invalid value inf or nan: feed real data'),
        ([[1.0, 2, 3]], "has one value in each channel, which has no variance: feed batches of more samples"),
        ([[1.0, 2]], "has not as many channels as in the batches before"),
    ],
)
def test_a_refused_batch_does_not_count(open_batch_norms, batch_norm_statistics, x, message):
    opened = open_batch_norms()
    with pytest.raises(InvalidArgument, match=message), np.errstate(all="ignore"):
        batch_norm_statistics(opened, x)
    good = noise(0, 5, 3)
    batch_norm_statistics(opened, good)
    assert_found(opened, "bn", expected([good], 0.5))


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5])
def test_a_fraction_out_of_range(open_batch_norms, batch_norm_statistics, fraction):
    with pytest.raises(InvalidArgument, match="fraction must be between 0 and 1"):
        batch_norm_statistics(open_batch_norms(), noise(0, 5, 3), fraction=fraction)


def test_a_batch_norm_that_the_book_does_not_have(open_batch_norms, batch_norm_statistics):
    with pytest.raises(InvalidArgument, match='the statistics are not those of batch norm "other"'):
        batch_norm_statistics(open_batch_norms(), noise(0, 5, 3), name="other")


def test_a_closed_book(open_batch_norms, batch_norm_statistics):
    opened = open_batch_norms()
    opened.close()
    with pytest.raises(tf.errors.FailedPreconditionError, match=r"was not started in this .* call update_batch_norms"):
        batch_norm_statistics(opened, noise(0, 5, 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1] + bytes([content[-1] ^ 1]), "is damaged"),
        (
            lambda content: content.replace(b"bn/batch_mean", b"bn/batch_meen"),
            "lacks what it should have of batch norm",
        ),
    ],
)
def test_a_damaged_file(open_batch_norms, batch_norm_statistics, change, message):
    opened = open_batch_norms()
    batch_norm_statistics(opened, noise(0, 5, 3))
    assert isinstance(read_batch_norms(opened.path)["bn"], BatchNormStatistics)
    path = Path(rounding_path(opened.path))
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DamagedRounding, match=message):
        read_batch_norms(opened.path)
