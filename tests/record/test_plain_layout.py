"""The quick parser of the plain layout and protobuf's own parser agree, or the quick one stands back."""

from __future__ import annotations

import pytest
from google.protobuf import text_format

from amct_tensorflow.proto import record_message
from amct_tensorflow.record import LayerRecord, record_text
from amct_tensorflow.record.text import _parse_plain_layout


def entry(*lines: str, key: str = "a/b") -> str:
    body = "".join(f"    {line}\n" for line in lines)
    return f'record {{\n  key: "{key}"\n  value {{\n{body}  }}\n}}\n'


PLAIN = {
    "empty_value": entry(),
    "all_factors": entry(
        "scale_d: 0.1", "offset_d: -128", "scale_w: 1e-05", "scale_w: 2", "offset_w: 0", "offset_w: 0", "shift_bit: 3"
    ),
    "floats_at_the_edge": entry("scale_d: 3.402823466e+38", "scale_w: 1.401298464e-45", "scale_w: 0.1000000015"),
    "nan_and_inf": entry("scale_d: nan", "scale_w: inf", "scale_w: -inf"),
    "integer_for_float": entry("scale_d: 1"),
    "skip_fusion": entry("scale_d: 1", "skip_fusion: true"),
    "several": entry("scale_d: 1", key="a") + entry("offset_d: 5", key="b"),
    "unicode_key": entry("scale_d: 1", key="层/conv"),
}
LEFT_TO_THE_LIBRARY = {
    "comment": "# made by hand\n" + entry("scale_d: 1"),
    "other_indent": entry("scale_d: 1").replace("    ", "\t"),
    "escaped_key": entry("scale_d: 1", key='a\\"b'),
    "bool": entry("skip_fusion: 1"),
    "string": entry('act_type: "INT8"'),
    "list": entry("scale_w: [1,2]"),
    "unknown_field": entry("scale_x: 1"),
    "twice": entry("scale_d: 1", "scale_d: 2"),
    "float_for_integer": entry("offset_d: 1.5"),
    "hexadecimal": entry("offset_d: 0x10"),
    "out_of_int32": entry("offset_d: 99999999999"),
    "negative_unsigned": entry("shift_bit: -1"),
    "trailing": entry("scale_d: 1") + "rec",
    "float_suffix": entry("scale_d: 1.5f"),
}


@pytest.mark.parametrize("text", PLAIN.values(), ids=PLAIN)
def test_same_message_as_the_library(text):
    message = _parse_plain_layout(text)
    assert message is not None
    library = text_format.Parse(text, record_message()())
    assert message.SerializeToString(deterministic=True) == library.SerializeToString(deterministic=True)


@pytest.mark.parametrize("text", LEFT_TO_THE_LIBRARY.values(), ids=LEFT_TO_THE_LIBRARY)
def test_left_to_the_library(text):
    assert _parse_plain_layout(text) is None


def test_what_is_written_is_plain():
    record = LayerRecord(
        scale_d=0.1, offset_d=3, scale_w=(0.5, 0.25), offset_w=(0, 0), shift_bit=(1, 2), tensor_balance_factor=(0.5,)
    )
    assert _parse_plain_layout(record_text({"layer": record}).decode()) is not None
