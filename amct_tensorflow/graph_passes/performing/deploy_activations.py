"""Performing: an AscendQuant in front of every layer turns its input into integers.

Whatever wants the same tensor with equal factors shares one op. Inputs that are quantized alone, and fake-quant ops,
become an AscendQuant and an AscendAntiQuant, which turns the integers into reals again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import tensorflow as tf

from amct_tensorflow.graph.edit import at_root, replace_uses, scope_of, unique_scope
from amct_tensorflow.graph.fake_quant import FakeQuant
from amct_tensorflow.graph_passes.workspace import Activation, Workspace
from amct_tensorflow.ops import tensorflow_ops
from amct_tensorflow.record import LayerRecord


class AscendQuants:
    """The AscendQuant ops of a graph."""

    def __init__(self, workspace: Workspace) -> None:
        self._graph = workspace.graph
        self._made: dict[tuple[str, float, int], tf.Tensor] = {}
        self._factors: dict[str, tuple[float, int]] = {}  # of what they put out, by name
        self._restored: dict[str, tf.Tensor] = {}

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
        self._factors[self._made[key].name] = scale, offset
        return self._made[key], True

    def restored(self, quantized: tf.Tensor, scope: str) -> tf.Tensor:
        """Returns a quantized tensor turned into reals again."""
        if quantized.name not in self._restored:
            scale, offset = self._factors[quantized.name]
            with at_root(self._graph):
                self._restored[quantized.name] = tensorflow_ops().ascend_anti_quant(
                    quantized,
                    scale=scale,
                    offset=float(offset),
                    name=f"{unique_scope(self._graph, scope + 'anti_quant')}/AscendAntiQuant",
                )
        return self._restored[quantized.name]


def insert_ascend_quant(workspace: Workspace, records: Mapping[str, LayerRecord], quants: AscendQuants) -> None:
    """Runs the pass; `records` are by layer name."""
    for layer in workspace.layers:
        for activation in layer.activations():
            quantized, is_new = quants(activation.data, *_factors(records, activation), activation.scope)
            if is_new:
                layer.inserted.append(quantized.op)
            activation.replace(quantized)
    for activation in workspace.alone:
        quantized, _ = quants(activation.data, *_factors(records, activation), activation.scope)
        activation.replace(quants.restored(quantized, activation.scope))


def _factors(records: Mapping[str, LayerRecord], activation: Activation) -> tuple[float, int]:
    record = records[activation.key]
    assert record.scale_d is not None
    return record.scale_d, record.offset_d or 0


def deploy_fake_quants(workspace: Workspace, remaining: Collection[FakeQuant], quants: AscendQuants) -> None:
    """Puts AscendQuant and AscendAntiQuant in the place of fake-quant ops."""
    for quant in remaining:
        scope = scope_of(quant.op.name)
        quantized, _ = quants(quant.op.inputs[0], float(quant.scale[0]), int(quant.offset[0]), scope)
        restored = quants.restored(quantized, scope)
        replace_uses(quant.op.outputs[0], restored)
        if quant.op.name in workspace.outputs:
            workspace.moved[quant.op.name] = restored
