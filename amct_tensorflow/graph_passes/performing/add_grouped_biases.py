"""Performing: in a calibration graph, the bias of a grouped convolution is added by an AddV2.

TensorFlow's CPU optimizer fuses Conv2D and BiasAdd, and its fused kernel refuses groups. In the deployed graph the
BiasAdd stays: the chip's compiler looks for it.
"""

from __future__ import annotations

import tensorflow as tf

from amct_tensorflow.graph.edit import at_root, replace_uses
from amct_tensorflow.graph_passes.workspace import Layer, Workspace


def add_grouped_biases(workspace: Workspace) -> None:
    """Runs the pass, right after the layers are rewritten."""
    for layer in workspace.layers:
        if has_grouped_bias(layer):
            _add(workspace, layer)


def has_grouped_bias(layer: Layer) -> bool:
    """Tells whether it is a grouped convolution with a bias."""
    return layer.bias is not None and layer.row.groups(layer.op) > 1


def _add(workspace: Workspace, layer: Layer) -> None:
    before = layer.output()
    assert before.op.type == "BiasAdd"
    data, bias = before.op.inputs
    if layer.data_format == "NCHW":
        with at_root(workspace.graph):
            bias = tf.reshape(bias, [-1, *[1] * (data.shape.rank - 2)])
    with at_root(workspace.graph):
        layer.result = tf.raw_ops.AddV2(x=data, y=bias, name=workspace.scope_for(layer, "bias_add") + "AddV2")
    replace_uses(before, layer.output())
    layer.inserted.append(layer.output().op)
