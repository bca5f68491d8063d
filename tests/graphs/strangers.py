"""Graphs built like files that people publish: what is odd about those is here, at small widths."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from hard_graphs import IMAGE, Maker, normal_batch, pose_network
from small_models import control_flow_of_tensorflow_1

v1 = tf.compat.v1

Feeds = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Stranger:
    """A graph, and what is known of it.

    Attributes:
        fill: fills the default graph.
        feed: makes the inputs of a number, by name.
        outputs: the names of its output ops.
        layers: how many layers it has, all of which are quantized.
        least: the least dB of what tells the samples of an unseen batch apart, in any output.
        nodes: how many nodes it has, at least.
    """

    fill: Callable[[Maker], Any]
    feed: Callable[[int], Feeds]
    outputs: list[str]
    layers: int
    least: float
    nodes: int = 0


def _smooth(seed: int, *shape: int) -> np.ndarray:
    """Pixels of 0 to 1 that are like their neighbours: a few waves."""
    random = np.random.default_rng([9, seed])
    batch, height, width, channels = shape
    rows, columns = np.arange(height)[:, None, None], np.arange(width)[:, None]
    image = np.zeros(shape)
    for _ in range(4):
        phase, step = random.uniform(0, 6, (batch, 1, 1, channels)), random.uniform(0.1, 0.8, 2)
        image += np.sin(step[0] * rows + step[1] * columns + phase)
    return (image / 8 + 0.5).astype(np.float32)


def _image(seed: int) -> Feeds:
    return {"x": normal_batch(seed)}


# -- Super-resolution: a placeholder of unknown rank, and NCHW at the end ---------------------------------------


def _low_resolution(seed: int) -> Feeds:
    return {"IteratorGetNext": _smooth(seed, 4, 12, 12, 1)}


def _to_nchw(y: tf.Tensor) -> None:
    tf.transpose(tf.identity(y, name="NHWC_output"), [0, 3, 1, 2], name="NCHW_output")


def _espcn(make: Maker) -> None:
    """Convolutions at low resolution, whose channels become pixels."""
    y = v1.placeholder(tf.float32, name="IteratorGetNext")
    for number, (channels, size, inputs) in enumerate([(16, 5, 1), (12, 3, None), (4, 3, None)], start=1):
        y = make.conv(y, f"f{number}", channels, size, inputs=inputs)
        y = make.bias(y, f"f{number}/BiasAdd")
        y = tf.nn.tanh(y) if number < 3 else y
    _to_nchw(tf.nn.relu(tf.nn.depth_to_space(y, 2)))


def _fsrcnn(make: Maker) -> None:
    """Narrow convolutions with PReLUs of small ops, and a transposed one of a computed shape at the end."""
    x = y = v1.placeholder(tf.float32, name="IteratorGetNext")
    for number, (channels, size) in enumerate([(16, 5), (8, 1), (8, 3), (8, 3), (16, 1)], start=1):
        y = make.bias(make.conv(y, f"conv{number}", channels, size, inputs=1 if number == 1 else None), f"b{number}")
        slope = make.constant(np.full(channels, 0.2), f"alpha{number}")
        y = tf.nn.relu(y) + slope * (y - tf.abs(y)) * 0.5
    shape = tf.shape(x)
    shape = tf.stack([shape[0], shape[1] * 2, shape[2] * 2, 1])
    weights = make.constant(make.normal(9, 9, 1, 16) / 8, "deconv/weights")
    _to_nchw(make.bias(tf.nn.conv2d_transpose(y, weights, shape, [1, 2, 2, 1], name="deconv"), "deconv/BiasAdd"))


# -- A single-shot detector ------------------------------------------------------------------------------------


def _face_mask_ssd(make: Maker) -> None:
    """Eight convolutions, and boxes and classes of five of them, each by two more; anchors in one list at the end."""

    def block(y: tf.Tensor, name: str, channels: int) -> tf.Tensor:
        y = make.bias(make.conv(y, f"{name}/convolution", channels), f"{name}/BiasAdd")
        return tf.nn.relu(make.batch_norm(y, f"{name}_bn/FusedBatchNorm"), name=f"{name}_relu")

    y = v1.placeholder(tf.float32, [None, 48, 48, 3], name="data_1")
    boxes, classes = [], []
    for number in range(8):
        y = block(y, f"conv2d_{number}", 12)
        if number >= 3:
            for wanted, size, found in (("loc", 4, boxes), ("cls", 2, classes)):
                head = block(y, f"{wanted}_{number}_insert_conv2d", 8)
                head = make.conv(head, f"{wanted}_{number}_conv/convolution", 4 * size)
                head = make.bias(head, f"{wanted}_{number}_conv/BiasAdd")
                found.append(tf.reshape(head, [-1, int(head.shape[1] * head.shape[2]) * 4, size]))
        if number < 5:
            y = tf.nn.max_pool2d(y, 2, 2, "SAME", name=f"maxpool2d_{number}")
    tf.concat(boxes, 1, name="loc_branch_concat")
    tf.sigmoid(tf.concat(classes, 1), name="cls_branch_concat")


def _photo(seed: int) -> Feeds:
    return {"data_1": _smooth(seed, 4, 48, 48, 3)}


# -- Recurrent networks, step by step --------------------------------------------------------------------------

_STEPS, _WIDTH, _UNITS = 28, 8, 12


def _rows(seed: int) -> Feeds:
    pixels = _smooth(seed, 8, _STEPS, _WIDTH, 1).reshape(8, _STEPS * _WIDTH)
    return {"x": pixels, "keep_prob": np.float32(1)}


def _unrolled(make: Maker, step: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]) -> None:
    """One step per row of an image, a dropout whose keep_prob is fed, and a classifier."""
    x = v1.placeholder(tf.float32, [None, _STEPS * _WIDTH], name="x")
    keep = v1.placeholder(tf.float32, name="keep_prob")
    rows = tf.unstack(tf.reshape(x, [-1, _STEPS, _WIDTH]), axis=1)
    state = output = tf.zeros(tf.stack([tf.shape(x)[0], _UNITS]))
    output.set_shape([None, _UNITS])
    for row in rows:
        output, state = step(row, output, state)
    mask = tf.floor(keep + tf.random.uniform(tf.shape(output), seed=1))
    output = tf.divide(output, keep) * mask
    logits = make.matmul(output, "classifier/MatMul", 5, inputs=_UNITS)  # no shape is known behind keep_prob
    tf.add(logits, make.constant(make.normal(5), "classifier/b"), name="logits")


def _lstm(make: Maker) -> None:
    """BasicLSTMCell: one MatMul of all four gates in a step, whose kernel all steps share."""
    kernel = make.constant(make.weights(_WIDTH + _UNITS, 4 * _UNITS), "rnn/kernel")
    bias = make.constant(0.1 * make.normal(4 * _UNITS), "rnn/bias")

    def step(row: tf.Tensor, output: tf.Tensor, state: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        gates = tf.nn.bias_add(tf.matmul(tf.concat([row, output], 1), kernel), bias)
        entry, new, forget, result = tf.split(gates, 4, axis=1)
        state = state * tf.sigmoid(forget + 1.0) + tf.sigmoid(entry) * tf.tanh(new)
        return tf.tanh(state) * tf.sigmoid(result), state

    _unrolled(make, step)


def _gru(make: Maker) -> None:
    """GRUCell: a MatMul of both gates in a step, and one of the candidate."""
    gates = make.constant(make.weights(_WIDTH + _UNITS, 2 * _UNITS), "rnn/gates/kernel")
    candidate = make.constant(make.weights(_WIDTH + _UNITS, _UNITS), "rnn/candidate/kernel")
    bias = make.constant(np.ones(2 * _UNITS), "rnn/gates/bias")

    def step(row: tf.Tensor, output: tf.Tensor, state: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        both = tf.sigmoid(tf.nn.bias_add(tf.matmul(tf.concat([row, output], 1), gates), bias))
        reset, update = tf.split(both, 2, axis=1)
        new = tf.tanh(tf.matmul(tf.concat([row, reset * output], 1), candidate))
        output = update * output + (1.0 - update) * new
        return output, output

    _unrolled(make, step)


# -- An autoencoder ---------------------------------------------------------------------------------------------


def _autoencoder(make: Maker) -> None:
    """Convolutions with pooling, then with images made larger again."""
    y = v1.placeholder(tf.float32, [None, 28, 28, 1], name="inputs")
    for number, channels in enumerate((16, 8, 8)):
        y = tf.nn.relu(make.bias(make.conv(y, f"encoder_{number}/Conv2D", channels), f"encoder_{number}/BiasAdd"))
        y = tf.nn.max_pool2d(y, 2, 2, "SAME")
    for number, size in enumerate((7, 14, 28)):
        y = v1.image.resize_nearest_neighbor(y, (size, size))
        y = tf.nn.relu(make.bias(make.conv(y, f"decoder_{number}/Conv2D", 8), f"decoder_{number}/BiasAdd"))
    tf.sigmoid(make.bias(make.conv(y, "logits/Conv2D", 1), "logits/BiasAdd"), name="decoded")


def _digit(seed: int) -> Feeds:
    return {"inputs": _smooth(seed, 4, 28, 28, 1)}


def _pose(make: Maker) -> None:
    pose_network(make, backbone=9, stages=5, training=False, spread=0.5)


STRANGERS = {
    "ESPCN": Stranger(_espcn, _low_resolution, ["NCHW_output"], layers=3, least=22),
    "FSRCNN": Stranger(_fsrcnn, _low_resolution, ["NCHW_output"], layers=6, least=18),
    "face-mask SSD": Stranger(_face_mask_ssd, _photo, ["loc_branch_concat", "cls_branch_concat"], layers=28, least=14),
    "LSTM": Stranger(_lstm, _rows, ["logits"], layers=29, least=17),
    "GRU": Stranger(_gru, _rows, ["logits"], layers=57, least=9),
    "autoencoder": Stranger(_autoencoder, _digit, ["decoded"], layers=7, least=12),
    "pose network": Stranger(_pose, _image, ["out"], layers=108, least=10, nodes=800),
}


# -- A face detector in loops ----------------------------------------------------------------------------------


def mtcnn(make: Maker) -> None:
    """Three networks, each in a while loop of its own: over the scales of an image, then over what is found there."""
    x = y = v1.placeholder(tf.float32, [None, *IMAGE], name="input")
    with control_flow_of_tensorflow_1():
        for name in ("pnet", "rnet", "onet"):

            def body(at: tf.Tensor, y: tf.Tensor, name: str = name) -> tuple[tf.Tensor, tf.Tensor]:
                found = tf.nn.relu(make.bias(make.conv(y, f"{name}/conv1", 4), f"{name}/conv1/BiasAdd"))
                found = make.matmul(tf.reduce_mean(found, [1, 2]), f"{name}/fc", 3)
                return at + 1, y + tf.reshape(tf.nn.softmax(found), [-1, 1, 1, 3])

            _, y = v1.while_loop(lambda at, y: at < 3, body, [tf.constant(0), y], name=name)
            y.set_shape(x.shape)
    tf.reduce_mean(y, [1, 2], name="prob")
