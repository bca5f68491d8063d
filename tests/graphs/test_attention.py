"""Encoders with attention, of Keras and of Einsums as those of BERT are, through the whole job."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import numpy as np
import pytest
import tensorflow as tf
from fusing import fuse
from small_graphs import NEAREST
from small_models import Deployed, graph_of, load, run, sqnr, v1

import amct_tensorflow as amct

_SIZE, _HEADS, _POSITIONS = 48, 4, 10
_BLOCKS = 2


def feed(seed: int, batch: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, _POSITIONS, _SIZE)).astype(np.float32)


@functools.cache
def of_keras():
    """One layer of MultiHeadAttention with a residual, and a Dense layer as EinsumDense."""
    tf.keras.utils.set_random_seed(0)
    layers = tf.keras.layers
    x = layers.Input([_POSITIONS, _SIZE], name="x")
    y = layers.MultiHeadAttention(_HEADS, 8, bias_initializer="normal", name="attention")(x, x)
    y = layers.LayerNormalization()(x + y)
    y = layers.EinsumDense("abc,cd->abd", [None, 32], bias_axes="d", activation="gelu", name="out")(y)
    graph_def = amct.load_graph(tf.keras.Model(x, y)).as_graph_def()
    tf.keras.backend.clear_session()
    return lambda net: tf.import_graph_def(graph_def, name="")


def _dense(net, x, equation, shape, bias, name):
    """An Einsum with a bias of several axes, as an EinsumDense is written to a file."""
    inputs = np.prod(shape) / np.prod(bias)
    kernel = net.parameter(net.random(f"{name}/kernel", shape) / np.sqrt(inputs), f"{name}/kernel")
    y = tf.raw_ops.Einsum(inputs=[x, kernel], equation=equation, name=f"{name}/Einsum")
    addend = net.parameter(net.random(f"{name}/bias", bias) / 3, f"{name}/bias")
    return tf.raw_ops.AddV2(x=y, y=addend, name=f"{name}/add")


def _norm(net, x, name):
    mean, variance = tf.nn.moments(x, [-1], keepdims=True)
    gamma, beta = (net.parameter(1 + net.random(f"{name}/{part}", [_SIZE]) / 9, f"{name}/{part}") for part in "gb")
    return tf.nn.batch_normalization(x, mean, variance, beta, gamma, 1e-6)


def of_bert():
    return _bert


def _bert(net) -> None:
    x = v1.placeholder(tf.float32, [None, _POSITIONS, _SIZE], name="x")
    size = _SIZE // _HEADS
    for at in range(_BLOCKS):
        query, key, value = (
            _dense(net, x, "abc,cde->abde", (_SIZE, _HEADS, size), (_HEADS, size), f"{at}/{part}")
            for part in ("query", "key", "value")
        )
        query = query * tf.constant(1 / np.sqrt(size), tf.float32)
        scores = tf.raw_ops.Einsum(inputs=[key, query], equation="aecd,abcd->acbe", name=f"{at}/scores")
        y = tf.raw_ops.Einsum(inputs=[tf.nn.softmax(scores), value], equation="acbe,aecd->abcd", name=f"{at}/sums")
        y = _dense(net, y, "abcd,cde->abe", (_HEADS, size, _SIZE), (_SIZE,), f"{at}/output")
        x = _norm(net, x + y, f"{at}/norm")
        y = _dense(net, x, "abc,cd->abd", (_SIZE, 4 * _SIZE), (4 * _SIZE,), f"{at}/wide")
        y = _dense(net, tf.nn.gelu(y), "abc,cd->abd", (4 * _SIZE, _SIZE), (_SIZE,), f"{at}/narrow")
        x = _norm(net, x + y, f"{at}/last_norm")
    tf.identity(x, name="out")


# What builds the graph, its layers with weights, and its products of two tensors.
ENCODERS = {"keras": (of_keras, 5, 2), "bert": (of_bert, 6 * _BLOCKS, 2 * _BLOCKS)}


@pytest.fixture(scope="module", params=ENCODERS)
def encoder(request, tmp_path_factory) -> Iterator[tuple[str, Deployed]]:
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield request.param, Deployed(ENCODERS[request.param][0](), ["out"], folder, feeds=[feed(0), feed(1)])


def test_every_product_is_quantized(encoder):
    name, deployed = encoder
    _, with_weights, of_two = ENCODERS[name]
    assert len(deployed.of_type("AscendWeightQuant")) == with_weights
    assert len(deployed.of_type("AscendDequant")) == with_weights + of_two
    assert not deployed.of_type("Einsum")
    assert len(deployed.quantized) == with_weights + 2 * of_two


def test_biases_of_heads_are_folded_in(encoder):
    """What is left to add are residuals, and what the norms and activations consist of."""
    _, deployed = encoder
    for node in deployed.of_type("AscendDequant"):
        source = deployed.nodes[deployed.inputs(node.name)[0]]
        weights = [deployed.nodes[name] for name in deployed.inputs(source.name)]
        of_two = [operand.op for operand in weights] == ["AscendQuant", "AscendQuant"]
        assert (source.op == "BiasAdd") == (not of_two)


def test_int8_is_like_float(encoder):
    _, deployed = encoder
    assert deployed.sqnr(feed(0)) > 25
    assert deployed.sqnr(feed(7, batch=3)) > 25  # of another size, too


@pytest.mark.parametrize("name", ENCODERS)
def test_convert_model_takes_the_record(name, tmp_path, capsys):
    deployed = Deployed(ENCODERS[name][0](), ["out"], tmp_path, feeds=[feed(0), feed(1)], **NEAREST)
    amct.convert_model(deployed.pb, ["out"], deployed.record, str(deployed.folder / "converted"))
    lines, layers = capsys.readouterr().err, ENCODERS[name][1] + ENCODERS[name][2]
    assert f"[convert_model]: {layers} of {layers} layers are quantized" in lines
    assert "left float" not in lines
    converted = load(deployed.folder / "converted_quantized.pb")
    np.testing.assert_array_equal(run(converted, "out:0", feed(7)), deployed.run(feed(7)))


@pytest.mark.parametrize("name", ENCODERS)
def test_the_rewritten_graph_computes_the_same(name):
    build = ENCODERS[name][0]()
    graph = graph_of(build)
    fuse(graph, feed(0))
    assert sqnr(run(graph_of(build), "out:0", feed(3, batch=5)), run(graph, "out:0", feed(3, batch=5))) > 100
