"""Performing: puts a clone of each layer, with the weights and bias of its plan, in the place of the original.

The original ops, those that the layer absorbed too, stay as they are: a user who fetches one of them gets what it
always was. Nothing consumes them any more, so they cost nothing, and saved models leave them out.
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
        layer.op = _put_clone(layer, layer.op)
        layer.result = layer.op.outputs[0]
        if layer.row.weight_input is not None:
            set_input(layer.op, layer.row.weight_input, make_weights(workspace, layer))
        if layer.bias is not None:
            layer.result = _add_bias(workspace, layer, make_bias(workspace, layer))
        replace_uses(layer.end, layer.result)
        for op in layer.bypassed:
            replace_uses(op.outputs[0], op.inputs[0])


def _put_clone(layer: Layer, original: tf.Operation) -> tf.Operation:
    made = clone(original, f"{original.name}/quantized")
    layer.clones[original.name] = made.name
    layer.inserted.append(made)
    return made


def _add_bias(workspace: Workspace, layer: Layer, bias: tf.Tensor) -> tf.Tensor:
    original = workspace.graph.get_operation_by_name(layer.absorbed[1])
    if original.type == "BiasAdd":
        made = _put_clone(layer, original)
        set_input(made, 0, layer.op.outputs[0])
        set_input(made, 1, bias)
        return made.outputs[0]
    name = workspace.scope_for(layer, "bias_add") + "BiasAdd"
    with at_root(workspace.graph):
        added = tf.nn.bias_add(layer.op.outputs[0], bias, data_format=layer.data_format, name=name)
    layer.inserted.append(added.op)
    return added
