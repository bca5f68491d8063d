"""Keras models that are made in other ways, and SavedModels of Keras."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

import amct_tensorflow as amct
from amct_tensorflow.analysis.inspect_model import inspect_model
from amct_tensorflow.errors import AmctValueError


def _data(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


class Own(tf.keras.layers.Layer):
    """Has layers inside, without names of their own."""

    def __init__(self, **options):
        super().__init__(**options)
        self.conv, self.norm = tf.keras.layers.Conv2D(4, 3), tf.keras.layers.BatchNormalization()

    def call(self, x):
        return self.norm(self.conv(x))


class MakesLayers(tf.keras.Model):
    """Makes a layer in every call."""

    def __init__(self):
        super().__init__(name="maker")
        self.conv = tf.keras.layers.Conv2D(4, 3)

    def call(self, x):
        return tf.keras.layers.AveragePooling2D(2)(self.conv(x))


def test_layers_inside_of_layers_keep_their_names(tmp_path):
    image = tf.keras.layers.Input([8, 8, 3])
    path = tmp_path / "own.keras"
    tf.keras.Model(image, Own(name="own")(image)).save(path)
    made = MakesLayers()
    made(np.zeros((1, 8, 8, 3), np.float32))
    with tf.keras.utils.custom_object_scope({"Own": Own}):
        for model in (path, made):
            first, second = (amct.load_graph(model).as_graph_def() for _ in range(2))
            assert first.SerializeToString(deterministic=True) == second.SerializeToString(deterministic=True)
    names = [tf.keras.layers.Conv2D(1, 1).name for _ in range(2)]
    assert names[0] != names[1]  # Keras goes on counting where it was


@pytest.mark.parametrize("save", ["export", "tf.saved_model.save"])
def test_a_saved_model_of_keras_leaves_no_float_weights(tmp_path, save):
    """TensorFlow puts control edges from all weights to the outputs."""
    layers = tf.keras.layers
    image = layers.Input([8, 8, 3], name="image")
    y = layers.BatchNormalization()(layers.Conv2D(32, 3)(layers.Conv2D(32, 3, activation="relu")(image)))
    model = tf.keras.Model(image, layers.Dense(5)(layers.Flatten()(y)))
    folder = str(tmp_path / "model")
    if save == "export":
        model.export(folder, verbose=False)
    else:
        tf.saved_model.save(model, folder)
    graph = amct.load_graph(folder)
    config, record = str(tmp_path / "config.json"), str(tmp_path / "record.txt")
    amct.create_quant_config(config, graph)
    amct.quantize_model(graph, config, record)
    with tf.compat.v1.Session(graph=graph) as session:
        [fed] = [op.outputs[0] for op in graph.get_operations() if op.type == "Placeholder"]
        session.run("output_0:0", {fed: _data(4, 8, 8, 3)})
    amct.save_model(folder, ["output_0"], record, str(tmp_path / "int8"))
    float_size = len(amct.load_graph(folder).as_graph_def().SerializeToString())
    assert (tmp_path / "int8_quantized.pb").stat().st_size < 0.45 * float_size


class TwoArguments(tf.keras.Model):
    def __init__(self):
        super().__init__(name="two")
        self.dense = tf.keras.layers.Dense(3)

    def call(self, a, b):
        return self.dense(a) + self.dense(b)


class NoneBeside(tf.keras.Model):
    def __init__(self):
        super().__init__(name="beside")
        self.dense = tf.keras.layers.Dense(3)

    def call(self, x):
        return {"y": self.dense(x), "state": None}


def test_odd_models(tmp_path):
    model = NoneBeside()
    model(_data(2, 7))
    assert inspect_model(amct.load_graph(model)).outputs == ("y:0",)
    model = TwoArguments()
    model(_data(2, 7), _data(2, 7))
    with pytest.raises(AmctValueError, match=r"'two' takes 2 arguments \(a, b\), and only the shape of the first"):
        amct.load_graph(model)
    image = tf.keras.layers.Input([7])
    named = tf.keras.Model(image, tf.keras.layers.Dense(3, name="a b")(image))
    with pytest.raises(AmctValueError, match="'a b' is not a valid scope name"):
        amct.load_graph(named)
    model = tf.keras.Sequential([tf.keras.layers.Input([8, 8, 3]), tf.keras.layers.RandomFlip()])
    model.export(tmp_path / "flips", verbose=False)
    with pytest.raises(AmctValueError, match=r"flips writes a variable while it runs, at .*pass the Keras model"):
        amct.load_graph(tmp_path / "flips")


def test_a_damaged_file_of_variables(tmp_path):
    model = tf.keras.Sequential([tf.keras.layers.Input([7]), tf.keras.layers.Dense(30)])
    model.export(tmp_path / "cut", verbose=False)
    [data] = (tmp_path / "cut" / "variables").glob("*.data-*")
    data.write_bytes(data.read_bytes()[: data.stat().st_size // 2])
    with pytest.raises(AmctValueError, match=r"the SavedModel .*cut cannot be read .*: save it again"):
        amct.load_graph(tmp_path / "cut")
