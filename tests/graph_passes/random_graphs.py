"""Random small graphs of everything that is quantized and folded, as hypothesis draws them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from hypothesis import strategies as st
from small_models import Net, avg_pool, constant, image

_SIZE = 8  # of the image

# Draws one of the values.
Choose = Callable[..., Any]


class RandomNet:
    """Builds a graph from a list of choices, so that it can be built again."""

    def __init__(self, choices: list[int]) -> None:
        self._choices = choices
        self.outputs: list[str] = []

    def __call__(self, net: Net) -> None:
        left = iter(self._choices)

        def choose(*values: Any) -> Any:
            return values[next(left, 0) % len(values)]

        tensors = [image()]
        for at in range(choose(2, 3, 4, 5)):
            tensors += _BLOCKS[choose(*_BLOCKS)](net, choose, choose(*tensors[-2:]), f"b{at}")
        head = choose(*_HEADS)(net, tensors[-1])
        fetched = [head, *(tensors[1:] if choose(False, False, True) else [])]
        self.outputs = list(dict.fromkeys(tensor.op.name for tensor in fetched))


def random_nets() -> st.SearchStrategy[RandomNet]:
    return st.lists(st.integers(0, 10_000), min_size=40, max_size=40).map(RandomNet)


def _weights(net: Net, name: str, shape: tuple[int, ...], spread: float) -> np.ndarray:
    values = net.random(name, shape) / np.sqrt(np.prod(shape[:-1]))
    return (values * np.geomspace(1 / spread, spread, shape[-1])).astype(np.float32)


def _kernel(
    net: Net, choose: Choose, name: str, shape: tuple[int, ...], spreads: tuple[float, ...] = (1.0, 3.0, 30.0)
) -> tf.Tensor:
    """Weights, as exporters leave them."""
    values = _weights(net, name, shape, choose(*spreads))
    form = choose("plain", "plain", "identity", "half", "transposed", "scaled")
    if form == "identity":
        return tf.identity(constant(values, f"{name}/w"))
    if form == "half":
        return tf.cast(tf.constant(values, tf.float16), tf.float32)
    if form == "transposed":
        turned = list(range(len(shape)))[::-1]
        return tf.transpose(constant(values.transpose(turned), f"{name}/w"), turned)
    return constant(values, f"{name}/w") * (np.float32(2.0) if form == "scaled" else np.float32(1.0))


def _behind(net: Net, choose: Choose, y: tf.Tensor, name: str) -> tf.Tensor:
    """Bias, batch norm, or neither, and an activation."""
    channels = y.shape[-1]
    bias = choose(None, "BiasAdd", "Add", "Sub")
    if bias == "BiasAdd":
        y = net.bias(y, f"{name}/bias")
    elif bias == "Add":
        y = net.add(y, f"{name}/bias", choose([], [channels], [1] * (y.shape.rank - 1) + [channels]))
    elif bias == "Sub":
        y = y - constant(net.random(f"{name}/sub", (channels,)), f"{name}/sub")
    norm = choose(None, "fused", "small", "scalar")
    if norm == "fused" and y.shape.rank == 4:
        variance = np.geomspace(1e-2, 1e2, channels).astype(np.float32)
        y = net.batch_norm(y, f"{name}/bn", choose("", "V2", "V3"), variance=variance)
    elif norm == "small":
        values = [constant(np.abs(net.random(f"{name}/{i}", (channels,))) + 0.2, f"{name}/p{i}") for i in range(4)]
        mean, variance, beta, gamma = values
        y = tf.nn.batch_normalization(y, mean, variance, choose(beta, None), choose(gamma, None), 1e-3)
    elif norm == "scalar":
        y = y * np.float32(0.5)
    y = choose(tf.nn.relu, tf.nn.relu6, tf.identity, tf.nn.leaky_relu, _swish)(y)
    return tf.identity(y, name=f"{name}/act")


def _swish(x: tf.Tensor) -> tf.Tensor:
    """As tf.nn.swish computes it, without its gradient, which numbers the graphs of a process."""
    return x * tf.sigmoid(x * np.float32(1.0))


def _conv(net: Net, choose: Choose, x: tf.Tensor, name: str) -> list[tf.Tensor]:
    size, channels = choose(1, 3), choose(4, 6)
    kernel = _kernel(net, choose, name, (size, size, x.shape[-1], channels))
    attributes = {
        "strides": choose([1, 1, 1, 1], [1, 2, 2, 1]),
        "padding": choose("SAME", "SAME", "EXPLICIT"),
        "dilations": [1, 1, 1, 1],
    }
    if attributes["padding"] == "EXPLICIT":
        attributes["explicit_paddings"] = [0, 0, 1, 2, 0, 1, 0, 0]
    elif attributes["strides"] == [1, 1, 1, 1]:
        attributes["dilations"] = choose([1, 1, 1, 1], [1, 2, 1, 1])
    y = tf.raw_ops.Conv2D(input=x, filter=kernel, name=f"{name}/conv", **attributes)
    return [_behind(net, choose, y, name)]


def _depthwise(net: Net, choose: Choose, x: tf.Tensor, name: str) -> list[tf.Tensor]:
    kernel = _kernel(net, choose, name, (3, 3, x.shape[-1], choose(1, 2)))
    y = tf.raw_ops.DepthwiseConv2dNative(
        input=x, filter=kernel, strides=[1, 1, 1, 1], padding="SAME", name=f"{name}/depthwise"
    )
    return [_behind(net, choose, y, name)]


def _dilated(net: Net, choose: Choose, x: tf.Tensor, name: str) -> list[tf.Tensor]:
    kernel = _kernel(net, choose, name, (3, 3, x.shape[-1], 4))
    y = tf.space_to_batch(tf.image.resize(x, [_SIZE, _SIZE], "nearest"), [2, 2], [[2, 2], [2, 2]])
    y = tf.nn.conv2d(y, kernel, 1, "VALID", name=f"{name}/conv")
    return [_behind(net, choose, tf.batch_to_space(y, [2, 2], [[0, 0], [0, 0]]), name)]


def _groups(net: Net, choose: Choose, x: tf.Tensor, name: str) -> list[tf.Tensor]:
    parts = tf.split(tf.concat([x, x], -1), 2, axis=-1)
    made = []
    for at, part in enumerate(parts):
        kernel = _kernel(net, choose, f"{name}/g{at}", (3, 3, part.shape[-1], 2 + at))
        made.append(tf.nn.conv2d(part, kernel, 1, "SAME", name=f"{name}/g{at}/conv"))
    return [_behind(net, choose, tf.concat(made, -1), name)]


def _conv1d(net: Net, choose: Choose, x: tf.Tensor, name: str) -> list[tf.Tensor]:
    shape = tf.shape(x)
    channels = x.shape[-1]
    rows = tf.reshape(x, [-1, x.shape[1] * x.shape[2], channels])
    kernel = _kernel(net, choose, name, (1, 3, channels, 4))
    y = tf.nn.conv2d(tf.expand_dims(rows, 1), kernel, 1, "SAME", name=f"{name}/conv")
    y = _behind(net, choose, tf.squeeze(y, [1]), name)
    return [tf.reshape(y, tf.stack([shape[0], x.shape[1], x.shape[2], 4]))]


def _transposed(net: Net, choose: Choose, x: tf.Tensor, name: str) -> list[tf.Tensor]:
    height, width = x.shape[1], x.shape[2]
    kernel = constant(net.random(name, (2, 2, 4, x.shape[-1])) / 3, f"{name}/w")
    shape = tf.stack([tf.shape(x)[0], 2 * height, 2 * width, 4])
    y = tf.nn.conv2d_transpose(x, kernel, shape, 2, name=f"{name}/transpose")
    y = tf.ensure_shape(y, [None, 2 * height, 2 * width, 4])
    return [max_pool(_behind(net, choose, y, name), f"{name}/pool")]


def max_pool(x: tf.Tensor, name: str) -> tf.Tensor:
    return tf.raw_ops.MaxPool(input=x, ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1], padding="SAME", name=name)


def _pool(net: Net, choose: Choose, x: tf.Tensor, name: str) -> list[tf.Tensor]:
    if choose(True, False):
        return [max_pool(x, f"{name}/pool")]
    return [avg_pool(x, f"{name}/pool", padding="SAME", ksize=[1, 3, 2, 1])]


def _residual(net: Net, choose: Choose, x: tf.Tensor, name: str) -> list[tf.Tensor]:
    y = net.conv(x, f"{name}/conv", channels=x.shape[-1])
    y = net.batch_norm(y, f"{name}/bn") if choose(True, False) else y
    return [tf.nn.relu(tf.raw_ops.AddV2(x=y, y=x, name=f"{name}/add"), name=f"{name}/act")]


def _used_twice(net: Net, choose: Choose, x: tf.Tensor, name: str) -> list[tf.Tensor]:
    y = net.conv(x, f"{name}/conv", channels=4)
    return [tf.nn.relu(y + net.batch_norm(y, f"{name}/bn"), name=f"{name}/act")]


def _shared_weights(net: Net, choose: Choose, x: tf.Tensor, name: str) -> list[tf.Tensor]:
    kernel = _kernel(net, choose, name, (3, 3, x.shape[-1], 4))
    both = []
    for side in ("left", "right"):
        y = tf.nn.conv2d(x, kernel, 1, "SAME", name=f"{name}/{side}/conv")
        both.append(_behind(net, choose, y, f"{name}/{side}"))
    return [both[0], tf.concat(both, -1)]


def _in_half(net: Net, choose: Choose, x: tf.Tensor, name: str) -> list[tf.Tensor]:
    kernel = tf.constant(_weights(net, name, (3, 3, x.shape[-1], 4), 1.0), tf.float16)
    y = tf.nn.conv2d(tf.cast(x, tf.float16), kernel, 1, "SAME", name=f"{name}/conv")
    return [tf.cast(tf.nn.relu(y), tf.float32, name=f"{name}/act")]


def _einsum(net: Net, choose: Choose, x: tf.Tensor, name: str) -> list[tf.Tensor]:
    _, height, width, channels = x.shape
    equation, kernel, result = choose(
        ("abcd,de->abce", (channels, 4), (height, width, 4)),
        ("abcd,ed->abce", (4, channels), (height, width, 4)),
        ("abcd,def->abcef", (channels, 2, 3), (height, width, 6)),
        ("abcd,def->abecf", (channels, 2, 3), (height, 2 * width, 3)),
        ("abcd,cde->abe", (width, channels, 4), (height, 1, 4)),
    )
    weights = _kernel(net, choose, name, kernel, spreads=(1.0, 3.0))  # it may have one scale
    y = tf.raw_ops.Einsum(inputs=[x, weights], equation=equation, name=f"{name}/einsum")
    return [tf.reshape(_behind(net, choose, y, name), [-1, *result])]


_BLOCKS: dict[str, Callable[..., list[tf.Tensor]]] = {
    "conv": _conv,
    "conv again": _conv,
    "depthwise": _depthwise,
    "dilated": _dilated,
    "groups": _groups,
    "conv1d": _conv1d,
    "transposed": _transposed,
    "pool": _pool,
    "residual": _residual,
    "used twice": _used_twice,
    "shared weights": _shared_weights,
    "in half": _in_half,
    "einsum": _einsum,
}


def _fully_connected(net: Net, x: tf.Tensor) -> tf.Tensor:
    y = tf.reshape(tf.image.resize(x, [2, 2], "nearest"), [-1, 4 * x.shape[-1]])
    return tf.nn.softmax(net.bias(net.matmul(y, "head/matmul", 5), "head/bias"), name="head/softmax")


def _attention(net: Net, x: tf.Tensor) -> tf.Tensor:
    rows = tf.reshape(x, [-1, x.shape[1] * x.shape[2], x.shape[-1]])
    scores = tf.raw_ops.BatchMatMulV2(x=rows, y=rows, adj_y=True, name="head/scores")
    y = tf.raw_ops.BatchMatMulV2(x=tf.nn.softmax(scores), y=rows, name="head/product")
    weights = constant(net.random("head/w", (x.shape[-1], 3)), "head/w")
    return tf.add(
        tf.raw_ops.BatchMatMulV2(x=y, y=weights, name="head/matmul"), constant([1, 2, 3], "c"), name="head/add"
    )


def _last_layer(net: Net, x: tf.Tensor) -> tf.Tensor:
    return net.batch_norm(net.conv(x, "head/conv"), "head/bn")


def _mean(net: Net, x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(x, [1, 2], name="head/mean")


_HEADS = (_fully_connected, _attention, _last_layer, _mean)
