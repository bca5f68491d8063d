"""Reading the file beside a record: as the ops write it, and damaged in all ways that one can think of."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from amct_tensorflow import ops
from amct_tensorflow.record import DamagedRounding, LayerRounding, is_foreign, read_rounding, rounding_path
from amct_tensorflow.stencils import layout_of

NAMES = ["layer", "a/b/c", 'quote"', "back\\slash", 'both\\"', "with space", ".dots-and_more>", "layer/weights", "Ü"]


def calibrate(record: Path, layers: Sequence[str] = ("layer",), plain: Sequence[str] = (), **options: bool) -> None:
    """Writes the record and the file beside it of layers with weights [3, 2]; those of `plain` ask for nothing."""
    book = ops.RecordBook(str(record), batch_num=1)
    x = tf.constant(np.random.default_rng(0).standard_normal((20, 3)), tf.float32)
    weights = np.float32([[1.25, -3.5], [0.25, 9], [-2.75, 7.125]])
    for layer in (*layers, *plain):
        book.add_layer(layer, scale_w=[1.0], wants_weights=True, wants_shift=False, skip_fusion=False)
    for layer in layers:
        book.add_rounding(
            [layer],
            moments=[layer],
            layout=layout_of((3, 2), (1,), 0, 1, is_kernel=False).numbers(),
            weights=weights,
            shape=(3, 2),
            scales=[1.0],
            channel_axes=(),
            **({"compensate": True, "correct_bias": True} | options),
        )
    common: dict[str, Any] = {"record_file": book.path, "generation": book.generation, "batch_num": 1}
    ops.tensorflow_ops().quant_ifmr(x, layers=[*layers, *plain], **common)
    for layer in layers:
        ops.tensorflow_ops().input_moments(
            x, layers=[layer], groups=1, most_block=1024, kernel=[], strides=[], dilations=[], **common
        )
    ops.flush_record(book.path)
    book.close()


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    """The content of a small file: of a layer, and of one that asks for nothing."""
    record = tmp_path_factory.mktemp("good") / "record.txt"
    calibrate(record, ["layer"], ["plain"])
    return Path(rounding_path(record)).read_bytes()


@pytest.fixture
def read(tmp_path) -> Callable[[bytes], dict[str, LayerRounding | None] | None]:
    """Reads a file of some content."""

    def run(content: bytes) -> dict[str, LayerRounding | None] | None:
        Path(rounding_path(tmp_path / "record.txt")).write_bytes(content)
        return read_rounding(tmp_path / "record.txt")

    return run


# -- An independent reader and writer of the format ------------------------------------------------------------

TYPES = {"I8": "b", "F32": "f", "F64": "d"}


def unpack(content: bytes) -> tuple[dict[str, str], dict[str, tuple[str, list[int], tuple[float, ...]]]]:
    """Returns metadata, and type, shape and values of each array, with nothing but what the format says."""
    (length,) = struct.unpack_from("<Q", content)
    header = json.loads(content[8 : 8 + length].decode("utf-8"))
    metadata = header.pop("__metadata__")
    data, end, arrays = content[8 + length :], 0, {}
    for name, entry in header.items():
        begin, next_end = entry["data_offsets"]
        assert begin == end  # no holes, in order
        end = next_end
        count = int(np.prod(entry["shape"]))
        values = struct.unpack(f"<{count}{TYPES[entry['dtype']]}", data[begin:end])
        arrays[name] = (entry["dtype"], entry["shape"], values)
    assert end == len(data)
    return metadata, arrays


def pack(metadata: Any, arrays: dict[str, tuple[str, list[int], Sequence[float]]]) -> bytes:
    header: dict[str, Any] = {}
    data = b""
    for name, (dtype, shape, values) in arrays.items():
        packed = struct.pack(f"<{len(values)}{TYPES[dtype]}", *values)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(packed)]}
        data += packed
    header["__metadata__"] = metadata | {"crc32": f"{zlib.crc32(data):08x}"}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


# -- Good files ------------------------------------------------------------------------------------------------


def test_what_an_independent_reader_sees(good, read):
    metadata, arrays = unpack(good)
    assert len(metadata.pop("crc32")) == 8
    assert metadata == {"format": "amct_tensorflow weight rounding 1", "layer layer": "layer", "layer plain": ""}
    shapes = {name: (dtype, shape) for name, (dtype, shape, _) in arrays.items()}
    per_input = dict.fromkeys(("layer/mean", "layer/power", "layer/nonzero", "layer/largest"), ("F32", [1, 3]))
    assert shapes == {
        "layer/weights": ("I8", [3, 2]),
        "layer/bias": ("F32", [2]),
        "layer/fingerprint": ("F64", [3]),
        "layer/errors": ("F64", [3]),
        "layer/activation": ("F64", [3]),
        "layer/seen": ("F32", [1]),
        **per_input,
    }
    found = read(good)
    assert set(found) == {"layer", "plain"} and found["plain"] is None
    layer = found["layer"]
    values = {name: np.reshape(values, shape) for name, (_, shape, values) in arrays.items()}
    np.testing.assert_array_equal(layer.weights, values["layer/weights"])
    np.testing.assert_array_equal(layer.bias, values["layer/bias"])
    np.testing.assert_array_equal(layer.fingerprint, values["layer/fingerprint"])
    assert [layer.signal, layer.weight_error, layer.mean_error] == values["layer/errors"].tolist()
    assert [layer.scale_d, layer.offset_d, layer.input_error] == values["layer/activation"].tolist()
    for name in ("mean", "power", "nonzero", "largest", "seen"):
        np.testing.assert_array_equal(getattr(layer.inputs, name), values[f"layer/{name}"])


def test_arrays_start_where_readers_can_map_them(tmp_path):
    """Each at a multiple of the size of its elements, also behind the weights of other layers, which are bytes."""
    calibrate(tmp_path / "record.txt", ["a", "b"])
    content = Path(rounding_path(tmp_path / "record.txt")).read_bytes()
    length = struct.unpack_from("<Q", content)[0]
    assert length % 8 == 0
    header = json.loads(content[8 : 8 + length])
    del header["__metadata__"]
    sizes = {"I8": 1, "F32": 4, "F64": 8}
    assert [name for name, entry in header.items() if entry["data_offsets"][0] % sizes[entry["dtype"]]] == []
    assert len(header) == 2 * 10


def test_a_file_of_another_writer(good, read):
    """Order of arrays and spaces in the header do not matter."""
    metadata, arrays = unpack(good)
    again = read(pack(metadata, dict(reversed(arrays.items()))))
    np.testing.assert_array_equal(again["layer"].weights, read(good)["layer"].weights)


@pytest.mark.parametrize("options", [{"compensate": False}, {"correct_bias": False}], ids=["nearest", "no correction"])
def test_what_is_not_wanted_is_not_there(tmp_path, options):
    calibrate(tmp_path / "record.txt", **options)
    layer = read_rounding(tmp_path / "record.txt")["layer"]
    assert (layer.weights is None) == ("compensate" in options)
    assert (layer.bias is None) == ("correct_bias" in options)


def test_names_of_layers(tmp_path):
    calibrate(tmp_path / "record.txt", NAMES, ["plain \\ one"])
    found = read_rounding(tmp_path / "record.txt")
    assert list(found) == [*NAMES, "plain \\ one"]
    metadata, arrays = unpack(Path(rounding_path(tmp_path / "record.txt")).read_bytes())
    assert [metadata[f"layer {name}"] for name in NAMES] == NAMES
    assert all(f"{name}/weights" in arrays for name in NAMES)
    assert all(layer.weights.shape == (3, 2) for layer in found.values() if layer is not None)


def test_no_file(tmp_path):
    assert read_rounding(tmp_path / "record.txt") is None


def test_the_path_is_that_of_the_record_itself(tmp_path):
    """Behind symbolic links, as the calibration writes it."""
    (tmp_path / "real").mkdir()
    calibrate(tmp_path / "real" / "record.txt")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real" / "record.txt")
    assert rounding_path(tmp_path / "link.txt") == str((tmp_path / "real" / "record.txt.safetensors").resolve())
    assert set(read_rounding(tmp_path / "link.txt")) == {"layer"}


def test_the_path_is_relative_where_that_of_the_record_is(tmp_path, monkeypatch):
    """And so it stands in messages, also where a folder is a link."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    calibrate(tmp_path / "real" / "record.txt")
    monkeypatch.chdir(tmp_path)
    for record in ("real/record.txt", "link/record.txt"):
        assert rounding_path(record) == f"{record}.safetensors"
        assert set(read_rounding(record)) == {"layer"}


# -- Damaged files ---------------------------------------------------------------------------------------------


def readable(read: Callable[[bytes], Any], content: bytes) -> bool:
    """Whether a file can be read; raises what is not a DamagedRounding."""
    try:
        read(content)
    except DamagedRounding:
        return False
    return True


def test_cut_off_at_every_length(good, read):
    """Nothing but the whole file can be read."""
    assert [size for size in range(len(good)) if readable(read, good[:size])] == []


@pytest.mark.parametrize("bits", [0x01, 0x20, 0xFF], ids=hex)
def test_each_byte_of_the_header_changed(good, read, bits):
    """The result is either that of another valid file or none; most changes are noticed."""
    header = 8 + struct.unpack_from("<Q", good)[0]
    survived = 0
    for at in range(header):
        changed = bytearray(good)
        changed[at] ^= bits
        survived += readable(read, bytes(changed))
    assert survived < header / 4


def test_each_byte_of_the_arrays_changed(good, read):
    """A flipped bit of a weight, or of a bias, would make another model."""
    for at in range(8 + struct.unpack_from("<Q", good)[0], len(good)):
        changed = bytearray(good)
        changed[at] ^= 0x10
        with pytest.raises(DamagedRounding, match=r"^is damaged$"):
            read(bytes(changed))


def test_random_bytes(read):
    random = np.random.default_rng(0)
    for size in range(0, 400, 3):
        assert not readable(read, random.bytes(size))
        assert not readable(read, struct.pack("<Q", size) + random.bytes(size))


HEADERS = {
    "nothing": b"",
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "no metadata": b"{}",
    "metadata that are a list": b'{"__metadata__": []}',
    "metadata that are no text": b'{"__metadata__": {"format": 1}}',
    "an array without a type": b'{"__metadata__": {}, "a": {"shape": [1], "data_offsets": [0, 4]}}',
    "an array that is text": b'{"__metadata__": {}, "a": "b"}',
    "more of an array": b'{"__metadata__": {}, "a": {"dtype": "I8", "shape": [0], "data_offsets": [0, 0], "x": 1}}',
    "an unknown type": b'{"__metadata__": {}, "a": {"dtype": "BF16", "shape": [0], "data_offsets": [0, 0]}}',
    "a list as type": b'{"__metadata__": {}, "a": {"dtype": [], "shape": [0], "data_offsets": [0, 0]}}',
    "three offsets": b'{"__metadata__": {}, "a": {"dtype": "I8", "shape": [0], "data_offsets": [0, 0, 0]}}',
    "fractions as offsets": b'{"__metadata__": {}, "a": {"dtype": "I8", "shape": [0], "data_offsets": [0.0, 0.5]}}',
    "text as offsets": b'{"__metadata__": {}, "a": {"dtype": "I8", "shape": [0], "data_offsets": "ab"}}',
    "text as a shape": b'{"__metadata__": {}, "a": {"dtype": "I8", "shape": "x", "data_offsets": [0, 0]}}',
    "a huge shape": b'{"__metadata__": {}, "a": {"dtype": "I8", "shape": [%d], "data_offsets": [0, 0]}}' % 10**30,
    "deep nesting": b"[" * 100_000,
    "not UTF-8": b'{"__metadata__": {"format": "\xff"}}',
    "another format": b'{"__metadata__": {"format": "pt"}}',
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers(read, name):
    header = HEADERS[name]
    with pytest.raises(DamagedRounding, match="is of another format" if name == "another format" else "is damaged"):
        read(struct.pack("<Q", len(header)) + header)


def test_a_format_of_later_times(good, read):
    with pytest.raises(DamagedRounding, match=r"^is of another format$"):
        read(good.replace(b"weight rounding 1", b"weight rounding 2"))


@pytest.mark.parametrize("name", ["fingerprint", "errors", "mean", "power", "nonzero", "largest", "seen", "activation"])
def test_an_array_is_missing(good, read, name):
    metadata, arrays = unpack(good)
    del arrays[f"layer/{name}"]
    with pytest.raises(DamagedRounding, match=r"^lacks what it should have of layer layer$"):
        read(pack(metadata, arrays))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("fingerprint", [2]),
        ("fingerprint", [4]),
        ("fingerprint", [3, 1]),
        ("errors", [2]),
        ("errors", [4]),
        ("errors", [3, 1]),
        ("activation", [2]),
        ("activation", [4]),
        ("activation", [1, 3]),
        ("mean", [3]),
        ("power", [1, 2]),
        ("largest", [3, 1]),
        ("seen", [3]),
        ("bias", [2, 1]),
    ],
    ids=str,
)
def test_arrays_of_other_shapes(good, read, name, shape):
    metadata, arrays = unpack(good)
    dtype = arrays[f"layer/{name}"][0]
    arrays[f"layer/{name}"] = (dtype, shape, [1.0] * int(np.prod(shape)))
    with pytest.raises(DamagedRounding, match=r"^lacks what it should have of layer layer$"):
        read(pack(metadata, arrays))


@pytest.mark.parametrize("offsets", [[-8, 16], [0, 10**9], [16, 8], [0, 23], [0, 10**30]], ids=str)
def test_offsets_outside(good, read, offsets):
    length = struct.unpack_from("<Q", good)[0]
    header = json.loads(good[8 : 8 + length])
    header["layer/errors"]["data_offsets"] = offsets
    text = json.dumps(header).encode()
    with pytest.raises(DamagedRounding, match=r"^is damaged$"):
        read(struct.pack("<Q", len(text)) + text + good[8 + length :])


def test_a_layer_whose_key_is_of_no_layer(good, read):
    metadata, arrays = unpack(good)
    with pytest.raises(DamagedRounding, match=r"^lacks what it should have of layer layer$"):
        read(pack({**metadata, "layer layer": "other"}, arrays))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("weights", "F32"), ("bias", "F64"), ("mean", "F64"), ("seen", "I8"), ("errors", "F32"), ("fingerprint", "F32")],
    ids=str,
)
def test_arrays_of_other_types(good, read, name, dtype):
    metadata, arrays = unpack(good)
    _, shape, values = arrays[f"layer/{name}"]
    arrays[f"layer/{name}"] = (dtype, shape, [int(value) for value in values])
    with pytest.raises(DamagedRounding, match=r"^lacks what it should have of layer layer$"):
        read(pack(metadata, arrays))


@pytest.mark.parametrize("value", [float("nan"), float("inf")], ids=str)
def test_an_offset_that_is_no_number(good, read, value):
    metadata, arrays = unpack(good)
    arrays["layer/activation"] = ("F64", [3], [1.0, value, 0.0])
    with pytest.raises(DamagedRounding, match=r"^lacks what it should have of layer layer$"):
        read(pack(metadata, arrays))


def test_a_folder_in_its_place(tmp_path):
    Path(rounding_path(tmp_path / "record.txt")).mkdir()
    with pytest.raises(DamagedRounding, match=r"^cannot be read \("):
        read_rounding(tmp_path / "record.txt")


# -- Whose file is it? -----------------------------------------------------------------------------------------


def is_foreign_with(path: Path, content: bytes) -> bool:
    path.write_bytes(content)
    return is_foreign(str(path))


def test_a_file_of_a_calibration_is_not_foreign(good, tmp_path):
    header = 8 + struct.unpack_from("<Q", good)[0]
    for content in (good, good[:header], good.replace(b"weight rounding 1", b"weight rounding 2")):
        assert not is_foreign_with(tmp_path / "file", content)


def test_nothing_is_not_foreign(tmp_path):
    assert not is_foreign(str(tmp_path / "file"))
    assert not is_foreign(str(tmp_path / "folder" / "file"))


@pytest.mark.parametrize("name", HEADERS)
def test_a_file_of_another_writer_is_foreign(tmp_path, name):
    assert is_foreign_with(tmp_path / "file", struct.pack("<Q", len(HEADERS[name])) + HEADERS[name])


@pytest.mark.parametrize("content", [b"", b"{}", b'{"batch_num": 1}' * 9, bytes(64), b"\xff" * 64], ids=str)
def test_a_file_of_another_form_is_foreign(tmp_path, content):
    assert is_foreign_with(tmp_path / "file", content)


def test_what_is_no_file_is_foreign(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")  # which must not be waited for
    for path in (tmp_path, tmp_path / "link", tmp_path / "pipe"):
        assert is_foreign(str(path))


def test_only_the_header_is_read(good, tmp_path):
    """Also of a file that would not fit into memory."""
    (tmp_path / "file").write_bytes(good)
    os.truncate(tmp_path / "file", 2**38)
    assert not is_foreign(str(tmp_path / "file"))
