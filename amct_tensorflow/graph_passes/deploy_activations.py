"""Performing: an AscendQuant in front of every layer turns its input into integers.

Whatever wants the same tensor with equal factors shares one op.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import tensorflow as tf

from amct_tensorflow.graph.edit import at_root, replace_uses, scope_of, set_input, unique_scope
from amct_tensorflow.graph.fake_quant import FakeQuant
from amct_tensorflow.graph_passes.workspace import Workspace
from amct_tensorflow.ops import tensorflow_ops
from amct_tensorflow.record import LayerRecord


class AscendQuants:
    """The AscendQuant ops of a graph."""

    def __init__(self, workspace: Workspace) -> None:
        self._graph = workspace.graph
        self._made: dict[tuple[str, float, int], tf.Tensor] = {}

    def __call__(self, data: tf.Tensor, scale: float, offset: int, scope: str) -> tuple[tf.Tensor, bool]:
        """Returns the quantized tensor, and whether its op is new."""
        key = (data.name, scale, offset)
        if key in self._made:
            return self._made[key], False
        with at_root(self._graph):
            self._made[key] = tensorflow_ops().ascend_quant(
                data,
                scale=float(np.float32(1.0) / np.float32(scale)),
                offset=float(offset),
                name=f"{unique_scope(self._graph, scope + 'act_quant')}/AscendQuant",
            )
        return self._made[key], True


def insert_ascend_quant(workspace: Workspace, records: Mapping[str, LayerRecord], quants: AscendQuants) -> None:
    """Runs the pass; `records` are by layer name."""
    for layer in workspace.layers:
        record = records[layer.name]
        assert record.scale_d is not None
        quantized, is_new = quants(layer.data, record.scale_d, record.offset_d or 0, layer.scope)
        if is_new:
            layer.inserted.append(quantized.op)
        set_input(layer.op, layer.row.data_input, quantized)


def deploy_fake_quants(workspace: Workspace, remaining: Collection[FakeQuant], quants: AscendQuants) -> None:
    """Puts AscendQuant and AscendAntiQuant in the place of fake-quant ops."""
    for quant in remaining:
        scope, scale = scope_of(quant.op.name), float(quant.scale[0])
        quantized, _ = quants(quant.op.inputs[0], scale, int(quant.offset[0]), scope)
        with at_root(workspace.graph):
            restored = tensorflow_ops().ascend_anti_quant(
                quantized,
                scale=scale,
                offset=float(quant.offset[0]),
                name=f"{unique_scope(workspace.graph, scope + 'anti_quant')}/AscendAntiQuant",
            )
        replace_uses(quant.op.outputs[0], restored)
        if quant.op.name in workspace.outputs:
            workspace.moved[quant.op.name] = restored
