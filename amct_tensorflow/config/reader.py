"""Reading config.json."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping

from amct_tensorflow.config import fields
from amct_tensorflow.config.assemble import (
    LayerEntry,
    TensorEntry,
    check_layer_entry,
    check_tensor_entries,
    quant_config,
)
from amct_tensorflow.config.layer_names import LayerNames
from amct_tensorflow.config.quant_config import LayerTraits, QuantConfig
from amct_tensorflow.config.schema import (
    OBJECT,
    Field,
    JsonObject,
    Section,
    check_not_repeated,
    check_object,
    check_value,
)
from amct_tensorflow.errors import AmctRuntimeError, AmctTypeError, AmctValueError, did_you_mean
from amct_tensorflow.files import read_file


def read_config(
    path: str | os.PathLike[str],
    layers: Mapping[str, LayerTraits],
    *,
    all_ops: Collection[str],
    reasons: Mapping[str, str],
    tensor_reason: Callable[[str, int], str | None],
) -> QuantConfig:
    """Reads and validates config.json; what it leaves out takes its default.

    Source: vendor documentation of config.json.

    Args:
        path: the file.
        layers: the quantizable layers of the graph, in graph order.
        all_ops: the names of all operations of the graph.
        reasons: why an operation of a known type cannot be quantized, in words, by name.
        tensor_reason: returns why an input of an operation cannot be quantized alone, in words, or None.

    Returns:
        The configuration, its layers in graph order.

    Raises:
        AmctRuntimeError: the file cannot be read, or enables no layer.
        AmctTypeError: a value has the wrong type.
        AmctValueError: the file is not JSON, a key is unknown or repeated, a layer does not exist or cannot
            be quantized, a value is out of range, or is legal but not supported by this version.
    """
    source = f"config file {path}"
    names = LayerNames(layers, all_ops, reasons, tensor_reason)
    document = _load(path, source)
    settings, entries, tensors = _check_document(document, names, source)
    parts: list[Section | LayerEntry | TensorEntry] = [settings, *entries.values(), *tensors]
    for part in parts:
        part.check_supported()
    if not any(entry.layer["quant_enable"] for entry in entries.values()):
        raise AmctRuntimeError(
            "No quant enable layer in quant config file, please check the quant config file. "
            f"({source}: set quant_enable of at least one layer to true)"
        )
    in_graph_order = [name for name in layers if name in entries]
    return quant_config(settings, {name: entries[name].layer_config(layers[name]) for name in in_graph_order}, tensors)


def _load(path: str | os.PathLike[str], source: str) -> JsonObject:
    """Returns the content of the file, a JSON object."""
    content = read_file(path, kind="config file", remedy="write one with create_quant_config, or correct the path")
    try:
        document = json.loads(content.decode("utf-8-sig"), object_pairs_hook=JsonObject)
    except json.JSONDecodeError as error:
        raise AmctValueError(
            f"{source} is not valid JSON, {error.msg} at line {error.lineno} column {error.colno}; correct it"
        ) from error
    except (ValueError, RecursionError) as error:
        # Not UTF-8, a number of thousands of digits, or endless nesting.
        raise AmctValueError(f"{source} is not valid JSON, {error}; correct it") from error
    if not isinstance(document, JsonObject):
        raise AmctTypeError(f"{source} should hold one JSON object, but holds a {type(document).__name__}")
    return document


def _check_document(
    document: JsonObject, names: LayerNames, source: str
) -> tuple[Section, dict[str, LayerEntry], list[TensorEntry]]:
    """Returns the validated global settings, layer entries and items of tensor_quantize."""
    check_not_repeated(document.keys_written, source)
    entry_names = [key for key in document if key not in fields.GLOBAL.keys]
    for name in entry_names:
        _check_layer_name(name, names, source)
    given = {key: document[key] for key in document if key in fields.GLOBAL.keys}
    settings = check_object(fields.GLOBAL, given, where=source)
    names.check_all_fusable(settings["skip_fusion_layers"], f"skip_fusion_layers of {source}")
    offset = settings["activation_offset"]
    tensors = check_tensor_entries(settings["tensor_quantize"], names, activation_offset=offset, source=source)
    entries = {
        name: check_layer_entry(
            check_value(Field(name, OBJECT), document[name], where=source),
            names.layers[name],
            settings=settings,
            where=f"layer {name} of {source}",
        )
        for name in entry_names
    }
    return settings, entries, tensors


def _check_layer_name(name: str, names: LayerNames, source: str) -> None:
    """Raises for a key that is neither a global field nor a quantizable layer."""
    if name not in names.layers and name not in names.all_ops:
        hint = did_you_mean(name, [*fields.GLOBAL.keys, *names.layers]) or "; correct or remove it"
        raise AmctValueError(f"{name} is an invalid layer name or parameter of {source}{hint}")
    names.check_quantizable(name, source)
