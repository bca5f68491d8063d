"""Performing: an AscendQuant in front of every layer turns its input into integers.

Layers that are fed by the same tensor with equal factors share one op.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from amct_tensorflow.graph.edit import at_root, set_input
from amct_tensorflow.graph_passes.workspace import Workspace
from amct_tensorflow.ops import tensorflow_ops
from amct_tensorflow.record import LayerRecord


def insert_ascend_quant(workspace: Workspace, records: Mapping[str, LayerRecord]) -> None:
    """Runs the pass; `records` are by layer name."""
    shared: dict[tuple[str, float | None, int | None], tf.Tensor] = {}
    for layer in workspace.layers:
        record = records[layer.name]
        key = (layer.data.name, record.scale_d, record.offset_d)
        if key not in shared:
            with at_root(workspace.graph):
                shared[key] = tensorflow_ops().ascend_quant(
                    layer.data,
                    scale=float(np.float32(1.0) / np.float32(record.scale_d)),
                    offset=float(record.offset_d or 0),
                    name=workspace.scope_for(layer, "act_quant") + "AscendQuant",
                )
            layer.inserted.append(shared[key].op)
        set_input(layer.op, layer.row.data_input, shared[key])
