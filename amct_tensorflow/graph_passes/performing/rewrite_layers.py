"""Performing: puts a clone of each layer, with the weights and bias of its plan, in the place of the original.

The original ops, those that the layer absorbed too, stay as they are: a user who fetches one of them gets what it
always was. Nothing consumes them any more, so they cost nothing, and saved models leave them out.

The clone of a layer in float16 computes in float32, with a Cast before and behind: integers as large as its results do
not fit into float16. A product that is none of matrices, an Einsum for example, becomes one, with Transpose and Reshape
before and behind.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import tensorflow as tf

from amct_tensorflow.graph.edit import at_root, clone, clone_in_type, replace_uses, set_input
from amct_tensorflow.graph_passes.matrices import data_matrix, result_of, second_matrix
from amct_tensorflow.graph_passes.workspace import Layer, Trail, Workspace
from amct_tensorflow.layers import OpType
from amct_tensorflow.products import Product

# Makes the tensors of a layer's weights and of its bias.
MakeTensor = Callable[[Workspace, Layer], tf.Tensor]


def rewrite_layers(workspace: Workspace, make_weights: MakeTensor, make_bias: MakeTensor) -> None:
    """Runs the pass."""
    adapters = _Adapters(workspace)
    for layer in workspace.layers:
        op, row = layer.op, layer.row  # as the user has them
        weights = make_weights(workspace, layer) if row.has_weights else None
        layer.weights = None  # they are in the graph now, and the model may not fit into memory twice
        if row.product is not None:
            layer.op, layer.row = _put_product(layer, row.product, weights, adapters), row.of_matrices()
        else:
            layer.op = _put_clone(layer, adapters)
            if weights is not None and row.weight_input is not None:
                set_input(layer.op, row.weight_input, weights)
        layer.result = layer.op.outputs[0]
        if layer.bias is not None:
            layer.result = _add_bias(workspace, layer, make_bias(workspace, layer))
        layer.behind = adapters.back(layer, op, row)
        if layer.trail is None:
            replace_uses(layer.end, layer.stand_in())
    absorbed = {name for layer in workspace.layers for name in layer.absorbed}
    for trail, layers in _trails(workspace.layers).items():
        _rebuild(workspace, trail, layers, absorbed)


class _Adapters:
    """What stands in front of layers that go on in another type or form, once for each tensor, and behind them."""

    def __init__(self, workspace: Workspace) -> None:
        self._graph = workspace.graph
        self._made: dict[str, tf.Tensor] = {}
        self._matrices: dict[tuple[str, Product], tf.Tensor] = {}

    def __call__(self, tensor: tf.Tensor) -> tf.Tensor:
        """Returns the tensor in float32."""
        if tensor.name not in self._made:
            with at_root(self._graph):
                self._made[tensor.name] = tf.cast(tensor, tf.float32, name=f"{tensor.op.name}/float32")
        return self._made[tensor.name]

    def matrix(self, tensor: tf.Tensor, product: Product, scope: str) -> tf.Tensor:
        """Returns the data of a product as matrices, in float32."""
        key = (tensor.name, product)
        if key not in self._matrices:
            in_float32 = self(tensor) if tensor.dtype == tf.float16 else tensor
            self._matrices[key] = data_matrix(product, in_float32, scope)
        return self._matrices[key]

    def back(self, layer: Layer, op: tf.Operation, row: OpType) -> tf.Tensor | None:
        """Returns the result of a layer in the type and form that the user's op gives it, None if it has these."""
        back = layer.output()
        if row.product is not None:
            other = op.inputs[1 - row.data_input]
            back = result_of(row.product, back, op.inputs[row.data_input], other, f"{layer.name}/result")
        if layer.end.dtype == tf.float16:
            with at_root(self._graph):
                back = tf.cast(back, tf.float16, name=f"{layer.name}/float16")
        return None if back is layer.result else back


def _put_clone(layer: Layer, adapters: _Adapters) -> tf.Operation:
    return _put(layer, layer.op, clone_in_type(layer.op, f"{layer.name}/quantized", tf.float16, tf.float32, adapters))


def _put_product(layer: Layer, product: Product, weights: tf.Tensor | None, adapters: _Adapters) -> tf.Operation:
    """Puts a product of matrices in the place of another one."""
    op = layer.op
    data = adapters.matrix(layer.data, product, f"{op.name}/data_matrix")
    if weights is None:
        assert layer.row.second_input is not None
        other = second_matrix(product, op.inputs[layer.row.second_input], f"{op.name}/second_matrix")
    else:
        other = weights
    with at_root(op.graph), op.graph.control_dependencies(op.control_inputs):
        if weights is not None and product.batch == 0:
            made = tf.raw_ops.MatMul(a=data, b=other, name=f"{op.name}/quantized")
        else:
            made = tf.raw_ops.BatchMatMulV2(x=data, y=other, name=f"{op.name}/quantized")
    return _put(layer, op, made.op)


def _put(layer: Layer, original: tf.Operation, made: tf.Operation) -> tf.Operation:
    layer.clones[original.name] = made.name
    layer.inserted.append(made)
    return made


def _add_bias(workspace: Workspace, layer: Layer, bias: tf.Tensor) -> tf.Tensor:
    original = layer.bias_add
    name = f"{original.name}/quantized" if original is not None else workspace.scope_for(layer, "bias_add") + "BiasAdd"
    waits = [] if original is None else original.control_inputs
    with at_root(workspace.graph), workspace.graph.control_dependencies(waits):
        added = tf.raw_ops.BiasAdd(value=layer.op.outputs[0], bias=bias, data_format=layer.data_format, name=name)
    if original is not None:
        _put(layer, original, added.op)
    else:
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
    end = now[trail.end.name]
    for layer in layers:
        layer.behind_trail = end
    replace_uses(trail.end, end)
    if workspace.is_output(trail.end):
        workspace.moved[trail.end.op.name] = end
