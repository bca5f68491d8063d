"""Weights without a -128: the other channels stay, and the sum over a channel does."""

from __future__ import annotations

import numpy as np
import pytest

from amct_tensorflow.export.lite.narrow_weights import narrow
from amct_tensorflow.graph_passes.planning.find_deployed import IntegerWeights

SHAPES = {"Conv2D": ((3, 3, 8, 16), (3,)), "depthwise": ((3, 3, 8, 2), (2, 3)), "transposed": ((3, 3, 16, 8), (2,))}


def weights(shape, axes, *, one_scale) -> IntegerWeights:
    """Every other channel has a -128."""
    random = np.random.default_rng(0)
    order = [*axes, *(axis for axis in range(len(shape)) if axis not in axes)]
    sizes = [shape[axis] for axis in order]
    channels = np.clip(np.rint(40 * random.standard_normal(sizes)), -127, 127).reshape(16, -1)
    channels[::2, 3] = -128
    values = channels.reshape(sizes).transpose(np.argsort(order)).astype(np.int8)
    scale_shape = [size if axis in axes and not one_scale else 1 for axis, size in enumerate(shape)]
    return IntegerWeights(values, random.uniform(0.5, 1, scale_shape).astype(np.float32))


@pytest.mark.parametrize("one_scale", [False, True], ids=["channels", "one scale"])
@pytest.mark.parametrize("case", SHAPES)
def test_narrow(case, one_scale):
    shape, axes = SHAPES[case]
    before = weights(shape, axes, one_scale=one_scale)
    found = narrow(before, axes)
    after, others = found.weights, tuple(axis for axis in range(len(shape)) if axis not in axes)
    wide = (before.values == -128).any(axis=others)
    assert found.channels == wide.sum() == 8
    assert after.values.min() == -127 and after.values.dtype == np.int8
    assert after.scale.shape == before.scale.shape and after.scale.dtype == np.float32
    assert (after.scale / before.scale).max() < 128.01 / 127
    kept = np.broadcast_to(np.expand_dims(~wide, others), shape)
    np.testing.assert_array_equal(after.in_reals()[kept], before.in_reals()[kept])
    in_steps = (after.in_reals() - before.in_reals()).sum(axis=others) / before.scale.squeeze()
    assert np.abs(in_steps).max() < 1.1
    assert found.sqnr > 40


def test_nothing_to_do():
    before = IntegerWeights(np.full((2, 3), -127, np.int8), np.ones((1, 3), np.float32))
    found = narrow(before, (1,))
    assert found.weights is before and found.channels == 0 and found.sqnr == np.inf
