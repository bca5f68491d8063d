"""What is read of a fake-quant op computes, in NumPy, what TensorFlow's op does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from amct_tensorflow.graph.fake_quant import FAKE_QUANT_TYPES, FakeQuant, read_fake_quant

v1 = tf.compat.v1

SHAPE = [40, 3, 5]


def data(seed: int = 0, size: float = 3.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(SHAPE) * size).astype(np.float32)


def read_and_run(build: Callable[[tf.Tensor], tf.Tensor], x: np.ndarray) -> tuple[FakeQuant | str, np.ndarray]:
    """Returns what is read of the op that `build` makes, and what it computes."""
    with tf.Graph().as_default() as graph:
        source = v1.placeholder(tf.float32, x.shape, name="x")
        made = build(source)
    with v1.Session(graph=graph) as session:
        return read_fake_quant(made.op), session.run(made, {source: x})


def check(quant: FakeQuant | str, x: np.ndarray, expected: np.ndarray, *, one_step_below: bool = False) -> None:
    """Compares (clip(round(x / s) + o) - o) * s with what TensorFlow computes.

    Ties: TensorFlow rounds them upwards or to even, AscendQuant away from zero.
    one_step_below: of activations with narrow_range, the int8 range has one integer more at the lower end.
    """
    assert isinstance(quant, FakeQuant)
    scale = quant.along_axis(quant.scale).astype(np.float64)
    offset = quant.along_axis(quant.offset)
    assert ((quant.offset >= -128) & (quant.offset <= 127)).all()
    steps = x / scale
    q = np.clip(np.trunc(steps + np.copysign(0.5, steps)) + offset, -128, 127) - offset
    theirs = np.rint(expected / scale)
    np.testing.assert_allclose(expected, theirs * scale, atol=1e-4 * scale.max())  # on the grid that was read
    is_tie = np.abs(np.abs(steps - np.floor(steps)) - 0.5) < 1e-4
    allowed = is_tie | ((q + offset == -128) & one_step_below)
    difference = np.abs(q - theirs)
    assert (difference[~allowed] == 0).all()
    assert (difference <= 1).all()


# -- FakeQuant…: minimum, maximum ------------------------------------------------------------------------------

RANGES = {
    "symmetric": (-6.0, 6.0),
    "asymmetric": (-1.3, 5.2),
    "negative_mostly": (-7.1, 0.4),
    "from_zero": (0.0, 6.0),
    "to_zero": (-4.0, 0.0),
    "above_zero": (1.0, 3.0),
    "below_zero": (-3.0, -1.0),
    "small": (-1e-3, 2e-3),
    "large": (-1e4, 3e4),
}
NARROW = pytest.mark.parametrize("narrow", [False, True], ids=["full_range", "narrow_range"])


@NARROW
@pytest.mark.parametrize(("low", "high"), RANGES.values(), ids=RANGES)
@pytest.mark.parametrize("op_type", ["Vars", "Args"])
def test_fake_quant_with_min_max(op_type, low, high, narrow):
    def build(x):
        if op_type == "Args":
            return tf.quantization.fake_quant_with_min_max_args(x, low, high, narrow_range=narrow)
        return tf.quantization.fake_quant_with_min_max_vars(x, tf.identity(low), high, narrow_range=narrow)

    x = data(size=max(abs(low), abs(high)))
    quant, expected = read_and_run(build, x)
    check(quant, x, expected, one_step_below=narrow)
    assert quant.axis is None


@NARROW
def test_fake_quant_per_channel(narrow):
    low, high = np.float32([-1, -2, 0, -5, 0]), np.float32([1, 5, 3, 0, 0])
    x = data()
    quant, expected = read_and_run(
        lambda x: tf.quantization.fake_quant_with_min_max_vars_per_channel(x, low, high, narrow_range=narrow), x
    )
    assert quant.scale[4] == 0 and not expected[..., 4].any()  # this channel gives zeros
    assert quant.symmetric_scale()[4] == 1
    usable = FakeQuant(quant.op, np.where(quant.scale == 0, 1e6, quant.scale), quant.offset, quant.axis)
    check(usable, x, expected, one_step_below=narrow)


@settings(max_examples=40)
@given(st.floats(-100, 100, width=32), st.floats(2**-9, 100, width=32), st.booleans())
def test_any_range(low, width, narrow):
    high = float(np.float32(low + width))
    x = data(size=max(abs(low), abs(high)))
    quant, expected = read_and_run(
        lambda x: tf.quantization.fake_quant_with_min_max_vars(x, low, high, narrow_range=narrow), x
    )
    check(quant, x, expected, one_step_below=narrow)


# -- QuantizeAndDequantize… -------------------------------------------------------------------------------------


def quantize_and_dequantize(op_type: str, x: tf.Tensor, low, high, **attributes) -> tf.Tensor:
    if op_type == "QuantizeAndDequantizeV3":
        attributes["num_bits"] = tf.identity(attributes.get("num_bits", 8))
    return getattr(tf.raw_ops, op_type)(input=x, input_min=low, input_max=high, **attributes)


QDQ = pytest.mark.parametrize(
    "op_type", ["QuantizeAndDequantizeV2", "QuantizeAndDequantizeV3", "QuantizeAndDequantizeV4"]
)
SIGNED = pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
QDQ_RANGES = {name: ends for name, ends in RANGES.items() if ends[1] > 0}


@QDQ
@SIGNED
@NARROW
@pytest.mark.parametrize(("low", "high"), QDQ_RANGES.values(), ids=QDQ_RANGES)
def test_quantize_and_dequantize(op_type, low, high, signed, narrow):
    x = data(size=max(abs(low), abs(high)))
    quant, expected = read_and_run(
        lambda x: quantize_and_dequantize(
            op_type, x, low, high, range_given=True, signed_input=signed, narrow_range=narrow
        ),
        x,
    )
    check(quant, x, expected, one_step_below=narrow)
    assert quant.is_symmetric == signed


@pytest.mark.parametrize("mode", ["HALF_TO_EVEN", "HALF_UP"])
@pytest.mark.parametrize("op_type", ["QuantizeAndDequantizeV2", "QuantizeAndDequantizeV4"])
def test_the_round_mode_matters_in_ties_only(op_type, mode):
    x = np.resize(np.arange(-40, 40, dtype=np.float32) / 2, SHAPE)  # half of them are ties
    quant, expected = read_and_run(
        lambda x: quantize_and_dequantize(op_type, x, -128.0, 127.0, range_given=True, round_mode=mode), x
    )
    assert quant.scale == 1
    check(quant, x, expected)


@NARROW
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_quantize_and_dequantize_along_an_axis(axis, narrow):
    op_type = "QuantizeAndDequantizeV3"  # the kernels of the others take no ranges along an axis
    ends = np.linspace(1, 4, SHAPE[axis]).astype(np.float32)
    x = data()
    quant, expected = read_and_run(
        lambda x: quantize_and_dequantize(
            op_type, x, -ends, ends / 2, range_given=True, signed_input=True, narrow_range=narrow, axis=axis
        ),
        x,
    )
    assert quant.axis == axis
    check(quant, x, expected, one_step_below=narrow)


@QDQ
@SIGNED
@NARROW
@pytest.mark.parametrize("axis", [-1, 1], ids=["one_scale", "axis_1"])
def test_the_range_of_constant_data(op_type, axis, signed, narrow):
    """As weights have it."""
    x = np.abs(data()) if not signed else data()
    unused = np.zeros([] if axis < 0 else SHAPE[axis], np.float32)
    quant, expected = read_and_run(
        lambda _: quantize_and_dequantize(
            op_type,
            tf.constant(x),
            unused,
            unused,
            range_given=False,
            signed_input=signed,
            narrow_range=narrow,
            axis=axis,
        ),
        x,
    )
    check(quant, x, expected)


# -- Factors of weights, without a zero point -------------------------------------------------------------------


@settings(max_examples=40)
@given(st.floats(-100, 0, width=32), st.floats(2**-9, 100, width=32), st.booleans())
def test_symmetric_scales_reach_as_far_and_no_farther(low, high, narrow):
    quant, ends = read_and_run(
        lambda x: tf.quantization.fake_quant_with_min_max_vars(x, low, high, narrow_range=narrow),
        np.float32([-1e6, 1e6]),
    )
    (scale,) = quant.symmetric_scale()
    reach = max(-ends[0] / scale / 128, ends[1] / scale / 127)
    if quant.is_symmetric:
        assert scale == quant.scale[0]
    else:
        # With narrow_range, what was read reaches one step below the lower end.
        assert 1 - 2 / 128 * narrow - 1e-5 <= reach <= 1 + 1e-5


@pytest.mark.parametrize(
    ("low", "high", "offset"), [(-2.0, 2.0, -1), (-3.0, 3.0, 0), (-129.0, 126.0, 1), (-126.0, 129.0, -2)]
)
def test_zero_next_to_zero_keeps_its_scale(low, high, offset):
    quant, _ = read_and_run(lambda x: tf.quantization.fake_quant_with_min_max_vars(x, low, high), data())
    assert quant.offset == [offset]
    assert quant.is_symmetric == (abs(offset) <= 1)
    assert (quant.symmetric_scale() == quant.scale) == (abs(offset) <= 1)


# -- What is refused --------------------------------------------------------------------------------------------

INF, NAN = float("inf"), float("nan")


def fake(x, low=-1.0, high=1.0, **options):
    return tf.quantization.fake_quant_with_min_max_vars(x, low, high, **options)


REFUSED = {
    "4_bits": (lambda x: fake(x, num_bits=4), "it has 4 bits, only 8 are supported"),
    "16_bits": (
        lambda x: tf.quantization.fake_quant_with_min_max_args(x, num_bits=16),
        "it has 16 bits, only 8 are supported",
    ),
    "4_bits_v3": (
        lambda x: quantize_and_dequantize("QuantizeAndDequantizeV3", x, -1.0, 1.0, num_bits=4),
        "it has 4 bits, only 8 are supported",
    ),
    "computed_bits": (
        lambda x: tf.raw_ops.QuantizeAndDequantizeV3(
            input=x, input_min=-1.0, input_max=1.0, num_bits=tf.cast(tf.reduce_max(x), tf.int32)
        ),
        "its number of bits is computed",
    ),
    "computed_minimum": (lambda x: fake(x, low=tf.reduce_min(x)), "its range is computed, not constant"),
    "computed_maximum": (lambda x: fake(x, high=tf.reduce_max(x)), "its range is computed, not constant"),
    "computed_per_channel": (
        lambda x: tf.quantization.fake_quant_with_min_max_vars_per_channel(x, tf.zeros(5), tf.reduce_max(x, [0, 1])),
        "its range is computed, not constant",
    ),
    "range_of_the_data": (
        lambda x: quantize_and_dequantize("QuantizeAndDequantizeV2", x, 0.0, 0.0, range_given=False),
        "its range is computed in every run",
    ),
    "computed_range": (
        lambda x: quantize_and_dequantize("QuantizeAndDequantizeV4", x, 0.0, tf.reduce_max(x), range_given=True),
        "its range is computed, not constant",
    ),
    "infinite": (lambda x: fake(x, high=INF), "its range is upside down, too wide or not finite"),
    "nan": (lambda x: fake(x, low=NAN), "its range is upside down, too wide or not finite"),
    "upside_down": (lambda x: fake(x, low=1.0, high=-1.0), "its range is upside down, too wide or not finite"),
    "too_wide": (lambda x: fake(x, low=-1e30, high=1e30), "its range is upside down, too wide or not finite"),
    "half": (
        lambda x: quantize_and_dequantize(
            "QuantizeAndDequantizeV2",
            tf.cast(x, tf.half),
            tf.constant(-1, tf.half),
            tf.constant(1, tf.half),
            range_given=True,
        ),
        "its type is float16, only float32 is supported",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    build, words = REFUSED[case]
    with tf.Graph().as_default():
        quant = read_fake_quant(build(v1.placeholder(tf.float32, SHAPE)).op)
    if case == "computed_range":
        words = "its range is computed in every run"
    assert quant == words


AGAINST_ACTIVATIONS = {
    "usable": (lambda x: fake(x), None),
    "never_trained": (lambda x: fake(x, 0.0, 0.0), "its range is empty, as if it had never been trained"),
    "one_point": (lambda x: fake(x, 2.0, 2.0), "its range is empty, as if it had never been trained"),
    "tiny": (lambda x: fake(x, -1e-9, 1e-9), "its range is empty, as if it had never been trained"),
    "negative_as_unsigned": (
        lambda x: quantize_and_dequantize(
            "QuantizeAndDequantizeV2", x, -2.0, -1.0, range_given=True, signed_input=False
        ),
        "its range is empty, as if it had never been trained",
    ),
    "per_channel": (
        lambda x: tf.quantization.fake_quant_with_min_max_vars_per_channel(x, -np.ones(5), np.ones(5)),
        "it has a scale per channel, as only weights may",
    ),
}


@pytest.mark.parametrize("case", AGAINST_ACTIVATIONS)
def test_reasons_against_activations(case):
    build, words = AGAINST_ACTIVATIONS[case]
    with tf.Graph().as_default():
        quant = read_fake_quant(build(v1.placeholder(tf.float32, SHAPE)).op)
    assert isinstance(quant, FakeQuant)
    assert quant.reason_against_activations() == words


def test_a_tensor_of_unknown_rank():
    with tf.Graph().as_default():
        x = v1.placeholder(tf.float32, None)
        quant = read_fake_quant(tf.quantization.fake_quant_with_min_max_vars_per_channel(x, -np.ones(5), np.ones(5)).op)
    assert isinstance(quant, FakeQuant) and quant.axis is not None


def test_all_types_are_covered():
    assert len(FAKE_QUANT_TYPES) == 6
