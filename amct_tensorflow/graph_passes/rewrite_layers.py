"""Performing: gives each layer the weights and bias of its plan, in place of the ops that it absorbed.

The layer's own op is rewired, so that it keeps its name, unless an op that it takes the place of is fetched by
the user: then the original ops stay as they are and a clone goes on in their place.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from amct_tensorflow.graph.edit import at_root, clone, replace_uses, set_input
from amct_tensorflow.graph_passes.workspace import Layer, Workspace

# Makes the tensors of a layer's weights and of its bias.
MakeTensor = Callable[[Workspace, Layer], tf.Tensor]


def rewrite_layers(workspace: Workspace, make_weights: MakeTensor, make_bias: MakeTensor) -> None:
    """Runs the pass."""
    for layer in workspace.layers:
        if workspace.is_output(layer.end):
            layer.op = clone(layer.op, f"{layer.name}/quantized")
        layer.inserted.append(layer.op)
        layer.result = layer.op.outputs[0]
        if layer.row.weight_input is not None:
            set_input(layer.op, layer.row.weight_input, make_weights(workspace, layer))
        if layer.bias is not None:
            layer.result = _add_bias(workspace, layer, make_bias(workspace, layer))
        if layer.result.name != layer.end.name:
            replace_uses(layer.end, layer.result, but_not_in=[layer.result.op])
        for op in layer.bypassed:
            replace_uses(op.outputs[0], op.inputs[0])


def _add_bias(workspace: Workspace, layer: Layer, bias: tf.Tensor) -> tf.Tensor:
    original = workspace.graph.get_operation_by_name(layer.absorbed[1])
    if original.type == "BiasAdd" and layer.op.name == layer.name:
        set_input(original, 1, bias)
        layer.inserted.append(original)
        return original.outputs[0]
    name = workspace.scope_for(layer, "bias_add") + "BiasAdd"
    with at_root(workspace.graph):
        added = tf.nn.bias_add(layer.op.outputs[0], bias, data_format=layer.data_format, name=name)
    layer.inserted.append(added.op)
    return added
