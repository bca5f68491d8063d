"""Performing: a SearchN behind every layer that can be shifted finds the shift of its int32 result."""

from __future__ import annotations

import tensorflow as tf

from amct_tensorflow.graph.edit import at_root, replace_uses
from amct_tensorflow.graph_passes.workspace import Layer, Workspace
from amct_tensorflow.ops import RecordBook, tensorflow_ops


def insert_search_n(workspace: Workspace, book: RecordBook, batch_num: int) -> None:
    """Runs the pass, after the one that inserts QuantIfmr."""
    for layer in workspace.layers:
        if not layer.wants_shift:
            continue
        scope = workspace.scope_for(layer, "search_n_quant")
        before = layer.output()
        with at_root(workspace.graph):
            layer.result = tensorflow_ops().search_n(
                before,
                layer.scale_d_tensor,
                _weight_scales(layer, scope),
                record_file=book.path,
                generation=book.generation,
                layer=layer.name,
                batch_num=batch_num,
                data_format=layer.data_format,
                name=scope + "SearchN",
            )
        replace_uses(before, layer.output(), but_not_in=[layer.output().op])


def _weight_scales(layer: Layer, scope: str) -> tf.Tensor:
    if layer.scale_w_tensor is not None:
        return layer.scale_w_tensor
    return tf.constant(layer.scale_w, name=scope + "scale_w")
