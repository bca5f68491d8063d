"""Reading and writing the record file."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from google.protobuf import text_format

from amct_tensorflow.errors import AmctRuntimeError, AmctValueError
from amct_tensorflow.files import read_file
from amct_tensorflow.proto import record_message
from amct_tensorflow.record.checks import check_values
from amct_tensorflow.record.layer_record import LayerRecord


def read_record(path: str | os.PathLike[str]) -> dict[str, LayerRecord]:
    """Reads a record file, of convert_model's form or of quantize_model's.

    A layer that was not calibrated has an empty record. Source: vendor documentation of the record file.

    Args:
        path: the record file, protobuf text format.

    Returns:
        The factors by layer name, in the order of the file.

    Raises:
        AmctRuntimeError: the file cannot be read or parsed, an entry is incomplete, or no layer has factors.
        AmctValueError: a layer is there twice, a factor is out of range, or a feature is not supported yet.
    """
    source = f"record file {path}"
    records = _read_entries(path, source)
    if all(record.is_empty for record in records.values()):
        raise AmctRuntimeError(
            "record_file is empty, no layers to be quantized. please ensure calibration is finished by "
            f"checking information! ({source} has factors for none of its {len(records)} layers: run the "
            "outputs of the model that quantize_model made, batch_num times)"
        )
    return records


def read_balance_factors(path: str | os.PathLike[str]) -> dict[str, tuple[float, ...]]:
    """Returns the `tensor_balance_factor` of each layer that has some, from a record that may lack all else.

    Raises:
        AmctRuntimeError, AmctValueError: as `read_record`, but for a record without factors.
    """
    records = _read_entries(path, f"record file {path}")
    return {name: record.tensor_balance_factor for name, record in records.items() if record.tensor_balance_factor}


def _read_entries(path: str | os.PathLike[str], source: str) -> dict[str, LayerRecord]:
    records: dict[str, LayerRecord] = {}
    for layer, value in _entries(_parse(path), source):
        if layer in records:
            raise AmctValueError(f"layer {layer} appears twice in {source}; delete one of its entries")
        records[layer] = _layer_record(value)
        check_values(layer, records[layer], source=source)
    return records


def record_text(records: Mapping[str, LayerRecord]) -> bytes:
    """Returns the content of a record file, in the layout of the calibration kernels.

    Floats have 10 significant digits, which is exact for float32.

    Args:
        records: the factors by layer name.

    Raises:
        AmctRuntimeError: factors that belong together differ in number.
        AmctValueError: a factor is out of range, or a feature is not supported yet.
    """
    for layer, record in records.items():
        check_values(layer, record, source="the record to write")
    return "".join(_entry_text(layer, record) for layer, record in records.items()).encode()


def _parse(path: str | os.PathLike[str]) -> Any:
    """Returns the file as an InnerScaleOffsetRecord."""
    content = read_file(path, kind="record file", remedy="calibrate first with quantize_model, or correct record_file")
    try:
        text = content.decode("utf-8-sig")
        plain = _parse_plain_layout(text)
        return text_format.Parse(text, record_message()()) if plain is None else plain
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise AmctRuntimeError(
            f"the record_file{{{path}}} cannot be parsered, please ensure it matches with "
            f"scale_offset_record.proto! (line:column and reason: {error})"
        ) from error


# The layout that the calibration kernels and `write_record` write: one field a line, nothing else.
_PLAIN_ENTRY = re.compile(r'record \{\n  key: "([^"\\\n]*)"\n  value \{\n((?:    \w+: \S+\n)*)  \}\n\}\n')
_PLAIN_FACTORS: dict[str, Callable[[str], float]] = {
    "scale_d": float,
    "offset_d": int,
    "scale_w": float,
    "offset_w": int,
    "shift_bit": int,
    "skip_fusion": {"true": True}.__getitem__,
    "tensor_balance_factor": float,
}
_REPEATED = ("scale_w", "offset_w", "shift_bit", "tensor_balance_factor")


def _parse_plain_layout(text: str) -> Any:
    """Returns the message of a file that has the plain layout, else None.

    protobuf's text parser, written in Python, takes half a second for the 50,000 lines of a MobileNetV2; this
    takes a fifteenth of that. Whatever is out of the ordinary is left to the library, and so are all errors.
    """
    message = record_message()()
    position = 0
    for entry in _PLAIN_ENTRY.finditer(text):
        if entry.start() != position:
            return None
        position = entry.end()
        words = entry[2].split()  # field, number, field, number, …
        numbers = iter(words[1::2])
        added = message.record.add(key=entry[1])
        added.value.SetInParent()
        try:
            for field, run in itertools.groupby(words[::2]):
                name = field[:-1]
                values = list(map(_PLAIN_FACTORS[name], itertools.islice(numbers, len(list(run)))))
                if name in _REPEATED:
                    getattr(added.value, name).extend(values)
                elif len(values) == 1 and not added.value.HasField(name):
                    setattr(added.value, name, values[0])
                else:
                    return None
        except (KeyError, ValueError):
            return None
    return message if position == len(text) else None


def _entries(message: Any, source: str) -> Iterator[tuple[str, Any]]:
    """Yields layer name and value of each entry, refusing incomplete ones and those of other features."""
    if message.prune_record:
        raise AmctValueError(f"prune_record in {source} is not supported yet; delete it")
    for number, entry in enumerate(message.record, start=1):
        if not entry.key:
            raise AmctRuntimeError(
                f'Cannot find "key" in record file. (entry {number} of {source}: add the layer name)'
            )
        if not entry.HasField("value"):
            raise AmctRuntimeError(
                f"cannot find 'value' in {entry.key} in record_file. ({source}: add its factors or delete it)"
            )
        if entry.value.prune_producer or entry.value.prune_consumer:
            raise AmctValueError(f"pruning of layer {entry.key} in {source} is not supported yet; delete it")
        yield entry.key, entry.value


def _layer_record(value: Any) -> LayerRecord:
    """Returns an InnerSingleLayerRecord as a LayerRecord."""

    def optional(field: str) -> Any:
        return getattr(value, field) if value.HasField(field) else None

    return LayerRecord(
        scale_d=optional("scale_d"),
        offset_d=optional("offset_d"),
        scale_w=tuple(value.scale_w),
        offset_w=tuple(value.offset_w),
        shift_bit=tuple(value.shift_bit),
        skip_fusion=value.skip_fusion,
        cluster=tuple(value.cluster),
        tensor_balance_factor=tuple(value.tensor_balance_factor),
        dst_type=optional("dst_type"),
        act_type=optional("act_type"),
        wts_type=optional("wts_type"),
    )


def _entry_text(layer: str, record: LayerRecord) -> str:
    """Returns one entry, laid out as the calibration kernels do."""
    lines = [f"    {field}: {text}\n" for field, text in _field_texts(record)]
    return f"record {{\n  key: {json.dumps(layer, ensure_ascii=False)}\n  value {{\n{''.join(lines)}  }}\n}}\n"


def _field_texts(record: LayerRecord) -> Iterator[tuple[str, str]]:
    """Yields the fields that are present, in the order of the .proto file; a repeated one once per value."""
    if record.scale_d is not None:
        yield "scale_d", f"{record.scale_d:.10g}"
    if record.offset_d is not None:
        yield "offset_d", str(record.offset_d)
    yield from (("scale_w", f"{scale:.10g}") for scale in record.scale_w)
    yield from (("offset_w", str(offset)) for offset in record.offset_w)
    yield from (("shift_bit", str(shift)) for shift in record.shift_bit)
    if record.skip_fusion:
        yield "skip_fusion", "true"
    for field in ("dst_type", "act_type", "wts_type"):
        value = getattr(record, field)
        if value is not None:
            yield field, json.dumps(value)
    yield from (("tensor_balance_factor", f"{factor:.10g}") for factor in record.tensor_balance_factor)
