"""How far tensors are apart, against plain NumPy and the vendor's vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from amct_tensorflow.analysis.differences import Difference, add_sums, similarity, sums_of

tf1 = tf.compat.v1


def sums(*pairs):
    """The sums over all pairs of arrays."""
    total = None
    for reference, other in pairs:
        with tf.Graph().as_default() as graph, tf1.Session(graph=graph) as session:
            found = session.run(sums_of(tf.constant(reference), tf.constant(other)))
        total = found if total is None else add_sums(total, found)
    return total


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32])
def test_against_numpy(dtype):
    random = np.random.default_rng(0)
    pairs = [tuple((random.standard_normal((2, 3, 40, 7, 5)) * 20).astype(dtype)) for _ in range(3)]
    found = Difference.of(sums(*pairs))
    r, x = (np.concatenate([pair[at].reshape(-1) for pair in pairs]).astype(np.float64) for at in (0, 1))
    apart = x - r
    np.testing.assert_allclose(found.cosine, r @ x / np.sqrt((r @ r) * (x @ x)), atol=1e-6)
    np.testing.assert_allclose(found.sqnr, 10 * np.log10((r @ r) / (apart @ apart)), rtol=1e-5)
    np.testing.assert_allclose((found.largest, found.mean), (np.abs(apart).max(), np.abs(apart).mean()), rtol=1e-5)


@pytest.mark.parametrize(
    ("reference", "other", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], Difference(1.0, math.inf, 0.0, 0.0)),
        ([0.0, 0.0], [0.0, 0.0], Difference(1.0, math.inf, 0.0, 0.0)),
        ([0.0, 0.0], [3.0, 4.0], Difference(0.0, -math.inf, 4.0, 3.5)),
        ([3.0, 4.0], [0.0, 0.0], Difference(0.0, 0.0, 4.0, 3.5)),
        ([1.0], [-1.0], Difference(-1.0, 10 * math.log10(1 / 4), 2.0, 2.0)),
    ],
    ids=["equal", "both zero", "zero reference", "zero", "opposite"],
)
def test_corner_cases(reference, other, expected):
    found = Difference.of(sums((np.float32(reference), np.float32(other))))
    np.testing.assert_allclose(
        (found.cosine, found.sqnr, found.largest, found.mean),
        (expected.cosine, expected.sqnr, expected.largest, expected.mean),
        rtol=1e-6,
    )


def test_nothing_at_all():
    empty = np.zeros([0, 3], np.float32)
    assert Difference.of(sums((empty, empty))) == Difference(1.0, math.inf, 0.0, 0.0)


def test_similarity_is_that_of_the_vendor(golden):
    for case, [values] in golden("sensitivity"):
        noise = np.random.default_rng(case["noise_seed"]).standard_normal(values.shape)
        noisy = (values + case["noise"] * noise).astype(np.float32)
        assert similarity(sums((values, noisy))) == pytest.approx(case["cosine"], abs=2e-6)
        assert similarity(sums((noisy, values))) == pytest.approx(case["cosine_swapped"], abs=2e-6)
