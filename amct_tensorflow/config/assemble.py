"""From the validated objects of config.json to plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from amct_tensorflow.config import fields
from amct_tensorflow.config.quant_config import (
    ActivationParams,
    LayerConfig,
    LayerTraits,
    QuantConfig,
    WeightParams,
)
from amct_tensorflow.config.schema import Section, check_object
from amct_tensorflow.errors import AmctValueError


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
        """Returns the entry as plain data; weight parameters of a type without weights are left out."""
        activation = ActivationParams(**self.activation.values)
        weights = WeightParams(**self.weights.values) if traits.has_weights else None
        return LayerConfig(self.layer["quant_enable"], activation, weights)


def check_layer_entry(
    given: Mapping[str, Any], traits: LayerTraits, *, activation_offset: bool, where: str
) -> LayerEntry:
    """Validates the entry of a layer and completes it with defaults; an empty one gives all defaults.

    Args:
        given: the entry.
        traits: what the layer is.
        activation_offset: the global setting, which the layer follows if it does not say otherwise.
        where: where the entry stands, for the messages.

    Raises:
        AmctTypeError: a value has the wrong type.
        AmctValueError: a key is unknown or repeated, a value is out of range, or fields conflict.
    """
    layer = check_object(fields.LAYER, given, where=where)
    activation = check_object(
        fields.ACTIVATION,
        layer["activation_quant_params"],
        where=f"activation_quant_params of {where}",
        defaults={"asymmetric": activation_offset},
    )
    weights = check_object(
        fields.WEIGHT,
        layer["weight_quant_params"],
        where=f"weight_quant_params of {where}",
        defaults={"channel_wise": traits.channel_wise},
    )
    if weights["channel_wise"] and not traits.channel_wise_capable:
        raise AmctValueError(
            f"The channel_wise must be False for layer type {traits.op_type} in {weights.where}; set it to false"
        )
    return LayerEntry(layer, activation, weights)


def quant_config(settings: Section, layers: dict[str, LayerConfig]) -> QuantConfig:
    """Returns the validated global settings and the layers as plain data."""
    names = [field.name for field in dataclasses.fields(QuantConfig) if field.name != "layers"]
    return QuantConfig(**{name: settings[name] for name in names}, layers=layers)
