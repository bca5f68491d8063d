"""The configuration that create_quant_config writes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from amct_tensorflow.config import fields
from amct_tensorflow.config.assemble import check_layer_entry, quant_config
from amct_tensorflow.config.layer_names import LayerNames
from amct_tensorflow.config.quant_config import LayerTraits, QuantConfig
from amct_tensorflow.config.schema import STRINGS, Field, check_not_repeated, check_object, check_value
from amct_tensorflow.errors import AmctValueError

_WHERE = "create_quant_config"


def default_config(
    layers: Mapping[str, LayerTraits],
    *,
    all_ops: Collection[str],
    reasons: Mapping[str, str],
    skip_layers: Sequence[str] | None = None,
    batch_num: int = 1,
    activation_offset: bool = True,
) -> QuantConfig:
    """Returns the configuration that quantizes every layer but `skip_layers`, with default parameters.

    Args:
        layers: the quantizable layers of the graph, in graph order.
        all_ops: the names of all operations of the graph.
        reasons: why an operation of a known type cannot be quantized, in words, by name.
        skip_layers: layers to leave out.
        batch_num: number of batches that the calibration will see.
        activation_offset: whether activations are quantized asymmetrically.

    Raises:
        AmctTypeError: an argument has the wrong type.
        AmctValueError: an argument is out of range, or no layer is left to quantize.
    """
    given = {"batch_num": batch_num, "activation_offset": activation_offset}
    settings = check_object(fields.GLOBAL, given, where=_WHERE)
    skipped = _check_skip_layers(skip_layers, LayerNames(layers, all_ops, reasons))
    if not layers:
        raise AmctValueError(f"No layer support quantization in the graph.{_shown_reasons(reasons)}")
    if skipped.issuperset(layers):
        raise AmctValueError("Except skip_layers, no layer needs to quantize. Leave some layer out of skip_layers")
    for name in layers:
        if name not in skipped and name in fields.GLOBAL.keys:
            raise AmctValueError(
                f"{name} is a global parameter, can not be a layer name; rename the layer or add it to skip_layers"
            )
    return quant_config(
        settings,
        {
            name: check_layer_entry(
                {}, traits, activation_offset=activation_offset, where=f"layer {name}"
            ).layer_config(traits)
            for name, traits in layers.items()
            if name not in skipped
        },
    )


def _check_skip_layers(skip_layers: Sequence[str] | None, names: LayerNames) -> set[str]:
    """Returns the legal names in `skip_layers`."""
    given = [] if skip_layers is None else skip_layers
    skipped = check_value(Field("skip_layers", STRINGS), given, where=_WHERE)
    where = f"skip_layers of {_WHERE}"
    check_not_repeated(skipped, where)
    for name in skipped:
        names.check_quantizable(name, where)
    return set(skipped)


def _shown_reasons(reasons: Mapping[str, str], most: int = 3) -> str:
    """Returns the first reasons as the end of a sentence."""
    shown = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:most])
    return f" ({shown}{'; …' if len(reasons) > most else ''})" if shown else ""
