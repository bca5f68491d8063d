"""InputMoments in whole calibration graphs: each layer's signal is the mean square of TensorFlow's own result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from small_graphs import configure
from small_models import batch, flat, graph_of, image, load, quantize, run, small_net, v1, write_pb
from test_products import PRODUCTS

import amct_tensorflow as amct
from amct_tensorflow.record import LayerRounding, read_record, read_rounding


def found_by(build: Callable[..., Any], x: Any, folder: Path, fetches: str = "out:0", **settings: Any) -> Mapping:
    """Calibrates a graph on one batch; returns what is found of its layers."""
    graph = graph_of(build)
    record = quantize(graph, folder, batch_num=1, **settings)
    run(graph, fetches, x)
    return read_rounding(record)


def assert_signal(found: LayerRounding, result: np.ndarray, positions: int) -> None:
    """The result of all outputs together, in the mean over positions of the data."""
    expected = np.square(result.astype(np.float64)).sum() / positions
    assert positions <= 1024
    np.testing.assert_allclose(found.signal, expected, rtol=5e-3)


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(tmp_path, name):
    """Whatever form they have: the rows are those of the matrix that the data become."""
    product, shape, of_weights, _ = PRODUCTS[name]

    def build(net):
        y = product(image(shape=shape), net.parameter(net.random("w", of_weights), "w"))
        tf.identity(y, name="out")

    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32) + np.float32(0.5)
    found = found_by(build, x, tmp_path)["layer"]
    positions = x.size // found.inputs.mean.shape[1]
    assert_signal(found, run(graph_of(build), "out:0", x), positions)


@pytest.mark.parametrize(
    "conv",
    [
        lambda net, x: net.conv(x, "layer"),
        lambda net, x: net.conv(x, "layer", padding="VALID", strides=[1, 2, 2, 1]),
        lambda net, x: net.conv(x, "layer", groups=2),
        lambda net, x: net.depthwise(x, "layer", multiplier=2),
    ],
    ids=["conv", "strides", "groups", "depthwise"],
)
@pytest.mark.parametrize("norm", [False, True], ids=["", "norm"])
def test_convolutions(tmp_path, conv, norm):
    """With what is folded into them, and without the bias."""

    def build(net, *, with_bias=True):
        y = conv(net, image())
        if norm:
            zeros = {} if with_bias else dict.fromkeys(("offset", "mean"), np.zeros(y.shape[-1], np.float32))
            y = net.batch_norm(y, "norm", **zeros)
        elif with_bias:
            y = net.bias(y, "bias")
        tf.identity(y, name="out")

    x = batch() + np.float32(0.5)
    found = found_by(build, x, tmp_path)["layer"]
    result = run(graph_of(lambda net: build(net, with_bias=False)), "out:0", x)
    assert_signal(found, result, result.size // result.shape[-1])


def test_channels_first(tmp_path):
    """Where grappler runs it in the other format, InputMoments sees the format of the graph."""

    def build(net):
        x = image(shape=(None, 4, 8, 8))
        y = net.conv(x, "layer", data_format="NCHW")
        tf.nn.relu(net.bias(y, "bias", data_format="NCHW"), name="out")

    x = np.moveaxis(batch(), 3, 1) + np.float32(0.5)
    found = found_by(build, x, tmp_path)["layer"]
    plain = run(graph_of(lambda net: tf.identity(net.conv(image(), "layer"), name="out")), "out:0", batch() + 0.5)
    assert_signal(found, plain, 256)


def test_a_layer_in_float16(tmp_path):
    def build(net):
        x = v1.placeholder(tf.float16, [None, 8, 8, 4], name="x")
        kernel = tf.constant(net.random("w", (3, 3, 4, 6)) / 6, tf.float16)
        tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME", name="layer"), name="out")

    x = batch().astype(np.float16)
    found = found_by(build, x, tmp_path)["layer"]
    assert_signal(found, run(graph_of(build), "layer:0", x), 256)


def test_a_balanced_layer_sees_the_balanced_input(tmp_path):
    """What it divides the input by is in the weights, so that the signal is the same."""

    def build() -> tf.Graph:
        return graph_of(lambda net: tf.nn.relu(net.bias(net.conv(image(), "layer"), "bias"), name="out"))

    x = batch() * np.float32([1, 10, 0.1, 3])
    text = "batch_num: 1 common_config { dmq_balancer { migration_strength: 0.5 } }"
    config, record = configure(build(), tmp_path, text), str(tmp_path / "record.txt")
    for job in (amct.quantize_preprocess, amct.quantize_model):
        graph = build()
        job(graph, config, record)
        run(graph, "out:0", x)
    found = read_rounding(record)["layer"]
    assert_signal(found, run(build(), "layer:0", x), 256)
    spread = found.inputs.largest.max(axis=0)
    assert spread.max() / spread.min() < 15


def test_the_calibration_graph_computes_what_it_did(tmp_path):
    """InputMoments passes its data on: the results are those of a calibration without it, bit for bit."""
    results = {}
    for rounding in ("compensated", "nearest"):
        (tmp_path / rounding).mkdir()
        graph = graph_of(small_net)
        quantize(graph, tmp_path / rounding, weight_rounding=rounding, bias_correction=rounding == "compensated")
        assert any(op.type == "InputMoments" for op in graph.get_operations()) == (rounding == "compensated")
        results[rounding] = run(graph, "out:0", batch())
    np.testing.assert_array_equal(*results.values())


def test_the_op_stands_behind_the_one_that_calibrates_its_input(tmp_path):
    graph = graph_of(small_net)
    quantize(graph, tmp_path)
    gathered = [op for op in graph.get_operations() if op.type == "InputMoments"]
    assert [op.inputs[0].op.type for op in gathered] == ["QuantIfmr"] * 3
    assert [[user.type for user in op.outputs[0].consumers()] for op in gathered] == [
        ["Conv2D"],
        ["DepthwiseConv2dNative"],
        ["MatMul"],
    ]


def test_layers_that_share_weights_are_gathered_alone(tmp_path):
    """Each can be run without the others, whose inputs are not even fed."""

    def build(net):
        weights = net.parameter(net.random("w", (256, 5)) / 16, "w")
        for name in "abc":
            tf.raw_ops.MatMul(a=flat(image(name), f"flat_{name}"), b=weights, name=f"layer_{name}")

    graph = graph_of(build)
    record = quantize(graph, tmp_path, batch_num=2)
    ops = [op for op in graph.get_operations() if op.type == "InputMoments"]
    assert [op.control_inputs for op in ops] == [[], [], []]
    assert {op.get_attr("batch_num") for op in ops} == {2}
    feeds = {name: [batch(2 * number + at) for at in range(2)] for number, name in enumerate("abc")}
    for name, batches in feeds.items():
        for x in batches:
            run(graph, [f"layer_{name}:0"], {name: x})
    found = read_rounding(record)
    for name, batches in feeds.items():
        mean = np.concatenate(batches).reshape(8, -1).mean(axis=0)
        np.testing.assert_allclose(found[f"layer_{name}"].inputs.mean[0], mean, rtol=1e-4, atol=1e-6)
    assert found["layer_a"].weights is found["layer_c"].weights


def test_a_graph_that_was_imported(tmp_path):
    """Its calibration leads to the same file, bit for bit."""
    pb = write_pb(graph_of(small_net), tmp_path / "model.pb")
    files = []
    for name, graph in {"made": graph_of(small_net), "read": load(pb)}.items():
        (tmp_path / name).mkdir()
        record = quantize(graph, tmp_path / name, batch_num=1)
        run(graph, "out:0", batch())
        files.append(Path(f"{record}.safetensors").read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize("shift_n", [True, False])
def test_layers_that_read_one_tensor_with_factors_of_their_own_are_all_calibrated(tmp_path, shift_n):
    def build(net):
        y = tf.nn.relu(net.conv(image(), "layer"))
        tf.identity(net.conv(y, "a") + net.conv(y, "b"), name="out")

    wide = {"activation_quant_params": {"search_range": [1.2, 1.3]}}
    found = found_by(build, batch(), tmp_path, shift_n=shift_n, b=wide)
    records = read_record(str(tmp_path / "record.txt"))
    assert records["b"].scale_d > records["a"].scale_d
    assert found["a"].inputs.mean.tobytes() == found["b"].inputs.mean.tobytes()
