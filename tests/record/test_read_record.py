from __future__ import annotations

import numpy as np
import pytest

from amct_tensorflow.errors import AmctError, AmctRuntimeError, AmctValueError
from amct_tensorflow.record import LayerRecord, read_record

GOOD = "scale_d: 0.5 offset_d: -128 scale_w: 0.25 scale_w: 0.125 offset_w: 0 offset_w: 0"


def entry(value: str, key: str = "net/conv") -> str:
    return f'record {{ key: "{key}" value {{ {value} }} }}\n'


@pytest.fixture
def record_file(tmp_path):
    """Writes a record file and returns its path."""

    def write(content: str | bytes):
        path = tmp_path / "record.txt"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def test_reads_every_field(record_file):
    types = 'skip_fusion: true dst_type: "INT8" act_type: "INT8" wts_type: "INT8"'
    path = record_file(entry(f"{GOOD} shift_bit: 1 shift_bit: 16 {types}"))
    assert read_record(path) == {
        "net/conv": LayerRecord(
            scale_d=0.5,
            offset_d=-128,
            scale_w=(0.25, 0.125),
            offset_w=(0, 0),
            shift_bit=(1, 16),
            skip_fusion=True,
            dst_type="INT8",
            act_type="INT8",
            wts_type="INT8",
        )
    }


def test_keeps_the_order_of_the_file(record_file):
    path = record_file("".join(entry(GOOD, key) for key in "cab"))
    assert list(read_record(path)) == ["c", "a", "b"]


def test_a_layer_that_was_not_calibrated_is_empty(record_file):
    path = record_file(entry(GOOD, "done") + entry("", "left") + entry("skip_fusion: true", "unfused"))
    assert {key: record.is_empty for key, record in read_record(path).items()} == {
        "done": False,
        "left": True,
        "unfused": True,
    }


@pytest.mark.parametrize(
    ("fields", "empty"),
    [
        ({}, True),
        ({"skip_fusion": True, "act_type": "INT8"}, True),
        ({"scale_d": 1.0}, False),
        ({"offset_d": 0}, False),
        ({"scale_w": (1.0,)}, False),
        ({"offset_w": (0,)}, False),
        ({"shift_bit": (0,)}, False),
    ],
    ids=str,
)
def test_is_empty(fields, empty):
    assert LayerRecord(**fields).is_empty is empty


@pytest.mark.parametrize(
    "value",
    [
        "scale_d: 1e-45 offset_d: 0",
        "scale_d: 3.4028234e38 offset_d: 127",
        "scale_d: 1 offset_d: 0 scale_w: 1 offset_w: 0 shift_bit: 0",
        "scale_d: 1 offset_d: 0 scale_w: 1 offset_w: 0 shift_bit: 16",
    ],
    ids=["smallest_scale", "largest_scale", "no_shift", "largest_shift"],
)
def test_accepts_limits(record_file, value):
    assert not read_record(record_file(entry(value)))["net/conv"].is_empty


@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["unix", "windows"])
def test_accepts_the_text_files_of_editors(record_file, newline):
    content = b"\xef\xbb\xbf" + entry(GOOD).replace(" ", newline).encode()
    assert list(read_record(record_file(content))) == ["net/conv"]


def test_reads_the_published_record(shared):
    records = read_record(shared / "data/mobilenet_v2/record_quantized.txt")
    assert len(records) == 54
    assert not any(record.is_empty for record in records.values())
    assert records["MobilenetV2/Conv/Conv2D"].scale_d == 0.0078125
    assert records["MobilenetV2/Logits/AvgPool"] == LayerRecord(scale_d=float(np.float32(0.0235294122)), offset_d=-128)
    assert len(records["MobilenetV2/Logits/Conv2d_1c_1x1/Conv2D"].scale_w) == 1
    assert len(records["MobilenetV2/expanded_conv_2/depthwise/depthwise"].scale_w) == 144


def test_missing_file(tmp_path):
    with pytest.raises(AmctRuntimeError, match=r"record file .*none\.txt cannot be read .*quantize_model"):
        read_record(tmp_path / "none.txt")


def test_directory(tmp_path):
    with pytest.raises(AmctRuntimeError, match=r"cannot be read .*directory"):
        read_record(tmp_path)


@pytest.mark.parametrize(
    "content",
    ["", "  \n# nothing yet\n", entry("", "a") + entry("", "b"), entry("skip_fusion: true")],
    ids=["empty", "comment", "skeleton", "only_skip_fusion"],
)
def test_empty(record_file, content):
    message = (
        "record_file is empty, no layers to be quantized. "
        "please ensure calibration is finished by checking information!"
    )
    path = record_file(content)
    with pytest.raises(AmctRuntimeError) as caught:
        read_record(path)
    assert str(caught.value).startswith(message)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        entry(GOOD)[:-20],
        '{"record": {}}',
        b"\x08\x96\x01\xff\xfe",
        b"\x00\x01\x02",
        entry("scale_q: 1"),
        entry("scale_d: one"),
        entry("scale_d: 1 scale_d: 2"),
        entry("offset_d: 0.5"),
        entry("offset_d: 3000000000"),
        entry("shift_bit: -1"),
    ],
    ids=[
        "truncated",
        "json",
        "binary",
        "nul_bytes",
        "unknown_field",
        "word_for_number",
        "field_twice",
        "fraction_for_integer",
        "beyond_int32",
        "negative_shift",
    ],
)
def test_not_parsable(record_file, content):
    path = record_file(content)
    with pytest.raises(AmctRuntimeError) as caught:
        read_record(path)
    assert str(caught.value).startswith(
        f"the record_file{{{path}}} cannot be parsered, please ensure it matches with scale_offset_record.proto!"
    )


def test_not_parsable_tells_the_line(record_file):
    with pytest.raises(AmctRuntimeError, match=r"2:\d+ : .*no field named \"scale_q\""):
        read_record(record_file(entry(GOOD) + entry("scale_q: 1")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("record { value { scale_d: 1 } }", 'Cannot find "key" in record file.*entry 1'),
        ('record { key: "" value { scale_d: 1 } }', 'Cannot find "key" in record file'),
        (entry(GOOD) + "record { }", 'Cannot find "key" in record file.*entry 2'),
        ('record { key: "net/conv" }', "cannot find 'value' in net/conv in record_file"),
    ],
    ids=["no_key", "empty_key", "nothing", "no_value"],
)
def test_incomplete_entry(record_file, content, message):
    with pytest.raises(AmctRuntimeError, match=message):
        read_record(record_file(content))


def test_same_layer_twice(record_file):
    with pytest.raises(AmctValueError, match=r"layer net/conv appears twice in record file .*delete"):
        read_record(record_file(entry(GOOD) + entry(GOOD, "other") + entry(GOOD)))


@pytest.mark.parametrize("bad", ["nan", "0", "-0.5", "inf", "-inf", "1e39", "1e-50"])
def test_illegal_scale_d(record_file, bad):
    message = "scale_d's value shoule be in positivate range of float32 in layer net/conv of .*calibrate"
    with pytest.raises(AmctValueError, match=message):
        read_record(record_file(entry(f"scale_d: {bad} offset_d: 0")))


@pytest.mark.parametrize("bad", ["nan", "0", "-0.5", "inf"])
def test_illegal_scale_w(record_file, bad):
    value = f"scale_d: 1 offset_d: 0 scale_w: 1 scale_w: {bad} offset_w: 0 offset_w: 0"
    message = r"scale_w's value shoule be in positivate range of float32 in layer net/conv .*scale_w\[1\]"
    with pytest.raises(AmctValueError, match=message):
        read_record(record_file(entry(value)))


@pytest.mark.parametrize("bad", [-129, 128])
def test_illegal_offset_d(record_file, bad):
    message = rf"offset_d's value should be in \[-128, 127\] in layer net/conv .*{bad}"
    with pytest.raises(AmctValueError, match=message):
        read_record(record_file(entry(f"scale_d: 1 offset_d: {bad}")))


def test_illegal_offset_w(record_file):
    with pytest.raises(AmctValueError, match=r"offset_w's value should be 0 in layer net/conv .*offset_w is 3"):
        read_record(record_file(entry("scale_d: 1 offset_d: 0 scale_w: 1 offset_w: 3")))


@pytest.mark.parametrize("bits", [(0, 1), (17, 17), (1, 0)], ids=str)
def test_illegal_shift_bit(record_file, bits):
    shifts = " ".join(f"shift_bit: {bit}" for bit in bits)
    message = r"shift_bit's value should be in \[1, 16\] or all be 0 in layer net/conv"
    with pytest.raises(AmctValueError, match=message):
        read_record(record_file(entry(f"{GOOD} {shifts}")))


@pytest.mark.parametrize(
    ("value", "lengths"),
    [
        ("scale_w: 1 scale_w: 1 offset_w: 0", r"scale_w's length\(2\) and offset_w's length\(1\)"),
        ("scale_w: 1", r"scale_w's length\(1\) and offset_w's length\(0\)"),
        ("offset_w: 0", r"scale_w's length\(0\) and offset_w's length\(1\)"),
        (
            "scale_w: 1 offset_w: 0 shift_bit: 1 shift_bit: 1",
            r"scale_w's length\(1\) and offset_w's length\(1\) and shift_bit's length\(2\)",
        ),
        ("shift_bit: [1, 2]", r"shift_bit's length\(2\) and scale_d's length\(1\)"),
    ],
    ids=["offset_short", "no_offset", "no_scale", "shift_long", "shift_alone"],
)
def test_lengths_differ(record_file, value, lengths):
    with pytest.raises(AmctRuntimeError, match=f"{lengths} should be equal in layer net/conv of record file"):
        read_record(record_file(entry(f"scale_d: 1 offset_d: 0 {value}")))


@pytest.mark.parametrize("field", ["dst_type", "act_type", "wts_type"])
def test_unknown_type(record_file, field):
    with pytest.raises(AmctRuntimeError, match=f"Do not support {field} UINT8 in layer net/conv .*INT8"):
        read_record(record_file(entry(f'{GOOD} {field}: "UINT8"')))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("cluster: 1", "cluster's length should be 16 or 32 in layer net/conv .* is 1"),
        (
            "cluster: 128 " + "cluster: 1 " * 15,
            r"cluster's value should be in \[-128, 127\] in layer net/conv",
        ),
        (
            "tensor_balance_factor: 0",
            "tensor_balance_factor's value should be in .*FLT_EPSILON.* in layer net/conv",
        ),
        ("tensor_balance_factor: 1e8", "tensor_balance_factor's value .* in layer net/conv"),
        ("tensor_balance_factor: nan", "tensor_balance_factor's value .* in layer net/conv"),
    ],
    ids=["cluster_length", "cluster_range", "balance_zero", "balance_large", "balance_nan"],
)
def test_illegal_values_of_unsupported_features(record_file, value, message):
    with pytest.raises(AmctValueError, match=message):
        read_record(record_file(entry(f"{GOOD} {value}")))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (entry(f'{GOOD} dst_type: "INT4"'), "dst_type INT4 in layer net/conv .*not supported yet; use INT8"),
        (entry(f'{GOOD} act_type: "INT16"'), "act_type INT16 in layer net/conv .*not supported yet"),
        (entry(f'{GOOD} wts_type: "INT6"'), "wts_type INT6 in layer net/conv .*not supported yet"),
        (entry(f"{GOOD} " + "cluster: 1 " * 16), "cluster in layer net/conv .*not supported yet"),
        (entry(f'{GOOD} prune_producer: "a"'), "pruning of layer net/conv .*not supported yet"),
        (entry(f'{GOOD} prune_consumer: "a"'), "pruning of layer net/conv .*not supported yet"),
        (entry(GOOD) + 'prune_record { producer { name: "a" } }', "prune_record in .*not supported yet"),
    ],
    ids=["int4", "int16", "int6", "cluster", "producer", "consumer", "prune_record"],
)
def test_not_supported_yet(record_file, content, message):
    path = record_file(content)
    with pytest.raises(AmctValueError, match=message) as caught:
        read_record(path)
    assert str(path) in str(caught.value)


def test_any_damage_gives_one_of_our_errors(record_file):
    content = entry(GOOD, "a") + entry(f'{GOOD} act_type: "INT8" skip_fusion: true', "b")
    for cut in range(len(content)):
        try:
            read_record(record_file(content[:cut] + content[cut + 1 :]))
        except AmctError as error:
            assert "record" in str(error)
