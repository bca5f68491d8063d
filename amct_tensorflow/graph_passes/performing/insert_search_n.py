"""Performing: a SearchN behind every layer that can be shifted finds the shift of its int32 result.

The output channels of a product that has a scale for each share their range: they are classes or features of which
few calibration batches show all at their largest. Convolutions, which show each channel at many positions, follow the
vendor's tool: the shift suits what the channel itself has reached.
"""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from amct_tensorflow.graph.edit import at_root, replace_uses
from amct_tensorflow.graph_passes.workspace import Layer, Workspace
from amct_tensorflow.layers import tensor_key
from amct_tensorflow.ops import RecordBook, tensorflow_ops


def insert_search_n(workspace: Workspace, book: RecordBook, batch_num: int, scales: Mapping[str, tf.Tensor]) -> None:
    """Runs the pass, after the one that inserts QuantIfmr, with the scales that it returns."""
    for layer in workspace.layers:
        if not layer.wants_shift:
            continue
        scope = workspace.scope_for(layer, "search_n_quant")
        before = layer.output()
        with at_root(workspace.graph):
            layer.result = tensorflow_ops().search_n(
                before,
                scales[layer.name],
                _other_scales(layer, scales, scope),
                record_file=book.path,
                generation=book.generation,
                layer=layer.name,
                batch_num=batch_num,
                data_format=layer.data_format,
                share_range=not layer.row.channel_wise,
                name=scope + "SearchN",
            )
        replace_uses(before, layer.output(), but_not_in=[layer.output().op])


def _other_scales(layer: Layer, scales: Mapping[str, tf.Tensor], scope: str) -> tf.Tensor:
    """Returns those of the weights, or of what stands in their place."""
    if layer.row.second_input is not None:
        return scales[tensor_key(layer.name, layer.row.second_input)]
    if layer.scale_w_tensor is not None:
        return layer.scale_w_tensor
    return tf.constant(layer.scale_w, name=scope + "scale_w")
