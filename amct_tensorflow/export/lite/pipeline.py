"""What is done in which order to make a TFLite model of an int8 model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from amct_tensorflow.export.checks import refuse_ops
from amct_tensorflow.export.lite.ends import order_ends, remove_fences
from amct_tensorflow.export.lite.kernels import find_operator, reason_against_int8
from amct_tensorflow.export.lite.narrow_weights import NarrowWeights
from amct_tensorflow.export.lite.weights import name_of_weights, put_weights
from amct_tensorflow.export.quantized_model import QuantizedModel
from amct_tensorflow.export.report import ExportedLayer
from amct_tensorflow.graph.halves import widen_halves
from amct_tensorflow.graph.lite import to_lite, unknown_ops
from amct_tensorflow.graph.model_file import extract
from amct_tensorflow.graph_passes.performing.fake_quantize import FENCE, fake_quantize, fake_quantized_weights
from amct_tensorflow.graph_passes.performing.restore_reals import restore_reals
from amct_tensorflow.graph_passes.planning.find_deployed import DeployedLayer


def lite_model(model: QuantizedModel, weights: Mapping[str, NarrowWeights]) -> tuple[Any, list[ExportedLayer]]:
    """Returns the TFLite model and what becomes of the layers; edits the graph of the int8 model.

    Raises:
        AmctValueError, AmctRuntimeError: as `to_lite`, or where TFLite has no such op.
    """

    def make_weights(layer: DeployedLayer) -> tf.Tensor:
        return fake_quantized_weights(weights[layer.name].weights, name_of_weights(layer.name))

    moved = restore_reals(model.graph, model.layers, make_weights)
    ends = fake_quantize(model.graph, model.layers, model.outputs, moved)
    inputs = {tensor.op.name: tensor.op.name for tensor in model.inputs}
    outputs = {end.name: output.name.removesuffix(":0") for end, output in zip(ends, model.outputs, strict=True)}
    graph_def = extract(model.graph, outputs, {}, {})
    widen_halves(graph_def)
    exported = to_lite(graph_def, list(inputs), list(outputs))
    refuse_ops(unknown_ops(exported, FENCE), "TFLite")
    order_ends(exported, inputs, outputs)
    remove_fences(exported, FENCE)
    operators = put_weights(exported, weights)
    layers = []
    for layer in model.layers:
        operator = operators.get(layer.name) or find_operator(exported, _names_of_results(layer))
        layers.append(ExportedLayer(layer.name, layer.op.type, reason_against_int8(exported, operator)))
    return exported, layers


def _names_of_results(layer: DeployedLayer) -> list[str]:
    """Returns names that the result of a layer may have, where its weights have gone into those of another one."""
    return [layer.name, f"{layer.name}/Mean", *([] if layer.bias_add is None else [layer.bias_add.name])]
