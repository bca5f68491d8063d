"""Data in all forms in which users have them, as batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from amct_tensorflow.data import DataFiles
from amct_tensorflow.data.feeds import feed_of
from amct_tensorflow.data.given import open_data
from amct_tensorflow.errors import AmctError, AmctTypeError, AmctValueError

tf1 = tf.compat.v1
SAMPLES = np.arange(100 * 6, dtype=np.float32).reshape(100, 2, 3)


def model(*, batch: int | None = None, inputs: int = 1):
    """Inputs x, y, … [batch, 2, 3] and their sum; returns the graph and the output."""
    with tf.Graph().as_default() as graph:
        tensors = [tf1.placeholder(tf.float32, [batch, 2, 3], name=name) for name in "xyz"[:inputs]]
        output = tf.add_n(tensors, name="out")
    return graph, output


def taken(data, batch_num=2, **settings):
    """The batch size, and the batches as they are fed, by input."""
    graph, output = model(**settings)
    batches = open_data(data, graph, [output], "the model")
    size = batches.batch_size(batch_num)
    inputs = [tensor for op in graph.get_operations() for tensor in op.outputs if op.type == "Placeholder"]
    fed = [feed_of(graph, inputs, batch, "the model") for batch in batches.batches(batch_num)]
    again = [feed_of(graph, inputs, batch, "the model") for batch in batches.batches(batch_num)]
    for first, second in zip(fed, again, strict=True):  # they may be read twice
        for tensor, values in first.items():
            np.testing.assert_array_equal(values, second[tensor])
    return size, [{tensor.op.name: values for tensor, values in feed.items()} for feed in fed]


def arrays():
    for start in (0, 7, 14):
        yield SAMPLES[start : start + 7]


@pytest.mark.parametrize(
    "make",
    [
        lambda: list(arrays()),
        lambda: tuple(arrays()),
        arrays,
        lambda: iter(list(arrays())),
        lambda: ({"x:0": array} for array in arrays()),
        lambda: (array.tolist() for array in arrays()),
        lambda: tf.data.Dataset.from_tensor_slices(SAMPLES).batch(7),
        lambda: tf.data.Dataset.from_tensor_slices({"x": SAMPLES}).batch(7),
        lambda: tf.data.Dataset.from_generator(arrays, output_types=tf.float32),
        lambda: tf.data.Dataset.from_tensor_slices(SAMPLES).batch(7).repeat(),
    ],
    ids=["list", "tuple", "generator", "iterator", "dicts", "lists", "dataset", "dict dataset", "unknown", "endless"],
)
def test_batches_are_taken_as_they_are(make):
    size, batches = taken(make())
    assert size == 7
    for batch, start in zip(batches, (0, 7), strict=True):
        np.testing.assert_array_equal(batch["x"], SAMPLES[start : start + 7])


@pytest.mark.parametrize(
    "make",
    [
        lambda samples: samples,
        lambda samples: tf.constant(samples),
        lambda samples: {"x": samples},
        lambda samples: {"x:0": samples.tolist()},
        lambda samples: tf.data.Dataset.from_tensor_slices(samples),
        lambda samples: tf.data.Dataset.from_tensor_slices({"x": samples}),
    ],
    ids=["array", "eager tensor", "dict", "dict of lists", "dataset", "dict dataset"],
)
@pytest.mark.parametrize(
    ("count", "batch", "size"), [(100, None, 32), (20, None, 10), (100, 5, 5)], ids=["many", "few", "fixed"]
)
def test_samples_are_cut_into_batches(make, count, batch, size):
    found, batches = taken(make(SAMPLES[:count]), batch=batch)
    assert found == size
    for at, fed in enumerate(batches):
        np.testing.assert_array_equal(fed["x"], SAMPLES[at * size : (at + 1) * size])


def test_samples_of_unknown_number():
    dataset = tf.data.Dataset.from_tensor_slices(SAMPLES).filter(lambda _: True)
    assert taken(dataset)[0] == 32


def test_several_inputs():
    _, batches = taken({"x": SAMPLES, "y": 2 * SAMPLES}, inputs=2)
    np.testing.assert_array_equal(batches[1]["y"], 2 * SAMPLES[32:64])
    dataset = tf.data.Dataset.from_tensor_slices({"x": SAMPLES, "y": 2 * SAMPLES})
    _, batches = taken(dataset, inputs=2)
    np.testing.assert_array_equal(batches[1]["y"], 2 * SAMPLES[32:64])


def test_samples_may_stay_on_the_disk(tmp_path):
    np.save(tmp_path / "x.npy", SAMPLES)
    _, batches = taken(np.load(tmp_path / "x.npy", mmap_mode="r"))
    np.testing.assert_array_equal(batches[0]["x"], SAMPLES[:32])


@pytest.mark.parametrize("kind", ["text", "path", "list", "DataFiles"])
def test_files(tmp_path, kind):
    np.save(tmp_path / "x.npy", SAMPLES)
    folder = str(tmp_path)
    data = {"text": folder, "path": Path(folder), "list": [folder], "DataFiles": DataFiles(Path(folder))}[kind]
    size, batches = taken(data)
    assert size == 32
    np.testing.assert_array_equal(batches[0]["x"], SAMPLES[:32])


def test_files_of_several_inputs(tmp_path):
    for name in ("x", "y"):
        np.save(tmp_path / f"{name}.npy", SAMPLES)
    _, batches = taken([str(tmp_path / "x.npy"), tmp_path / "y.npy"], inputs=2)
    assert set(batches[0]) == {"x", "y"}


@pytest.mark.parametrize(
    ("make", "settings", "kind", "words"),
    [
        (lambda: 3, {}, AmctTypeError, "data must be arrays, a tf.data.Dataset, an iterator of batches or a folder"),
        (lambda: SAMPLES, {"inputs": 2}, AmctTypeError, "the names of the inputs, which are x, y, not one array"),
        (lambda: {"q": SAMPLES}, {}, AmctValueError, "input 'q' does not exist in the model"),
        (lambda: {1: SAMPLES}, {}, AmctTypeError, "the keys of a batch must be names of inputs or tensors, not int"),
        (lambda: {"x": 3.0}, {}, AmctTypeError, "input 'x' must be an array of samples, not float"),
        (lambda: {"x": [[1], [1, 2]]}, {}, AmctValueError, "the data for the input 'x' are no array"),
        (
            lambda: {"x": SAMPLES, "y": SAMPLES[:9]},
            {"inputs": 2},
            AmctValueError,
            "data has different numbers of samples, 100 for 'x', 9 for 'y': give as many for each input",
        ),
        (lambda: SAMPLES[:1], {}, AmctValueError, "batch_num is 2, but data has 1 sample; add data, or lower"),
        (lambda: SAMPLES[:9], {"batch": 8}, AmctValueError, "data has 9 samples, which make 1 batch of 8"),
        (lambda: [SAMPLES], {}, AmctValueError, "data has 1 batch, but batch_num is 2: give more of them, or lower"),
        (lambda: iter([SAMPLES]), {}, AmctValueError, "data has 1 batch, but batch_num is 2"),
        (lambda: iter([]), {}, AmctValueError, "data has 0 batches, but batch_num is"),
        (lambda: [], {}, AmctValueError, "data has 0 batches, but batch_num is"),
        (
            lambda: tf.data.Dataset.from_tensor_slices(SAMPLES[:9]),
            {"batch": 8},
            AmctValueError,
            "data has 9 samples, which make 1 batch of 8",
        ),
        (lambda: tf.data.Dataset.from_tensors((SAMPLES, 1)).repeat(), {}, AmctTypeError, "a batch is a tuple"),
        (lambda: "nowhere", {}, AmctValueError, "data_dir nowhere does not exist"),
        (lambda: {}, {}, AmctValueError, "data has no arrays: give one for each input"),
    ],
)
def test_what_cannot_be_data(make, settings, kind, words):
    with pytest.raises(AmctError) as caught:
        taken(make(), **settings)
    assert isinstance(caught.value, kind) and words in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"paths": []}, AmctTypeError, "paths must be a folder or file, or a list of them"),
        ({"paths": [1]}, AmctTypeError, "paths must be a folder or file, or a list of them"),
        ({"channel_order": "rgb"}, AmctValueError, "channel_order is 'rgb': give RGB or BGR"),
        ({"image_size": 224}, AmctValueError, "image_size is 224: give height and width"),
        ({"mean": "a"}, AmctTypeError, "mean must be a number or a list of numbers, not 'a'"),
        ({"std": [float("nan")]}, AmctTypeError, "std must be a number or a list of numbers"),
    ],
)
def test_fields_of_data_files(fields, kind, words):
    with pytest.raises(kind) as caught:
        DataFiles(**{"paths": "folder", **fields})
    assert words in str(caught.value)
