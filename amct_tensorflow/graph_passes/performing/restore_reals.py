"""Performing: a deployed graph computes in the units of the float model, for runtimes with kernels of their own.

    AscendWeightQuant(w)               ->  w * scale_w, as the caller makes it
    BiasAdd(y, b)                      ->  BiasAdd(y, b * scale_d * scale_w)
    AscendDequant, AscendAntiQuant     ->  what they are fed
    AscendQuant                        ->  stays, and now means: rounded to int8, and turned into reals again

Between an AscendQuant and the AscendDequant or AscendAntiQuant behind it there is nothing but a layer, which is linear:
so reals go in and come out. The shifts N are gone, since whoever computes in reals does not have them; what they cut
off on average is in the bias.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from amct_tensorflow.graph.edit import at_root, replace_uses, set_input
from amct_tensorflow.graph.large_constants import add_constant
from amct_tensorflow.graph_passes.planning.find_deployed import DeployedLayer
from amct_tensorflow.layers import channel_axis, data_format

_DROPPED = ("AscendDequant", "AscendAntiQuant")


def restore_reals(
    graph: tf.Graph, layers: Sequence[DeployedLayer], make_weights: Callable[[DeployedLayer], tf.Tensor]
) -> dict[str, tf.Tensor]:
    """Runs the pass.

    Returns:
        What is in the place of ops that were dropped, by their names.
    """
    for layer in layers:
        if layer.weight_input is not None:
            with at_root(graph):
                set_input(layer.op, layer.weight_input, make_weights(layer))
        _restore_bias(graph, layer)
    dropped = [op for op in graph.get_operations() if op.type in _DROPPED]
    for op in dropped:
        replace_uses(op.outputs[0], op.inputs[0])
    return {op.name: op.inputs[0] for op in dropped}


def float_weights(layer: DeployedLayer) -> tf.Tensor:
    """Makes the weights of a layer a constant of floats."""
    return add_constant(layer.integers().in_reals(), f"{layer.name}/weights")


def drop_rounding(graph: tf.Graph) -> None:
    """Makes a graph in reals a float graph: nothing is rounded to int8 any more."""
    for op in graph.get_operations():
        if op.type == "AscendQuant":
            replace_uses(op.outputs[0], op.inputs[0])


def _restore_bias(graph: tf.Graph, layer: DeployedLayer) -> None:
    bias = layer.bias()
    if bias is None:
        return
    with at_root(graph):
        if layer.bias_add is not None:
            set_input(layer.bias_add, 1, tf.constant(bias, name=f"{layer.bias_add.name}/bias"))
            return
        result = layer.op.outputs[0]
        constant = tf.constant(np.broadcast_to(bias, result.shape[channel_axis(layer.op)]), name=f"{layer.name}/bias")
        added = tf.raw_ops.BiasAdd(
            value=result, bias=constant, data_format=data_format(layer.op), name=f"{layer.name}/BiasAdd"
        )
    replace_uses(result, added, but_not_in=[added.op])
