"""Planning and performing: the weights of the calibration graph carry the error of their quantization.

Constant weights are quantized now, with the scales of ARQ, and stand in the graph as int8 constants behind a
DequantArq: as floats, they would be in every copy that TensorFlow makes of a graph, beside those of the original layer.
Weights with a variable behind them go through a QuantArq op, which does the same in every run.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from amct_tensorflow.graph.edit import at_root
from amct_tensorflow.graph.large_constants import add_constant
from amct_tensorflow.graph.values import Deferred
from amct_tensorflow.graph_passes.workspace import FloatArray, Layer, Workspace
from amct_tensorflow.ops import RecordBook, arq_scales, quantize_weights, tensorflow_ops


def find_weight_scales(workspace: Workspace) -> None:
    """Plans: gives every layer with constant weights its `scale_w`.

    Raises:
        AmctValueError: weights that are not finite or too large; names the layer.
    """
    for layer in workspace.layers:
        if isinstance(layer.weights, np.ndarray):
            layer.scale_w = arq_scales(layer.weights, layer.channel_axes, layer=layer.name)
        elif not layer.row.has_weights:
            layer.scale_w = np.ones(1, np.float32)


class FakeQuantizedWeights:
    """Makes the tensor of a layer's fake-quantized weights; layers that share a constant share the result."""

    def __init__(self, book: RecordBook) -> None:
        self._book = book
        self._made: dict[tuple[str, tuple[int, ...]], tf.Operation] = {}

    def __call__(self, workspace: Workspace, layer: Layer) -> tf.Tensor:
        """Returns the tensor; adds it to the graph if it is not there yet."""
        if isinstance(layer.weights, Deferred):
            return self._in_graph(workspace, layer, layer.weights)
        assert layer.weights is not None
        key = (layer.weights_key, layer.channel_axes)
        if key not in self._made:
            self._made[key] = _dequant_arq(workspace, layer, layer.weights)
        made = self._made[key]
        layer.scale_w_tensor = made.inputs[1]
        return made.outputs[0]

    def _in_graph(self, workspace: Workspace, layer: Layer, weights: Deferred) -> tf.Tensor:
        with at_root(workspace.graph):
            quantized = tensorflow_ops().quant_arq(
                weights.build(),
                record_file=self._book.path,
                generation=self._book.generation,
                layers=[layer.name],
                channel_axes=list(layer.channel_axes),
                name=workspace.scope_for(layer, "weight_quant") + "QuantArq",
            )
        layer.scale_w_tensor = quantized.scale
        return quantized.y


def _dequant_arq(workspace: Workspace, layer: Layer, weights: FloatArray) -> tf.Operation:
    assert layer.scale_w is not None
    quantized = quantize_weights(weights, layer.scale_w, layer.channel_axes)
    scope = workspace.scope_for(layer, "weight_quant")
    with at_root(workspace.graph):
        return (
            tensorflow_ops()
            .dequant_arq(
                add_constant(quantized, scope + "weights"),
                tf.constant(layer.scale_w, name=scope + "scale_w"),
                channel_axes=list(layer.channel_axes),
                name=scope + "DequantArq",
            )
            .op
        )
