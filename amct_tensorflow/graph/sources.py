"""Models in all forms in which TensorFlow has them, read into a new tf.Graph with weights as constants."""

from __future__ import annotations

import os
from typing import TypeAlias

import tensorflow as tf

from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.files import similar_file
from amct_tensorflow.graph.file_forms import FORMS, Form, form_of, refuse_checkpoint
from amct_tensorflow.graph.freeze import inline
from amct_tensorflow.graph.keras_model import KERAS_SUFFIXES, KerasModel, freeze_keras, load_keras
from amct_tensorflow.graph.model_file import GraphDef, import_graph, read_graph_def
from amct_tensorflow.graph.saved_model import (
    SAVED_MODEL_NAMES,
    read_saved_model,
    saved_model_file,
    saved_model_folder,
)

ModelSource: TypeAlias = str | tf.Graph | KerasModel
MODEL_TYPES = (str, tf.Graph, KerasModel)


def name_of(model: ModelSource) -> str:
    """Returns how messages call the model: its path, if it has one."""
    if isinstance(model, str):
        return model
    return "the graph" if isinstance(model, tf.Graph) else f"the Keras model '{model.name}'"


def is_binary_graph(path: str) -> bool:
    """Tells whether a path is none of the forms of a model that take long to read.

    Raises:
        AmctValueError: as `form_of`.
    """
    return os.path.isfile(path) and form_of(path) is Form.GRAPH


def read_model(model: ModelSource, signature: str | None = None) -> tf.Graph:
    """Returns a new graph of the model, the same at every call.

    Args:
        model: path of a frozen .pb or .pbtxt, of a SavedModel folder or of a .keras or .h5 file, told by their content;
            or a Keras model; or a graph, which is copied. Variables in a .pb or a graph stay variables.
        signature: for a SavedModel, which; serving_default by default.

    Raises:
        AmctValueError: the model cannot be read or frozen, or it has no such signature.
    """
    where = name_of(model)
    if isinstance(model, str):
        return import_graph(_read_path(model, signature), where)
    _refuse_signature(signature, where)
    return import_graph(model.as_graph_def() if isinstance(model, tf.Graph) else freeze_keras(model, where), where)


def _read_path(path: str, signature: str | None) -> GraphDef:
    _check_path(path)
    file = saved_model_file(path) or path
    form = form_of(file)
    if form in SAVED_MODEL_NAMES:
        return read_saved_model(saved_model_folder(file, form), signature)
    _refuse_signature(signature, path)
    if form in KERAS_SUFFIXES:
        return freeze_keras(load_keras(file, form), path)
    return inline(read_graph_def(file), path)


def _refuse_signature(signature: str | None, where: str) -> None:
    if signature is not None:
        raise AmctValueError(f"{where} has no signatures, only a SavedModel has: leave signature out")


def _check_path(path: str) -> None:
    if not path:
        raise AmctValueError(f"the path of the model is empty: pass that of {FORMS}")
    if not os.path.isfile(path) and saved_model_file(path) is None:
        refuse_checkpoint(path)
        if os.path.isdir(path):
            raise AmctValueError(f"{path} is a folder without a saved_model.pb: pass the path of {FORMS}")
        raise AmctValueError(f"the model {path} does not exist{similar_file(path) or f': pass the path of {FORMS}'}")
