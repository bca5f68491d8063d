"""Models in all forms in which TensorFlow has them, read into a new tf.Graph with weights as constants."""

from __future__ import annotations

import os
from typing import TypeAlias

import tensorflow as tf

from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.files import similar_file
from amct_tensorflow.graph.freeze import inline
from amct_tensorflow.graph.keras_model import KerasModel, freeze_keras, is_keras_file, load_keras
from amct_tensorflow.graph.model_file import import_graph, read_graph_def
from amct_tensorflow.graph.saved_model import read_saved_model, saved_model_folder

ModelSource: TypeAlias = str | tf.Graph | KerasModel
MODEL_TYPES = (str, tf.Graph, KerasModel)

FORMS = "a frozen .pb or .pbtxt, a SavedModel folder, or a .keras or .h5 file"


def name_of(model: ModelSource) -> str:
    """Returns how messages call the model: its path, if it has one."""
    if isinstance(model, str):
        return model
    return "the graph" if isinstance(model, tf.Graph) else f"the Keras model '{model.name}'"


def is_binary_graph(path: str) -> bool:
    """Tells whether a path is none of the forms of a model that take long to read."""
    return (
        not path.endswith(".pbtxt")
        and os.path.isfile(path)
        and not is_keras_file(path)
        and not saved_model_folder(path)
    )


def read_model(model: ModelSource, signature: str | None = None) -> tf.Graph:
    """Returns a new graph of the model, the same at every call.

    Args:
        model: path of a frozen .pb or .pbtxt, of a SavedModel folder or of a .keras or .h5 file; or a Keras model; or a
            graph, which is copied. Variables in a .pb or a graph stay variables.
        signature: for a SavedModel, which; serving_default by default.

    Raises:
        AmctValueError: the model cannot be read or frozen, or it has no such signature.
    """
    where = name_of(model)
    folder = saved_model_folder(model) if isinstance(model, str) else None
    if folder is not None:
        return import_graph(read_saved_model(folder, signature), where)
    if signature is not None:
        raise AmctValueError(f"{where} has no signatures, only a SavedModel has: leave signature out")
    if isinstance(model, tf.Graph):
        return import_graph(model.as_graph_def(), where)
    if not isinstance(model, str):
        return import_graph(freeze_keras(model, where), where)
    _check_path(model)
    if is_keras_file(model):
        return import_graph(freeze_keras(load_keras(model), where), where)
    return import_graph(inline(read_graph_def(model), where), where)


def _check_path(path: str) -> None:
    if not path:
        raise AmctValueError(f"the path of the model is empty: pass that of {FORMS}")
    if not os.path.exists(path):
        raise AmctValueError(f"the model {path} does not exist{similar_file(path) or f': pass the path of {FORMS}'}")
    if os.path.isdir(path):
        raise AmctValueError(f"{path} is a folder without a saved_model.pb: pass the path of {FORMS}")
    if not os.access(path, os.R_OK):
        raise AmctValueError(f"{path} cannot be read (Permission denied); give yourself the right to read it")
