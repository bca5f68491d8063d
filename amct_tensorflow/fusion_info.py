"""`<prefix>_quant.json`: which nodes of the float model each node of the quantized model stands for.

Accuracy comparison tools read it. Schema: the vendor's FusionInfo as JSON, one op per node.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from amct_tensorflow.errors import AmctRuntimeError
from amct_tensorflow.files import read_file
from amct_tensorflow.graph.model_file import GraphDef
from amct_tensorflow.graph_passes.workspace import Layer, Workspace

_ORIGINALS, _ORIGIN, _INDEX = "_datadump_original_op_names", "_datadump_origin_name", "_datadump_origin_output_index"


@dataclasses.dataclass(frozen=True)
class FusedLayer:
    """A quantized layer, as the file describes it.

    Attributes:
        originals: names of the ops of the float model that it stands for, its own first.
        nodes: names of the nodes of the quantized model that compute it.
        end: the one of them that puts out its result.
        origin: name of the tensor of the float model that this result stands for.
    """

    originals: tuple[str, ...]
    nodes: tuple[str, ...]
    end: str
    origin: str

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.originals[0]


def read_fusion_info(path: str) -> list[FusedLayer]:
    """Reads the quantized layers of a file, of this package or of the vendor's tool.

    Raises:
        AmctRuntimeError: it cannot be read, or is no such file.
    """
    remedy = "give the quantized model with the file that was written beside it"
    content = read_file(path, kind="the mapping of the nodes", remedy=remedy)
    try:
        return list(_layers(json.loads(content)))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise AmctRuntimeError(f"{path} is not a mapping of nodes as save_model writes it: {remedy}") from error


def _layers(info: dict[str, Any]) -> Iterator[FusedLayer]:
    nodes: dict[tuple[str, ...], list[str]] = {}
    ends: dict[str, tuple[str, str]] = {}  # by the op whose result the node puts out
    for op in (op for graph in info["graph"] for op in graph["op"]):
        values = _by_key(op.get("attr", []))
        originals = tuple(values[_ORIGINALS]["list"]["s"]) if _ORIGINALS in values else ()
        if originals:
            nodes.setdefault(originals, []).append(op["name"])
        for output in op.get("output_desc", []):
            found = _by_key(output["attr"])
            if _ORIGIN in found:
                origin, index = found[_ORIGIN]["s"], int(found.get(_INDEX, {}).get("i", 0))
                ends[origin] = op["name"], f"{origin}:{index}"
    for originals, of_layer in nodes.items():
        origin = next((name for name in reversed(originals) if name in ends), None)
        if origin is not None:
            yield FusedLayer(originals, tuple(of_layer), *ends[origin])


def _by_key(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {item["key"]: item["value"] for item in items}


def fusion_info(model: GraphDef, workspace: Workspace, name: str) -> bytes:
    """Returns the file's content.

    Args:
        model: the quantized model.
        workspace: with its quantized layers.
        name: the model's name.
    """
    names = _final_names(model, workspace)
    layers = workspace.layers
    owners = {op.name: layer for layer in layers for op in layer.inserted}
    owners.update({original: layer for layer in layers for original in layer.clones})  # clones were renamed
    for layer in layers:
        stay = layer.trail.ops if layer.trail is not None else ()
        owners.update({names[op.name]: layer for op in stay if op.name in names})
    ends = {_end(layer, names): layer for layer in layers}
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


def _final_names(model: GraphDef, workspace: Workspace) -> dict[str, str]:
    """Returns how the clones of ops that belong to no layer are called in the model, by the names of these ops."""
    nodes = {node.name for node in model.node}
    return {original: made if made in nodes else original for original, made in workspace.clones.items()}


def _end(layer: Layer, names: Mapping[str, str]) -> str:
    """Returns the name of the node that puts out what the last op that the layer has absorbed does."""
    if layer.behind_trail is None:
        return str(layer.stand_in().op.name)
    made = layer.behind_trail.op.name
    assert layer.trail is not None
    return next((names[op.name] for op in layer.trail.ops if names.get(op.name) in (made, op.name)), made)


def _original_names(layer: Layer) -> dict[str, Any]:
    return {
        "key": _ORIGINALS,
        "value": {"list": {"s": list(layer.absorbed), "val_type": 1}},
    }


def _output(layer: Layer) -> dict[str, Any]:
    return {
        "attr": [
            {"key": "_datadump_origin_format", "value": {"s": layer.data_format}},
            {"key": "_datadump_data_type", "value": {"s": "DT_HALF" if layer.end.dtype == tf.float16 else "DT_FLOAT"}},
            {"key": _INDEX, "value": {"i": 0}},
            {"key": _ORIGIN, "value": {"s": layer.absorbed[-1]}},
        ]
    }
