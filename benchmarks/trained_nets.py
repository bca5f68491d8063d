"""Small nets of the kinds that are deployed on devices, trained here within minutes: same seeds, same data.

The autoencoder, the MobileNetV1 and the keyword spotter have the architectures of the MLPerf Tiny benchmark.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import keras
import made_data
import tensorflow as tf
from keras import layers

Tensor = keras.KerasTensor


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a net is built and trained; the last layer of the model gives the logits."""

    build: Callable[[], keras.Model]
    data: Callable[[], made_data.Data]
    epochs: int
    learning_rate: float = 1e-3
    batch_size: int = 64
    images: bool = False  # whether flipped and shifted ones are more of the same


def autoencoder() -> keras.Model:
    """The anomaly detector: dense layers 640 - 4 x 128 - 8 - 4 x 128 - 640 with batch norms."""
    start = x = keras.Input([640])
    for units in (128, 128, 128, 128, 8, 128, 128, 128, 128):
        x = normalized(layers.Dense(units)(x))
    return keras.Model(start, layers.Dense(640)(x))


def mobilenet_v1() -> keras.Model:
    """MobileNetV1 of width 0.25 for 96 x 96 images, as it detects persons."""
    start = keras.Input([96, 96, 3])
    x = normalized(layers.Conv2D(8, 3, 2, "same", use_bias=False)(start))
    for channels, stride in (
        (16, 1),
        (32, 2),
        (32, 1),
        (64, 2),
        (64, 1),
        (128, 2),
        *[(128, 1)] * 5,
        (256, 2),
        (256, 1),
    ):
        x = separable(x, channels, stride)
    return keras.Model(start, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))


def ds_cnn() -> keras.Model:
    """The keyword spotter: a convolution and four depthwise separable ones of 64 channels."""
    start = keras.Input([49, 10, 1])
    x = normalized(layers.Conv2D(64, (10, 4), 2, "same")(start))
    x = layers.Dropout(0.2)(x)
    for _ in range(4):
        x = separable(x, 64, 1)
    x = layers.AveragePooling2D((25, 5))(layers.Dropout(0.4)(x))
    return keras.Model(start, layers.Dense(12)(layers.Flatten()(x)))


def plain_cnn() -> keras.Model:
    """Convolutions and dense layers without batch norms."""
    start = keras.Input([49, 10, 1])
    x = layers.Conv2D(28, (10, 4), activation="relu")(start)
    x = layers.Conv2D(30, (10, 4), (2, 1), activation="relu")(x)
    x = layers.Dense(16)(layers.Flatten()(x))
    x = layers.Dropout(0.2)(layers.Dense(128, activation="relu")(x))
    return keras.Model(start, layers.Dense(12)(x))


def dense_net() -> keras.Model:
    """Three hidden dense layers without batch norms."""
    start = keras.Input([49, 10, 1])
    x = layers.Flatten()(start)
    for _ in range(3):
        x = layers.Dropout(0.2)(layers.Dense(144, activation="relu")(x))
    return keras.Model(start, layers.Dense(12)(x))


def transformer() -> keras.Model:
    """An encoder of two blocks of width 64 with four heads."""
    start = keras.Input([49, 10, 1])
    x = layers.BatchNormalization()(layers.Reshape([49, 10])(start))
    x = AddPositions()(layers.Dense(64)(x))
    for _ in range(2):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(4, 16, dropout=0.1)(y, y)
        y = layers.Dense(128, activation=gelu)(layers.LayerNormalization()(x))
        x = x + layers.Dropout(0.1)(layers.Dense(64)(y))
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(start, layers.Dense(12)(x))


def gelu(x: Tensor) -> Tensor:
    """Gelu by Tanh: for the exact one TensorFlow has an op that tf2onnx does not know."""
    return keras.activations.gelu(x, approximate=True)


class AddPositions(layers.Layer):
    """Adds a trained vector to each place of a sequence."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        """Makes the vectors."""
        self.positions = self.add_weight(shape=shape[1:], initializer=keras.initializers.RandomNormal(stddev=0.02))

    def call(self, x: tf.Tensor) -> tf.Tensor:
        """Adds them."""
        return x + self.positions


def normalized(x: Tensor) -> Tensor:
    """A batch norm and a Relu behind a layer."""
    return layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))


def separable(x: Tensor, channels: int, stride: int) -> Tensor:
    """A depthwise convolution and one that mixes channels."""
    x = normalized(layers.DepthwiseConv2D(3, stride, "same", use_bias=False)(x))
    return normalized(layers.Conv2D(channels, 1, use_bias=False)(x))


RECIPES = {
    "autoencoder": Recipe(autoencoder, made_data.spectra, epochs=30, batch_size=256),
    "mobilenet_v1": Recipe(mobilenet_v1, made_data.animals, epochs=50, learning_rate=4e-3, batch_size=32, images=True),
    "ds_cnn": Recipe(ds_cnn, made_data.words, epochs=10),
    "plain_cnn": Recipe(plain_cnn, made_data.words, epochs=12),
    "dense_net": Recipe(dense_net, made_data.words, epochs=20),
    "transformer": Recipe(transformer, made_data.words, epochs=20),
}


def train(recipe: Recipe) -> tuple[keras.Model, made_data.Data]:
    """Trains a net from fixed seeds."""
    keras.utils.set_random_seed(1)
    data, model = recipe.data(), recipe.build()
    steps = recipe.epochs * -(-len(data.train) // recipe.batch_size)
    loss = "mse" if data.train_labels is None else keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(recipe.learning_rate, steps)), loss)
    model.fit(batches(recipe, data), epochs=recipe.epochs, steps_per_epoch=steps // recipe.epochs, verbose=0)
    return model, data


def batches(recipe: Recipe, data: made_data.Data) -> tf.data.Dataset:
    """Endless batches to train on, in an order that the seeds give."""
    targets = data.train if data.train_labels is None else data.train_labels
    found = tf.data.Dataset.from_tensor_slices((data.train, targets)).shuffle(len(targets), seed=1).repeat()
    if recipe.images:
        found = found.map(vary)
    return found.batch(recipe.batch_size).prefetch(2)


def vary(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Flips and shifts an image."""
    padded = tf.pad(image, [[8, 8], [8, 8], [0, 0]], "REFLECT")
    return tf.image.random_flip_left_right(tf.image.random_crop(padded, image.shape)), label
