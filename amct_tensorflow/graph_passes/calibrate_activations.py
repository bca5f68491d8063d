"""Performing: a QuantIfmr or QuantHfmg in front of every layer finds the factors of its input.

Layers that are fed by the same tensor and calibrated with the same parameters share one op.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amct_tensorflow.config import ActivationParams, HfmgParams
from amct_tensorflow.graph.edit import at_root, set_input
from amct_tensorflow.graph_passes.workspace import Layer, Workspace
from amct_tensorflow.ops import RecordBook, tensorflow_ops


def calibrate_activations(
    workspace: Workspace, book: RecordBook, batch_num: int, params: Mapping[str, ActivationParams]
) -> None:
    """Runs the pass; `params` are by layer name."""
    groups: dict[tuple[str, ActivationParams], list[Layer]] = {}
    for layer in workspace.layers:
        groups.setdefault((layer.data.name, params[layer.name]), []).append(layer)
    for (_, group_params), layers in groups.items():
        quantized = _calibration_op(workspace, book, batch_num, group_params, layers)
        for layer in layers:
            set_input(layer.op, layer.row.data_input, quantized.y)
            layer.scale_d_tensor = quantized.scale


def _calibration_op(
    workspace: Workspace, book: RecordBook, batch_num: int, params: ActivationParams, layers: list[Layer]
) -> Any:
    shared = {
        "record_file": book.path,
        "generation": book.generation,
        "layers": [layer.name for layer in layers],
        "batch_num": batch_num,
        "num_bits": params.num_bits,
        "with_offset": params.asymmetric,
    }
    scope = workspace.scope_for(layers[0], "act_quant")
    with at_root(workspace.graph):
        if isinstance(params, HfmgParams):
            return tensorflow_ops().quant_hfmg(
                layers[0].data, num_of_bins=params.num_of_bins, name=scope + "QuantHfmg", **shared
            )
        return tensorflow_ops().quant_ifmr(
            layers[0].data,
            search_start=params.search_range[0],
            search_end=params.search_range[1],
            search_step=params.search_step,
            max_percentile=params.max_percentile,
            min_percentile=params.min_percentile,
            name=scope + "QuantIfmr",
            **shared,
        )
