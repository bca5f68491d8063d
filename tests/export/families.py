"""Small nets whose layers are of all families of ops, for the tests of all exports."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from small_models import avg_pool, batch, constant, flat, image

POSITIVE = batch(1) + np.float32(3)  # activations far from symmetric


def between(first, second):
    """A layer of a family between two convolutions, whose factors make its result integers."""
    return lambda net: tf.identity(net.conv(second(net, first(net)), "last"), name="out")


def stem(net):
    return tf.nn.relu(net.bias(net.conv(image(), "stem"), "stem/bias"))


def plain(net, x):
    return tf.nn.relu(net.bias(net.conv(x, "layer"), "layer/bias"))


def depthwise(net, x):
    return tf.nn.relu6(net.bias(net.depthwise(x, "layer", multiplier=2), "layer/bias"))


def strided(net, x):
    return net.bias(net.conv(x, "layer", strides=[1, 2, 2, 1]), "layer/bias")


def valid(net, x):
    return net.conv(x, "layer", padding="VALID")


def explicitly_padded(net, x):
    return net.conv(x, "layer", padding="EXPLICIT", explicit_paddings=[0, 0, 1, 2, 0, 1, 0, 0])


def padded_before(net, x):
    return net.conv(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), "layer", padding="VALID")


def dilated(net, x):
    return net.conv(x, "layer", dilations=[1, 2, 2, 1])


def grouped(net, x):
    return tf.nn.relu(net.conv(x, "layer", groups=2))


def normalized(net, x):
    return tf.nn.relu(net.batch_norm(net.conv(x, "layer"), "layer/bn"))


def pooled(net, x):
    return avg_pool(x, "layer")


def pooled_with_padding(net, x):
    return avg_pool(x, "layer", size=3, strides=[1, 2, 2, 1], padding="SAME")


def pooled_globally(net, x):
    return avg_pool(x, "layer", size=8)


def largest(net, x):
    return tf.nn.max_pool2d(net.conv(x, "layer"), 2, 2, "VALID")


def reshaped(net, x):
    y = tf.reshape(net.conv(x, "layer"), [-1, 4, 16, 6])
    return tf.nn.relu6(y)


FAMILIES = {
    "Conv2D": plain,
    "DepthwiseConv2dNative with a multiplier": depthwise,
    "Conv2D with strides": strided,
    "Conv2D without padding": valid,
    "Conv2D with explicit padding": explicitly_padded,
    "Conv2D behind a Pad": padded_before,
    "Conv2D with dilations": dilated,
    "Conv2D in groups": grouped,
    "Conv2D with a batch norm": normalized,
    "AvgPool": pooled,
    "AvgPool with padding": pooled_with_padding,
    "AvgPool of all": pooled_globally,
    "Conv2D with a MaxPool": largest,
    "Conv2D with a Reshape": reshaped,
}


def matmul(net):
    y = tf.nn.relu(net.bias(net.matmul(flat(image()), "first"), "first/bias"))
    net.bias(net.matmul(y, "second"), "out")


def batch_matmul(net):
    x = image()
    y = tf.raw_ops.BatchMatMulV2(x=x, y=constant(net.random("w", (4, 6)), "w"), name="first")
    tf.identity(net.bias(y, "bias"), name="out")


def attention(net):
    x = tf.reshape(image(), [-1, 64, 4])
    scores = tf.nn.softmax(tf.matmul(x, x, transpose_b=True, name="first"))
    tf.identity(tf.matmul(scores, x, name="second"), name="out")


def einsum(net):
    y = tf.einsum("bhwc,cd->bhwd", image(), constant(net.random("w", (4, 6)), "w"))
    tf.identity(tf.nn.relu(net.bias(y, "bias")), name="out")


def clipped(net):
    y = tf.nn.relu6(net.bias(net.conv(image(), "layer"), "layer/bias"))
    tf.identity(net.conv(y, "last"), name="out")


def residual(net):
    stream = tf.nn.relu(net.bias(net.conv(image(), "stem/conv", 6), "stem/bias"))
    y = net.conv(tf.nn.relu(net.conv(stream, "a/conv1")), "a/conv2")
    y = tf.nn.relu(tf.raw_ops.AddV2(x=y, y=stream, name="a/add"))
    tf.identity(net.conv(y, "b/conv"), name="out")


def transposed(net, x):
    weights = constant(net.random("layer", (3, 3, 5, 6)) / 6, "layer/w")
    return tf.raw_ops.Conv2DBackpropInput(
        input_sizes=[4, 8, 8, 5], filter=weights, out_backprop=x, strides=[1, 1, 1, 1], padding="SAME", name="layer"
    )


def rectified(net):
    y = tf.nn.relu(net.bias(net.conv(image(), "layer"), "layer/bias"))
    tf.identity(net.conv(y, "last"), name="out")


def in_float16(net):
    x = tf.cast(image(), tf.float16)
    weights = [tf.constant((net.random(f"{at}", (3, 3, 4, 4)) / 6).astype(np.float16)) for at in range(2)]
    y = tf.nn.conv2d(tf.nn.relu(tf.nn.conv2d(x, weights[0], 1, "SAME", name="first")), weights[1], 1, "SAME")
    tf.cast(y, tf.float32, name="out")


def large_matrices(net):
    net.bias(net.matmul(flat(tf.nn.relu(net.matmul(flat(image()), "first", 512))), "second", 512), "out")
