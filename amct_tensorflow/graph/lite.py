"""TensorFlow's converter to TFLite, and its files as objects.

The classes are those that TensorFlow generates from the schema of the format: ``SubGraphT`` and the like.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from tensorflow.lite.python import schema_py_generated
from tensorflow.lite.tools import flatbuffer_utils
from tensorflow.python.eager import context

from amct_tensorflow.errors import AmctRuntimeError, AmctValueError, reason_of
from amct_tensorflow.graph.model_file import GraphDef
from amct_tensorflow.log import silenced

schema = schema_py_generated  # for those who edit such objects

_OPERATORS = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
_LOGGERS = ("absl", "tensorflow")
_SAME = {"FusedBatchNormV2": "FusedBatchNormV3"}
_SIGNATURE = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY


def to_lite(graph_def: GraphDef, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """Returns the ``ModelT`` that the converter makes of a graph with fake-quant ops: int8 where these say so.

    An op that TFLite does not have becomes an operator CUSTOM.

    Args:
        graph_def: the graph.
        inputs: names of the placeholders, which are their names in the signature, too.
        outputs: names of tensors, ``op:0``; likewise.

    Raises:
        AmctValueError: TFLite cannot express the graph.
        AmctRuntimeError: the graph cannot be written into the folder for temporary files.
    """
    _name_known_types(graph_def)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model")
        _write_saved_model(graph_def, inputs, outputs, path)
        try:
            with silenced(*_LOGGERS), context.eager_mode():  # else an older converter would be called
                converter = tf.lite.TFLiteConverter.from_saved_model(path)
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
                converter.allow_custom_ops = True
                content = converter.convert()
        except Exception as error:  # the converter raises what it comes across
            raise AmctValueError(
                f"TensorFlow's converter cannot express the model in TFLite ({reason_of(error)}): name outputs in "
                "front of what it cannot, and compute the rest outside of the model"
            ) from error
    return flatbuffer_utils.read_model_from_bytearray(bytearray(content))


def serialize_lite(model: Any) -> bytes:
    """Returns the content of a .tflite."""
    return flatbuffer_utils.convert_object_to_bytearray(model)


def operator_name(model: Any, operator: Any) -> str:
    """Returns what an operator computes, ``CONV_2D``; for CUSTOM the name of its TensorFlow op type."""
    code = model.operatorCodes[operator.opcodeIndex]
    name = _OPERATORS[max(code.builtinCode, code.deprecatedBuiltinCode)]
    return code.customCode.decode() if name == "CUSTOM" else name


def unknown_ops(model: Any, fence: str) -> list[str]:
    """Returns type and name of the TensorFlow ops that the converter does not know, but for those of type `fence`."""
    found = []
    for graph in model.subgraphs:
        for operator in graph.operators:
            code = model.operatorCodes[operator.opcodeIndex]
            if code.customCode is not None and code.customCode.decode() != fence:
                [name, *_] = graph.tensors[operator.outputs[0]].name.decode().split(";")
                found.append(f"{code.customCode.decode()} {name.removesuffix(':0')}")
    return found


def _name_known_types(graph_def: GraphDef) -> None:
    """Calls ops by the names of types that the converter knows and that do the same."""
    for nodes in (graph_def.node, *(function.node_def for function in graph_def.library.function)):
        for node in nodes:
            node.op = _SAME.get(node.op, node.op)


def _write_saved_model(graph_def: GraphDef, inputs: Sequence[str], outputs: Sequence[str], path: str) -> None:
    saved_model = tf.compat.v1.saved_model
    with tf.Graph().as_default() as graph, silenced(*_LOGGERS):
        tf.import_graph_def(graph_def, name="")

        def infos(tensors: Sequence[str]) -> dict[str, Any]:
            return {name: saved_model.build_tensor_info(graph.get_tensor_by_name(name)) for name in tensors}

        given = {name.removesuffix(":0"): info for name, info in infos([f"{name}:0" for name in inputs]).items()}
        signature = saved_model.build_signature_def(given, infos(outputs), tf.saved_model.PREDICT_METHOD_NAME)
        try:
            with tf.compat.v1.Session(graph=graph) as session:
                builder = saved_model.Builder(path)
                builder.add_meta_graph_and_variables(session, [tf.saved_model.SERVING], {_SIGNATURE: signature})
                builder.save()
        except (OSError, ValueError, tf.errors.OpError) as error:
            raise AmctRuntimeError(
                f"the graph cannot be handed to TensorFlow's converter ({reason_of(error)}): set TMPDIR to a folder "
                "with room for it"
            ) from error
