"""Calibration data in NumPy files."""

from __future__ import annotations

import numpy as np
import pytest

from amct_tensorflow.data import load_data
from amct_tensorflow.errors import AmctValueError


def samples(n: int, dtype: str = "float32") -> np.ndarray:
    return np.arange(n * 6).reshape(n, 2, 3).astype(dtype)


def batches(path, batch_num: int, shape: tuple[int, ...] = (2, 2, 3), dtype: str = "float32") -> list[np.ndarray]:
    return [feed["x:0"] for feed in load_data({"x:0": list(shape)}, [str(path)], [dtype], batch_num)]


def test_a_folder_of_arrays_is_cut_into_batches(tmp_path):
    """Batches go across files; a file may also be a single sample."""
    data = samples(6)
    np.save(tmp_path / "a.npy", data[:3])
    np.save(tmp_path / "b.npy", data[3])
    np.save(tmp_path / "c.npy", data[4:])
    np.testing.assert_array_equal(np.concatenate(batches(tmp_path, 3)), data)


@pytest.mark.parametrize("key", ["x", "x:0", "anything"])
def test_npz(tmp_path, key):
    np.savez(tmp_path / "data.npz", **{key: samples(2), "labels": np.arange(2)})
    (batch,) = batches(tmp_path / "data.npz", 1)
    np.testing.assert_array_equal(batch, samples(2))


def test_values_become_the_type_of_the_input(tmp_path):
    np.save(tmp_path / "a.npy", samples(2, "uint8"))
    (batch,) = batches(tmp_path, 1)
    assert batch.dtype == np.float32
    np.testing.assert_array_equal(batch, samples(2))


def refused(words: list[str], path, batch_num: int = 1, **options) -> None:
    with pytest.raises(AmctValueError) as caught:
        batches(path, batch_num, **options)
    for word in words:
        assert word in str(caught.value)


def test_another_shape(tmp_path):
    np.save(tmp_path / "a.npy", np.ones((4, 3, 3)))
    refused(["a.npy has the shape [4, 3, 3]", "takes samples of [2, 3]", "[N,2,3]"], tmp_path)


def test_another_type(tmp_path):
    np.save(tmp_path / "a.npy", samples(2))
    refused(["holds float32", "int32"], tmp_path, dtype="int32")


def test_several_arrays_that_fit(tmp_path):
    np.savez(tmp_path / "a.npz", one=samples(2), two=samples(2))
    refused(["one [2, 2, 3], two [2, 2, 3]", "call one of them 'x:0'"], tmp_path)


def test_too_few(tmp_path):
    np.save(tmp_path / "a.npy", samples(5))
    refused(["not enough", "5 samples, which make 2 batches of 2"], tmp_path, 3)


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("content", [b"", b"no array"], ids=["empty", "text"])
def test_files_that_are_none(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refused([f"{name} is not a NumPy file"], tmp_path)


def test_pickles_are_not_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{}]), allow_pickle=True)
    refused(["a.npy is not a NumPy file"], tmp_path)
