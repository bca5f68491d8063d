"""A model that tensorflow_model_optimization trained on handwritten digits, converted to int8."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from small_graphs import load

import amct_tensorflow as amct
from amct_tensorflow.graph.fake_quant import FAKE_QUANT_TYPES
from amct_tensorflow.record import read_record

tf1 = tf.compat.v1

_NEEDED = ("tensorflow_model_optimization", "tf_keras", "sklearn")
_MISSING = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(_MISSING), reason=f"needs {', '.join(_MISSING)}")

# Runs in a process of its own, with Keras 2.
TRAINING = """
import sys
import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
from sklearn.datasets import load_digits
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

layers = tf.keras.layers
tf.keras.utils.set_random_seed(0)


def norm(x):
    return layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.9)(x))


image = tf.keras.Input((8, 8, 1))
x = norm(layers.Conv2D(16, 3, padding="same", use_bias=False, name="stem")(image))
x = norm(layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x))
x = layers.ReLU()(layers.Add()([x, layers.Conv2D(16, 1, name="pointwise")(x)]))
x = layers.Flatten()(layers.AveragePooling2D(2, name="pool")(x))
model = tf.keras.Model(image, layers.Dense(10, activation="softmax", name="dense")(x))

digits = load_digits()
images, labels = (digits.images / 16).astype(np.float32)[..., None], digits.target
float_model = model
float_model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
float_model.fit(images[:1200], labels[:1200], epochs=8, batch_size=32, verbose=0)
trained = tfmot.quantization.keras.quantize_model(float_model)
trained.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
trained.fit(images[:1200], labels[:1200], epochs=4, batch_size=32, verbose=0)

for network, path in ((float_model, sys.argv[1]), (trained, sys.argv[2])):
    call = tf.function(lambda x: network(x, training=False))
    concrete = call.get_concrete_function(tf.TensorSpec([None, 8, 8, 1], tf.float32, name="x"))
    frozen = convert_variables_to_constants_v2(concrete)
    with open(path, "wb") as file:
        file.write(frozen.graph.as_graph_def().SerializeToString())
"""

OUTPUT = "Identity"


@dataclasses.dataclass(frozen=True)
class Models:
    float_pb: Path
    trained: Path
    int8: Path
    record: Path


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Models:
    folder = tmp_path_factory.mktemp("keras")
    script = folder / "train.py"
    script.write_text(TRAINING)
    models = Models(folder / "float.pb", folder / "qat.pb", folder / "int8_quantized.pb", folder / "record.txt")
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1"}
    subprocess.run([sys.executable, str(script), models.float_pb, models.trained], env=environment, check=True)
    amct.convert_qat_model(str(models.trained), [OUTPUT], str(folder / "int8"), str(models.record))
    return models


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return (data.images[1200:] / 16).astype(np.float32)[..., None], data.target[1200:]


def classes(path: Path, images: np.ndarray) -> np.ndarray:
    with tf1.Session(graph=load(path)) as session:
        return session.run(f"{OUTPUT}:0", {"x:0": images}).argmax(1)


def test_it_classifies_as_the_trained_model(models, digits):
    images, labels = digits
    floats, trained, int8 = (classes(path, images) for path in (models.float_pb, models.trained, models.int8))
    assert np.mean(trained == labels) > 0.9
    assert np.mean(int8 == trained) >= 0.99
    assert abs(np.mean(int8 == labels) - np.mean(floats == labels)) < 0.03


def test_all_layers_are_quantized(models):
    types = [op.type for op in load(models.int8).get_operations()]
    assert types.count("AscendDequant") == 5
    assert types.count("AscendWeightQuant") == 4
    assert not set(types) & {*FAKE_QUANT_TYPES, "FusedBatchNormV3"}
    record = read_record(str(models.record))
    assert len(record) == 5
    assert [len(entry.scale_w) for entry in record.values()] == [16, 16, 16, 0, 1]
    assert models.int8.stat().st_size < 0.75 * models.trained.stat().st_size
