"""Freezes a Keras model into a graph as TensorFlow 1 wrote them: readable op names, separate batch norms."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf


def freeze(model: keras.Model) -> tf.compat.v1.GraphDef:
    """Returns the inference graph of a model; a layer's name is its op name with dots instead of slashes.

    Keras itself would trace an inference batch norm as Mul, Sub and Rsqrt. The layers are emitted one by one
    instead, with weights as ``freeze_graph`` leaves them (a Const and its Identity), and nothing is folded.

    Args:
        model: A functional model with one input and one output.
    """
    weights = {layer.name: layer.get_weights() for layer in model.layers}
    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.float32, model.input.shape, name=model.input.name)
        values = {id(model.input): image}
        for layer in model.layers[1:]:
            inputs = [values[id(tensor)] for tensor in tf.nest.flatten(layer.input)]
            values[id(layer.output)] = emit_layer(layer, weights[layer.name], *inputs)
    return graph.as_graph_def()


def emit_layer(layer: keras.Layer, weights: Sequence[np.ndarray], x: tf.Tensor, *others: tf.Tensor) -> tf.Tensor:
    """Emits the ops of one layer, the main one under the layer's name."""
    name = layer.name.replace(".", "/")
    match layer:
        case keras.layers.DepthwiseConv2D() | keras.layers.Conv2D():
            return emit_convolution(layer, weights, x, name)
        case keras.layers.BatchNormalization():
            return emit_batch_norm(layer, weights, x, name)
        case keras.layers.ReLU():
            return tf.nn.relu6(x, name=name)
        case keras.layers.Add():
            return tf.raw_ops.AddV2(x=x, y=others[0], name=name)
        case keras.layers.AveragePooling2D():
            return tf.nn.avg_pool2d(x, layer.pool_size, layer.strides, "VALID", name=name)
        case keras.layers.Flatten():
            return tf.squeeze(x, [1, 2], name=name)
        case keras.layers.Softmax():
            return tf.nn.softmax(x, name=name)
        case keras.layers.Dropout():
            return x
    raise TypeError(f"no TensorFlow op is known for the layer {layer}")


def emit_convolution(layer: keras.Layer, weights: Sequence[np.ndarray], x: tf.Tensor, name: str) -> tf.Tensor:
    """Emits a full or a depthwise convolution and its bias, if it has one."""
    scope = name.rpartition("/")[0]
    kernel, *bias = weights
    strides = [1, *layer.strides, 1]
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        kernel = constant(kernel, f"{scope}/depthwise_weights")
        x = tf.raw_ops.DepthwiseConv2dNative(input=x, filter=kernel, strides=strides, padding="SAME", name=name)
    else:
        x = tf.nn.conv2d(x, constant(kernel, f"{scope}/weights"), strides, "SAME", name=name)
    if bias:
        x = tf.nn.bias_add(x, constant(bias[0], f"{scope}/biases"), name=f"{scope}/BiasAdd")
    return x


def emit_batch_norm(
    layer: keras.layers.BatchNormalization, weights: Sequence[np.ndarray], x: tf.Tensor, name: str
) -> tf.Tensor:
    """Emits a batch norm that uses the moving statistics."""
    scope = name.rpartition("/")[0]
    parts = zip(("gamma", "beta", "moving_mean", "moving_variance"), weights, strict=True)
    scale, offset, mean, variance = (constant(value, f"{scope}/{part}") for part, value in parts)
    return tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=scale,
        offset=offset,
        mean=mean,
        variance=variance,
        epsilon=layer.epsilon,
        is_training=False,
        name=name,
    ).y


def constant(value: np.ndarray, name: str) -> tf.Tensor:
    """Emits a weight."""
    return tf.identity(tf.constant(value, name=name), name=f"{name}/read")
