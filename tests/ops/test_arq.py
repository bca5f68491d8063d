"""Weight factors: the op, and the plain functions, against their NumPy twin."""

from __future__ import annotations

import numpy as np
import numpy_twin as twin
import pytest
import tensorflow as tf

from amct_tensorflow import ops
from amct_tensorflow.record import read_record

LAYOUTS = {
    "conv_hwio": ((3, 3, 4, 8), (3,)),
    "depthwise_hwcm": ((3, 3, 4, 2), (2, 3)),
    "transposed_hwoi": ((3, 3, 8, 4), (2,)),
    "conv3d": ((2, 3, 3, 4, 8), (4,)),
    "first_axis": ((8, 3, 3), (0,)),
    "matmul": ((30, 7), ()),
    "one_channel": ((3, 3, 4, 1), (3,)),
    "one_weight": ((1, 1, 1, 1), (3,)),
    "scalar": ((), ()),
    "every_weight_its_channel": ((4, 5), (0, 1)),
}


def draw(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def with_special_channels(weights: np.ndarray) -> np.ndarray:
    """Gives the first channels of HWIO weights the cases that a random tensor lacks."""
    weights[..., 0] = 0
    weights[..., 1] *= np.float32(1e-7)  # below 127 * FLT_EPSILON
    weights[..., 2] = np.abs(weights[..., 2])
    weights[..., 3] = -np.abs(weights[..., 3])
    weights[..., 4].flat[:2] = (5, -5)  # a tie: the negative end decides
    weights[..., 5] *= np.float32(1e8)
    return weights


@pytest.mark.parametrize("num_bits", [4, 8])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_op(open_book, quant_arq, layout, num_bits):
    shape, channel_axes = LAYOUTS[layout]
    weights = draw(shape)
    result = quant_arq(open_book(scale_w=None), weights, channel_axes=channel_axes, num_bits=num_bits)
    scales = twin.arq_scales(weights, channel_axes, num_bits)
    np.testing.assert_array_equal(result.scale, scales)
    np.testing.assert_array_equal(result.y, twin.fake_quantize_weights(weights, scales, channel_axes, num_bits))


@pytest.mark.parametrize("num_bits", [4, 8])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_functions(layout, num_bits):
    shape, channel_axes = LAYOUTS[layout]
    weights = draw(shape)
    scales = ops.arq_scales(weights, channel_axes, layer="conv", num_bits=num_bits)
    np.testing.assert_array_equal(scales, twin.arq_scales(weights, channel_axes, num_bits))
    integers = ops.quantize_weights(weights, scales, channel_axes, num_bits=num_bits)
    assert integers.dtype == np.int8
    np.testing.assert_array_equal(integers, twin.quantize_weights(weights, scales, channel_axes, num_bits))


def test_special_channels(open_book, quant_arq):
    weights = with_special_channels(draw((3, 3, 4, 8)))
    expected = twin.arq_scales(weights, (3,))
    assert list(expected[:2]) == [1, 1]
    assert expected[4] == np.float32(5 / 128)
    np.testing.assert_array_equal(ops.arq_scales(weights, (3,), layer="conv"), expected)
    result = quant_arq(open_book(scale_w=None), weights, channel_axes=(3,))
    np.testing.assert_array_equal(result.scale, expected)
    np.testing.assert_array_equal(result.y, twin.fake_quantize_weights(weights, expected, (3,)))
    assert np.all(result.y[..., :2] == 0)


def test_rounds_half_away_from_zero():
    weights = np.float32([-2.5, -1.5, -0.5, 0.49999997, 0.5, 1.5, 2.5])
    assert list(ops.quantize_weights(weights, np.float32([1]), ())) == [-3, -2, -1, 0, 1, 2, 3]


def test_clips_under_a_scale_that_is_too_small():
    weights = np.float32([-1e30, -129, 127.5, 1e30])
    assert list(ops.quantize_weights(weights, np.float32([1]), ())) == [-128, -128, 127, 127]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_quantizing_again_changes_nothing(layout):
    """save_model quantizes the weights that quantize_model has fake-quantized."""
    shape, channel_axes = LAYOUTS[layout]
    scales = ops.arq_scales(draw(shape), channel_axes, layer="conv")
    integers = ops.quantize_weights(draw(shape), scales, channel_axes)
    fake = ops.tensorflow_ops().dequant_arq(integers, scales, channel_axes=list(channel_axes)).numpy()
    np.testing.assert_array_equal(ops.quantize_weights(fake, scales, channel_axes), integers)


@pytest.mark.parametrize("layout", [*LAYOUTS, "large_rows", "large_runs", "large_single"])
def test_dequant_arq(layout):
    large = {"large_rows": ((1000, 300), (1,)), "large_runs": ((2, 3, 50000), (1,)), "large_single": ((999, 301), ())}
    shape, channel_axes = (LAYOUTS | large)[layout]
    weights = draw(shape)
    scales = ops.arq_scales(weights, channel_axes, layer="conv")
    integers = ops.quantize_weights(weights, scales, channel_axes)
    y = ops.tensorflow_ops().dequant_arq(integers, scales, channel_axes=list(channel_axes))
    np.testing.assert_array_equal(y, twin.fake_quantize_weights(weights, scales, channel_axes))


@pytest.mark.parametrize(
    ("axes", "scales", "message"),
    [
        ([1], 3, "DequantArq: 3 weight scales for 6 channels"),
        ([], 6, "DequantArq: 6 weight scales for 1 channels"),
        ([2], 1, "DequantArq: channel_axes are beyond the weights"),
        ([-1], 1, "DequantArq: channel_axes are beyond the weights"),
        ([1, 0], 24, "DequantArq: channel_axes must be neighbours in rising order"),
    ],
)
def test_dequant_arq_refuses(axes, scales, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        ops.tensorflow_ops().dequant_arq(np.ones((4, 6), np.int8), np.ones(scales, np.float32), channel_axes=axes)


@pytest.mark.parametrize(
    "weights",
    [draw((4, 6)).T, draw((8, 6))[::2], draw((4, 6)).astype(np.float64), draw((4, 6)).astype(np.float16)],
    ids=["transposed", "strided", "float64", "float16"],
)
def test_functions_take_any_array(weights):
    scales = ops.arq_scales(weights, (1,), layer="dense")
    np.testing.assert_array_equal(scales, twin.arq_scales(weights.astype(np.float32), (1,)))
    expected = twin.quantize_weights(weights.astype(np.float32), scales, (1,))
    np.testing.assert_array_equal(ops.quantize_weights(weights, scales, (1,)), expected)


def test_functions_refuse_another_number_of_scales():
    with pytest.raises(ValueError, match="3 scales for 6 channels"):
        ops.quantize_weights(draw((4, 6)), np.ones(3, np.float32), (1,))


def test_records_the_scales_of_the_first_run(open_book, quant_arq):
    book = open_book("conv", "twin", scale_w=None)
    first = quant_arq(book, draw((3, 3, 4, 8)), layers=["conv", "twin"], channel_axes=(3,))
    quant_arq(book, draw((3, 3, 4, 8)) * 2, layers=["conv", "twin"], channel_axes=(3,))
    ops.flush_record(book.path)
    for record in read_record(book.path).values():
        np.testing.assert_array_equal(np.float32(record.scale_w), first.scale)
        assert record.offset_w == (0,) * 8


def test_passes_the_gradient_on(open_book, quant_arq):
    weights = tf.Variable(draw((3, 4)))
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(quant_arq(open_book(scale_w=None), weights).y * draw((3, 4), seed=1))
    np.testing.assert_array_equal(tape.gradient(y, weights), draw((3, 4), seed=1))
