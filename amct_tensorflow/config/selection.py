"""Which layers of the graph get an entry in a new config.json."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from amct_tensorflow.config import fields
from amct_tensorflow.config.layer_names import LayerNames
from amct_tensorflow.errors import AmctValueError


def layers_to_quantize(
    names: LayerNames, *, skip_layers: Collection[str], skip_layer_types: Collection[str] = (), where: str
) -> list[str]:
    """Returns the quantizable layers that are left, in graph order.

    Args:
        names: the operations of the graph.
        skip_layers: names of layers to leave out.
        skip_layer_types: legal types of layers to leave out.
        where: where `skip_layers` stands, for the messages.

    Raises:
        AmctValueError: a name in `skip_layers` is unknown, not quantizable or repeated, no layer is left, or one that
            is left has the name of a global field of config.json.
    """
    names.check_all_quantizable(skip_layers, f"skip_layers of {where}")
    if not names.layers:
        raise AmctValueError(f"No layer support quantization in the graph.{_shown_reasons(names.reasons)}")
    of_other_types = [name for name, traits in names.layers.items() if traits.op_type not in skip_layer_types]
    if not of_other_types:
        raise AmctValueError(
            f"Except skip_types, no type need to quantize. Leave some type out of skip_layer_types of {where}"
        )
    left = [name for name in of_other_types if name not in skip_layers]
    if not left:
        raise AmctValueError(
            f"Except skip_layers, no layer needs to quantize. Leave some layer out of skip_layers of {where}"
        )
    for name in left:
        if name in fields.GLOBAL.keys:
            raise AmctValueError(
                f"{name} is a global parameter, can not be a layer name; rename the layer or add it to skip_layers"
            )
    return left


def _shown_reasons(reasons: Mapping[str, str], most: int = 3) -> str:
    """Returns the first reasons as the end of a sentence."""
    shown = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:most])
    return f" ({shown}{'; …' if len(reasons) > most else ''})" if shown else ""
