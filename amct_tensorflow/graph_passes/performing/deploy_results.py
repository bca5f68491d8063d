"""Performing: an AscendDequant behind every layer, with its bias, turns the integer result into reals.

Its deq_scale words hold the float32 bits of scale_d * scale_w below, the shift N in bits 32-39 and the weight
offset, always 0, in bits 40-47.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from amct_tensorflow.graph.edit import at_root, replace_uses
from amct_tensorflow.graph_passes.deploy_parameters import deq_scales
from amct_tensorflow.graph_passes.workspace import Layer, Workspace
from amct_tensorflow.ops import tensorflow_ops
from amct_tensorflow.record import LayerRecord


def pack_deq_scale(scales: npt.NDArray[np.float32], shifts: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Returns the words of deq_scale; `shifts` has one value or as many as `scales`."""
    return scales.view(np.uint32).astype(np.uint64) | (shifts << np.uint64(32))


def unpack_deq_scale(words: npt.NDArray[np.uint64]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Returns the scales and the shifts of deq_scale."""
    scales = (words & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.float32)
    return scales, (words >> np.uint64(32) & np.uint64(0xFF)).astype(np.int64)


def insert_ascend_dequant(workspace: Workspace, records: Mapping[str, LayerRecord]) -> None:
    """Runs the pass, after the layers are rewritten; `records` are by layer name."""
    for layer in workspace.layers:
        before = layer.output()
        scope = workspace.scope_for(layer, "dequant")
        with at_root(workspace.graph):
            layer.result = tensorflow_ops().ascend_dequant(
                before,
                tf.constant(_words(layer, records[layer.name]), name=scope + "deq_scale"),
                ksize=layer.row.window(layer.op),
                data_format=layer.data_format,
                name=scope + "AscendDequant",
            )
        replace_uses(before, layer.output(), but_not_in=[layer.output().op])
        layer.inserted.append(layer.output().op)


def _words(layer: Layer, record: LayerRecord) -> npt.NDArray[np.uint64]:
    return pack_deq_scale(deq_scales(layer, record), np.array(record.shift_bit or [0], np.uint64))
