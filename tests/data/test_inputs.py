"""What the inputs take, where input_shape is not given."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from amct_tensorflow.data import CalibrationData, input_specs
from amct_tensorflow.errors import AmctTypeError, AmctValueError

tf1 = tf.compat.v1


def placeholder(shape, dtype=tf.float32) -> tf.Tensor:
    with tf.Graph().as_default():
        return tf1.placeholder(dtype, shape, name="x")


def test_shapes_and_types_of_placeholders():
    (spec,) = input_specs([placeholder([None, 8, 8, 3])])
    assert (spec.name, spec.batch_size, spec.sample_shape, spec.dtype) == ("x:0", None, (8, 8, 3), tf.float32)
    (spec,) = input_specs([placeholder([4, 10], tf.int32)], ["int8"])
    assert (spec.batch_size, spec.sample_shape, spec.dtype) == (4, (10,), tf.int8)


@pytest.mark.parametrize(
    ("shape", "sample"), [([None, None, None, 3], (5, 7, 3)), ([None, 3, None, None], (3, 5, 7))], ids=["NHWC", "NCHW"]
)
def test_image_size_fills_what_is_open(shape, sample):
    (spec,) = input_specs([placeholder(shape)], image_size=(5, 7))
    assert spec.sample_shape == sample


@pytest.mark.parametrize("shape", [None, [], [None, None, 3]], ids=["no_rank", "scalar", "open"])
def test_open_shapes(shape):
    with pytest.raises(AmctValueError, match="give all of it with input_shape"):
        input_specs([placeholder(shape)])


def test_types():
    with pytest.raises(AmctValueError, match="data_types has 2 entries for 1 inputs"):
        input_specs([placeholder([1, 2])], ["int8", "int8"])
    with pytest.raises(AmctTypeError, match="Unsupported data type"):
        input_specs([placeholder([1, 2])], ["int9"])


def test_a_raw_file_is_a_batch(tmp_path):
    np.zeros((6, 4), np.float32).tofile(tmp_path / "0.bin")
    data = CalibrationData(input_specs([placeholder([None, 4])]), [str(tmp_path)])
    assert data.batch_size(1) == 6
    assert next(data.batches(1))["x:0"].shape == (6, 4)


def test_a_raw_file_that_is_no_whole_sample(tmp_path):
    np.zeros(7, np.float32).tofile(tmp_path / "0.bin")
    data = CalibrationData(input_specs([placeholder([None, 4])]), [str(tmp_path)])
    with pytest.raises(AmctValueError, match="28 bytes"):
        data.batch_size(1)
