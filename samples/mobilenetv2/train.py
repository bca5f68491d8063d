"""Trains the small MobileNetV2 of this sample on scikit-learn's digits and freezes it to a .pb file.

``python train.py`` wrote the model file in this folder; that takes a few minutes on two CPU cores.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from digits import IMAGE_SIZE, Digits, load_digits
from freeze import freeze

DEFAULT_OUTPUT = Path(__file__).with_name("mobilenet_v2_0.35_32_digits.pb")
REQUIRED_ACCURACY = 0.98
MAX_BYTES = 1_000_000

WIDTH = 0.35
# Expansion, channels at width 1.0, repeats, stride of the first repeat. The paper has 1 2 3 4 3 3 1 repeats,
# which make a larger file, and strides 1 2 2 2 1 2 1, which leave a single position of a 32x32 image.
STAGES = [
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 2, 2),
    (6, 64, 2, 2),
    (6, 96, 2, 1),
    (6, 160, 1, 1),
    (6, 320, 1, 1),
]
LAST_CHANNELS = 1280


def main() -> int:
    """Trains, freezes, checks and saves the model; returns the exit code of the process."""
    args = parse_args()
    keras.utils.set_random_seed(args.seed)
    tf.config.experimental.enable_op_determinism()
    data = load_digits()
    model = build_model()
    train(model, data, args.epochs, args.seed)

    graph_def = freeze(model)
    accuracy = evaluate(graph_def, data.test_images, data.test_labels)
    content = graph_def.SerializeToString(deterministic=True)
    print(f"test accuracy {accuracy:.2%} on {len(data.test_labels)} images, {len(content)} bytes")
    if accuracy < REQUIRED_ACCURACY or len(content) >= MAX_BYTES:
        print(f"error: not saved, wanted {REQUIRED_ACCURACY:.0%} and < {MAX_BYTES} bytes", file=sys.stderr)
        return 1
    write_atomically(args.output, content)
    print(f"saved {args.output}")
    return 0


def parse_args() -> argparse.Namespace:
    """Returns the command line arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT, help="frozen graph to write")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def build_model() -> keras.Model:
    """Returns the untrained network. A layer's name is its future op name with dots instead of slashes."""
    image = keras.Input((IMAGE_SIZE, IMAGE_SIZE, 3), name="input")
    x = convolution(image, scaled(32), "MobilenetV2.Conv", kernel=3, stride=2)
    index = 0
    for expansion, channels, repeats, first_stride in STAGES:
        for repeat in range(repeats):
            scope = f"MobilenetV2.expanded_conv_{index}" if index else "MobilenetV2.expanded_conv"
            x = inverted_residual(x, scope, expansion, scaled(channels), first_stride if repeat == 0 else 1)
            index += 1
    x = convolution(x, scaled(LAST_CHANNELS), "MobilenetV2.Conv_1")
    x = keras.layers.AveragePooling2D(x.shape[1:3], name="MobilenetV2.Logits.AvgPool")(x)
    x = keras.layers.Dropout(0.2)(x)
    x = keras.layers.Conv2D(10, 1, name="MobilenetV2.Logits.Conv2d_1c_1x1.Conv2D")(x)
    x = keras.layers.Flatten(name="MobilenetV2.Logits.Squeeze")(x)
    return keras.Model(image, keras.layers.Softmax(name="MobilenetV2.Predictions.Softmax")(x))


def scaled(channels: int) -> int:
    """Returns the channels at the width multiplier: a multiple of 8 that is at most 10 % too small."""
    rounded = max(8, int(channels * WIDTH + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels * WIDTH else rounded + 8


def inverted_residual(
    x: keras.KerasTensor, scope: str, expansion: int, channels: int, stride: int
) -> keras.KerasTensor:
    """Adds a block: expand, filter depthwise, project without activation, add the input where it fits."""
    block_input = x
    if expansion > 1:
        x = convolution(x, expansion * x.shape[-1], f"{scope}.expand")
    depthwise = keras.layers.DepthwiseConv2D(
        3, stride, padding="same", use_bias=False, name=f"{scope}.depthwise.depthwise"
    )
    x = normalization(depthwise(x), f"{scope}.depthwise")
    x = convolution(x, channels, f"{scope}.project", relu=False)
    if x.shape == block_input.shape:
        x = keras.layers.Add(name=f"{scope}.add")([block_input, x])
    return x


def convolution(
    x: keras.KerasTensor, channels: int, scope: str, kernel: int = 1, stride: int = 1, relu: bool = True
) -> keras.KerasTensor:
    """Adds a convolution without bias and what follows it."""
    layer = keras.layers.Conv2D(channels, kernel, stride, padding="same", use_bias=False, name=f"{scope}.Conv2D")
    return normalization(layer(x), scope, relu)


def normalization(x: keras.KerasTensor, scope: str, relu: bool = True) -> keras.KerasTensor:
    """Adds a batch norm and, unless the bottleneck is linear, a ReLU6."""
    x = keras.layers.BatchNormalization(momentum=0.9, name=f"{scope}.BatchNorm.FusedBatchNormV3")(x)
    return keras.layers.ReLU(6.0, name=f"{scope}.Relu6")(x) if relu else x


def train(model: keras.Model, data: Digits, epochs: int, seed: int) -> None:
    """Trains on images shifted by up to one pixel of the original 8x8 digits."""

    def shift(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        padded = tf.pad(image, [[4, 4], [4, 4], [0, 0]], constant_values=-1.0)
        return tf.image.random_crop(padded, image.shape, seed), label

    images = tf.data.Dataset.from_tensor_slices((data.train_images, data.train_labels))
    batches = images.shuffle(len(data.train_labels), seed).map(shift).batch(48)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, epochs * len(batches))
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(batches, epochs=epochs, shuffle=False, verbose=2)


def evaluate(graph_def: tf.compat.v1.GraphDef, images: np.ndarray, labels: np.ndarray) -> float:
    """Returns the top-1 accuracy of the frozen graph."""
    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        tf.graph_util.import_graph_def(graph_def, name="")
        scores = session.run(f"{graph_def.node[-1].name}:0", {"input:0": images})
    return float(np.mean(scores.argmax(axis=1) == labels))


def write_atomically(path: Path, content: bytes) -> None:
    """Writes a file under a temporary name first, so that no reader ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(main())
