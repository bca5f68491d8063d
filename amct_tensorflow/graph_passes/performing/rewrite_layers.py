"""Performing: puts a clone of each layer, with the weights and bias of its plan, in the place of the original.

The original ops, those that the layer absorbed too, stay as they are: a user who fetches one of them gets what it
always was. Nothing consumes them any more, so they cost nothing, and saved models leave them out.

The clone of a layer in float16 computes in float32, with a Cast before and behind: integers as large as its results do
not fit into float16.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import tensorflow as tf

from amct_tensorflow.graph.edit import at_root, clone, clone_in_float32, replace_uses, set_input
from amct_tensorflow.graph_passes.workspace import Layer, Trail, Workspace

# Makes the tensors of a layer's weights and of its bias.
MakeTensor = Callable[[Workspace, Layer], tf.Tensor]


def rewrite_layers(workspace: Workspace, make_weights: MakeTensor, make_bias: MakeTensor) -> None:
    """Runs the pass."""
    casts = _Casts(workspace)
    for layer in workspace.layers:
        layer.op = _put_clone(layer, layer.op, casts)
        layer.result = layer.op.outputs[0]
        if layer.row.weight_input is not None:
            set_input(layer.op, layer.row.weight_input, make_weights(workspace, layer))
            layer.weights = None  # they are in the graph now, and the model may not fit into memory twice
        if layer.bias is not None:
            layer.result = _add_bias(workspace, layer, make_bias(workspace, layer), casts)
        if layer.end.dtype == tf.float16:
            layer.cast_back = casts.back(layer)
        if layer.trail is None:
            replace_uses(layer.end, layer.stand_in())
    absorbed = {name for layer in workspace.layers for name in layer.absorbed}
    for trail, layers in _trails(workspace.layers).items():
        _rebuild(workspace, trail, layers, absorbed)


class _Casts:
    """The Casts in front of layers in float16, one for each tensor, and behind them."""

    def __init__(self, workspace: Workspace) -> None:
        self._graph = workspace.graph
        self._made: dict[str, tf.Tensor] = {}

    def __call__(self, tensor: tf.Tensor) -> tf.Tensor:
        """Returns the tensor in float32."""
        if tensor.name not in self._made:
            with at_root(self._graph):
                self._made[tensor.name] = tf.cast(tensor, tf.float32, name=f"{tensor.op.name}/float32")
        return self._made[tensor.name]

    def back(self, layer: Layer) -> tf.Tensor:
        """Returns the result of a layer in float16."""
        with at_root(self._graph):
            return tf.cast(layer.output(), tf.float16, name=f"{layer.name}/float16")


def _put_clone(layer: Layer, original: tf.Operation, casts: _Casts) -> tf.Operation:
    made = clone_in_float32(original, f"{original.name}/quantized", casts)
    layer.clones[original.name] = made.name
    layer.inserted.append(made)
    return made


def _add_bias(workspace: Workspace, layer: Layer, bias: tf.Tensor, casts: _Casts) -> tf.Tensor:
    if layer.bias_add is not None:
        made = _put_clone(layer, layer.bias_add, casts)
        set_input(made, 0, layer.op.outputs[0])
        set_input(made, 1, bias)
        return made.outputs[0]
    name = workspace.scope_for(layer, "bias_add") + "BiasAdd"
    with at_root(workspace.graph):
        added = tf.nn.bias_add(layer.op.outputs[0], bias, data_format=layer.data_format, name=name)
    layer.inserted.append(added.op)
    return added


def _trails(layers: list[Layer]) -> dict[Trail, list[Layer]]:
    """Returns the trails, each with the layers that it is behind."""
    trails: dict[Trail, list[Layer]] = {}
    for layer in layers:
        if layer.trail is not None:
            trails.setdefault(layer.trail, []).append(layer)
    return trails


def _rebuild(workspace: Workspace, trail: Trail, layers: list[Layer], absorbed: Collection[str]) -> None:
    """Puts clones of what stays of a trail behind its layers."""
    now = {layer.end.name: layer.stand_in() for layer in layers}
    for op in trail.ops:
        moved = [(index, now[data.name]) for index, data in enumerate(op.inputs) if data.name in now]
        if op.name in absorbed:
            now[op.outputs[0].name] = moved[0][1]
            continue
        made = clone(op, f"{op.name}/quantized")
        workspace.clones[op.name] = made.name
        for index, data in moved:
            set_input(made, index, data)
        now[op.outputs[0].name] = made.outputs[0]
    replace_uses(trail.end, now[trail.end.name])
    if workspace.is_output(trail.end):
        workspace.moved[trail.end.op.name] = now[trail.end.name]
