"""The networks, untrained, with parameters that make them compute something."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

keras = tf.keras
layers = keras.layers


@dataclasses.dataclass(frozen=True)
class Network:
    """How to build a network, and what is known of it.

    Attributes:
        build: makes the Keras model; its outputs are logits, or the like before a saturating function.
        shape: of one sample.
        pixels: whether it wants values of 0 to 255 and normalizes them itself.
        chain: whether it is one chain of layers, without batch norms.
        stays_float: op type -> the reason, a regular expression, of layers that cannot be quantized.
        most_size: the int8 file, as a part of the float file: a quarter, and what the graph itself takes.
    """

    build: Callable[[], Any]
    shape: tuple[int, ...]
    pixels: bool = False
    chain: bool = False
    stays_float: dict[str, str] = dataclasses.field(default_factory=dict)
    most_size: float = 0.3


# -- Networks of keras.applications ---------------------------------------------------------------------------


def _application(name: str, size: int = 32, **known: Any) -> Network:
    """One of keras.applications at the smallest image that it takes."""

    def build() -> Any:
        make = getattr(keras.applications, name)
        return make(weights=None, input_shape=(size, size, 3), classes=100, classifier_activation=None)

    return Network(build, (size, size, 3), **known)


def _vgg() -> Any:
    """VGG16 without its 80 MB of dense layers."""
    inputs = x = layers.Input((32, 32, 3))
    for layer in keras.applications.VGG16(weights=None, include_top=False, input_shape=(32, 32, 3)).layers[1:]:
        x = layer(x)
    x = layers.Dense(256, activation="relu")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(100)(x))


# Keras compiles a grouped convolution by itself, and TensorFlow does not inline what is compiled.
_COMPILED = {"Conv2D": r"it is inside the function __inference__conv_xla.*"}

APPLICATIONS = {
    "ConvNeXtTiny": _application("ConvNeXtTiny", pixels=True, stays_float=_COMPILED),
    "DenseNet121": _application("DenseNet121"),
    "EfficientNetB0": _application("EfficientNetB0", pixels=True),
    "EfficientNetV2B0": _application("EfficientNetV2B0", pixels=True),
    "InceptionV3": _application("InceptionV3", 75),
    "MobileNet": _application("MobileNet"),
    "MobileNetV2": _application("MobileNetV2"),
    "MobileNetV3Large": _application("MobileNetV3Large", pixels=True),
    "MobileNetV3Small": _application("MobileNetV3Small", pixels=True),
    # 160 of its convolutions have no bias, and most get one.
    "NASNetMobile": dataclasses.replace(_application("NASNetMobile"), most_size=0.31),
    "ResNet50": _application("ResNet50"),
    "ResNet50V2": _application("ResNet50V2"),
    "VGG16": Network(_vgg, (32, 32, 3), chain=True),
    "Xception": _application("Xception", 71),
}


# -- Networks of other kinds -----------------------------------------------------------------------------------


def _block(x: Any, channels: int) -> Any:
    for _ in range(2):
        x = layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    return x


def _unet() -> Any:
    """Three levels; the way up is transposed convolutions, with a batch norm or a bias."""
    inputs = x = layers.Input((32, 32, 3))
    before = []
    for channels in (32, 64):
        x = _block(x, channels)
        before.append(x)
        x = layers.MaxPooling2D()(x)
    x = _block(x, 128)
    for skip, normed in zip(reversed(before), (True, False), strict=True):
        x = layers.Conv2DTranspose(skip.shape[-1], 2 if normed else 3, strides=2, padding="same", use_bias=not normed)(
            x
        )
        x = layers.ReLU()(layers.BatchNormalization()(x) if normed else x)
        x = _block(layers.Concatenate()([x, skip]), skip.shape[-1])
    return keras.Model(inputs, layers.Conv2D(2, 1)(x))


def _volumes() -> Any:
    """3-D convolutions, as of medical images and films."""
    inputs = x = layers.Input((8, 16, 16, 2))
    for channels, strides in ((32, 1), (64, 2), (64, (1, 2, 2))):
        x = layers.Conv3D(channels, 3, strides, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv3D(64, 1, activation="relu")(layers.AveragePooling3D(2)(x))
    return keras.Model(inputs, layers.Dense(20)(layers.Flatten()(x)))


def _attention(x: Any, heads: int) -> Any:
    """Self-attention of Dense layers and matrix products."""
    length, width = x.shape[1:]

    def by_head(y: Any) -> Any:
        return layers.Permute((2, 1, 3))(layers.Reshape((length, heads, width // heads))(y))

    query, key, value = (by_head(layers.Dense(width)(x)) for _ in range(3))
    scores = keras.ops.matmul(query, keras.ops.transpose(key, (0, 1, 3, 2))) / np.sqrt(width / heads)
    mixed = keras.ops.matmul(layers.Softmax()(scores), value)
    return layers.Dense(width)(layers.Reshape((length, width))(layers.Permute((2, 1, 3))(mixed)))


def _transformer() -> Any:
    """Two encoder layers with normalization behind the sum."""
    inputs = layers.Input((16, 24))
    x = layers.Dense(64)(inputs)
    for _ in range(2):
        x = layers.LayerNormalization()(x + _attention(x, heads=4))
        y = layers.Dense(64)(layers.Dense(256, activation="gelu")(x))
        x = layers.LayerNormalization()(x + y)
    return keras.Model(inputs, layers.Dense(20)(layers.Flatten()(x)))


def _lstm() -> Any:
    """1-D convolutions, an LSTM in a while loop, a classifier."""
    inputs = layers.Input((16, 12))
    x = layers.Conv1D(128, 3, padding="same", activation="relu")(inputs)
    x = layers.Conv1D(256, 3, padding="same", activation="relu")(x)
    x = layers.LSTM(32)(x)
    return keras.Model(inputs, layers.Dense(20)(layers.Dense(256, activation="relu")(x)))


OTHERS = {
    "U-Net": Network(_unet, (32, 32, 3)),
    "3-D": Network(_volumes, (8, 16, 16, 2)),
    "Transformer": Network(
        _transformer,
        (16, 24),
        stays_float={"BatchMatMulV2": r"its weights '.*' are computed, not a constant or a variable"},
        most_size=0.5,
    ),
    "LSTM": Network(
        _lstm,
        (16, 12),
        chain=True,
        stays_float={"MatMul": r"it is inside a while loop or a cond"},
        most_size=0.6,
    ),
}

NETWORKS = {**APPLICATIONS, **OTHERS}


# -- Data and parameters ---------------------------------------------------------------------------------------


def samples(seed: int, count: int, network: Network) -> np.ndarray:
    """Random normal samples that differ in more than noise, which pooling would average away."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, *network.shape))
    for axis, size in enumerate(network.shape[:-1], start=1):  # four steps along each axis
        x[...] = x.take(np.arange(size) // -(-size // 4) * -(-size // 4), axis=axis)
    x = (x + 0.5 * random.normal(size=x.shape)).astype(np.float32)
    return 127.5 + 64 * x if network.pixels else x


def settle(network: Network, model: Any, x: np.ndarray) -> None:
    """Gives an untrained model parameters with which it tells inputs apart.

    Batch norms get the statistics of the data, and offsets that let most of it through the ReLUs: a deep random
    network of closed ReLUs is chaotic, it blows up whatever is added to its input.
    """
    random = np.random.default_rng(0)
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
            _assign_uniform(random, layer.gamma, 0.8, 1.2)
            _assign_uniform(random, layer.beta, 1.0, 2.0)
        elif isinstance(layer, layers.Dropout):
            layer.rate = 0.0
        elif type(layer).__name__ == "LayerScale":  # of ConvNeXt, which starts at 1e-6
            _assign_uniform(random, layer.gamma, 0.5, 1.5)
        elif getattr(layer, "bias", None) is not None:
            layer.bias.assign(random.normal(size=layer.bias.shape, scale=0.1))
    if network.chain:
        _settle_chain(model, x)
    else:
        model(x, training=True)


def _assign_uniform(random: np.random.Generator, variable: Any, low: float, high: float) -> None:
    if variable is not None:
        variable.assign(random.uniform(low, high, variable.shape))


def _settle_chain(model: Any, x: np.ndarray) -> None:
    """Makes what comes out of each layer of a chain of mean 1 and deviation 1, before its activation."""
    for layer in model.layers[1:]:  # without the input
        if isinstance(layer, (layers.Conv1D, layers.Conv2D, layers.Dense)):
            activation, layer.activation = layer.activation, keras.activations.linear
            y = np.asarray(layer(x)).reshape(-1, layer.bias.shape[0])
            mean, deviation = y.mean(axis=0), y.std(axis=0) + 1e-6
            layer.kernel.assign(layer.kernel / deviation)
            layer.bias.assign((layer.bias - mean) / deviation + 1.0)
            layer.activation = activation
        x = layer(x)
