"""Planning and performing: DMQ moves a factor f per input channel from the input of a layer to its weights.

    x * W = (x / f) * (f * W),   f[c] = max|x[c]|^m / max|W[c]|^(1 - m)

It leaves the layer's result as it is and makes both sides easier to quantize where input channels differ much in
range. `m` is the migration strength. Source: specification, section 5 (DMQ balancer).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.graph.edit import at_root, set_input
from amct_tensorflow.graph.values import Deferred, Value
from amct_tensorflow.graph_passes.matrices import data_matrix
from amct_tensorflow.graph_passes.workspace import FloatArray, Layer, Workspace
from amct_tensorflow.ops import RecordBook, tensorflow_ops


def check_balance(workspace: Workspace) -> None:
    """Plans: raises `AmctValueError` for a layer whose input channels are not known."""
    for layer in workspace.layers:
        if not layer.row.groups_are_known(layer.op):
            raise AmctValueError(
                f"layer {layer.name} cannot be balanced, because the number of its input channels is not known: give "
                "the model's input a shape with its channels, or remove the layer's dmq_balancer_param"
            )


def balance_weights(layers: Sequence[Layer]) -> None:
    """Plans: multiplies the weights of layers that have factors, batch norms being folded in already."""
    for layer in layers:
        if layer.balance is not None:
            assert layer.weights is not None
            layer.weights = layer.weights * _along_inputs(layer, layer.balance)
            layer.weights_key = layer.name  # no longer those that other layers share


def balance_inputs(workspace: Workspace) -> None:
    """Performs: a Mul by 1 / f in front of layers that have factors, before their input is quantized."""
    for layer in workspace.layers:
        if layer.balance is not None:
            reciprocal = np.float32(1.0) / layer.balance
            if layer.channel_axis == 1:
                reciprocal = reciprocal.reshape(-1, 1, 1)
            with at_root(workspace.graph):
                scope = workspace.scope_for(layer, "dmq_balance")
                balanced = tf.multiply(layer.data, tf.constant(reciprocal, name=scope + "reciprocal"), scope + "Mul")
            set_input(layer.op, layer.row.data_input, balanced)


def observe_balance(workspace: Workspace, book: RecordBook, batch_num: int, strengths: Mapping[str, float]) -> None:
    """Performs: a DmqBalance in front of every layer finds its factors; `strengths` are by layer name."""
    for layer in workspace.layers:
        scope = workspace.scope_for(layer, "dmq_balance")
        product = layer.row.product
        data = layer.data if product is None else data_matrix(product, layer.data, f"{layer.name}/data_matrix")
        with at_root(workspace.graph):
            observed = tensorflow_ops().dmq_balance(
                tf.cast(data, tf.float32),
                _largest_weights(layer),
                record_file=book.path,
                generation=book.generation,
                layer=layer.name,
                batch_num=batch_num,
                migration_strength=strengths[layer.name],
                channel_axis=layer.channel_axis,
                name=scope + "DmqBalance",
            )
            observed = tf.cast(observed, layer.data.dtype)
            if product is not None:  # the op itself wants its data in their own form
                with workspace.graph.control_dependencies([observed.op]):
                    observed = tf.identity(layer.data)
        set_input(layer.op, layer.row.data_input, observed)


def _along_inputs(layer: Layer, factors: FloatArray) -> FloatArray:
    """Returns the factors in a shape that broadcasts against the weights along their input channels."""
    shape = layer.row.weight_shape(layer.op)
    groups, axis = layer.row.groups(layer.op), layer.row.input_axis
    if groups == 1:
        return factors.reshape([size if at == axis else 1 for at, size in enumerate(shape)])
    # Output channels [g * n, (g + 1) * n) of a grouped convolution see the input channels of group g.
    by_output = np.repeat(factors.reshape(groups, shape[axis]), shape[-1] // groups, axis=0)
    return by_output.T.reshape([size if at in (axis, len(shape) - 1) else 1 for at, size in enumerate(shape)])


def _largest_weights(layer: Layer) -> Value | tf.Tensor:
    """Returns max|W| per input channel, over all groups."""
    assert layer.weights is not None
    if isinstance(layer.weights, Deferred):
        return _largest_per_input(layer, layer.weights.build(), tf.experimental.numpy)
    return _largest_per_input(layer, layer.weights, np)


def _largest_per_input(layer: Layer, weights: Any, numpy: Any) -> Any:
    """Does the work with the functions of NumPy, or with TensorFlow's of the same names."""
    shape = layer.row.weight_shape(layer.op)
    groups, axis = layer.row.groups(layer.op), layer.row.input_axis
    if groups == 1:
        return numpy.max(numpy.abs(weights), axis=tuple(at for at in range(len(shape)) if at != axis))
    split = numpy.reshape(numpy.abs(weights), [*shape[:-1], groups, shape[-1] // groups])
    others = tuple(at for at in range(len(shape) + 1) if at not in (axis, len(shape) - 1))
    per_group = numpy.max(split, axis=others)  # [input channel of the group, group]
    return numpy.reshape(numpy.transpose(per_group), [-1])
