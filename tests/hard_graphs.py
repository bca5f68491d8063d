"""Graphs that are hard to quantize, each for one reason, and the data to calibrate them on.

Each is a function of nothing but its arguments: parameters and data come from seeds. All go from x to out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from amct_tensorflow.graph.sessions import lean_session

v1 = tf.compat.v1

IMAGE = (12, 12, 3)


@dataclasses.dataclass(frozen=True)
class HardGraph:
    """A graph and its data.

    Attributes:
        build: makes the graph, x -> out.
        batch: makes the batch of a number.
        layers: how many layers it has that can be quantized.
    """

    build: Callable[[], tf.Graph]
    batch: Callable[[int], np.ndarray]
    layers: int


def _graph_of(fill: Callable[..., Any], *arguments: Any) -> tf.Graph:
    with tf.Graph().as_default() as graph:
        fill(*arguments)
    return graph


def normal_batch(seed: int) -> np.ndarray:
    """Images that differ in more than noise: each has a grey of its own, and a texture."""
    random = np.random.default_rng([7, seed])
    grey, texture = random.standard_normal((8, 1, 1, 3)), random.standard_normal((8, *IMAGE))
    return (grey + texture).astype(np.float32)


class Maker:
    """Makes ops with random parameters, which are constants behind an Identity, as TensorFlow 1 freezes variables.

    Args:
        seed: of the parameters.
        data: the inputs, by name, of which batch norms have the statistics.
    """

    def __init__(self, seed: int = 0, data: Mapping[str, np.ndarray] | None = None) -> None:
        self._random = np.random.default_rng(seed)
        self._data = {f"{name}:0": value for name, value in (data or {}).items()}

    def constant(self, value: Any, name: str) -> tf.Tensor:
        return tf.identity(tf.constant(np.asarray(value, np.float32), name=name), name=f"{name}/read")

    def normal(self, *shape: int) -> np.ndarray:
        return self._random.standard_normal(shape).astype(np.float32)

    def weights(self, *shape: int) -> np.ndarray:
        """Weights of a layer, outputs last, that keep the size of what varies behind a ReLU, and drop the mean.

        With the mean, a deep network would compute nearly the same of all its inputs.
        """
        weights = self.normal(*shape)
        weights -= weights.mean(axis=tuple(range(len(shape) - 1)), keepdims=True)
        return weights / np.float32(np.sqrt(np.prod(shape[:-1]) / 3))

    def powers_of_2(self, most: float, count: int) -> np.ndarray:
        """Factors of 2^-most to 2^most."""
        return np.exp2(self._random.uniform(-most, most, count)).astype(np.float32)

    def conv(
        self,
        x: tf.Tensor,
        name: str,
        channels: int,
        size: int = 3,
        inputs: int | None = None,
        gains: Any = 1.0,
    ) -> tf.Tensor:
        """`inputs` is the number of input channels where x does not tell, and `gains` are theirs."""
        inputs = inputs or x.shape[-1]
        weights = self.weights(size, size, inputs, channels) * np.reshape(gains, [-1, 1])
        return tf.nn.conv2d(x, self.constant(weights, f"{name}/weights"), 1, "SAME", name=name)

    def depthwise(self, x: tf.Tensor, name: str, gains: Any = 1.0) -> tf.Tensor:
        weights = self.normal(3, 3, x.shape[-1], 1) / 3 * np.reshape(gains, [-1, 1])
        weights = self.constant(weights, f"{name}/depthwise_weights")
        return v1.nn.depthwise_conv2d_native(x, weights, [1, 1, 1, 1], "SAME", name=name)

    def matmul(self, x: tf.Tensor, name: str, channels: int, inputs: int | None = None) -> tf.Tensor:
        inputs = inputs or x.shape[-1]
        return tf.matmul(x, self.constant(self.weights(inputs, channels), f"{name}/weights"), name=name)

    def bias(self, x: tf.Tensor, name: str) -> tf.Tensor:
        return tf.nn.bias_add(x, self.constant(0.1 * self.normal(x.shape[-1]), f"{name}/biases"), name=name)

    def batch_norm(self, x: tf.Tensor, name: str, *, training: bool = False) -> tf.Tensor:
        """Lets most of what it gets through a ReLU; in training mode, it has the statistics of its batch."""
        channels = x.shape[-1]
        mean, variance = ([], []) if training else self._statistics(x)
        y, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x,
            scale=self.constant(self.powers_of_2(0.3, channels), f"{name}/gamma"),
            offset=self.constant(1.5 + 0.3 * self.normal(channels), f"{name}/beta"),
            mean=self.constant(mean, f"{name}/moving_mean"),
            variance=self.constant(variance, f"{name}/moving_variance"),
            is_training=training,
            epsilon=1e-3,
            name=name,
        )
        return y

    def _statistics(self, x: tf.Tensor) -> tuple[np.ndarray, np.ndarray]:
        with lean_session(x.graph) as session:
            values = session.run(x, self._data).reshape(-1, x.shape[-1])
        return values.mean(axis=0), values.var(axis=0)


# -- Ranges that differ ----------------------------------------------------------------------------------------

_RANGES = (0.01, 100.0, 1.0)


def _concat_of_ranges(make: Maker) -> None:
    """Three branches of other ranges, and a convolution whose weights undo them: one scale serves the input of all."""
    x = v1.placeholder(tf.float32, [None, *IMAGE], name="x")
    branches = []
    for number, width in enumerate(_RANGES):
        weights = make.constant(width * make.weights(3, 3, 3, 8), f"branch_{number}/weights")
        branches.append(tf.nn.relu(tf.nn.conv2d(x, weights, 1, "SAME", name=f"branch_{number}/conv")))
    y = tf.concat(branches, 3, name="concat")
    weights = make.normal(3, 3, 24, 8) / 15 / np.repeat(np.float32(_RANGES), 8)[:, None]
    tf.nn.conv2d(y, make.constant(weights, "undo/weights"), 1, "SAME", name="out")


# -- Data with a heavy tail ------------------------------------------------------------------------------------

_DEVIATION = 2.75  # of the logarithm


def log_normal_batch(seed: int) -> np.ndarray:
    """Values of which most are below 10, and a few in the ten thousands, which take the scale."""
    logarithm = _DEVIATION * np.random.default_rng([8, seed]).standard_normal((8, *IMAGE))
    return np.exp(logarithm).astype(np.float32)


def _logarithm_of_a_tail(make: Maker) -> None:
    """A convolution of the data, and the logarithm of it: the small values count, too."""
    x = v1.placeholder(tf.float32, [None, *IMAGE], name="x")
    y = tf.math.log1p(tf.nn.relu(make.bias(make.conv(x, "first", 8), "first/BiasAdd")))
    y = tf.reshape(y, [-1, IMAGE[0] * IMAGE[1] * 8])
    make.matmul(y, "out", 5)


# -- A pose network --------------------------------------------------------------------------------------------


def pose_network(make: Maker, *, backbone: int, stages: int, training: bool, spread: float) -> None:
    """Separable convolutions: a backbone, then stages of two branches, each of which sees the results of the last.

    The channels between the two convolutions of a separable one differ in range by factors of 2^-spread to 2^spread.
    """
    x = v1.placeholder(tf.float32, [None, *IMAGE], name="x")

    def separable(y: tf.Tensor, name: str, channels: int) -> tf.Tensor:
        gains = make.powers_of_2(spread, y.shape[-1])
        y = make.depthwise(y, f"{name}/depthwise", gains)
        y = make.conv(y, f"{name}/pointwise", channels, size=1, gains=1 / gains)
        return tf.nn.relu6(make.batch_norm(y, f"{name}/BatchNorm", training=training), name=f"{name}/Relu6")

    y = tf.nn.relu(make.batch_norm(make.conv(x, "Conv2d_0", 8), "Conv2d_0/BatchNorm", training=training))
    for number in range(1, backbone):
        y = separable(y, f"Conv2d_{number}", 12)
    features = seen = tf.concat([y, make.depthwise(y, "feat_concat")], 3)
    for stage in range(1, stages + 1):
        maps = []
        for branch, channels in ((1, 8), (2, 5)):
            y = seen
            for number in range(1, 5):
                y = separable(y, f"Stage{stage}_L{branch}_{number}", 10)
            name = f"Stage{stage}_L{branch}_5"
            maps.append(make.bias(make.conv(y, name, channels, size=1), f"{name}/BiasAdd"))
        seen = tf.concat([*maps, features], 3, name=f"concat_stage{stage}")
    tf.concat(maps, 3, name="out")


def _pose_in_training_mode(make: Maker) -> None:
    pose_network(make, backbone=4, stages=2, training=True, spread=2.5)


HARD_GRAPHS = {
    "ranges": HardGraph(lambda: _graph_of(_concat_of_ranges, Maker()), normal_batch, layers=4),
    "heavy tail": HardGraph(lambda: _graph_of(_logarithm_of_a_tail, Maker()), log_normal_batch, layers=2),
    "training mode": HardGraph(lambda: _graph_of(_pose_in_training_mode, Maker()), normal_batch, layers=44),
}
