"""What is done in which order to make an ONNX model of an int8 model."""

from __future__ import annotations

import os

import onnx_ir as ir
import onnx_ir.passes.common as passes
import tensorflow as tf

from amct_tensorflow._version import __version__
from amct_tensorflow.export.onnx.conversion import to_onnx
from amct_tensorflow.export.onnx.kernels import reason_against_int8
from amct_tensorflow.export.onnx.outputs import keep_outputs_apart
from amct_tensorflow.export.onnx.quantizers import move_quantizers_up
from amct_tensorflow.export.onnx.weights import put_weights
from amct_tensorflow.export.quantized_model import QuantizedModel
from amct_tensorflow.export.report import ExportedLayer
from amct_tensorflow.graph.model_file import extract
from amct_tensorflow.graph_passes.performing.restore_reals import restore_reals
from amct_tensorflow.graph_passes.planning.find_deployed import DeployedLayer, IntegerWeights


def onnx_model(model: QuantizedModel, opset: int) -> tuple[ir.Model, list[ExportedLayer]]:
    """Returns the ONNX model and what becomes of the layers; edits the graph of the int8 model.

    Raises:
        AmctValueError, AmctRuntimeError: as `to_onnx`, and where a layer is not as this version writes it.
    """
    weights: dict[str, IntegerWeights] = {}

    def stand_in(layer: DeployedLayer) -> tf.Tensor:
        integers = layer.integers()
        made = tf.compat.v1.placeholder(tf.float32, integers.values.shape, name=f"{layer.name}/weights")
        weights[made.op.name] = integers
        stands_in[layer.name] = made.op.name
        return made

    stands_in: dict[str, str] = {}
    names = [tensor.name for tensor in model.outputs]
    graph_def = extract(model.graph, names, restore_reals(model.graph, model.layers, stand_in), {})
    exported = to_onnx(graph_def, [*(tensor.op.name for tensor in model.inputs), *weights], names, opset)
    passes.ShapeInferencePass()(exported)  # tf2onnx moves nodes and forgets their shapes
    values = put_weights(exported.graph, weights)
    keep_outputs_apart(exported.graph)
    move_quantizers_up(exported.graph)
    exported.graph.sort()
    for clean in (passes.RemoveUnusedNodesPass(), passes.DeduplicateInitializersPass()):
        clean(exported)
    exported.producer_name, exported.producer_version = "amct_tensorflow", __version__
    exported.graph.name = os.path.basename(model.name)
    named = {str(node.name): node for node in exported.graph}
    nodes = {layer: next(iter(values[name].consumers()), None) for layer, name in stands_in.items()}
    return exported, [
        ExportedLayer(layer.name, layer.op.type, reason_against_int8(nodes.get(layer.name, named.get(layer.name))))
        for layer in model.layers
    ]
