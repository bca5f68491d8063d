"""Image folders and TFRecords."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from amct_tensorflow.data import CalibrationData, InputSpec, Preprocessing
from amct_tensorflow.errors import AmctValueError

RAMP = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def encode(pixels: np.ndarray, suffix: str) -> bytes:
    with tf.init_scope():
        return {
            "png": tf.io.encode_png,
            "jpg": lambda image: tf.io.encode_jpeg(image, quality=100),
        }[suffix](pixels).numpy()


def put(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode(pixels, path.suffix[1:]))


def open_images(
    path: Path, shape: tuple[int, ...] = (4, 6, 3), batch_size: int | None = 1, dtype=tf.float32, **preprocessing
) -> CalibrationData:
    return CalibrationData([InputSpec("x:0", shape, batch_size, dtype)], [str(path)], Preprocessing(**preprocessing))


def first(path: Path, **options) -> np.ndarray:
    return next(open_images(path, **options).batches(1))["x:0"]


def test_pixels_arrive_as_they_are(tmp_path):
    put(tmp_path / "a.png", RAMP)
    batch = first(tmp_path)
    assert batch.dtype == np.float32
    np.testing.assert_array_equal(batch, RAMP[np.newaxis])


def test_preprocessing(tmp_path):
    """(x - mean) / std with the channels in the model's order."""
    put(tmp_path / "a.png", RAMP)
    batch = first(tmp_path, mean=(1.0, 2.0, 3.0), std=(2.0,), channel_order="BGR")
    np.testing.assert_allclose(batch[0], (RAMP[..., ::-1] - np.array([1.0, 2.0, 3.0])) / 2)


def test_resizing_averages(tmp_path):
    """Downscaling is with antialias, so that it sees all pixels."""
    put(tmp_path / "a.png", np.kron(RAMP[:, :, :1] % 2, np.ones((8, 8, 3))).astype(np.uint8) * 200)
    batch = first(tmp_path, shape=(2, 3, 3))
    assert batch.shape == (1, 2, 3, 3)
    np.testing.assert_allclose(batch, 100, atol=15)


def test_channels_first(tmp_path):
    put(tmp_path / "a.png", RAMP)
    np.testing.assert_array_equal(first(tmp_path, shape=(3, 4, 6))[0], RAMP.transpose(2, 0, 1))


def test_integer_inputs(tmp_path):
    put(tmp_path / "a.png", RAMP)
    batch = first(tmp_path, dtype=tf.uint8)
    assert batch.dtype == np.uint8
    np.testing.assert_array_equal(batch[0], RAMP)


def test_grey_images_for_a_colour_model(tmp_path):
    put(tmp_path / "a.png", RAMP[..., :1])
    np.testing.assert_array_equal(first(tmp_path)[0], np.repeat(RAMP[..., :1], 3, axis=2))


def test_images_are_taken_evenly_from_subfolders(tmp_path):
    for label in range(4):
        for at in range(5):
            put(tmp_path / f"class{label}" / f"{at}.png", np.full((4, 6, 3), label, np.uint8))
    batches = [feed["x:0"][:, 0, 0, 0] for feed in open_images(tmp_path, batch_size=2).batches(2)]
    assert np.concatenate(batches).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("images", "batch_num", "expected"), [(40, 1, 32), (20, 1, 20), (20, 3, 6), (1, 1, 1)])
def test_default_batch_size(tmp_path, images, batch_num, expected):
    for at in range(images):
        put(tmp_path / f"{at}.png", RAMP)
    assert open_images(tmp_path, batch_size=None).batch_size(batch_num) == expected


def test_a_damaged_image_is_named(tmp_path):
    for name in ("a", "b", "d"):
        put(tmp_path / f"{name}.png", RAMP)
    (tmp_path / "c.png").write_bytes(encode(RAMP, "png")[:30])
    with pytest.raises(AmctValueError, match=r"c\.png cannot be decoded"):
        list(open_images(tmp_path, batch_size=2).batches(2))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shape": (10,)}, ["holds images", "float32 [1,10]", ".npy or .bin"]),
        ({"shape": (4, 6, 7)}, ["holds images", "1 or 3 channels"]),
        ({"size": (8, 8)}, ["image_size is [8, 8]", "takes [4, 6]"]),
        ({"mean": (1.0, 2.0)}, ["mean has 2 values", "3 channel(s)"]),
        ({"std": (0.0,)}, ["std is 0"]),
    ],
    ids=["vector", "channels", "size", "mean", "std"],
)
def test_options_that_do_not_fit(tmp_path, options, words):
    put(tmp_path / "a.png", RAMP)
    with pytest.raises(AmctValueError) as caught:
        open_images(tmp_path, **options)
    for word in words:
        assert word in str(caught.value)


def test_preprocessing_of_what_is_no_image(tmp_path):
    np.save(tmp_path / "a.npy", RAMP)
    with pytest.raises(AmctValueError, match="are for images"):
        open_images(tmp_path, mean=(1.0,))


# TFRecords


def write_records(path: Path, count: int, feature: str = "image/encoded") -> None:
    with tf.io.TFRecordWriter(str(path)) as writer:
        for at in range(count):
            pixels = np.full((4, 6, 3), at, np.uint8)
            content = tf.train.Feature(bytes_list=tf.train.BytesList(value=[encode(pixels, "png")]))
            example = tf.train.Example(features=tf.train.Features(feature={feature: content}))
            writer.write(example.SerializeToString())


@pytest.mark.parametrize("name", ["a.tfrecord", "a.tfrecords", "train-00000-of-00010"])
def test_records(tmp_path, name):
    write_records(tmp_path / name, 5)
    batches = [feed["x:0"][:, 0, 0, 0] for feed in open_images(tmp_path, batch_size=2).batches(2)]
    assert np.concatenate(batches).tolist() == [0, 1, 2, 3]


def test_default_batch_size_of_records(tmp_path):
    write_records(tmp_path / "a.tfrecord", 5)
    assert open_images(tmp_path, batch_size=None).batch_size(2) == 2


def test_too_few_records(tmp_path):
    write_records(tmp_path / "a.tfrecord", 3)
    with pytest.raises(AmctValueError, match="3 samples, which make 1 batch of 2"):
        open_images(tmp_path, batch_size=2).batches(2)


def test_records_without_images(tmp_path):
    write_records(tmp_path / "a.tfrecord", 2, feature="image")
    with pytest.raises(AmctValueError, match=r"without an image that can be decoded.*'image/encoded'"):
        list(open_images(tmp_path).batches(1))


def test_a_damaged_record_file(tmp_path):
    (tmp_path / "a.tfrecord").write_bytes(b"this is no record" * 10)
    with pytest.raises(AmctValueError, match="is damaged"):
        open_images(tmp_path).batches(1)
