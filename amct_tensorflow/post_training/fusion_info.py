"""`<prefix>_quant.json`: which nodes of the float model each node of the quantized model stands for.

Accuracy comparison tools read it. Schema: the vendor's FusionInfo as JSON, one op per node.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from amct_tensorflow.graph.model_file import GraphDef
from amct_tensorflow.graph_passes.workspace import Layer


def fusion_info(model: GraphDef, layers: Sequence[Layer], name: str) -> bytes:
    """Returns the file's content.

    Args:
        model: the quantized model.
        layers: its quantized layers.
        name: the model's name.
    """
    owners = {op.name: layer for layer in layers for op in layer.inserted}
    owners.update({original: layer for layer in layers for original in layer.clones})  # clones were renamed
    ends = {layer.output().op.name: layer for layer in layers}
    ops = []
    for node in model.node:
        op: dict[str, Any] = {"name": node.name, "type": node.op}
        if node.name in owners:
            op["attr"] = [_original_names(owners[node.name])]
        if node.name in ends:
            op["output_desc"] = [_output(ends[node.name])]
        ops.append(op)
    # Without indentation: tools read it, it is half the size, and takes json a tenth of the time.
    return (json.dumps({"name": name, "graph": [{"op": ops}]}, separators=(",", ":")) + "\n").encode()


def _original_names(layer: Layer) -> dict[str, Any]:
    return {
        "key": "_datadump_original_op_names",
        "value": {"list": {"s": list(layer.absorbed), "val_type": 1}},
    }


def _output(layer: Layer) -> dict[str, Any]:
    return {
        "attr": [
            {"key": "_datadump_origin_format", "value": {"s": layer.data_format}},
            {"key": "_datadump_data_type", "value": {"s": "DT_FLOAT"}},
            {"key": "_datadump_origin_output_index", "value": {"i": 0}},
            {"key": "_datadump_origin_name", "value": {"s": layer.absorbed[-1]}},
        ]
    }
