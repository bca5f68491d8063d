"""Networks as people have them: quantized, saved, loaded again, and compared with what they were."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf
from networks import NETWORKS, Network, samples, settle
from quantized import Quantized, quantize

import amct_tensorflow as amct

_CALIBRATED = 32
_UNSEEN = 8


@pytest.fixture(scope="module", params=NETWORKS)
def case(request, tmp_path_factory) -> Iterator[tuple[Network, Quantized]]:
    network, folder = NETWORKS[request.param], tmp_path_factory.mktemp("network")
    tf.keras.utils.set_random_seed(1)
    model = network.build()
    seen, unseen = samples(0, 2 * _CALIBRATED, network), samples(1, _UNSEEN, network)
    settle(network, model, seen)
    graph_def = amct.load_graph(model).as_graph_def()
    expected = np.asarray(model(unseen, training=False))
    del model
    tf.keras.backend.clear_session()
    gc.collect()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = quantize(graph_def, [seen[:16], seen[16:_CALIBRATED]], unseen, folder)
    assert result.actual.shape == expected.shape
    result.expected = expected
    yield network, result
    for file in folder.glob("*.pb"):
        file.unlink()
    gc.collect()


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Returns one per sample."""
    a, b = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (a, b))
    return np.sum(a * b, axis=1) / np.sqrt(np.sum(a * a, axis=1) * np.sum(b * b, axis=1))


def test_int8_is_like_float(case):
    """The result itself, and what tells it from the results of other inputs."""
    _, result = case
    assert _cosines(result.expected, result.actual).min() >= 0.98
    mean = result.expected.mean(axis=0)
    expected, actual = result.expected - mean, result.actual - mean
    assert _cosines(expected, actual).min() >= 0.9
    assert _cosines(expected, np.roll(actual, 1, axis=0)).max() <= 0.7  # the answer to another input would not pass


def test_every_layer_is_quantized_or_has_its_reason(case):
    network, result = case
    assert result.layers.keys() <= result.said.keys()
    left = {name: reason for name, reason in result.said.items() if reason}
    for name, reason in left.items():
        expected = network.stays_float.get(result.types[name], "none: the layer should be quantized")
        assert re.fullmatch(expected, reason), f"{result.types[name]} {name}: {reason}"
    assert len(result.quantized) > len(left)


def test_weights_are_saved_as_integers(case):
    _, result = case
    for name in result.quantized:
        if result.types[name] == "AvgPool":
            continue
        dequantized = result.saved[result.saved[name].input[1].partition(":")[0]]
        if dequantized.op == "AscendQuant":  # a product of two tensors has no weights
            assert result.types[name].startswith("BatchMatMul"), name
            continue
        assert dequantized.op == "AscendWeightQuant", name
        constant = result.saved[dequantized.input[0]]
        assert (constant.op, constant.attr["dtype"].type) == ("Const", tf.int8.as_datatype_enum), name


def test_no_float_weights_are_left(case):
    """Nothing of the size of weights is behind a quantized layer, nor without use."""
    _, result = case
    users: dict[str, list[str]] = {}
    for node in result.saved.values():
        for edge in node.input:
            users.setdefault(edge.lstrip("^").partition(":")[0], []).append(node.name)
    quantized = set(result.quantized)
    for name, constant in result.saved.items():
        if constant.op == "Const" and constant.attr["dtype"].type == tf.float32.as_datatype_enum:
            shape = [axis.size for axis in constant.attr["value"].tensor.tensor_shape.dim]
            if len(shape) > 1 and max(shape) < np.prod(shape):
                assert users.get(name) and not quantized & set(users[name]), f"{name} {shape}"


def test_the_file_is_a_quarter(case):
    network, result = case
    assert result.int8_bytes <= network.most_size * result.float_bytes
