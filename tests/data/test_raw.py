"""load_data on raw .bin files, as the vendor's scripts use it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from amct_tensorflow.common.cmd_line_utils.data_handler import load_data
from amct_tensorflow.errors import AmctError, AmctTypeError, AmctValueError

TYPES = ["float64", "float32", "float16", "int8", "int16", "int32", "int64"]
TYPES += ["uint8", "uint16", "uint32", "uint64", "bool"]


def write(folder: Path, arrays: dict[str, np.ndarray]) -> str:
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        array.tofile(folder / name)
    return str(folder)


def values(dtype: str, *shape: int) -> np.ndarray:
    return (np.random.default_rng(0).random(shape) * 200).astype(dtype)


@pytest.mark.parametrize("dtype", TYPES)
def test_types(tmp_path, dtype):
    data = values(dtype, 2, 3, 4)
    (feed,) = load_data({"x:0": [2, 3, 4]}, [write(tmp_path / "x", {"0.bin": data})], [dtype], 1)
    assert list(feed) == ["x:0"] and feed["x:0"].dtype == data.dtype
    np.testing.assert_array_equal(feed["x:0"], data)


def test_files_in_order_of_their_names(tmp_path):
    arrays = {f"{name}.bin": np.full((2, 2), at, np.float32) for at, name in enumerate(["a", "b", "c"])}
    folder = write(tmp_path / "x", dict(reversed(arrays.items())))
    assert [feed["x"][0, 0] for feed in load_data({"x": [2, 2]}, [folder], ["float32"], 2)] == [0, 1]


@pytest.mark.parametrize("single", [True, False], ids=["a_file", "a_folder"])
def test_a_file_of_several_batches(tmp_path, single):
    data = values("float32", 6, 2)
    folder = write(tmp_path / "x", {"all.bin": data})
    path = f"{folder}/all.bin" if single else folder
    batches = [feed["x"] for feed in load_data({"x": [2, 2]}, [path], ["float32"], 3)]
    np.testing.assert_array_equal(np.concatenate(batches), data)


def test_several_inputs(tmp_path):
    a, b = values("float32", 4, 3), values("int8", 100)
    paths = [write(tmp_path / "a", {"0.bin": a}), write(tmp_path / "b", {"0.bin": b})]
    (feed,) = load_data({"a": [4, 3], "b": [100]}, paths, ["float32", "int8"], 1)
    np.testing.assert_array_equal(feed["a"], a)
    np.testing.assert_array_equal(feed["b"], b)


def test_other_files_are_passed_over(tmp_path):
    folder = write(tmp_path / "x", {"0.bin": values("int8", 2)})
    (tmp_path / "x" / "README.txt").write_text("about the data")
    (tmp_path / "x" / ".0.bin").write_bytes(b"hidden")
    assert len(list(load_data({"x": [2]}, [folder], ["int8"], 1))) == 1


def test_works_within_another_graph(tmp_path):
    """Neither the caller's default graph nor its mode matter, and the graph stays as it was."""
    folder = write(tmp_path / "x", {"0.bin": values("int8", 2), "1.bin": values("int8", 2)})
    with tf.Graph().as_default() as graph:
        for _ in load_data({"x": [2]}, [folder], ["int8"], 2):
            assert tf.compat.v1.get_default_graph() is graph
        assert not graph.get_operations()
    assert len(list(load_data({"x": [2]}, [folder], ["int8"], 2))) == 2
    assert tf.executing_eagerly()


def refused(error: type[AmctError], words: list[str], *arguments) -> None:
    with pytest.raises(error) as caught:
        load_data(*arguments)  # at once, not with the first batch
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_unknown_type(tmp_path):
    refused(AmctTypeError, ["Unsupported data type[float8]!"], {"x": [2]}, [str(tmp_path)], ["float8"], 1)


@pytest.mark.parametrize("given", [["float32"], None, 1], ids=str)
def test_what_is_no_type(tmp_path, given):
    refused(AmctTypeError, [f"Unsupported data type[{given}]! Use one of"], {"x": [2]}, [str(tmp_path)], [given], 1)


def test_names_and_paths_that_are_none(tmp_path):
    refused(AmctTypeError, ["data_dirs must hold paths, not NoneType"], {"x": [2]}, [None], ["int8"], 1)
    refused(AmctTypeError, ["input_shape must hold names of inputs, not int"], {1: [2]}, [str(tmp_path)], ["int8"], 1)


@pytest.mark.parametrize("dtype", [np.float32, np.dtype("float32"), tf.float32], ids=["class", "dtype", "tensorflow"])
def test_types_and_numbers_of_numpy_and_tensorflow(tmp_path, dtype):
    data = values("float32", 2, 3)
    folder = write(tmp_path / "x", {"0.bin": data})
    for shape in ([np.int64(2), np.int32(3)], np.array([2, 3])):
        (feed,) = load_data({"x": shape}, [folder], [dtype], np.int64(1))
        np.testing.assert_array_equal(feed["x"], data)


def test_too_few_batches(tmp_path):
    folder = write(tmp_path / "x", {"0.bin": values("int8", 4)})
    words = ["The number of given data batches is not enough", "batch_num is 3", "2 batches of 2", folder]
    refused(AmctValueError, words, {"x": [2]}, [folder], ["int8"], 3)


def test_sizes_that_do_not_fit(tmp_path):
    folder = write(tmp_path / "x", {"0.bin": values("float32", 4), "1.bin": values("float32", 3)})
    words = ["1.bin has 12 bytes", "float32 [2,2]", "has 16"]
    refused(AmctValueError, words, {"x": [2, 2]}, [folder], ["float32"], 1)


def test_an_empty_file(tmp_path):
    folder = write(tmp_path / "x", {"0.bin": values("int8", 0)})
    refused(AmctValueError, ["0.bin has 0 bytes"], {"x": [2]}, [folder], ["int8"], 1)


@pytest.mark.parametrize(
    ("shapes", "dirs", "types", "words"),
    [
        ({}, [], [], ["input_shape is empty"]),
        ({"x": [0, 2]}, ["x"], ["int8"], ["input_shape of 'x' is [0, 2]"]),
        ({"x": []}, ["x"], ["int8"], ["input_shape of 'x' is []"]),
        ({"x": [2.0]}, ["x"], ["int8"], ["input_shape of 'x' is [2.0]"]),
        ({"x": [True]}, ["x"], ["int8"], ["input_shape of 'x' is [True]"]),
        ({"x": 5}, ["x"], ["int8"], ["input_shape of 'x' is 5: give its dimensions as positive numbers"]),
        ({"x": "2,2"}, ["x"], ["int8"], ["input_shape of 'x' is '2,2': give its dimensions as positive numbers"]),
        ({"x": [2]}, ["x"], ["int8", "int8"], ["data_types has 2 entries for 1 inputs (x)"]),
        ({"x": [2]}, ["x", "y"], ["int8"], ["data_dir names 2 folders for 1 input (x)"]),
        ({"x": [2]}, ["nowhere"], ["int8"], ["data_dir nowhere does not exist"]),
    ],
    ids=["no_inputs", "zero", "scalar", "no_integer", "bool", "a_number", "text", "types", "folders", "no_folder"],
)
def test_arguments_that_do_not_fit(shapes, dirs, types, words):
    Path("x").mkdir()
    refused(AmctValueError, words, shapes, dirs, types, 1)


def test_batch_num_of_zero():
    refused(AmctValueError, ["batch_num is 0"], {"x": [2]}, ["x"], ["int8"], 0)


def test_a_misspelt_folder():
    Path("images").mkdir()
    refused(AmctValueError, ["did you mean 'images'?"], {"x": [2]}, ["imags"], ["int8"], 1)


def test_an_empty_folder(tmp_path):
    refused(AmctValueError, [f"{tmp_path} has no calibration data", ".bin"], {"x": [2]}, [str(tmp_path)], ["int8"], 1)


def test_mixed_kinds(tmp_path):
    folder = write(tmp_path / "x", {"0.bin": values("int8", 2)})
    np.save(tmp_path / "x" / "0.npy", values("int8", 2))
    refused(AmctValueError, ["mixes kinds of data", "0.bin", "0.npy"], {"x": [2]}, [folder], ["int8"], 1)


WITHOUT_EAGER_MODE = """
import sys
import numpy as np
import tensorflow as tf
from amct_tensorflow.data import load_data
tf.compat.v1.disable_eager_execution()
for path, dtype in zip(sys.argv[1:], ("int8", "float32", "float32")):
    (feed,) = load_data({"x": [2, 1, 2, 3]}, [path], [dtype], 1)
    assert feed["x"].shape == (2, 1, 2, 3), feed
assert not tf.compat.v1.get_default_graph().get_operations()
"""


def test_without_eager_mode(tmp_path):
    """As in scripts that begin with tf.compat.v1.disable_eager_execution()."""
    pixels = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    folders = [write(tmp_path / "raw", {"0.bin": np.zeros((2, 1, 2, 3), np.int8)})]
    for kind in ("arrays", "images"):
        folders.append(write(tmp_path / kind, {}))
    np.save(tmp_path / "arrays" / "0.npy", np.stack([pixels, pixels]))
    for name in ("a", "b"):
        (tmp_path / "images" / f"{name}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", WITHOUT_EAGER_MODE, *folders], check=True, env=environment)
