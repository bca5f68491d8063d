"""From the validated objects of config.json to plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from amct_tensorflow.config import fields
from amct_tensorflow.config.layer_names import LayerNames
from amct_tensorflow.config.quant_config import (
    ActivationParams,
    BnUpdateConfig,
    HfmgParams,
    IfmrParams,
    LayerConfig,
    LayerTraits,
    QuantConfig,
    TensorConfig,
    WeightParams,
)
from amct_tensorflow.config.schema import Section, check_not_repeated, check_object
from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.log import LOGGER


@dataclass(frozen=True)
class LayerEntry:
    """The three legal objects of a layer's entry."""

    layer: Section
    activation: Section
    weights: Section

    def check_supported(self) -> None:
        """Raises AmctValueError for a legal value that this version cannot carry out."""
        for section in (self.layer, self.activation, self.weights):
            section.check_supported()

    def layer_config(self, traits: LayerTraits) -> LayerConfig:
        """Returns the entry as plain data; what a type without weights has no use for is left out."""
        enabled, activation = self.layer["quant_enable"], _activation_params(self.activation)
        balance = self.layer.values.get("dmq_balancer_param")
        if traits.has_weights:
            return LayerConfig(enabled, activation, WeightParams(**self.weights.values), balance)
        if balance is not None:
            LOGGER.push_warning_message(
                f"dmq_balancer_param of {self.layer.where} is removed: {traits.op_type} has no weights to balance",
                "config",
            )
        return LayerConfig(enabled, activation, None)


@dataclass(frozen=True)
class TensorEntry:
    """The two legal objects of an item of tensor_quantize."""

    tensor: Section
    activation: Section

    def check_supported(self) -> None:
        """Raises AmctValueError for a legal value that this version cannot carry out."""
        self.activation.check_supported()

    def tensor_config(self) -> TensorConfig:
        """Returns the item as plain data."""
        return TensorConfig(self.tensor["layer_name"], self.tensor["input_index"], _activation_params(self.activation))


def check_layer_entry(
    given: Mapping[str, Any],
    traits: LayerTraits,
    *,
    settings: Section,
    where: str,
    weights_where: str | None = None,
) -> LayerEntry:
    """Validates the entry of a layer and completes it with defaults; an empty one gives all defaults.

    Args:
        given: the entry.
        traits: what the layer is.
        settings: the global ones, which the layer follows if it does not say otherwise.
        where: where the entry stands, for the messages.
        weights_where: where its weight_quant_params stand, if not in the entry.

    Raises:
        AmctTypeError: a value has the wrong type.
        AmctValueError: a key is unknown or repeated, a value is out of range, or fields conflict.
    """
    layer = check_object(fields.LAYER, given, where=where)
    activation = _check_activation(layer, settings["activation_offset"] and not traits.symmetric)
    if traits.symmetric and activation["asymmetric"]:
        activation = _made_symmetric(activation, traits)
    weights = check_object(
        fields.WEIGHT,
        layer["weight_quant_params"],
        where=weights_where or f"weight_quant_params of {where}",
        defaults={"channel_wise": traits.channel_wise} | {name: settings[name] for name in fields.OF_WEIGHTS},
    )
    if weights["channel_wise"] and not traits.has_weights:
        raise AmctValueError(
            f"The channel_wise must be False for layer type {traits.op_type} without weights in {weights.where}; "
            "set it to false"
        )
    return LayerEntry(layer, activation, weights)


def check_tensor_entries(
    items: Iterable[Mapping[str, Any]], names: LayerNames, *, activation_offset: bool, source: str
) -> list[TensorEntry]:
    """Validates the items of tensor_quantize.

    Args:
        items: the items.
        names: the operations of the graph.
        activation_offset: the global setting, which an item follows if it does not say otherwise.
        source: the file, for the messages.

    Raises:
        AmctTypeError: a value has the wrong type.
        AmctValueError: an operation does not exist, a tensor is there twice or cannot be quantized, a key is unknown,
            repeated or missing, a value is out of range, or fields conflict.
    """
    entries = []
    for index, item in enumerate(items):
        tensor = check_object(fields.TENSOR, item, where=f"tensor_quantize[{index}] of {source}")
        names.check_tensor(tensor["layer_name"], tensor["input_index"], tensor.where)
        entries.append(TensorEntry(tensor, _check_activation(tensor, activation_offset)))
    tensors = [f"{entry.tensor['layer_name']}:{entry.tensor['input_index']}" for entry in entries]
    check_not_repeated(tensors, f"tensor_quantize of {source}")
    return entries


def quant_config(settings: Section, layers: dict[str, LayerConfig], tensors: Iterable[TensorEntry] = ()) -> QuantConfig:
    """Returns the validated global settings, the layers and single tensors as plain data."""
    others = ("layers", "tensor_quantize", "bn_update_config")
    names = [field.name for field in dataclasses.fields(QuantConfig) if field.name not in others]
    return QuantConfig(
        **{name: settings[name] for name in names},
        bn_update_config=_bn_update_config(settings),
        tensor_quantize=tuple(entry.tensor_config() for entry in tensors),
        layers=layers,
    )


def _bn_update_config(settings: Section) -> BnUpdateConfig:
    """Returns how batch norms get new statistics; what is said of that counts only if they do."""
    given = settings["bn_update_config"]
    where = f"bn_update_config of {settings.where}"
    section = check_object(fields.BN_UPDATE, given, where=where)
    if given and not settings["update_bn"]:
        LOGGER.push_warning_message(
            f"bn_update_config of {settings.where} has no effect, because update_bn is not true", "config"
        )
        section = check_object(fields.BN_UPDATE, {}, where=where)
    return BnUpdateConfig(**section.values)


def default_activation(activation_offset: bool) -> ActivationParams:
    """Returns how an activation is quantized of which nothing is said."""
    defaults = {"asymmetric": activation_offset}
    return _activation_params(check_object(fields.ACTIVATION, {}, where="the defaults", defaults=defaults))


def _made_symmetric(activation: Section, traits: LayerTraits) -> Section:
    LOGGER.push_warning_message(
        f"asymmetric true in {activation.where} has no effect: both inputs of a {traits.op_type} are quantized "
        "symmetrically",
        "config",
    )
    return dataclasses.replace(activation, values={**activation.values, "asymmetric": False})


def _check_activation(parent: Section, activation_offset: bool) -> Section:
    return check_object(
        fields.ACTIVATION,
        parent["activation_quant_params"],
        where=f"activation_quant_params of {parent.where}",
        defaults={"asymmetric": activation_offset},
    )


def _activation_params(section: Section) -> ActivationParams:
    """Returns the fields of the algorithm; the section holds the defaults of the other one, too."""
    kind = HfmgParams if section["act_algo"] == "hfmg" else IfmrParams
    return kind(**{field.name: section[field.name] for field in dataclasses.fields(kind)})
