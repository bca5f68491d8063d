"""The job export_tensorflow."""

from __future__ import annotations

import os

import tensorflow as tf

from amct_tensorflow.arguments import check_types
from amct_tensorflow.errors import AmctRuntimeError, AmctValueError
from amct_tensorflow.export.kernels import ExportedLayer, ExportReport, log_layers
from amct_tensorflow.export.quantized_model import QuantizedModel
from amct_tensorflow.files import warn_if_exists, write_file
from amct_tensorflow.graph import int8_ops
from amct_tensorflow.graph.edit import upstream
from amct_tensorflow.graph.large_constants import add_constant
from amct_tensorflow.graph.model_file import GraphDef, extract, serialize
from amct_tensorflow.graph.sources import MODEL_TYPES, ModelSource
from amct_tensorflow.graph_passes.performing.insert_int8_ops import insert_int8_ops
from amct_tensorflow.graph_passes.performing.restore_reals import restore_reals
from amct_tensorflow.graph_passes.planning.find_deployed import DeployedLayer
from amct_tensorflow.graph_passes.planning.plan_int8_ops import Int8Layer, reason_against_int8_op
from amct_tensorflow.log import LOGGER

_MODULE = "export_tensorflow"
_SUFFIX = ".pb"


@check_types(quantized_pb=MODEL_TYPES, save_path=str)
def export_tensorflow(quantized_pb: ModelSource, save_path: str, outputs: list[str] | None = None) -> ExportReport:
    """Writes an int8 model as a .pb that TensorFlow alone computes in int8, with its ops of oneDNN, on x86 CPUs.

    The factors, integer weights and biases are those of the int8 model; activations are uint8 with zero point
    offset_d + 128. The shifts N of the chip are not there. What TensorFlow has no int8 op for computes in float.

    Args:
        quantized_pb: the int8 model that save_model or one of the convert jobs wrote.
        save_path: the file to write; ``.pb`` is added where it is missing.
        outputs: names of its output ops, ``op``, or of their outputs, ``op:1``; by default all that nothing consumes.

    Returns:
        The layers, and which of them are computed in int8.

    Raises:
        AmctTypeError, AmctValueError: an argument cannot be used, or the model is not an int8 model of this version.
        AmctRuntimeError: this TensorFlow has no int8 ops, or the file cannot be written. Nothing is written then.
    """
    if not int8_ops.are_there():
        raise AmctRuntimeError("this TensorFlow was built without the int8 ops of oneDNN: install that of PyPI for x86")
    if os.path.basename(save_path) in ("", _SUFFIX):
        raise AmctValueError(f"save_path '{save_path}' has no file name: give the path of the file to write")
    path = save_path if save_path.endswith(_SUFFIX) else save_path + _SUFFIX
    model = QuantizedModel.load(quantized_pb, outputs)
    graph_def, layers = _convert(model)
    content = serialize(graph_def, path)
    warn_if_exists(path, _MODULE)
    write_file(path, content, kind="model")
    log_layers(layers, "TensorFlow", _MODULE)
    LOGGER.push_info_message(f"The model is saved in <{path}>", _MODULE)
    names = [[tensor.name.removesuffix(":0") for tensor in tensors] for tensors in (model.inputs, model.outputs)]
    return ExportReport((path,), tuple(layers), *map(tuple, names))


def _convert(model: QuantizedModel) -> tuple[GraphDef, list[ExportedLayer]]:
    """Returns the graph and what becomes of the layers."""
    names = [tensor.name for tensor in model.outputs]
    reasons = {layer.name: reason_against_int8_op(layer, names) for layer in model.layers}
    planned = [Int8Layer.of(layer) for layer in model.layers if reasons[layer.name] is None]

    def make_weights(layer: DeployedLayer) -> tf.Tensor:
        name = f"{layer.name}/weights"
        if reasons[layer.name] is None:
            return tf.compat.v1.placeholder(tf.float32, layer.op.inputs[layer.weight_input].shape, name)  # goes again
        return add_constant(layer.integers().in_reals(), name)

    moved = restore_reals(model.graph, model.layers, make_weights)
    ends = [moved.get(tensor.op.name, tensor) for tensor in model.outputs]
    live, fetched = upstream(tensor.op for tensor in ends), [tensor.name for tensor in ends]
    inserted = insert_int8_ops(model.graph, planned, live, fetched)
    for tensor, end in zip(model.outputs, ends, strict=True):
        if end.name in inserted.replaced:
            moved[tensor.op.name] = inserted.replaced[end.name]
    graph_def = extract(model.graph, names, moved, inserted.clones)
    return graph_def, [ExportedLayer(layer.name, layer.op.type, reasons[layer.name]) for layer in model.layers]
