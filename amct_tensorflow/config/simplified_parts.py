"""From the messages of a simplified configuration to the objects that config.json would have in their place.

Only what the user wrote is taken over, and it is checked where it stands, so that config/fields.py stays the one
place with rules and defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableSequence
from typing import Any

import numpy as np
from google.protobuf import text_format

from amct_tensorflow.config import fields
from amct_tensorflow.config.schema import Schema, check_object
from amct_tensorflow.errors import AmctValueError

_KEYS = {"dst_type": "num_bits", "quant_bits": "num_bits"}


def global_settings(config: Any) -> dict[str, Any]:
    """Returns the global fields of an AMCTConfig that config.json has too, all but `tensor_quantize`."""
    return {
        field.name: _plain(field, value) if field.message_type is None else _given(value)
        for field, value in config.ListFields()
        if field.name in fields.GLOBAL.keys and field.name != "tensor_quantize"
    }


def layer_entry(calibration: Any, where: str) -> dict[str, Any]:
    """Returns a CalibrationConfig as the entry of a layer, without the objects of which it says nothing.

    Args:
        calibration: the message.
        where: where it stands, for error messages: ``"common_config of config_defination x.cfg"``.

    Raises:
        AmctValueError: a value is out of range, fields conflict, or something is not supported yet.
    """
    entry: dict[str, Any] = {}
    for field, part in calibration.ListFields():
        if field.name not in _PARTS:
            raise AmctValueError(f"{field.name} in {where} is not supported yet; remove it")
        entry |= _PARTS[field.name](part, _inside(part, field.name, where))
    return entry


def tensor_item(tensor: Any, where: str) -> dict[str, Any]:
    """Returns a TensorQuantize as an item of `tensor_quantize`.

    Raises:
        AmctValueError: as for `layer_entry`.
    """
    item = {"layer_name": tensor.layer_name, "input_index": tensor.input_index}
    algorithm = tensor.WhichOneof("activation_algorithm")
    if algorithm:
        part = getattr(tensor, algorithm)
        item |= _PARTS[algorithm](part, _inside(part, algorithm, where))
    return item


def _inside(part: Any, name: str, where: str) -> str:
    """Returns where a part stands; its text has the fields as the user wrote them, an error those of config.json."""
    text = text_format.MessageToString(part, as_one_line=True).strip()
    return f"{name} {{{text}}} of {where}"


def _ifmr(part: Any, where: str) -> dict[str, Any]:
    given = _given(part)
    start, end = (given.pop(f"search_range_{side}", None) for side in ("start", "end"))
    if start is not None or end is not None:
        default_start, default_end = fields.DEFAULT_SEARCH_RANGE
        given["search_range"] = [default_start if start is None else start, default_end if end is None else end]
    return _activation("ifmr", given, where)


def _hfmg(part: Any, where: str) -> dict[str, Any]:
    return _activation("hfmg", _given(part), where)


def _activation(algorithm: str, given: dict[str, Any], where: str) -> dict[str, Any]:
    entry = {"act_algo": algorithm, **given}
    return {"activation_quant_params": _checked(fields.ACTIVATION, entry, where, {"num_bits": "set dst_type to INT8"})}


def _arq(part: Any, where: str) -> dict[str, Any]:
    return {"weight_quant_params": _checked(fields.WEIGHT, {"wts_algo": "arq_quantize", **_given(part)}, where)}


def _dmq(part: Any, where: str) -> dict[str, Any]:
    return _checked(fields.LAYER, {"dmq_balancer_param": _as_written(part.migration_strength)}, where)


_PARTS: dict[str, Callable[[Any, str], dict[str, Any]]] = {
    "arq_quantize": _arq,
    "ifmr_quantize": _ifmr,
    "hfmg_quantize": _hfmg,
    "dmq_balancer": _dmq,
}


def _checked(
    schema: Schema, given: dict[str, Any], where: str, remedies: Mapping[str, str] | None = None
) -> dict[str, Any]:
    check_object(schema, given, where=where).check_supported(remedies)
    return given


def _given(message: Any) -> dict[str, Any]:
    """Returns what the user wrote in a message, under the names of config.json."""
    return {_KEYS.get(field.name, field.name): _plain(field, value) for field, value in message.ListFields()}


def _plain(field: Any, value: Any) -> Any:
    """Returns the value of a field as config.json has it."""
    if field.name == "dst_type":
        return int(_enum_name(field, value).removeprefix("INT"))
    if field.enum_type is not None:
        return _enum_name(field, value)
    if isinstance(value, MutableSequence):
        return list(value)
    return _as_written(value) if isinstance(value, float) else value


def _enum_name(field: Any, number: int) -> str:
    name: str = field.enum_type.values_by_number[number].name
    return name


def _as_written(value: float) -> float:
    """Returns a float32 field as the number that the user wrote: 0.7, not 0.699999988."""
    return float(str(np.float32(value)))
