from __future__ import annotations

import numpy as np
import pytest
from small_graphs import write_record

from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.record import LayerRecord, read_record, record_text

EVERYTHING = LayerRecord(
    scale_d=0.0078125,
    offset_d=-1,
    scale_w=(0.5, float(np.float32(0.1))),
    offset_w=(0, 0),
    shift_bit=(3, 4),
    skip_fusion=True,
    dst_type="INT8",
    act_type="INT8",
    wts_type="INT8",
    tensor_balance_factor=(0.25, 2.0, 1.5),
)

# The layout is the vendor's (two spaces a level, %.10g).
EVERYTHING_TEXT = """\
record {
  key: "net/conv"
  value {
    scale_d: 0.0078125
    offset_d: -1
    scale_w: 0.5
    scale_w: 0.1000000015
    offset_w: 0
    offset_w: 0
    shift_bit: 3
    shift_bit: 4
    skip_fusion: true
    dst_type: "INT8"
    act_type: "INT8"
    wts_type: "INT8"
    tensor_balance_factor: 0.25
    tensor_balance_factor: 2
    tensor_balance_factor: 1.5
  }
}
record {
  key: "net/left"
  value {
  }
}
"""


def test_layout():
    assert record_text({"net/conv": EVERYTHING, "net/left": LayerRecord()}).decode() == EVERYTHING_TEXT


def test_what_was_written_is_read_again(tmp_path):
    random = np.random.default_rng(0)
    bits = random.integers(1, 0x7F7FFFFF, size=2000, dtype=np.uint32)  # all positive float32, subnormal too
    scales = tuple(bits.view(np.float32).tolist())
    records = {
        "b/many": LayerRecord(scale_d=scales[0], offset_d=-128, scale_w=scales, offset_w=(0,) * len(scales)),
        "a/everything": EVERYTHING,
        "left": LayerRecord(),
    }
    write_record(tmp_path / "record.txt", records)
    again = read_record(tmp_path / "record.txt")
    assert again == records
    assert list(again) == list(records)


@pytest.mark.parametrize(
    "name", ["a.b/c_d-1", "a\\b", 'a"b', "层/conv"], ids=["usual", "backslash", "quote", "unicode"]
)
def test_layer_names_survive(tmp_path, name):
    write_record(tmp_path / "record.txt", {name: EVERYTHING})
    assert list(read_record(tmp_path / "record.txt")) == [name]


def test_the_published_record_survives(shared, tmp_path):
    records = read_record(shared / "data/mobilenet_v2/record_quantized.txt")
    write_record(tmp_path / "record.txt", records)
    assert read_record(tmp_path / "record.txt") == records


@pytest.mark.parametrize(
    "record",
    [
        LayerRecord(scale_d=float("nan"), offset_d=0),
        LayerRecord(scale_d=1e-50, offset_d=0),
        LayerRecord(scale_d=1e39, offset_d=0),
        LayerRecord(scale_d=1.0, offset_d=200),
    ],
    ids=["nan", "zero_in_float32", "inf_in_float32", "offset"],
)
def test_illegal_factors_are_not_written(record):
    with pytest.raises(AmctValueError, match=r"in layer net/conv of the record to write"):
        record_text({"net/conv": record})
