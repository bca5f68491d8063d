"""SavedModels of TensorFlow 2 and 1: one signature, frozen."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_from_session_graph
from tensorflow.python.saved_model.loader_impl import SavedModelLoader, parse_saved_model

from amct_tensorflow.errors import AmctValueError, did_you_mean, reason_of
from amct_tensorflow.graph.file_forms import Form, refuse_stand_ins
from amct_tensorflow.graph.freeze import freeze, inline, refuse_state
from amct_tensorflow.graph.model_file import GraphDef, check_file_size, check_weights, node_of
from amct_tensorflow.graph.tidy import forget_origin, prune

DEFAULT_SIGNATURE = "serving_default"

SAVED_MODEL_NAMES = {Form.SAVED_MODEL: "saved_model.pb", Form.TEXT_SAVED_MODEL: "saved_model.pbtxt"}

_SERVE = "serve"
_INIT = "__saved_model_init_op"  # stands among the signatures, but is none

MetaGraph: TypeAlias = Any
Signature: TypeAlias = Any


def saved_model_file(folder: str) -> str | None:
    """Returns the file with the graph of a SavedModel's folder, or None if `folder` is none."""
    paths = (os.path.join(folder, name) for name in SAVED_MODEL_NAMES.values())
    return next((path for path in paths if os.path.isfile(path)), None)


def saved_model_folder(file: str, form: Form) -> str:
    """Returns the folder of a SavedModel whose graph is in `file`.

    Raises:
        AmctValueError: TensorFlow would not find the file, because it has another name.
    """
    wanted = SAVED_MODEL_NAMES[form]
    if os.path.basename(file) != wanted:
        raise AmctValueError(
            f"{file} is the graph of a SavedModel under another name: call it {wanted}, beside the folder variables"
        )
    return os.path.dirname(file) or "."


def read_saved_model(folder: str, signature: str | None) -> GraphDef:
    """Returns the frozen graph of a signature.

    The placeholders and outputs of a model of TensorFlow 2 are called like the inputs and outputs of the signature; a
    model of TensorFlow 1 keeps the names of its nodes.

    Raises:
        AmctValueError: the folder cannot be read, has no such signature, or cannot be frozen.
    """
    meta_graph = _meta_graph(folder)
    name, chosen = _signature(meta_graph, signature, folder)
    if meta_graph.HasField("object_graph_def"):
        return _freeze_function(folder, name, chosen)
    return _freeze_session(folder, chosen)


def _meta_graph(folder: str) -> MetaGraph:
    for name in SAVED_MODEL_NAMES.values():
        check_file_size(os.path.join(folder, name))
    try:
        found = parse_saved_model(folder).meta_graphs
    except (OSError, ValueError) as error:
        raise AmctValueError(f"the SavedModel {folder} cannot be read ({reason_of(error)}): save it again") from error
    for meta_graph in found:
        if _SERVE in meta_graph.meta_info_def.tags:
            return meta_graph
    tags = ", ".join(sorted({tag for meta_graph in found for tag in meta_graph.meta_info_def.tags})) or "none"
    raise AmctValueError(
        f"the SavedModel {folder} has no graph with the tag 'serve', only {tags}: export it for serving"
    )


def _signature(meta_graph: MetaGraph, wanted: str | None, folder: str) -> tuple[str, Signature]:
    known = {name: found for name, found in sorted(meta_graph.signature_def.items()) if name != _INIT and found.outputs}
    name = DEFAULT_SIGNATURE if wanted is None else wanted
    if name not in known:
        if not known:
            raise AmctValueError(f"the SavedModel {folder} has no signature: export it with one")
        hint = did_you_mean(name, known)
        raise AmctValueError(
            f"the SavedModel {folder} has no signature '{name}'{hint}; give one of those it has: {', '.join(known)}"
        )
    return name, known[name]


def _unreadable(folder: str, error: Exception) -> AmctValueError:
    remedy, variables = "save it again", os.path.join(folder, "variables")
    if os.path.isdir(variables):
        refuse_stand_ins(variables)
    else:
        remedy = "copy its folder variables, too, or save it again"
    return AmctValueError(f"the SavedModel {folder} cannot be read ({reason_of(error)}): {remedy}")


def _freeze_function(folder: str, name: str, signature: Signature) -> GraphDef:
    with context.eager_mode():
        try:
            loaded = tf.saved_model.load(folder, tags=[_SERVE])
        except (OSError, ValueError, LookupError, RuntimeError, tf.errors.OpError) as error:
            raise _unreadable(folder, error) from error
    function = loaded.signatures[name]
    specs = function.structured_input_signature[1]
    inputs = {key: tf.TensorSpec(specs[key].shape, specs[key].dtype) for key in sorted(specs)}

    def call(tensors: Sequence[tf.Tensor]) -> Mapping[str, tf.Tensor]:
        results = function(**dict(zip(inputs, tensors, strict=True)))
        return {key: results[key] for key in sorted(results)}

    return freeze(call, inputs, folder)


def _freeze_session(folder: str, signature: Signature) -> GraphDef:
    ends = [node_of(info.name) for info in (*signature.inputs.values(), *signature.outputs.values()) if info.name]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        try:
            SavedModelLoader(folder).load(session, [_SERVE])
            check_weights(tf.compat.v1.global_variables(), folder)
            graph_def = convert_variables_to_constants_from_session_graph(session, session.graph_def, ends)
        except AmctValueError:
            raise
        except (OSError, ValueError, LookupError, RuntimeError, tf.errors.OpError) as error:
            raise _unreadable(folder, error) from error
    prune(graph_def, ends)
    forget_origin(graph_def)
    refuse_state(graph_def, folder)
    return inline(graph_def, folder)
