"""Small graphs as quantization-aware training leaves them, and what it takes to convert and compare them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from small_graphs import freeze, load

import amct_tensorflow as amct
from amct_tensorflow.graph.fake_quant import FAKE_QUANT_TYPES

tf1 = tf.compat.v1

Build = Callable[[], object]


def random(name: str, shape: Sequence[int]) -> np.ndarray:
    """Values that depend on nothing but name and shape."""
    return np.random.default_rng([*name.encode(), *shape]).standard_normal(shape).astype(np.float32)


def image(shape: Sequence[int | None] = (None, 8, 8, 4)) -> tf.Tensor:
    return tf1.placeholder(tf.float32, shape, name="x")


def fake_quant(x: Any, name: str, low: float = -3.0, high: float = 2.5, **options: Any) -> tf.Tensor:
    """What tensorflow_model_optimization and contrib.quantize put behind activations."""
    ends = [tf.constant(end, tf.float32, name=f"{name}_{which}") for which, end in (("min", low), ("max", high))]
    return tf.quantization.fake_quant_with_min_max_vars(x, *ends, name=name, **options)


def weights(name: str, shape: Sequence[int], size: float = 1.0) -> tf.Tensor:
    return tf.constant(random(name, shape) * np.float32(size), name=f"{name}_w")


def per_tensor(name: str, shape: Sequence[int]) -> tf.Tensor:
    high = float(np.abs(random(name, shape)).max())
    return fake_quant(weights(name, shape), f"{name}_wfq", -high, high, narrow_range=True)


def per_channel(name: str, shape: Sequence[int]) -> tf.Tensor:
    high = np.abs(random(name, shape)).max(axis=tuple(range(len(shape) - 1)))
    return tf.quantization.fake_quant_with_min_max_vars_per_channel(
        weights(name, shape), -high, high, narrow_range=True, name=f"{name}_wfq"
    )


def conv(x: tf.Tensor, name: str, channels: int = 6, make: Callable[..., tf.Tensor] = per_channel) -> tf.Tensor:
    return tf.nn.conv2d(x, make(name, [3, 3, x.shape[3], channels]), 1, "SAME", name=name)


def depthwise(x: tf.Tensor, name: str, multiplier: int = 2, make: Callable[..., tf.Tensor] = per_tensor) -> tf.Tensor:
    kernel = make(name, [3, 3, x.shape[3], multiplier])
    return tf1.nn.depthwise_conv2d_native(x, kernel, [1, 1, 1, 1], "SAME", name=name)


def matmul(x: tf.Tensor, name: str, channels: int = 5, make: Callable[..., tf.Tensor] = per_tensor) -> tf.Tensor:
    return tf.matmul(x, make(name, [x.shape[1], channels]), name=name)


def flat(x: tf.Tensor, name: str = "flat") -> tf.Tensor:
    return tf.reshape(x, [-1, int(np.prod(x.shape.as_list()[1:]))], name=name)


def bias(x: tf.Tensor, name: str) -> tf.Tensor:
    return tf.nn.bias_add(x, tf.constant(random(name, [x.shape[-1]])), name=name)


def batch_norm(x: tf.Tensor, name: str, gamma: Sequence[float] | None = None) -> tf.Tensor:
    channels = x.shape[-1]
    scale = random(f"{name}gamma", [channels]) if gamma is None else np.float32(gamma)
    offset, mean = random(f"{name}beta", [channels]), random(f"{name}mean", [channels])
    variance = np.abs(random(f"{name}variance", [channels])) + np.float32(0.5)
    return tf1.nn.fused_batch_norm(x, scale, offset, mean, variance, is_training=False, name=name)[0]


def graph_of(build: Build) -> tf.Graph:
    with tf.Graph().as_default() as graph:
        build()
    return graph


def batch(size: int = 16, shape: Sequence[int] = (8, 8, 4)) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((size, *shape)).astype(np.float32)


def run(graph: tf.Graph, data: np.ndarray, output: str = "out") -> np.ndarray:
    with tf1.Session(graph=graph) as session:
        return session.run(f"{output}:0", {"x:0": data})


def convolution():
    tf.nn.relu(bias(conv(fake_quant(image(), "fq"), "conv"), "bias"), name="out")


class Converted:
    """A graph of quantization-aware training, and what convert_qat_model makes of it."""

    def __init__(
        self, build: Build | tf.Graph, folder: Path, outputs: Sequence[str] = ("out",), **options: Any
    ) -> None:
        self.trained = build if isinstance(build, tf.Graph) else graph_of(build)
        self.pb = freeze(self.trained, folder / "qat.pb")
        self.outputs = list(outputs)
        amct.convert_qat_model(self.pb, self.outputs, str(folder / "int8"), **options)
        self.file = folder / "int8_quantized.pb"
        self.graph = load(self.file)

    @property
    def types(self) -> list[str]:
        return [op.type for op in self.graph.get_operations()]

    def count(self, op_type: str) -> int:
        return self.types.count(op_type)

    @property
    def fake_quants(self) -> list[str]:
        return [op.name for op in self.graph.get_operations() if op.type in FAKE_QUANT_TYPES]

    def int8_weights(self, layer: str) -> np.ndarray:
        quantized = self.graph.get_operation_by_name(layer).inputs[1].op
        assert quantized.type == "AscendWeightQuant"
        return tf.get_static_value(quantized.inputs[0])

    def assert_same(self, data: np.ndarray | None = None, *, equal: float = 0.99) -> None:
        """It computes what the trained graph does, but for the rounding of biases to int32 and rare ties."""
        data = batch() if data is None else data
        for output in self.outputs:
            expected, actual = run(self.trained, data, output), run(self.graph, data, output)
            assert np.isfinite(expected).all() and expected.std() > 0
            noise = np.sum((expected - actual) ** 2.0)
            assert noise == 0 or 10 * np.log10(np.sum(expected**2.0) / noise) >= 40
            differences = np.abs(expected - actual) / np.abs(expected).max()
            assert np.mean(differences <= 1e-4) >= equal, f"largest {differences.max()}"
