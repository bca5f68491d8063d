"""What the calibration ops refuse, and that a batch they refuse leaves no trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from amct_tensorflow import ops
from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.record import read_balance_factors, read_record

NAN, INF = float("nan"), float("inf")
BAD_VALUES = {
    "nan": [1.0, NAN],
    "inf": [INF, 1.0],
    "minus_inf": [-INF, 1.0],
    "only_nan": [NAN] * 3,
    "nan_after_many": [1.0] * 100 + [NAN],
    "nan_between_inf": [INF, NAN, -INF],
}
BAD_ACTIVATIONS = BAD_VALUES | {"empty": []}

InvalidArgument = tf.errors.InvalidArgumentError


@pytest.mark.parametrize("values", BAD_VALUES.values(), ids=BAD_VALUES)
def test_activation_that_is_not_finite(open_book, quant_activation, values):
    book = open_book("net/a", "net/b")
    with pytest.raises(InvalidArgument, match=r'layers "net/a", "net/b" has invalid value inf or nan: .*skip_layers'):
        quant_activation(book, values, layers=["net/a", "net/b"])


@pytest.mark.parametrize("position", [0, 31, 32, 1000, 599_999])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_one_value_that_is_not_finite_among_many(open_book, quant_activation, value, position):
    values = np.ones(600_000, np.float32)
    values[position] = value
    with pytest.raises(InvalidArgument, match='layer "layer" has invalid value inf or nan'):
        quant_activation(open_book(), values)


@pytest.mark.parametrize("shape", [(0,), (0, 4, 4, 3), (2, 0, 3)], ids=str)
def test_empty_activation(open_book, quant_activation, shape):
    with pytest.raises(InvalidArgument, match='activation of layer "net/a" is empty: feed batches of at least one'):
        quant_activation(open_book("net/a"), np.zeros(shape, np.float32), layers=["net/a"])


@pytest.mark.parametrize("values", [[3.1e9], [-3.1e9], [3e38, -3e38], [1e12, 0]], ids=str)
@pytest.mark.parametrize("with_offset", [True, False], ids=["offset", "symmetric"])
def test_scale_too_large(open_book, quant_activation, values, with_offset):
    book = open_book("net/a")
    with pytest.raises(
        InvalidArgument,
        match=r'layer "net/a" calculate scale failed\. Not support scale greater than 1 / FLT_EPSILON: .*skip_layers',
    ):
        quant_activation(book, values, layers=["net/a"], with_offset=with_offset)
    ops.flush_record(book.path)
    assert not Path(book.path).exists()


def test_largest_scale_is_accepted(calibrate):
    scale, _ = calibrate([np.float32([0, 255 * 2.0**23])], search_start=1.0, search_end=1.0)
    assert scale == 2.0**23


def test_an_illegal_candidate_never_wins(calibrate):
    """Above 1.0 the candidates are illegal: the vendor's code lets them win."""
    scale, _ = calibrate([np.float32([0, 255 * 2.0**23])])
    assert 0.7 * 2**23 * 0.999 <= scale <= 2.0**23


@pytest.mark.parametrize("refused", BAD_ACTIVATIONS.values(), ids=BAD_ACTIVATIONS)
def test_a_refused_batch_does_not_count(open_book, quant_activation, calibrate, refused):
    good = [np.float32([0, 1, 2]), np.float32([-5, 3, 4])]
    expected = calibrate(good, op=quant_activation)
    book = open_book(batch_num=2)
    for batch, seen in zip(good, (1, 2), strict=True):
        with pytest.raises(InvalidArgument):
            quant_activation(book, refused, batch_num=2)
        assert ops.batches_seen(book.path, "layer") == seen - 1
        factors = quant_activation(book, batch, batch_num=2)
        assert ops.batches_seen(book.path, "layer") == seen
    assert (factors.scale.numpy(), int(factors.offset)) == expected


def test_a_refused_scale_does_not_count(open_book, quant_activation, calibrate):
    good = np.float32([0, 1, 2])
    expected = calibrate([good], op=quant_activation)
    book = open_book()
    with pytest.raises(InvalidArgument, match="scale"):
        quant_activation(book, [1e12])
    assert ops.batches_seen(book.path, "layer") == 0
    factors = quant_activation(book, good)
    assert (factors.scale.numpy(), int(factors.offset)) == expected
    assert ops.batches_seen(book.path, "layer") == 1


def test_a_refused_scale_starts_again(open_book, quant_activation, calibrate):
    """It is found after the last batch, and is the fault of any of them."""
    good = [np.float32([0, 1, 2]), np.float32([-5, 3, 4])]
    expected = calibrate(good, op=quant_activation)
    book = open_book(batch_num=2)
    quant_activation(book, [1e12], batch_num=2)
    with pytest.raises(InvalidArgument, match="scale"):
        quant_activation(book, good[0], batch_num=2)
    assert ops.batches_seen(book.path, "layer") == 0
    for seen, batch in enumerate(good, start=1):
        factors = quant_activation(book, batch, batch_num=2)
        assert ops.batches_seen(book.path, "layer") == seen
    assert (factors.scale.numpy(), int(factors.offset)) == expected


@pytest.mark.parametrize("values", BAD_VALUES.values(), ids=BAD_VALUES)
def test_output_that_is_not_finite(open_book, search_n, values):
    for scale_w in ([1.0], [1.0] * len(values)):
        book = open_book("net/a", wants_shift=True)
        with pytest.raises(
            InvalidArgument, match=r'output of layer "net/a" has invalid value inf or nan: .*skip_layers'
        ):
            search_n(book, [values], scale_w=scale_w, layer="net/a")


@pytest.mark.parametrize("scale_w", [[1.0], [1.0] * 4], ids=["one_scale", "per_channel"])
def test_empty_output(open_book, search_n, scale_w):
    with pytest.raises(InvalidArgument, match='output of layer "net/a" is empty: feed batches of at least one sample'):
        search_n(open_book("net/a"), np.zeros((0, 5, 5, 4), np.float32), scale_w=scale_w, layer="net/a")


@pytest.mark.parametrize("scale_w", [[1.0] * 3, [1.0] * 5, []], ids=["fewer", "more", "none"])
def test_scales_that_do_not_fit_the_output(open_book, search_n, scale_w):
    with pytest.raises(InvalidArgument, match=rf'layer "net/a": {len(scale_w)} weight scales for 4 channels'):
        search_n(open_book("net/a"), np.ones((2, 4), np.float32), scale_w=scale_w, layer="net/a")


def test_output_channels_that_change(open_book, search_n):
    book = open_book("net/a", batch_num=2, wants_shift=True)
    search_n(book, np.ones((2, 4), np.float32), scale_w=[1.0] * 4, layer="net/a", batch_num=2)
    with pytest.raises(InvalidArgument, match='layer "net/a" has not as many channels as in the batches'):
        search_n(book, np.ones((2, 5), np.float32), scale_w=[1.0] * 5, layer="net/a", batch_num=2)


@pytest.mark.parametrize("refused", BAD_ACTIVATIONS.values(), ids=BAD_ACTIVATIONS)
def test_a_refused_output_does_not_count(open_book, search_n, find_shifts, refused):
    good = [np.float32([[7e4], [-3]]), np.float32([[9e5], [11]])]
    expected = find_shifts(good, [1.0])
    book = open_book(batch_num=2, wants_shift=True)
    for batch in good:
        with pytest.raises(InvalidArgument):
            search_n(book, [refused], scale_w=[1], batch_num=2)
        search_n(book, batch, scale_w=[1], batch_num=2)
    assert list(read_record(book.path)["layer"].shift_bit) == expected


@pytest.mark.parametrize("values", BAD_VALUES.values(), ids=BAD_VALUES)
def test_weights_that_are_not_finite(open_book, quant_arq, values):
    book = open_book("net/a", scale_w=None)
    with pytest.raises(InvalidArgument, match=r'weights of layer "net/a" have nan, inf or .*skip_layers'):
        quant_arq(book, values, layers=["net/a"])
    with pytest.raises(AmctValueError, match=r'the weights of layer "net/a" have NaN or Inf: repair .*skip_layers'):
        ops.arq_scales(np.float32(values), (), layer="net/a")
    ops.flush_record(book.path)
    assert not Path(book.path).exists()


def test_weights_too_large(open_book, quant_arq):
    with pytest.raises(InvalidArgument, match=r'layer "net/a" have .*scale greater than 1 / FLT_EPSILON'):
        quant_arq(open_book("net/a"), [1.1e9], layers=["net/a"])
    with pytest.raises(AmctValueError, match=r'"net/a" have a scale greater than 1 / FLT_EPSILON.*skip_layers'):
        ops.arq_scales(np.float32([1.1e9]), (), layer="net/a")


@pytest.mark.parametrize("shape", [(0,), (3, 3, 0, 8), (3, 3, 8, 0)], ids=str)
def test_empty_weights(open_book, quant_arq, shape):
    with pytest.raises(InvalidArgument, match='the weights of layer "net/a" are empty'):
        quant_arq(open_book("net/a"), np.zeros(shape, np.float32), layers=["net/a"])


@pytest.mark.parametrize("num_bits", [-1, 0, 1, 17, 32, 40])
def test_bit_widths_that_there_are_not(open_book, quant_ifmr, quant_hfmg, quant_arq, num_bits):
    with pytest.raises(InvalidArgument, match=rf"QuantIfmr: num_bits must be in 2\.\.16, not {num_bits}"):
        quant_ifmr(open_book(), [1.0], num_bits=num_bits)
    with pytest.raises(InvalidArgument, match=rf"QuantHfmg: num_bits must be in 2\.\.16, not {num_bits}"):
        quant_hfmg(open_book(), [1.0], num_bits=num_bits)
    with pytest.raises(InvalidArgument, match="QuantArq: num_bits"):
        quant_arq(open_book(), [1.0], num_bits=num_bits)


@pytest.mark.parametrize("num_of_bins", [-1, 0, 1, 512, 1000, 4095, 16384])
def test_numbers_of_bins_that_there_are_not(open_book, quant_hfmg, num_of_bins):
    with pytest.raises(
        InvalidArgument, match=f"QuantHfmg: num_of_bins must be 1024, 2048, 4096 or 8192, not {num_of_bins}"
    ):
        quant_hfmg(open_book(), [1.0], num_of_bins=num_of_bins)


@pytest.mark.parametrize(
    "search",
    [
        {"search_start": 0.0},
        {"search_start": -0.5},
        {"search_start": 1.4},
        {"search_start": NAN},
        {"search_end": NAN},
        {"search_end": INF},
        {"search_step": 0.0},
        {"search_step": -0.1},
        {"search_step": NAN},
        {"search_step": 1e-9},
    ],
    ids=str,
)
def test_searches_that_make_no_sense(open_book, quant_ifmr, search):
    with pytest.raises(
        InvalidArgument,
        match=r"QuantIfmr: the search (needs 0 < start <= end and a step above 0|has more than 100000 candidates)",
    ):
        quant_ifmr(open_book(), [1.0, 2.0], **search)


@pytest.mark.parametrize("percentile", [-1.0, 1.5, NAN])
@pytest.mark.parametrize("end", ["max_percentile", "min_percentile"])
def test_percentiles_that_make_no_sense(open_book, quant_ifmr, end, percentile):
    """Below 0 the rank lies beyond the data, and so does what is read."""
    with pytest.raises(InvalidArgument, match=r"QuantIfmr: .*percentile"):
        quant_ifmr(open_book(), [1.0, 2.0], **{end: percentile})


@pytest.mark.parametrize(
    ("channel_axes", "message"),
    [
        ((0, 2), "QuantArq: channel_axes must be neighbours"),
        ((2, 1), "QuantArq: channel_axes must be neighbours in rising order"),
        ((1, 1), "QuantArq: channel_axes must be neighbours"),
        ((3,), 'QuantArq: channel_axes are beyond the weights of layer "net/a"'),
        ((2, 3), 'QuantArq: channel_axes are beyond the weights of layer "net/a"'),
        ((-1,), 'QuantArq: channel_axes are beyond the weights of layer "net/a"'),
    ],
    ids=str,
)
def test_channel_axes_that_cannot_be(open_book, quant_arq, channel_axes, message):
    with pytest.raises(InvalidArgument, match=message):
        quant_arq(open_book("net/a"), np.ones((2, 3, 4), np.float32), layers=["net/a"], channel_axes=channel_axes)


@pytest.mark.parametrize("batch_num", [0, -1])
def test_batch_num_below_1(open_book, quant_activation, batch_num):
    with pytest.raises(InvalidArgument, match=f"batch_num.*{batch_num}"):
        quant_activation(open_book(), [1.0], batch_num=batch_num)


@pytest.mark.parametrize("values", BAD_VALUES.values(), ids=BAD_VALUES)
def test_layer_input_that_is_not_finite(open_book, dmq_balance, values):
    for x, channels in ([values], len(values)), ([[value] for value in values], 1):
        with pytest.raises(
            InvalidArgument, match=r'activation of layer "net/a" has invalid value inf or nan: .*skip_layers'
        ):
            dmq_balance(open_book("net/a"), x, weight_max=[1.0] * channels, layer="net/a")


@pytest.mark.parametrize("shape", [(0,), (0, 4, 4, 3), (2, 0, 3), (2, 0)], ids=str)
def test_empty_layer_input(open_book, dmq_balance, shape):
    with pytest.raises(InvalidArgument, match='activation of layer "net/a" is empty: feed batches of at least one'):
        dmq_balance(open_book("net/a"), np.zeros(shape, np.float32), weight_max=[1.0] * 3, layer="net/a")


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_weight_maxima_that_are_not_finite(open_book, dmq_balance, value):
    with pytest.raises(
        InvalidArgument, match=r'weights of layer "net/a" have nan or inf: repair them, or .*skip_layers'
    ):
        dmq_balance(open_book("net/a"), [[1.0, 2.0]], weight_max=[1.0, value], layer="net/a")


@pytest.mark.parametrize("weight_max", [[1.0] * 3, [1.0] * 5, []], ids=["fewer", "more", "none"])
def test_weight_maxima_that_do_not_fit_the_input(open_book, dmq_balance, weight_max):
    with pytest.raises(InvalidArgument, match=rf'layer "net/a": {len(weight_max)} weight maxima for 4 channels'):
        dmq_balance(open_book("net/a"), np.ones((2, 4), np.float32), weight_max=weight_max, layer="net/a")


def test_channels_that_change(open_book, dmq_balance):
    book = open_book("net/a", batch_num=3)
    dmq_balance(book, np.ones((2, 4), np.float32), weight_max=[1.0] * 4, layer="net/a", batch_num=3)
    with pytest.raises(InvalidArgument, match='"net/a" has not as many channels as in the batches before: feed'):
        dmq_balance(book, np.ones((2, 5), np.float32), weight_max=[1.0] * 5, layer="net/a", batch_num=3)


@pytest.mark.parametrize("axis", [-3, 2, 7])
def test_channel_axis_that_there_is_not(open_book, dmq_balance, axis):
    with pytest.raises(InvalidArgument, match=rf'layer "net/a": channel_axis {axis} is beyond an activation of rank 2'):
        dmq_balance(open_book("net/a"), [[1.0]], weight_max=[1.0], layer="net/a", channel_axis=axis)


@pytest.mark.parametrize("strength", [-0.5, 0.0, 0.19, 0.81, 1.0, NAN])
def test_migration_strength_out_of_range(open_book, dmq_balance, strength):
    with pytest.raises(InvalidArgument, match=r"DmqBalance: migration_strength must be in 0\.2\.\.0\.8"):
        dmq_balance(open_book(), [[1.0]], weight_max=[1.0], migration_strength=strength)


@pytest.mark.parametrize(("activation", "weight"), [(1e-6, 1e12), (1e12, 1e-6)], ids=["too_small", "too_large"])
def test_balance_factor_out_of_range(open_book, dmq_balance, activation, weight):
    """It is found after the last batch, is the fault of any of them, and starts again."""
    book = open_book("net/a", batch_num=2)
    options = {"weight_max": [1.0, weight], "layer": "net/a", "batch_num": 2}
    for _ in range(2):
        dmq_balance(book, [[1.0, activation / 2]], **options)
        with pytest.raises(
            InvalidArgument,
            match=r'layer "net/a" has tensor_balance_factor \S+ in input channel 1, .*dmq_balancer_param out of',
        ):
            dmq_balance(book, [[1.0, activation]], **options)
    ops.flush_record(book.path)
    assert not Path(book.path).exists()


@pytest.mark.parametrize("refused", BAD_ACTIVATIONS.values(), ids=BAD_ACTIVATIONS)
def test_a_refused_layer_input_does_not_count(open_balance_book, dmq_balance, find_balance_factors, refused):
    good = [np.float32([[7], [-3]]), np.float32([[9], [11]])]
    expected = find_balance_factors(good, [2.0])
    book = open_balance_book(batch_num=2)
    for seen, batch in enumerate(good):
        with pytest.raises(InvalidArgument):
            dmq_balance(book, np.reshape(np.float32(refused), (-1, 1)), weight_max=[2.0], batch_num=2)
        assert ops.batches_seen(book.path, "layer") == seen
        dmq_balance(book, batch, weight_max=[2.0], batch_num=2)
    assert list(read_balance_factors(book.path)["layer"]) == expected


OPTIONS = {"search_n": {"scale_w": [1.0]}, "dmq_balance": {"weight_max": [1.0, 1.0]}}


@pytest.fixture(params=["quant_ifmr", "quant_hfmg", "quant_arq", "search_n", "dmq_balance"])
def any_op(request):
    """Runs one of the ops on a good tensor."""
    run = request.getfixturevalue(request.param)
    return lambda book: run(book, [[1.0, 2.0]], **OPTIONS.get(request.param, {}))


def test_closed_record_book(open_book, any_op):
    book = open_book()
    book.close()
    with pytest.raises(tf.errors.FailedPreconditionError, match=f"calibration of {book.path} was not started in this "):
        any_op(book)


def test_record_book_of_another_process(open_book, any_op, tmp_path):
    book = open_book()
    book.path = str(tmp_path / "other.txt")
    with pytest.raises(
        tf.errors.FailedPreconditionError, match=r"other\.txt was not started .* call quantize_\w+ and run"
    ):
        any_op(book)


def test_an_error_in_a_graph_names_the_node(open_book):
    """TensorFlow adds it; nodes are named after their layer."""
    book = open_book()
    book.close()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        y, _, _ = ops.tensorflow_ops().quant_ifmr(
            tf.zeros([2]),
            record_file=book.path,
            generation=book.generation,
            layers=["net/conv"],
            batch_num=1,
            name="net/conv/act_quant/QuantIfmr",
        )
        with pytest.raises(tf.errors.FailedPreconditionError, match="net/conv/act_quant/QuantIfmr"):
            session.run(y)
