"""The deployment ops against their NumPy twin."""

from __future__ import annotations

import numpy as np
import numpy_twin as twin
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from amct_tensorflow import ops

SHAPES = {
    "scalar": (),
    "vector": (7,),
    "dense": (5, 10),
    "sequence": (2, 6, 5),
    "image": (2, 5, 6, 3),
    "volume": (1, 2, 3, 4, 5),
    "large": (4, 100, 100, 16),  # cut into pieces for several threads
}


def kernels():
    return ops.tensorflow_ops()


def draw(shape: tuple[int, ...], gain: float = 100, seed: int = 0) -> np.ndarray:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape) * gain, np.float32)


# AscendQuant


@pytest.mark.parametrize("offset", [-128, -1, 0, 5, 127])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_quant(shape, offset):
    x = draw(shape)
    y = kernels().ascend_quant(x, scale=1.37, offset=offset, quant_bits=8)
    np.testing.assert_array_equal(y, twin.ascend_quant(x, scale=1.37, offset=offset))


def test_quant_spans_all_integers():
    """At each offset, every integer of the range is met, and nothing beyond."""
    x = np.arange(-300, 301, dtype=np.float32)
    for offset in range(-128, 128):
        y = kernels().ascend_quant(x, scale=1.0, offset=offset).numpy()
        assert set(y + offset) == set(range(-128, 128))
        np.testing.assert_array_equal(y, np.clip(x, -128 - offset, 127 - offset))


@pytest.mark.parametrize("quant_bits", [2, 4, 8, 16])
def test_quant_clips_at_both_ends(quant_bits):
    x = np.float32([-np.inf, -3e38, -1e10, -70000.0, 70000.0, 1e10, 3e38, np.inf])
    y = kernels().ascend_quant(x, scale=2.0, offset=1.0, quant_bits=quant_bits)
    low, high = -(2 ** (quant_bits - 1)) - 1, 2 ** (quant_bits - 1) - 2
    np.testing.assert_array_equal(y, [low] * 4 + [high] * 4)


def test_quant_rounds_half_away_from_zero():
    halves = np.arange(-100.5, 101, dtype=np.float32)
    y = kernels().ascend_quant(halves, scale=1.0, offset=0.0)
    np.testing.assert_array_equal(y, np.sign(halves) * (np.abs(halves) + 0.5))


def test_quant_rounds_the_neighbours_of_halves_to_the_nearest():
    halves = np.arange(-100.5, 101, dtype=np.float32)
    for direction in (np.float32(np.inf), np.float32(-np.inf)):
        x = np.nextafter(halves, direction)
        nearest = np.rint(x.astype(np.float64))
        away = np.sign(halves) * (np.abs(halves) + 0.5)
        y = kernels().ascend_quant(x, scale=1.0, offset=0.0).numpy()
        np.testing.assert_array_equal(y, nearest)
        assert np.mean(y == away) == 0.5


@pytest.mark.parametrize("position", [0, 15, 16, 33, 36])
def test_quant_of_nan_is_no_integer_out_of_range(position):
    x = np.ones(37, np.float32)
    x[position] = np.nan
    y = kernels().ascend_quant(x, scale=1.0, offset=3.0).numpy()
    assert np.isnan(y[position]) or -131 <= y[position] <= 124
    assert np.all(np.delete(y, position) == 1)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.integers(1, 5000),
    gain=st.floats(1e-6, 1e6),
    scale=st.floats(2.0**-23, 2.0**23, width=32),
    offset=st.integers(-128, 127),
    quant_bits=st.sampled_from([4, 8, 16]),
)
def test_quant_of_random_tensors(seed, size, gain, scale, offset, quant_bits):
    x = draw((size,), gain, seed)
    y = kernels().ascend_quant(x, scale=scale, offset=offset, quant_bits=quant_bits)
    np.testing.assert_array_equal(y, twin.ascend_quant(x, scale=scale, offset=offset, quant_bits=quant_bits))


# AscendAntiQuant


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_anti_quant(shape):
    x = draw(shape)
    y = kernels().ascend_anti_quant(x, scale=0.37, offset=-5.0)
    np.testing.assert_array_equal(y, twin.ascend_anti_quant(x, scale=0.37))


@pytest.mark.parametrize("offset", [-128, -3, 0, 127])
def test_anti_quant_undoes_quant(offset):
    scale = np.float32(0.043)
    x = np.linspace(-128 - offset, 127 - offset, 999).astype(np.float32) * scale
    q = kernels().ascend_quant(x, scale=1 / scale, offset=offset)
    np.testing.assert_allclose(kernels().ascend_anti_quant(q, scale=scale, offset=offset), x, atol=scale * 0.501)


# AscendWeightQuant


def int8(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-128, 128, shape, np.int8)


@pytest.mark.parametrize(
    ("shape", "offset_shape"),
    [
        ((3, 3, 4, 8), (1,)),
        ((3, 3, 4, 8), ()),
        ((3, 3, 4, 8), (8,)),
        ((3, 3, 4, 8), (1, 1, 1, 8)),
        ((3, 3, 8, 4), (1, 1, 8, 1)),
        ((3, 3, 4, 2), (1, 1, 4, 2)),
        ((3, 3, 4, 2), (3, 3, 4, 2)),
        ((2, 3, 3, 4, 8), (1, 1, 1, 1, 8)),
        ((30, 7), (1,)),
        ((5,), (5,)),
        ((), ()),
        ((7, 7, 64, 64), (64,)),
    ],
    ids=str,
)
@pytest.mark.parametrize("zero", [True, False], ids=["zero", "offset"])
def test_weight_quant(shape, offset_shape, zero):
    x = int8(shape)
    offset_w = np.zeros(offset_shape, np.int8) if zero else np.asarray(int8(offset_shape, seed=1))
    y = kernels().ascend_weight_quant(x, offset_w, T=tf.float32)
    assert y.dtype == tf.float32
    np.testing.assert_array_equal(y, twin.ascend_weight_quant(x, offset_w))


def test_weight_quant_of_every_pair():
    x, offset_w = np.meshgrid(np.arange(-128, 128, dtype=np.int8), np.arange(-128, 128, dtype=np.int8))
    y = kernels().ascend_weight_quant(x, offset_w, T=tf.float32)
    np.testing.assert_array_equal(y, twin.ascend_weight_quant(x, offset_w))


@pytest.mark.parametrize("offset_shape", [(0,), (3,), (8, 1), (1, 1, 1, 1, 8), (3, 3, 4, 4)], ids=str)
def test_weight_quant_refuses_offsets_that_do_not_broadcast(offset_shape):
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"AscendWeightQuantOp: offset_w of shape .*not broadcast"):
        kernels().ascend_weight_quant(int8((3, 3, 4, 8)), np.ones(offset_shape, np.int8), T=tf.float32)


# AscendDequant


def words(channels: int, shift: int | str, seed: int = 0) -> np.ndarray:
    """Returns deq_scale words with the same shift in each channel, or with some "mixed" ones."""
    rng = np.random.default_rng(seed)
    scales = rng.uniform(1e-6, 1e-2, channels)
    shifts = rng.integers(0, 17, channels) if shift == "mixed" else np.full(channels, shift)
    return twin.deq_scale_words(scales, shifts)


def accumulators(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Returns integers of all magnitudes up to beyond int32, held in floats."""
    rng = np.random.default_rng(seed)
    return np.asarray(np.rint(rng.standard_normal(shape) * 10 ** rng.uniform(0, 10, shape)), np.float32)


def channels_of(shape: tuple[int, ...], data_format: str) -> int:
    return shape[1] if data_format == "NCHW" and len(shape) > 2 else shape[-1]


def assert_dequant(shape, data_format, per_channel, shift, ksize, seed=0):
    """Products of three factors may be rounded in another order."""
    x = accumulators(shape, seed)
    deq_scale = words(channels_of(shape, data_format) if per_channel else 1, shift, seed)
    y = kernels().ascend_dequant(x, deq_scale, ksize=ksize, data_format=data_format)
    expected = twin.ascend_dequant(x, deq_scale, ksize=ksize, data_format=data_format)
    np.testing.assert_allclose(y, expected, rtol=3e-7, atol=0)


@pytest.mark.parametrize("ksize", [(1, 1), (3, 3), (1, 2, 2, 1)], ids=str)
@pytest.mark.parametrize("shift", [0, 1, 16, "mixed"])
@pytest.mark.parametrize("per_channel", [True, False], ids=["per_channel", "one_word"])
@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
@pytest.mark.parametrize("shape", ["vector", "dense", "sequence", "image", "volume"])
def test_dequant(shape, data_format, per_channel, shift, ksize):
    assert_dequant(SHAPES[shape], data_format, per_channel, shift, ksize)


@pytest.mark.parametrize("shift", [0, 7, "mixed"])
@pytest.mark.parametrize("per_channel", [True, False], ids=["per_channel", "one_word"])
@pytest.mark.parametrize(("shape", "data_format"), [((4, 100, 100, 16), "NHWC"), ((4, 16, 100, 100), "NCHW")], ids=str)
def test_dequant_in_several_threads(shape, data_format, per_channel, shift):
    assert_dequant(shape, data_format, per_channel, shift, (1, 1))


def test_dequant_of_a_scalar():
    y = kernels().ascend_dequant(np.float32(3), words(1, 0), ksize=[1, 1])
    np.testing.assert_array_equal(y, twin.ascend_dequant(np.float32(3), words(1, 0)))


@pytest.mark.parametrize("shift", range(17))
def test_dequant_shifts_down_and_clips(shift):
    """Each N, around the values where the floor and the clip act; all factors are exact."""
    edges = np.array([-32769, -32768, -2, -1, 0, 1, 2, 32767, 32768], np.float64) * 2**shift
    near = [-1, -0.5, 0, 0.5, 1]
    x = np.float32([edge + delta for edge in edges for delta in near] + [-3e9, -(2**31), 2**31, 3e9])
    y = kernels().ascend_dequant(x, twin.deq_scale_words([0.25], shift), ksize=[1, 1])
    np.testing.assert_array_equal(y, twin.ascend_dequant(x, twin.deq_scale_words([0.25], shift)))
    if shift:
        assert set(np.unique(y)) <= set(np.arange(-32768, 32768) * 0.25 * 2**shift)


def test_dequant_without_a_shift_neither_floors_nor_clips_to_int16():
    x = np.float32([-100000.5, -0.5, 0.5, 100000.5])
    np.testing.assert_array_equal(kernels().ascend_dequant(x, twin.deq_scale_words([2.0]), ksize=[1, 1]), x * 2)


@pytest.mark.parametrize("ksize", [(2, 2), (3, 5), (7, 7)], ids=str)
def test_dequant_divides_the_sum_of_a_window_by_its_area(ksize):
    """AvgPool of integers, times its area, is an integer that the SoC sums up exactly."""
    area = ksize[0] * ksize[1]
    sums = np.arange(-500, 500)
    means = (sums / area).astype(np.float32)
    y = kernels().ascend_dequant(means, twin.deq_scale_words([0.01]), ksize=[*ksize])
    np.testing.assert_allclose(y, sums * 0.01 / area, rtol=1e-6)


@pytest.mark.parametrize("offset_w", [-128, -1, 0, 127])
def test_dequant_reads_scale_and_shift_beside_any_offset(offset_w):
    x = accumulators((20, 4))
    plain = twin.deq_scale_words([0.1, 0.2, 0.3, 0.4], [0, 1, 2, 16])
    packed = twin.deq_scale_words([0.1, 0.2, 0.3, 0.4], [0, 1, 2, 16], [offset_w] * 4)
    y = kernels().ascend_dequant(x, packed, ksize=[1, 1])
    np.testing.assert_array_equal(y, kernels().ascend_dequant(x, plain, ksize=[1, 1]))


@pytest.mark.parametrize("shift", [0, 3])
def test_dequant_is_the_same_in_both_layouts(shift):
    x = accumulators((2, 6, 7, 5))
    deq_scale = words(5, shift)
    last = kernels().ascend_dequant(x, deq_scale, ksize=[1, 1], data_format="NHWC")
    second = kernels().ascend_dequant(np.moveaxis(x, -1, 1), deq_scale, ksize=[1, 1], data_format="NCHW")
    np.testing.assert_array_equal(np.moveaxis(second, 1, -1), last)


@settings(max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=5).map(tuple),
    data_format=st.sampled_from(["NHWC", "NCHW"]),
    per_channel=st.booleans(),
    shift=st.sampled_from([0, 1, 5, 16, "mixed"]),
    ksize=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_dequant_of_random_tensors(seed, shape, data_format, per_channel, shift, ksize):
    assert_dequant(shape, data_format, per_channel, shift, ksize, seed)


@pytest.mark.parametrize("count", [0, 3, 5, 60])
@pytest.mark.parametrize("data_format", ["NHWC", "NCHW"])
def test_dequant_refuses_another_number_of_words(data_format, count):
    x = np.ones((1, 4, 15, 4), np.float32)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=f"AscendDequantOp: {count} values of deq_scale for 4 channels"
    ):
        kernels().ascend_dequant(x, words(count, 0), ksize=[1, 1], data_format=data_format)


@pytest.mark.parametrize("ksize", [[], [2], [0, 1], [1, -1]], ids=str)
def test_dequant_refuses_windows_without_an_area(ksize):
    with pytest.raises(tf.errors.InvalidArgumentError, match="AscendDequantOp: ksize needs two sizes above 0"):
        kernels().ascend_dequant(np.ones(4, np.float32), words(1, 0), ksize=ksize)


@pytest.mark.parametrize("quant_bits", [-8, 0, 1, 17, 64])
def test_quant_refuses_bit_widths_that_there_are_not(quant_bits):
    with pytest.raises(tf.errors.InvalidArgumentError, match=rf"quant_bits must be in 2\.\.16, not {quant_bits}"):
        kernels().ascend_quant(np.ones(4, np.float32), scale=1.0, offset=0.0, quant_bits=quant_bits)


# All four


RUN = {
    "AscendQuant": lambda x, **name: kernels().ascend_quant(x, scale=2.0, offset=1.0, **name),
    "AscendAntiQuant": lambda x, **name: kernels().ascend_anti_quant(x, scale=2.0, offset=1.0, **name),
    "AscendDequant": lambda x, **name: kernels().ascend_dequant(x, words(1, 2), ksize=[1, 1], **name),
    "AscendWeightQuant": lambda x, **name: kernels().ascend_weight_quant(
        tf.cast(x, tf.int8), np.zeros(1, np.int8), T=tf.float32, **name
    ),
}


@pytest.mark.parametrize("shape", [(0,), (0, 8, 8, 3), (2, 0, 8, 3)], ids=str)
@pytest.mark.parametrize("op", RUN)
def test_empty_input(op, shape):
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"{op}Op: input_tensor is empty!"):
        RUN[op](np.zeros(shape, np.float32))


@pytest.mark.parametrize("op", RUN)
def test_empty_input_names_the_node(op):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        y = RUN[op](tf.compat.v1.placeholder_with_default(np.zeros((0, 3), np.float32), [None, 3]), name="net/conv/q")
        with pytest.raises(tf.errors.InvalidArgumentError, match=rf"{op}Op: input_tensor is empty! \(net/conv/q\)"):
            session.run(y)


ON_FLOATS = [op for op in RUN if op != "AscendWeightQuant"]


@pytest.mark.parametrize("source", ["fed", "computed", "constant", "variable", "of_another_op"])
@pytest.mark.parametrize("op", ON_FLOATS)
def test_an_input_that_is_used_twice_is_not_overwritten(op, source):
    """The ops write into their input's memory where no one else needs it."""
    values = draw((50, 40), gain=20)
    sources = {
        "fed": lambda fed: fed,
        "computed": lambda fed: fed * 1.5,
        "constant": lambda fed: tf.constant(values),
        "variable": lambda fed: tf.compat.v1.get_variable("x", initializer=values, use_resource=True).read_value(),
        "of_another_op": lambda fed: RUN[op](fed * 1.0),
    }
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        fed = tf.compat.v1.placeholder(tf.float32, values.shape)
        x = sources[source](fed)
        fetches = [x * 1.0, RUN[op](x), RUN[op](x), RUN[op](RUN[op](x)), x]
        session.run(tf.compat.v1.global_variables_initializer())
        runs = [session.run(fetches, {fed: values}) for _ in range(3)]

    x = values * np.float32(1.5) if source == "computed" else values
    if source == "of_another_op":
        x = RUN[op](x).numpy()
    for run in runs:
        for found, expected in zip(run, [x, RUN[op](x), RUN[op](x), RUN[op](RUN[op](x)), x], strict=True):
            np.testing.assert_array_equal(found, expected)


def test_eager_inputs_are_not_overwritten():
    x = tf.constant(draw((100,)))
    before = x.numpy().copy()
    for op in ON_FLOATS:
        RUN[op](x)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("op", RUN)
def test_has_no_gradient(op):
    x = tf.Variable(draw((3,)))
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(RUN[op](x))
    assert tape.gradient(y, x) is None


def test_a_layer_computes_as_the_soc_does():
    """AscendQuant, an integer convolution, its bias and AscendDequant, all in int64 beside it."""
    rng = np.random.default_rng(0)
    x, weights = draw((2, 6, 6, 4), gain=3), rng.integers(-128, 128, (3, 3, 4, 5), np.int8)
    bias = rng.integers(-5000, 5000, 5)
    scale_d, offset = np.float32(0.05), -17
    shifts = np.array([0, 1, 3, 5, 8])
    deq_scale = twin.deq_scale_words(scale_d * np.float32([0.01, 0.02, 0.03, 0.04, 0.05]), shifts)

    q = kernels().ascend_quant(x, scale=1 / scale_d, offset=offset)
    w = kernels().ascend_weight_quant(weights, np.zeros(1, np.int8), T=tf.float32)
    sums = tf.nn.bias_add(tf.nn.conv2d(q, w, 1, "VALID"), tf.constant(bias, tf.float32))
    y = kernels().ascend_dequant(sums, deq_scale, ksize=[1, 1])

    integers = twin.ascend_quant(x, scale=1 / scale_d, offset=offset).astype(np.int64)
    windows = np.lib.stride_tricks.sliding_window_view(integers, (3, 3), axis=(1, 2))
    accumulated = np.einsum("nyxcij,ijco->nyxo", windows, weights.astype(np.int64)) + bias
    shifted = np.where(shifts > 0, np.clip(accumulated >> shifts, -32768, 32767) << shifts, accumulated)
    expected = shifted * (deq_scale & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.float32)
    np.testing.assert_allclose(y, expected, rtol=1e-6)
