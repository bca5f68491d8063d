"""What is done in which order to make a graph with TensorFlow's own int8 ops of an int8 model."""

from __future__ import annotations

import tensorflow as tf

from amct_tensorflow.export.quantized_model import QuantizedModel
from amct_tensorflow.export.report import ExportedLayer
from amct_tensorflow.graph.edit import upstream
from amct_tensorflow.graph.model_file import GraphDef, extract
from amct_tensorflow.graph_passes.performing.insert_int8_ops import insert_int8_ops
from amct_tensorflow.graph_passes.performing.restore_reals import float_weights, restore_reals
from amct_tensorflow.graph_passes.planning.find_deployed import DeployedLayer
from amct_tensorflow.graph_passes.planning.plan_int8_ops import Int8Layer, reason_against_int8_op


def int8_graph(model: QuantizedModel) -> tuple[GraphDef, list[ExportedLayer]]:
    """Returns the graph and what becomes of the layers; edits the graph of the int8 model."""
    names = [tensor.name for tensor in model.outputs]
    reasons = {layer.name: reason_against_int8_op(layer) for layer in model.layers}
    planned = [Int8Layer.of(layer) for layer in model.layers if reasons[layer.name] is None]

    def make_weights(layer: DeployedLayer) -> tf.Tensor:
        if reasons[layer.name] is not None:
            return float_weights(layer)
        shape = layer.op.inputs[layer.weight_input].shape
        return tf.compat.v1.placeholder(tf.float32, shape, f"{layer.name}/weights")  # goes again

    moved = restore_reals(model.graph, model.layers, make_weights)
    ends = [moved.get(tensor.op.name, tensor) for tensor in model.outputs]
    live, fetched = upstream(tensor.op for tensor in ends), [tensor.name for tensor in ends]
    inserted = insert_int8_ops(model.graph, planned, live, fetched)
    for tensor, end in zip(model.outputs, ends, strict=True):
        if end.name in inserted.replaced:
            moved[tensor.op.name] = inserted.replaced[end.name]
    graph_def = extract(model.graph, names, moved, inserted.clones)
    return graph_def, [ExportedLayer(layer.name, layer.op.type, reasons[layer.name]) for layer in model.layers]
