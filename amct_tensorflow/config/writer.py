"""Writing config.json."""

from __future__ import annotations

import json
import os
from typing import Any

from amct_tensorflow.config import fields
from amct_tensorflow.config.quant_config import ActivationParams, LayerConfig, QuantConfig, TensorConfig
from amct_tensorflow.config.schema import Schema
from amct_tensorflow.files import write_file


def write_config(path: str | os.PathLike[str], config: QuantConfig) -> None:
    """Writes config.json atomically: UTF-8, indented by 4, no space after a colon, layers in graph order.

    `asymmetric` is written only where it differs from `activation_offset`, and so are other fields of a layer for which
    there is a global one; `dmq_balancer_param` only where the balancer is on, `tensor_quantize` only where it is not
    empty, `update_bn` and `bn_update_config` only where batch norms get new statistics. Source: vendor documentation
    of config.json.

    Args:
        path: the file; parent directories are created, an existing file is replaced.
        config: what to write.

    Raises:
        AmctRuntimeError: the path cannot be written.
    """
    document = _known_fields(fields.GLOBAL, config)
    tensors = document.pop("tensor_quantize")  # the last field
    update = _given_fields(fields.BN_UPDATE, document.pop("bn_update_config"))
    if document.pop("update_bn"):
        document |= {"update_bn": True, "bn_update_config": update}
    if tensors:
        document["tensor_quantize"] = [_tensor(tensor, config.activation_offset) for tensor in tensors]
    for name, layer in config.layers.items():
        document[name] = _layer(layer, config)
    text = json.dumps(document, indent=4, separators=(",", ":"), ensure_ascii=False)
    write_file(path, text.encode(), kind="config file")


def _layer(layer: LayerConfig, config: QuantConfig) -> dict[str, Any]:
    """Returns the entry of a layer."""
    entry: dict[str, Any] = {"quant_enable": layer.quant_enable}
    if layer.dmq_balancer_param is not None:
        entry["dmq_balancer_param"] = layer.dmq_balancer_param
    entry["activation_quant_params"] = _activation(layer.activation, config.activation_offset)
    if layer.weights is not None:
        weights = _known_fields(fields.WEIGHT, layer.weights)
        as_global = [name for name in fields.OF_WEIGHTS if weights[name] == getattr(config, name)]
        entry["weight_quant_params"] = {name: value for name, value in weights.items() if name not in as_global}
    return entry


def _tensor(tensor: TensorConfig, activation_offset: bool) -> dict[str, Any]:
    """Returns an item of tensor_quantize."""
    named = _known_fields(fields.TENSOR, tensor)
    return {**named, "activation_quant_params": _activation(tensor.activation, activation_offset)}


def _activation(params: ActivationParams, activation_offset: bool) -> dict[str, Any]:
    activation = _known_fields(fields.ACTIVATION, params)
    if params.asymmetric == activation_offset:
        del activation["asymmetric"]
    return activation


def _given_fields(schema: Schema, values: object) -> dict[str, Any]:
    """Returns the attributes that are not None, likewise."""
    return {key: value for key, value in _known_fields(schema, values).items() if value is not None}


def _known_fields(schema: Schema, values: object) -> dict[str, Any]:
    """Returns the attributes of `values` in the order of the schema.

    A field of the schema that is no attribute is of another algorithm, or has no value yet but its default.
    """
    return {key: getattr(values, key) for key in schema.keys if hasattr(values, key)}
