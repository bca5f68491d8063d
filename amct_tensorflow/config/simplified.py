"""The configuration that create_quant_config writes from a simplified one."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from amct_tensorflow.config import fields
from amct_tensorflow.config.assemble import TensorEntry, check_layer_entry, check_tensor_entries, quant_config
from amct_tensorflow.config.layer_names import LayerNames
from amct_tensorflow.config.quant_config import LayerTraits, QuantConfig
from amct_tensorflow.config.schema import Section, check_not_repeated, check_object
from amct_tensorflow.config.selection import layers_to_quantize
from amct_tensorflow.config.simplified_parts import global_settings, layer_entry, tensor_item
from amct_tensorflow.config.simplified_text import read_simplified
from amct_tensorflow.errors import AmctValueError, did_you_mean
from amct_tensorflow.log import LOGGER


def simplified_config(
    path: str | os.PathLike[str],
    layers: Mapping[str, LayerTraits],
    *,
    all_ops: Collection[str],
    reasons: Mapping[str, str],
    tensor_reason: Callable[[str, int], str | None],
    op_types: Collection[str],
) -> QuantConfig:
    """Reads a simplified configuration and applies it to the layers of a graph.

    What it leaves out takes its default, so an empty one gives what `default_config` gives without arguments.
    Source: vendor documentation of the simplified configuration (calibration_config_tf.proto).

    Args:
        path: the file.
        layers: the quantizable layers of the graph, in graph order.
        all_ops: the names of all operations of the graph.
        reasons: why an operation of a known type cannot be quantized, in words, by name.
        tensor_reason: returns why an input of an operation cannot be quantized alone, in words, or None.
        op_types: the quantizable types, whether the graph has them or not.

    Returns:
        The configuration, its layers in graph order.

    Raises:
        AmctRuntimeError: the file cannot be read.
        AmctValueError: it cannot be parsed, a layer or type is unknown or repeated, a value is out of range or not
            supported by this version, or no layer is left to quantize.
    """
    source = f"config_defination {path}"
    config = read_simplified(path, source)
    names = LayerNames(layers, all_ops, reasons, tensor_reason)
    settings = check_object(fields.GLOBAL, global_settings(config), where=source)
    names.check_all_fusable(settings["skip_fusion_layers"], f"skip_fusion_layers of {source}")
    _check_types(config.skip_layer_types, op_types, f"skip_layer_types of {source}")
    priorities = _Priorities.of(config, names, op_types, source)
    tensors = _tensors(config, names, settings["activation_offset"], source)
    parts: list[Section | TensorEntry] = [settings, *tensors]
    for part in parts:
        part.check_supported()
    chosen = layers_to_quantize(
        names, skip_layers=config.skip_layers, skip_layer_types=config.skip_layer_types, where=source
    )
    _warn_of_overridden(set(priorities.by_layer).difference(chosen), source)
    entries = {
        name: check_layer_entry(
            priorities.entry(name, layers[name]),
            layers[name],
            settings=settings,
            where=f"layer {name} of {source}",
            weights_where=priorities.weights_where(name, layers[name], source),
        )
        for name in chosen
    }
    return quant_config(settings, {name: entry.layer_config(layers[name]) for name, entry in entries.items()}, tensors)


def _tensors(config: Any, names: LayerNames, activation_offset: bool, source: str) -> list[TensorEntry]:
    """Returns what the file says of single tensors."""
    items = [
        tensor_item(item, f"tensor_quantize[{index}] of {source}") for index, item in enumerate(config.tensor_quantize)
    ]
    return check_tensor_entries(items, names, activation_offset=activation_offset, source=source)


@dataclass(frozen=True)
class _Priorities:
    """What the file says of all layers, of those of a type, and of single ones, as entries of config.json.

    An override takes the place of the algorithms that it gives and leaves the others: one with arq_quantize alone
    changes how weights are quantized, and the activations stay as the next lower priority says. Within an algorithm
    nothing is merged: fields that the override leaves out have their defaults.
    """

    common: Mapping[str, Any]
    by_type: Mapping[str, Mapping[str, Any]]
    by_layer: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, config: Any, names: LayerNames, op_types: Collection[str], source: str) -> _Priorities:
        """Takes them from an AMCTConfig, checked."""
        type_where, layer_where = f"override_layer_types of {source}", f"override_layer_configs of {source}"
        _check_types([item.layer_type for item in config.override_layer_types], op_types, type_where)
        names.check_all_quantizable([item.layer_name for item in config.override_layer_configs], layer_where)
        return cls(
            layer_entry(config.common_config, f"common_config of {source}"),
            {
                item.layer_type: layer_entry(item.calibration_config, f"{item.layer_type} in {type_where}")
                for item in config.override_layer_types
            },
            {
                item.layer_name: layer_entry(item.calibration_config, f"{item.layer_name} in {layer_where}")
                for item in config.override_layer_configs
            },
        )

    def entry(self, name: str, traits: LayerTraits) -> dict[str, Any]:
        """Returns the entry of a layer.

        What is said of all layers does not give one weight scale per channel to those that have another default. What
        is said of a type does, but for those of its layers that cannot have it where others of the type can. For a
        type that never has it, this is an error of the type's own override, which check_layer_entry finds.
        """
        common, of_type = self.common, self.by_type.get(traits.op_type, {})
        if not traits.has_weights:  # what is said of all layers is for those that it can be for
            common = {key: value for key, value in common.items() if key != "dmq_balancer_param"}
        if not traits.channel_wise:
            common = _without(common, "weight_quant_params", "channel_wise")
        if traits.one_scale or traits.symmetric:  # it feeds Softmax, or has a second tensor in the place of weights
            of_type = _without(of_type, "weight_quant_params", "channel_wise")
        if traits.symmetric:
            common = _without(common, "activation_quant_params", "asymmetric")
        return {**common, **of_type, **self.by_layer.get(name, {})}

    def weights_where(self, name: str, traits: LayerTraits, source: str) -> str | None:
        """Returns which override says how the weights of a layer are quantized, None if none does."""
        overrides = (
            (self.by_layer, name, "override_layer_configs"),
            (self.by_type, traits.op_type, "override_layer_types"),
        )
        for entries, key, field in overrides:
            if "weight_quant_params" in entries.get(key, {}):
                return f"arq_quantize of {key} in {field} of {source}"
        return None


def _without(entry: Mapping[str, Any], key: str, field: str) -> dict[str, Any]:
    """Returns the entry with the default for a field of one of its objects."""
    if key not in entry:
        return dict(entry)
    return {**entry, key: {name: value for name, value in entry[key].items() if name != field}}


def _check_types(types: Collection[str], op_types: Collection[str], where: str) -> None:
    """Raises AmctValueError if a type is repeated or not quantizable."""
    check_not_repeated(types, where)
    for op_type in types:
        if op_type not in op_types:
            hint = did_you_mean(op_type, op_types) or f"; those that do are {', '.join(op_types)}"
            raise AmctValueError(f"Layer type {op_type} does not support quantize, but is named in {where}{hint}")


def _warn_of_overridden(skipped: Iterable[str], source: str) -> None:
    names = ", ".join(sorted(skipped))
    if names:
        LOGGER.push_warning_message(
            f"override_layer_configs of {source} has no effect on {names}, because the layer or its type is skipped",
            "create_quant_config",
        )
