"""Planning: output channels with next to no weights get a scale that suits their bias.

An output channel whose integers are all 0 gets the scale that its bias wants. ARQ gives such a channel the scale 1,
as the vendor's tool does, and its bias would become round(bias / scale_d): 0, or off by up to half an activation step.
What the scale is does not matter to its weights, so it is chosen for the bias to be a power of two of about 20 bits,
or of 14 bits behind the shift N.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from amct_tensorflow.graph_passes.planning.along_channels import lacks_weights
from amct_tensorflow.graph_passes.workspace import Layer, Workspace
from amct_tensorflow.record import LayerRecord

_BIAS_BITS = 20  # of 31, with room for whoever adds to it
_SHIFTED_BITS = 14  # of the 15 that are left behind a shift
_LARGEST_BIAS = 2.0**30  # well within int32
_LEAST_SCALE, _LARGEST_SCALE = 2.0**-23, 2.0**23  # FLT_EPSILON and its reciprocal


def free_dead_channels(workspace: Workspace, records: Mapping[str, LayerRecord]) -> None:
    """Runs the pass, with the weights and scales that are deployed; `records` are by layer name."""
    for layer in workspace.layers:
        if layer.channel_axes and layer.bias is not None:
            _free(layer, records[layer.name])


def widen_vanishing_scales(workspace: Workspace, records: Mapping[str, LayerRecord]) -> None:
    """Widens the scales of channels that their batch norm all but switches off, until they can be computed with.

    Beside the bias, which must fit into int32, what the weights of such a channel contribute is lost in float32 anyway.
    """
    for layer in workspace.layers:
        if layer.folded is not None:
            assert isinstance(layer.bias, np.ndarray) and layer.scale_w is not None
            least = np.abs(layer.bias) / (np.float32(records[layer.name].scale_d) * _LARGEST_BIAS)
            layer.scale_w = np.maximum(layer.scale_w, np.maximum(least, _LEAST_SCALE)).astype(np.float32)


def _free(layer: Layer, record: LayerRecord) -> None:
    assert isinstance(layer.bias, np.ndarray)
    assert layer.scale_w is not None and record.scale_d is not None
    dead = lacks_weights(layer) & (layer.bias != 0)
    shifts = np.array(record.shift_bit or [0])
    bits = np.where(shifts > 0, _SHIFTED_BITS + shifts, _BIAS_BITS)
    wanted = np.abs(layer.bias) / (record.scale_d * np.exp2(bits))
    layer.scale_w = np.where(dead, np.clip(wanted, _LEAST_SCALE, _LARGEST_SCALE), layer.scale_w).astype(np.float32)
