"""InputMoments: what it says of the input as the weights see it, against plain NumPy.

What an op sees at a tap and channel is found by running TensorFlow's own op with weights that are 1 there and 0
elsewhere: it depends on nothing that the package knows of stencils. Moments themselves are computed in NumPy. The
covariances show in the mean squares of the layer's result, and in what weights are rounded to by them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rounding_twin as twin
import tensorflow as tf
from rounding_runs import input_moments, open_rounding, quant_ifmr, round_layer, window_of

from amct_tensorflow.errors import AmctRuntimeError
from amct_tensorflow.layers import TABLE
from amct_tensorflow.ops import flush_record
from amct_tensorflow.record import LayerRounding, read_rounding
from amct_tensorflow.stencils import Stencil, WeightLayout

v1 = tf.compat.v1


# -- Layers ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A layer.

    Attributes:
        make: makes the op of an input and weights; options are its data format.
        shape: of the input, channels last.
        weights: the shape of the weights.
        split: gives weights the axes [groups, taps, channels of a group, outputs of a group].
        join: the opposite.
        batched: whether the groups are an axis of the result before its rows; else they are along its channels.
    """

    make: Callable[..., tf.Tensor]
    shape: tuple[int, ...]
    weights: tuple[int, ...]
    split: Callable[[np.ndarray], np.ndarray]
    join: Callable[[np.ndarray], np.ndarray]
    batched: bool = False


def attribute(values: Any, data_format: str) -> list[int]:
    """Returns values along the axes between as an op wants them of all axes."""
    return [1, 1, *values] if data_format.startswith("NC") else [1, *values, 1]


def explicit(padding: Any, data_format: str) -> list[int]:
    """Returns paddings before and after the axes between as an op wants them of all axes."""
    none = [0, 0]
    return np.ravel([none, none, *padding] if data_format == "NCHW" else [none, *padding, none]).tolist()


def convolution(
    op: str,
    shape: tuple[int, ...],
    weights: tuple[int, ...],
    groups: int = 1,
    strides: Any = (1, 1),
    dilations: Any = (1, 1),
    padding: Any = "SAME",
) -> Case:
    """A Conv2D or Conv3D, or a DepthwiseConv2dNative, whose channels are groups."""
    depthwise = op == "DepthwiseConv2dNative"

    def make(x: tf.Tensor, kernel: tf.Tensor, data_format: str = "NHWC") -> tf.Tensor:
        data_format = {"NHWC": "NDHWC", "NCHW": "NCDHW"}[data_format] if op == "Conv3D" else data_format
        given: dict[str, Any] = {"padding": padding, "data_format": data_format}
        if not isinstance(padding, str):
            given |= {"padding": "EXPLICIT", "explicit_paddings": explicit(padding, data_format)}
        return getattr(tf.raw_ops, op)(
            input=x,
            filter=kernel,
            strides=attribute(strides, data_format),
            dilations=attribute(dilations, data_format),
            **given,
        )

    taps = int(np.prod(weights[:-2]))

    def split(kernel: np.ndarray) -> np.ndarray:
        if depthwise:
            return kernel.reshape(taps, weights[-2], 1, weights[-1]).transpose(1, 0, 2, 3)
        return kernel.reshape(taps, weights[-2], groups, -1).transpose(2, 0, 1, 3)

    def join(parts: np.ndarray) -> np.ndarray:
        return (parts.transpose(1, 0, 2, 3) if depthwise else parts.transpose(1, 2, 0, 3)).reshape(weights)

    return Case(make, shape, weights, split, join)


def transposed(shape: tuple[int, ...], weights: tuple[int, ...], strides: Any, padding: Any) -> Case:
    """A Conv2DBackpropInput, with a result of the usual size."""

    def make(x: tf.Tensor, kernel: tf.Tensor, data_format: str = "NHWC") -> tf.Tensor:
        sizes = [
            size * stride if padding == "SAME" else (size - 1) * stride + span
            for size, stride, span in zip(shape[1:3], strides, weights, strict=False)
        ]
        given: dict[str, Any] = {"padding": padding}
        if padding not in ("SAME", "VALID"):
            sizes = [size - sum(pair) for size, pair in zip(sizes, padding, strict=True)]
            given = {"padding": "EXPLICIT", "explicit_paddings": explicit(padding, data_format)}
        return tf.raw_ops.Conv2DBackpropInput(
            input_sizes=[shape[0], *sizes, weights[2]] if data_format == "NHWC" else [shape[0], weights[2], *sizes],
            filter=kernel,
            out_backprop=x,
            strides=attribute(strides, data_format),
            data_format=data_format,
            **given,
        )

    taps, outputs, inputs = weights[0] * weights[1], weights[2], weights[3]
    return Case(
        make,
        shape,
        weights,
        split=lambda kernel: kernel.reshape(1, taps, outputs, inputs).transpose(0, 1, 3, 2),
        join=lambda parts: parts.transpose(0, 1, 3, 2).reshape(weights),
    )


def product(shape: tuple[int, ...], weights: tuple[int, ...], *, turned: bool = False) -> Case:
    """A MatMul or BatchMatMulV2; `turned` if the weights are transposed."""
    inputs, outputs = weights[-2:][:: -1 if turned else 1]

    def make(x: tf.Tensor, matrix: tf.Tensor, data_format: str = "NHWC") -> tf.Tensor:
        if len(shape) == 2:
            return tf.raw_ops.MatMul(a=x, b=matrix)
        return tf.raw_ops.BatchMatMulV2(x=x, y=matrix, adj_y=turned)

    def turn(matrices: np.ndarray) -> np.ndarray:
        return np.swapaxes(matrices, -1, -2) if turned else matrices

    return Case(
        make,
        shape,
        weights,
        split=lambda matrices: turn(matrices).reshape(-1, 1, inputs, outputs),
        join=lambda parts: turn(parts.reshape(*weights[:-2], inputs, outputs)),
        batched=len(weights) > 2,
    )


CASES = {
    "conv": convolution("Conv2D", (2, 7, 9, 5), (3, 3, 5, 4)),
    "conv, VALID": convolution("Conv2D", (2, 7, 9, 5), (3, 2, 5, 4), padding="VALID"),
    "conv, EXPLICIT": convolution("Conv2D", (2, 7, 9, 5), (3, 3, 5, 4), padding=[(2, 1), (0, 3)]),
    "conv, strides": convolution("Conv2D", (3, 7, 10, 5), (3, 3, 5, 4), strides=(2, 3)),
    "conv, strides, VALID": convolution("Conv2D", (3, 8, 10, 5), (3, 3, 5, 4), strides=(2, 3), padding="VALID"),
    "conv, strides, EXPLICIT": convolution(
        "Conv2D", (3, 8, 10, 5), (5, 2, 5, 4), strides=(2, 3), padding=[(1, 2), (3, 0)]
    ),
    "conv, stride beyond the kernel": convolution("Conv2D", (3, 7, 8, 5), (1, 1, 5, 4), strides=(2, 3)),
    "conv, dilations": convolution("Conv2D", (2, 9, 11, 5), (3, 3, 5, 4), dilations=(2, 3)),
    "conv, dilations, VALID": convolution("Conv2D", (2, 9, 11, 5), (3, 3, 5, 4), dilations=(2, 3), padding="VALID"),
    "conv, even kernel": convolution("Conv2D", (2, 6, 7, 5), (4, 2, 5, 4)),
    "conv, kernel beyond the image": convolution("Conv2D", (9, 2, 3, 5), (5, 7, 5, 4)),
    "conv, one channel": convolution("Conv2D", (2, 7, 9, 1), (3, 3, 1, 4)),
    "conv, groups": convolution("Conv2D", (2, 7, 9, 6), (3, 3, 2, 12), groups=3),
    "conv, groups of one": convolution("Conv2D", (2, 7, 9, 6), (3, 3, 1, 12), groups=6),
    "conv, 10 groups": convolution("Conv2D", (2, 5, 5, 20), (3, 3, 2, 20), groups=10),
    "depthwise": convolution("DepthwiseConv2dNative", (2, 7, 9, 5), (3, 3, 5, 1)),
    "depthwise, multiplier": convolution("DepthwiseConv2dNative", (2, 7, 9, 5), (3, 3, 5, 3)),
    "depthwise, strides": convolution("DepthwiseConv2dNative", (3, 7, 9, 5), (3, 2, 5, 2), strides=(2, 2)),
    "depthwise, 70 channels": convolution("DepthwiseConv2dNative", (2, 4, 4, 70), (3, 3, 70, 1)),
    "conv 3d": convolution("Conv3D", (1, 4, 5, 7, 3), (2, 3, 3, 3, 4), strides=(1, 1, 1), dilations=(1, 1, 1)),
    "conv 3d, strides": convolution(
        "Conv3D", (2, 5, 7, 8, 3), (3, 2, 3, 3, 4), strides=(2, 1, 3), dilations=(1, 1, 1), padding="VALID"
    ),
    "transposed": transposed((2, 5, 6, 4), (3, 3, 5, 4), (1, 1), "SAME"),
    "transposed, strides": transposed((2, 5, 6, 4), (3, 4, 5, 4), (2, 3), "SAME"),
    "transposed, stride beyond the kernel": transposed((2, 5, 6, 4), (2, 1, 5, 4), (3, 2), "SAME"),
    "transposed, VALID": transposed((2, 5, 6, 4), (3, 4, 5, 4), (2, 3), "VALID"),
    "transposed, EXPLICIT": transposed((2, 5, 6, 4), (3, 4, 5, 4), (2, 2), [(1, 0), (2, 1)]),
    "MatMul": product((40, 7), (7, 4)),
    "BatchMatMul": product((3, 20, 7), (7, 4)),
    "BatchMatMul, adj_y": product((3, 20, 7), (4, 7), turned=True),
    "BatchMatMul of rank 4": product((2, 3, 20, 7), (7, 4)),
    "batch of matrices": product((3, 20, 7), (3, 7, 4)),
    "batch of matrices, adj_y": product((2, 3, 20, 7), (3, 4, 7), turned=True),
    "batch of 2 axes": product((2, 2, 3, 11, 7), (2, 3, 7, 4)),
    "batch of columns": product((2, 3, 11, 1), (3, 1, 4)),
}


class Layer:
    """The op of a case in a graph, with random weights of scale 1 that have 7 binary digits and are no ties."""

    def __init__(self, case: Case) -> None:
        self.case = case
        random = np.random.default_rng(case.weights)
        digits = random.integers(-63, 64, case.weights) / 128
        self.weights = (random.integers(-120, 120, case.weights) + digits).astype(np.float32)
        with tf.Graph().as_default() as self.graph:
            x = v1.placeholder(tf.float32, case.shape)
            self.result = case.make(x, tf.constant(self.weights))
        self.op = self.result.op
        self.row = TABLE[self.op.type].of(self.op)
        self.data = self.op.inputs[self.row.data_input]

    @property
    def layout(self) -> WeightLayout:
        return self.row.weight_layout(self.op)

    @property
    def stencil(self) -> Stencil | None:
        return self.row.stencil(self.op)

    def run(self, x: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """Returns the result of TensorFlow, [positions, groups, outputs]."""
        given = self.weights if weights is None else weights
        with v1.Session(graph=self.graph) as session:
            result = session.run(self.result, {self.data: x, self.op.inputs[self.row.weight_input]: given})
        groups, outputs = self.layout.groups, self.layout.outputs
        if self.case.batched:
            result = result.reshape(-1, groups, *result.shape[-2:]).swapaxes(1, 2)
        return result.reshape(-1, groups, outputs).astype(np.float64)

    def seen(self, x: np.ndarray) -> np.ndarray:
        """Returns what each output position sees, [positions, groups, taps, channels of a group]."""
        shape = self.case.split(self.weights).shape
        seen = np.empty((len(self.run(x)), *shape[:3]))
        for tap in range(shape[1]):
            for channel in range(shape[2]):
                probe = np.zeros(shape, np.float32)
                probe[:, tap, channel, 0] = 1
                seen[:, :, tap, channel] = self.run(x, self.case.join(probe))[:, :, 0]
        return seen

    def calibrate(self, folder: Path, batches: list[np.ndarray], **options: Any) -> LayerRounding:
        options = {"layout": self.layout, "stencil": self.stencil, **options}
        return round_layer(folder, batches, self.weights, **options)


def batch_of(case: Case, seed: int = 0) -> np.ndarray:
    """Correlated data that are not 0 in the mean, some of them 0."""
    random = np.random.default_rng(seed)
    mixing = random.standard_normal((case.shape[-1],) * 2) + np.eye(case.shape[-1])
    return np.maximum(random.standard_normal(case.shape) @ mixing + 0.7, 0).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("moments")


def assert_moments(found: LayerRounding, layer: Layer, seen: np.ndarray) -> None:
    """Compares all that the file says with NumPy's numbers of what is seen."""
    rows = seen.transpose(0, 2, 1, 3).reshape(len(seen), seen.shape[2], -1)  # taps, channels of all groups
    inputs = found.inputs
    np.testing.assert_allclose(inputs.mean, rows.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(inputs.power, np.square(rows).mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(inputs.nonzero, (rows != 0).mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(inputs.largest, np.abs(rows).max(axis=0), rtol=1e-6)
    errors: list[float] = []
    for group, (part, integers) in enumerate(zip(*map(layer.case.split, (layer.weights, found.weights)), strict=True)):
        part, integers = (values.reshape(-1, values.shape[-1]) for values in (part, integers))
        moments = twin.moments_of(seen[:, group].reshape(len(seen), -1))
        factor = twin.factor_of(moments, noise=found.scale_d**2 / 12, about_0=False)
        for outcome in (twin.outcome_of(part - integers, moments, factor), twin.round_weights(part, moments, factor)):
            errors.append((outcome.loss + outcome.left).sum())
    error, expected = sum(errors[::2]), sum(errors[1::2])
    np.testing.assert_allclose(found.weight_error, error, rtol=2e-3)
    # Taps that see the same have no order that is better than others, so the integers may be others.
    np.testing.assert_allclose(found.weight_error, expected, rtol=0.05)


def arrays_of(found: LayerRounding) -> list[Any]:
    """Returns what depends on the moments."""
    inputs = found.inputs
    numbers = [found.signal, found.weight_error, found.mean_error]
    values = [inputs.mean, inputs.power, inputs.nonzero, inputs.largest, inputs.seen]
    return [found.weights, found.bias, *numbers, *values]


# -- Moments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_moments(folder, name):
    layer = Layer(CASES[name])
    x = batch_of(layer.case)
    seen = layer.seen(x)
    assert len(seen) <= 1024
    found = layer.calibrate(folder, [x])
    assert found.weights.shape == layer.weights.shape
    assert_moments(found, layer, seen)
    inside = layer.seen(np.ones_like(x)) != 0
    np.testing.assert_allclose(found.inputs.seen, inside.mean(axis=(0, 1, 3)), rtol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_the_signal_is_that_of_tensorflow(folder, name):
    layer = Layer(CASES[name])
    x = batch_of(layer.case)
    expected = np.square(layer.run(x)).sum(axis=(1, 2)).mean()
    np.testing.assert_allclose(layer.calibrate(folder, [x]).signal, expected, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in CASES if "Mul" not in name and "batch" not in name])
def test_channels_first(folder, name):
    """The same data in the other order give the same numbers, bit for bit."""
    case = CASES[name]
    layer, x = Layer(case), batch_of(case)
    expected = layer.calibrate(folder, [x])
    turned = np.moveaxis(x, -1, 1)
    with tf.Graph().as_default():
        op = case.make(v1.placeholder(tf.float32, turned.shape), tf.constant(layer.weights), data_format="NCHW").op
    row = TABLE[op.type].of(op)
    found = layer.calibrate(folder, [turned], layout=row.weight_layout(op), stencil=row.stencil(op), data_format="NCHW")
    assert all(np.array_equal(*pair) for pair in zip(arrays_of(found), arrays_of(expected), strict=True))


@pytest.mark.parametrize("name", ["conv", "conv, groups", "depthwise, multiplier", "transposed", "batch of matrices"])
def test_several_batches_are_one(folder, name):
    """The batches differ in their means."""
    layer = Layer(CASES[name])
    batches = [batch_of(layer.case, seed) + np.float32(seed) for seed in range(4)]
    seen = np.concatenate([layer.seen(x) for x in batches])
    assert len(seen) <= 1024
    assert_moments(layer.calibrate(folder, batches), layer, seen)


@pytest.mark.parametrize("most_block", [1, 9, 20])
def test_blocks_hold_whole_channels(folder, most_block):
    """A channel of 9 taps fills a block even where less is wanted; what blocks have in common is left out."""
    layer = Layer(CASES["conv"])
    x = batch_of(layer.case)
    seen, parts = layer.seen(x)[:, 0], layer.case.split(layer.weights)[0]
    found = layer.calibrate(folder, [x], most_block=most_block)
    width = {1: 1, 9: 1, 20: 2}[most_block]
    mean = np.einsum("tc,tco->o", seen.mean(axis=0), parts)
    signal = np.square(mean).sum()
    for first in range(0, 5, width):
        part = np.einsum("ptc,tco->po", seen[:, :, first : first + width], parts[:, first : first + width])
        signal += part.var(axis=0).sum()
    np.testing.assert_allclose(found.signal, signal, rtol=1e-5)


def test_an_input_that_hardly_changes(folder):
    """Of a mean of 1000 and a deviation of 1e-3, squares of 32 bits would keep nothing."""
    random = np.random.default_rng(0)
    x = (1000 + 1e-3 * random.standard_normal((512, 12)) @ random.standard_normal((12, 12))).astype(np.float32)
    layer = Layer(product(x.shape, (12, 8)))
    found = layer.calibrate(folder, [x[:256], x[256:]])
    moments = twin.moments_of(x)
    errors = layer.weights - found.weights
    factor = twin.factor_of(moments, noise=found.scale_d**2 / 12, about_0=False)
    np.testing.assert_allclose(found.weight_error, twin.losses(errors, factor).sum(), rtol=1e-3)


def test_sums_do_not_lose_small_values_behind_large_ones(folder):
    """A channel of outliers beside small ones, over many positions."""
    random = np.random.default_rng(1)
    x = (random.standard_normal((1024, 6)) * np.geomspace(1e-4, 1e4, 6)).astype(np.float32)
    layer = Layer(product(x.shape, (6, 4)))
    found = layer.calibrate(folder, [x])
    np.testing.assert_allclose(found.inputs.power[0], np.square(x, dtype=np.float64).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.inputs.mean[0], x.mean(axis=0, dtype=np.float64), rtol=1e-5)


# -- Samples of positions --------------------------------------------------------------------------------------


def test_a_million_positions(folder):
    """About 1024 of them are taken, from all over: the numbers are within what a sample of that size gives."""
    random = np.random.default_rng(2)
    drift = np.linspace(-1, 1, 1_000_000)[:, None]  # in step with the positions
    x = (random.standard_normal((1_000_000, 4)) + drift).astype(np.float32)
    layer = Layer(product(x.shape, (4, 3)))
    inputs = layer.calibrate(folder, [x]).inputs
    deviation = x.std(axis=0) / np.sqrt(1024)
    assert (np.abs(inputs.mean[0] - x.mean(axis=0)) < 5 * deviation).all()
    assert (np.abs(inputs.mean[0] - x.mean(axis=0)) > 0).all()
    np.testing.assert_allclose(inputs.power[0], np.square(x).mean(axis=0), rtol=0.3)


@pytest.mark.parametrize("batches", [1, 2, 5])
def test_how_many_positions_are_taken(folder, batches):
    """As many of each batch that it is about 1024 of all: what is 1 at one position of them has the mean 1/1024."""
    x = np.zeros((5000, 1), np.float32)
    x[0] = 1  # which is always taken
    inputs = Layer(product(x.shape, (1, 2))).calibrate(folder, [x] * batches).inputs
    assert inputs.nonzero[0, 0] == pytest.approx(1 / np.ceil(1024 / batches))


@pytest.mark.parametrize("width", [31, 32, 33, 64])
def test_samples_are_not_in_step_with_the_rows_of_an_image(folder, width):
    """Every column of a large image is met about as often."""
    x = np.broadcast_to(np.eye(width, dtype=np.float32), (1, 4096, width, width))
    case = convolution("Conv2D", x.shape, (1, 1, width, 2))
    share = Layer(case).calibrate(folder, [x]).inputs.mean[0]
    assert (share > 0.5 / width).all() and (share < 1.6 / width).all()


def test_all_are_taken_of_1024(folder):
    x = np.arange(1024, dtype=np.float32)[:, None]
    inputs = Layer(product(x.shape, (1, 2))).calibrate(folder, [x]).inputs
    assert (inputs.mean[0, 0], inputs.largest[0, 0]) == (511.5, 1023)


# -- Threads ---------------------------------------------------------------------------------------------------


def calibrate_in_session(folder: Path, layer: Layer, x: np.ndarray, threads: int) -> bytes:
    """Returns the file that a session with so many threads writes."""
    book = open_rounding(folder, layer.weights, [1.0], layout=layer.layout)
    with tf.Graph().as_default():
        data = v1.placeholder(tf.float32, x.shape)
        factors = quant_ifmr(book, data)
        with tf.control_dependencies([factors.scale]):
            passed = input_moments(book, data, groups=layer.layout.groups, **window_of(layer.layout, layer.stencil))
        config = v1.ConfigProto(intra_op_parallelism_threads=threads, inter_op_parallelism_threads=1)
        with v1.Session(config=config) as session:
            np.testing.assert_array_equal(session.run(passed, {data: x}), x)
    book.close()
    return (folder / "record.txt.safetensors").read_bytes()


@pytest.mark.parametrize(
    "case",
    [
        convolution("Conv2D", (2, 12, 12, 40), (3, 3, 40, 24)),
        convolution("DepthwiseConv2dNative", (2, 12, 12, 200), (3, 3, 200, 1)),
        product((2, 10, 64, 24), (10, 24, 8)),
        product((700, 600), (600, 100)),
    ],
    ids=["conv", "depthwise", "batch of matrices", "MatMul"],
)
def test_any_number_of_threads_gives_the_same_bytes(folder, case):
    layer, x = Layer(case), batch_of(case)
    files = [calibrate_in_session(folder, layer, x, threads) for threads in (1, 4, 3)]
    assert files[0] == files[1] == files[2]


# -- What does not fit -----------------------------------------------------------------------------------------


def run_on(book: Any, x: np.ndarray, **attributes: Any) -> Any:
    return input_moments(book, tf.constant(x, tf.float32), **attributes)


WINDOW = {"kernel": [3, 3], "strides": [1, 1], "dilations": [1, 1], "padding": "SAME"}
DOES_NOT_FIT = {
    "too few axes": ((4, 5, 3), WINDOW),
    "too many axes": ((1, 4, 5, 6, 3), WINDOW),
    "groups do not divide the channels": ((1, 4, 5, 3), {**WINDOW, "groups": 2}),
    "no channels": ((1, 4, 5, 0), WINDOW),
    "a batch of others": ((5, 4, 3), {"groups": 2}),
    "no batch": ((3,), {"groups": 3}),
    "matrices without channels": ((5, 0), {}),
}


@pytest.mark.parametrize("name", DOES_NOT_FIT)
def test_shapes_that_do_not_fit(folder, name):
    shape, attributes = DOES_NOT_FIT[name]
    book = open_rounding(folder, np.ones((3, 2), np.float32), [1.0])
    message = r'the activation of layer "layer" has the shape .* which does not fit its weights'
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        run_on(book, np.zeros(shape), **attributes)
    book.close()


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [((0, 4, 4, 3), WINDOW), ((2, 2, 2, 3), {**WINDOW, "padding": "VALID"}), ((0, 3), {}), ((2, 0, 3), {})],
    ids=["no images", "images below the kernel", "no rows", "no rows of a batch"],
)
def test_empty(folder, shape, attributes):
    book = open_rounding(folder, np.ones((3, 2), np.float32), [1.0])
    with pytest.raises(tf.errors.InvalidArgumentError, match='the activation of layer "layer" is empty'):
        run_on(book, np.zeros(shape), **attributes)
    book.close()


def test_other_channels_than_before(folder):
    """The batch does not count; the next ones do."""
    random = np.random.default_rng(3)
    batches = random.standard_normal((2, 6, 3)).astype(np.float32)
    weights = random.integers(-100, 100, (3, 2)).astype(np.float32)
    book = open_rounding(folder, weights, [1.0], batch_num=2)
    for x in batches:
        quant_ifmr(book, tf.constant(x), 2)
    run_on(book, batches[0], batch_num=2)
    with pytest.raises(tf.errors.InvalidArgumentError, match="has not as many channels as in the batches before"):
        run_on(book, np.ones((6, 4)), batch_num=2)
    assert read_rounding(book.path) is None
    run_on(book, batches[1], batch_num=2)
    book.close()
    np.testing.assert_allclose(
        read_rounding(book.path)["layer"].inputs.mean[0], batches.mean(axis=(0, 1)), rtol=1e-5, atol=1e-7
    )


def test_more_batches_change_nothing(folder):
    layer = Layer(CASES["MatMul"])
    x = batch_of(layer.case)
    layer.calibrate(folder, [x])
    expected = (folder / "record.txt.safetensors").read_bytes()
    book = open_rounding(folder, layer.weights, [1.0])
    quant_ifmr(book, tf.constant(x))
    for data in (x, 5 * x, np.ones((3, 99))):
        np.testing.assert_array_equal(run_on(book, data), data.astype(np.float32))
    book.close()
    assert (folder / "record.txt.safetensors").read_bytes() == expected


def test_data_that_cannot_be_calibrated_with_do_not_get_there(folder):
    """QuantIfmr, which stands before it, refuses NaN; the batch does not count."""
    weights = np.ones((3, 2), np.float32)
    book = open_rounding(folder, weights, [1.0])
    with tf.Graph().as_default():
        data = v1.placeholder(tf.float32, [None, 3])
        with tf.control_dependencies([quant_ifmr(book, data).scale]):
            passed = input_moments(book, data)
        with v1.Session() as session:
            with pytest.raises(tf.errors.InvalidArgumentError, match="inf or nan"):
                session.run(passed, {data: np.full((2, 3), np.nan)})
            flush_record(book.path)
            assert read_rounding(book.path) is None
            session.run(passed, {data: np.full((2, 3), 2.0)})
    book.close()
    np.testing.assert_array_equal(read_rounding(book.path)["layer"].inputs.mean, np.full((1, 3), 2.0))


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel": [3, 3], "strides": [1], "dilations": [1, 1]},
        {"kernel": [3, 3], "strides": [1, 1], "dilations": [1]},
        {"kernel": [1] * 4, "strides": [1] * 4, "dilations": [1] * 4},
        {**WINDOW, "padding": "EXPLICIT", "explicit_paddings": [1, 1]},
        {**WINDOW, "kernel": [3, 0]},
        {**WINDOW, "strides": [0, 1]},
        {**WINDOW, "dilations": [1, 0]},
    ],
    ids=["strides", "dilations", "axes", "explicit_paddings", "kernel of 0", "stride of 0", "dilation of 0"],
)
def test_attributes_that_do_not_fit(folder, attributes):
    book = open_rounding(folder, np.ones((3, 2), np.float32), [1.0])
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"InputMoments: kernel, strides"):
        run_on(book, np.zeros((1, 4, 4, 3)), **attributes)
    book.close()


def test_an_op_of_an_earlier_calibration_only_passes_on(folder):
    earlier = open_rounding(folder, np.ones((3, 2), np.float32), [1.0])
    now = open_rounding(folder, np.ones((3, 2), np.float32), [1.0])
    quant_ifmr(now, tf.ones([4, 3]))
    np.testing.assert_array_equal(run_on(earlier, np.ones((4, 3))), np.ones((4, 3)))
    assert read_rounding(now.path) is None
    now.close()
    with pytest.raises(tf.errors.FailedPreconditionError, match="was not started in this process"):
        run_on(now, np.ones((4, 3)))


def test_a_file_that_cannot_be_written_is_an_error(folder):
    """And names the file; the record stays without its last factors until it can be."""
    book = open_rounding(folder, np.ones((3, 2), np.float32), [1.0])
    beside = folder / "record.txt.safetensors"
    beside.unlink(missing_ok=True)
    beside.mkdir()
    quant_ifmr(book, tf.ones([4, 3]))
    with pytest.raises(tf.errors.PermissionDeniedError, match=re.escape(f"the file beside record_file {beside}")):
        run_on(book, np.ones((4, 3)))
    with pytest.raises(AmctRuntimeError, match="cannot be written"):
        flush_record(book.path)
    beside.rmdir()
    flush_record(book.path)
    book.close()
    assert read_rounding(book.path)["layer"].weights.shape == (3, 2)
