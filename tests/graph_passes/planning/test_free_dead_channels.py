"""Output channels without weights keep their bias, and grouped convolutions can be calibrated on a CPU."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from small_models import Deployed, batch, constant, graph_of, image, quantize, run, sqnr

from amct_tensorflow.graph_passes.planning.scales_for_biases import free_dead_channels
from amct_tensorflow.graph_passes.workspace import Layer, Workspace
from amct_tensorflow.layers import find_layers
from amct_tensorflow.record import LayerRecord

BETA = np.float32([0.4, -0.3, 1e-3, 5, 0, 2])


def half_dead(net):
    """Channels 0 to 2 have no weights; the input is of pixels."""
    weights = net.random("w", (3, 3, 4, 6))
    weights[..., :3] = 0
    y = tf.nn.conv2d(image(), constant(weights, "w"), 1, "SAME", name="net/conv")
    tf.identity(tf.nn.bias_add(y, constant(BETA, "b")), name="out")


def pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 255, (4, 8, 8, 4)).astype(np.float32)


@pytest.mark.parametrize("shift_n", [False, True], ids=["", "shift"])
def test_dead_channels_keep_their_bias(tmp_path, shift_n):
    deployed = Deployed(half_dead, ["out"], tmp_path, feeds=[pixels(0)], shift_n=shift_n)
    actual = deployed.run(pixels(1))
    np.testing.assert_allclose(actual[..., :3], np.broadcast_to(BETA[:3], actual[..., :3].shape), rtol=1e-4)
    assert deployed.sqnr(pixels(1)) > 35


@pytest.mark.parametrize("scale_d", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("shift", [0, 1, 16])
def test_what_a_dead_channel_gets(scale_d, shift):
    graph = graph_of(half_dead)
    (found,) = find_layers(graph)
    layer = Layer.of(found, fuse=True, channel_wise=True)
    layer.bias, layer.scale_w = BETA, np.ones(6, np.float32)
    alive = np.abs(layer.weights).max(axis=(0, 1, 2)) > 0.5
    free_dead_channels(
        Workspace(graph, [layer], frozenset()),
        {"net/conv": LayerRecord(scale_d=scale_d, offset_d=0, shift_bit=(shift,) * 6)},
    )
    np.testing.assert_array_equal(layer.scale_w[alive], 1)
    quantized = np.round(BETA / (np.float64(scale_d) * layer.scale_w))
    assert (np.abs(quantized[:3]) < 2**31).all()
    if layer.scale_w[:3].min() > 2.0**-23 and layer.scale_w[:3].max() < 2.0**23:
        bits = 14 + shift if shift else 20
        np.testing.assert_allclose(np.abs(quantized[:3]), 2.0**bits, rtol=1e-4)


def grouped(net):
    """Runs in float on a CPU: an Add is not fused with the convolution."""
    y = net.conv(image(shape=(None, 8, 8, 8)), "net/conv", channels=6, groups=2)
    tf.nn.relu(net.add(y, "net/add", [6]), name="out")


def test_a_grouped_convolution_is_calibrated_with_the_default_optimizer(tmp_path, capsys):
    x = batch(shape=(4, 8, 8, 8))
    graph = graph_of(grouped)
    before = run(graph, "out:0", x)
    quantize(graph, tmp_path)
    assert sqnr(before, run(graph, "out:0", x)) > 30
    types = [op.type for op in graph.get_operations()]
    assert types.count("SearchN") == 1 and types.count("QuantIfmr") == 1


def test_a_grouped_convolution_is_deployed_with_a_bias_add(tmp_path, capsys):
    x = batch(shape=(4, 8, 8, 8))
    deployed = Deployed(grouped, ["out"], tmp_path, feeds=[x])
    assert len(deployed.of_type("BiasAdd")) == 1
    assert "net/conv: without oneDNN" in capsys.readouterr().err
    graph_before = run(graph_of(grouped), "out:0", x)
    assert sqnr(graph_before, run(deployed.graph, "out:0", x, remapping=False)) > 30
