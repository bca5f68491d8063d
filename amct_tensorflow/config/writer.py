"""Writing config.json."""

from __future__ import annotations

import json
import os
from typing import Any

from amct_tensorflow.config import fields
from amct_tensorflow.config.quant_config import LayerConfig, QuantConfig
from amct_tensorflow.config.schema import Schema
from amct_tensorflow.files import write_file


def write_config(path: str | os.PathLike[str], config: QuantConfig) -> None:
    """Writes config.json atomically: UTF-8, indented by 4, no space after a colon, layers in graph order.

    `asymmetric` is written only for layers that differ from `activation_offset`. Source: vendor documentation
    of config.json.

    Args:
        path: the file; parent directories are created, an existing file is replaced.
        config: what to write.

    Raises:
        AmctRuntimeError: the path cannot be written.
    """
    document = _known_fields(fields.GLOBAL, config)
    for name, layer in config.layers.items():
        document[name] = _layer(layer, config.activation_offset)
    text = json.dumps(document, indent=4, separators=(",", ":"), ensure_ascii=False)
    write_file(path, text.encode(), kind="config file")


def _layer(layer: LayerConfig, activation_offset: bool) -> dict[str, Any]:
    """Returns the entry of a layer."""
    activation = _known_fields(fields.ACTIVATION, layer.activation)
    if layer.activation.asymmetric == activation_offset:
        del activation["asymmetric"]
    entry = {"quant_enable": layer.quant_enable, "activation_quant_params": activation}
    if layer.weights is not None:
        entry["weight_quant_params"] = _known_fields(fields.WEIGHT, layer.weights)
    return entry


def _known_fields(schema: Schema, values: object) -> dict[str, Any]:
    """Returns the attributes of `values` in the order of the schema.

    A field of the schema that is no attribute has no value yet but its default, and is left out.
    """
    return {key: getattr(values, key) for key in schema.keys if hasattr(values, key)}
