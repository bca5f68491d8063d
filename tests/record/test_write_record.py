from __future__ import annotations

import numpy as np
import pytest

from amct_tensorflow.errors import AmctError, AmctRuntimeError, AmctValueError
from amct_tensorflow.record import LayerRecord, read_record, write_record

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
  }
}
record {
  key: "net/left"
  value {
  }
}
"""


def test_layout(tmp_path):
    write_record(tmp_path / "record.txt", {"net/conv": EVERYTHING, "net/left": LayerRecord()})
    assert (tmp_path / "record.txt").read_text() == EVERYTHING_TEXT


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
def test_illegal_factors_are_not_written(tmp_path, record):
    path = tmp_path / "record.txt"
    with pytest.raises(AmctValueError, match=r"in layer net/conv of record file .*record\.txt"):
        write_record(path, {"net/conv": record})
    assert not path.exists()


def test_parent_directories_are_created_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "new" / "deeper" / "record.txt"
    write_record(path, {"a": EVERYTHING})
    write_record(path, {"b": EVERYTHING})
    assert list(read_record(path)) == ["b"]
    assert [entry.name for entry in path.parent.iterdir()] == ["record.txt"]


def test_unwritable_path(tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "record.txt"
    with pytest.raises(AmctRuntimeError, match=r"record file .*record\.txt cannot be written"):
        write_record(path, {"a": EVERYTHING})


def test_errors_are_of_the_family(tmp_path):
    with pytest.raises(AmctError):
        write_record(tmp_path, {"a": EVERYTHING})
    assert list(tmp_path.iterdir()) == []
