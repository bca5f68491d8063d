"""Data that cannot be used, and compressed ones that can."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from amct_tensorflow.data import CalibrationData, InputSpec, Preprocessing
from amct_tensorflow.errors import AmctValueError

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
SPEC = InputSpec("x:0", (4, 6, 3), 1, tf.float32)


def png() -> bytes:
    with tf.init_scope():
        return tf.io.encode_png(PIXELS).numpy()


def write_records(path: Path, count: int, compression: str = "") -> None:
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[png()]))
    example = tf.train.Example(features=tf.train.Features(feature={"image/encoded": feature}))
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for _ in range(count):
            writer.write(example.SerializeToString())


def test_compressed_records(tmp_path):
    """Files of both kinds in one folder."""
    for name, compression in (("a", "GZIP"), ("b", ""), ("c", "GZIP")):
        write_records(tmp_path / f"{name}.tfrecord", 2, compression)
    feeds = list(CalibrationData([SPEC], [str(tmp_path)]).batches(6))
    assert len(feeds) == 6
    np.testing.assert_array_equal(feeds[5]["x:0"][0], PIXELS)


def test_the_damaged_file_is_named(tmp_path):
    for name in "abc":
        write_records(tmp_path / f"{name}.tfrecord", 2)
    content = (tmp_path / "b.tfrecord").read_bytes()
    (tmp_path / "b.tfrecord").write_bytes(content[:-3])
    with pytest.raises(AmctValueError, match=r"/b\.tfrecord is damaged"):
        list(CalibrationData([SPEC], [str(tmp_path)]).batches(6))


@pytest.mark.parametrize("options", [{"mean": (127.5,)}, {"std": (2.0,)}], ids=["mean", "std"])
def test_fractions_of_pixels_for_integers(tmp_path, options):
    (tmp_path / "a.png").write_bytes(png())
    spec = InputSpec("x:0", (4, 6, 3), 1, tf.uint8)
    with pytest.raises(AmctValueError, match="mean and std make fractions of the pixels"):
        CalibrationData([spec], [str(tmp_path)], Preprocessing(**options))


@pytest.mark.parametrize(
    ("count", "batch_num", "batch_size", "words"),
    [
        (3, 2, 4, r"has 3 samples, which make 0 batches of 4; add data, or lower batch_num or the batch size$"),
        (3, 4, 1, r"has 3 samples; add data, or lower batch_num$"),
        (3, 1, 4, r"has 3 samples, which make 0 batches of 4; add data, or lower the batch size$"),
        (1, 2, None, r"has 1 sample; add data, or lower batch_num$"),
        (0, 1, None, r"has 0 samples; add data$"),
    ],
)
def test_too_few_data(tmp_path, count, batch_num, batch_size, words):
    np.save(tmp_path / "x.npy", np.zeros((count, 5), np.float32))
    data = CalibrationData([InputSpec("x:0", (5,), batch_size, tf.float32)], [str(tmp_path / "x.npy")])
    with pytest.raises(AmctValueError, match=words):
        data.batches(batch_num)


def test_what_raw_files_are_taken_for(tmp_path):
    np.zeros((6, 5), np.float32).tofile(tmp_path / "0.bin")
    data = CalibrationData([InputSpec("x:0", (5,), 3, tf.float32)], [str(tmp_path)])
    assert data.raw_files() == [(str(tmp_path / "0.bin"), 6, "input 'x:0' (float32 [3,5])")]


def test_files_without_permission(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.zeros((1, 5), np.float32))

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(AmctValueError, match=r"x\.npy cannot be read \(Permission denied\); make it readable"):
        CalibrationData([InputSpec("x:0", (5,), 1, tf.float32)], [str(tmp_path / "x.npy")])
