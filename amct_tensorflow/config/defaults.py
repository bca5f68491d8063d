"""The configuration that create_quant_config writes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from amct_tensorflow.config import fields
from amct_tensorflow.config.assemble import check_layer_entry, quant_config
from amct_tensorflow.config.layer_names import LayerNames
from amct_tensorflow.config.quant_config import LayerTraits, QuantConfig
from amct_tensorflow.config.schema import STRINGS, Field, check_object, check_value
from amct_tensorflow.config.selection import layers_to_quantize

_WHERE = "create_quant_config"


def default_config(
    layers: Mapping[str, LayerTraits],
    *,
    all_ops: Collection[str],
    reasons: Mapping[str, str],
    skip_layers: Sequence[str] | None = None,
    batch_num: int = 1,
    activation_offset: bool = True,
    target: str = fields.ASCEND,
) -> QuantConfig:
    """Returns the configuration that quantizes every layer but `skip_layers`, with default parameters.

    Args:
        layers: the quantizable layers of the graph, in graph order.
        all_ops: the names of all operations of the graph.
        reasons: why an operation of a known type cannot be quantized, in words, by name.
        skip_layers: layers to leave out.
        batch_num: number of batches that the calibration will see.
        activation_offset: whether activations are quantized asymmetrically.
        target: what will run the int8 model.

    Raises:
        AmctTypeError: an argument has the wrong type.
        AmctValueError: an argument is out of range, or no layer is left to quantize.
    """
    given = {"batch_num": batch_num, "target": target, "activation_offset": activation_offset}
    settings = check_object(fields.GLOBAL, given, where=_WHERE)
    skipped = check_value(Field("skip_layers", STRINGS), [] if skip_layers is None else skip_layers, where=_WHERE)
    return quant_config(
        settings,
        {
            name: check_layer_entry({}, layers[name], settings=settings, where=f"layer {name}").layer_config(
                layers[name]
            )
            for name in layers_to_quantize(LayerNames(layers, all_ops, reasons), skip_layers=skipped, where=_WHERE)
        },
    )
