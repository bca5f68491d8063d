"""A batch norm whose gains one weight scale cannot hold is not folded, and the layer's line says so."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from small_models import PARAMETERS, Deployed, batch, constant, flat, graph_of, image, quantize, v1

from amct_tensorflow.record import read_record


def feed(seed=0):
    return np.random.default_rng(seed).standard_normal((64, 16)).astype(np.float32)


def block(spread, *, evens_out=False):
    """A MatMul and a batch norm whose gains spread over so many decades; `evens_out`: as its weights do."""

    def build(net):
        gains = 10 ** np.random.default_rng(3).uniform(-spread, 0, 32).astype(np.float32)
        weights = net.random("fc", (16, 32)) / 4
        x = v1.placeholder(tf.float32, [None, 16], name="x")
        y = tf.raw_ops.MatMul(a=x, b=constant(weights / (gains if evens_out else 1), "w"), name="fc")
        y = tf.nn.sigmoid(y * net.parameter(gains, "gains") + net.parameter(net.random("beta", (32,)), "beta"))
        tf.raw_ops.MatMul(a=y, b=constant(net.random("last", (32, 4)) / 5, "v"), name="out")

    return build


@pytest.mark.parametrize(
    ("spread", "evens_out", "folded"), [(0.5, False, True), (1, False, True), (3, False, False), (3, True, True)]
)
def test_gains(tmp_path, spread, evens_out, folded):
    deployed = Deployed(block(spread, evens_out=evens_out), ["out"], tmp_path, feeds=[feed()], shift_n=False)
    assert deployed.records["fc"].skip_fusion == (not folded)
    assert bool(deployed.of_type("Mul")) == (not folded)
    assert deployed.sqnr(feed(1)) > 28


def test_a_channel_that_is_switched_off_is_no_reason(tmp_path):
    def build(net):
        gains = np.where(np.arange(6) % 3 == 1, 1e-7, 1).astype(np.float32)
        tf.nn.relu(net.add(net.matmul(flat(image()), "fc") * gains, "beta", [6]), name="out")

    deployed = Deployed(build, ["out"], tmp_path)
    assert not deployed.records["fc"].skip_fusion
    assert deployed.sqnr(batch()) > 25


def test_it_is_said(tmp_path, capsys):
    Deployed(block(4), ["out"], tmp_path, feeds=[feed()])
    assert "MatMul fc: quantized; mul is not folded: its gains differ so much that" in capsys.readouterr().err


def test_with_a_scale_for_each_channel_it_is_folded(tmp_path):
    def build(net):
        y = net.batch_norm(net.conv(image(), "conv"), "bn", variance=np.geomspace(1e-6, 1e4, 6).astype(np.float32))
        tf.nn.relu(y, name="out")

    deployed = Deployed(build, ["out"], tmp_path)
    assert not deployed.of_type("FusedBatchNormV3")


def test_a_scale_for_all_channels_of_a_convolution(tmp_path):
    """As before Softmax, or where the configuration says so."""

    def build(net):
        y = net.batch_norm(net.conv(image(), "conv"), "bn", variance=np.geomspace(1e-6, 1e4, 6).astype(np.float32))
        tf.nn.relu(y, name="out")

    entry = {"weight_quant_params": {"channel_wise": False}}
    deployed = Deployed(build, ["out"], tmp_path, conv=entry)
    assert len(deployed.of_type("FusedBatchNormV3")) == 1


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_variables_are_not_known_beforehand(tmp_path, parameters):
    def build(net):
        y = net.matmul(flat(image()), "fc")
        tf.identity(y * net.parameter(np.geomspace(1e-4, 1, 6).astype(np.float32), "gains"), name="out")

    record = quantize(graph_of(build, PARAMETERS[parameters]), tmp_path)
    assert 'key: "fc"' in (tmp_path / "record.txt").read_text()
    skips = "skip_fusion: true" in (tmp_path / "record.txt").read_text()
    assert skips == (parameters != "variables")
    assert record.endswith("record.txt")


def test_layers_that_are_joined_stay_together(tmp_path):
    def build(net):
        x = v1.placeholder(tf.float32, [None, 16], name="x")
        parts = [net.matmul(x, name, 8) for name in ("a/fc", "b/fc")]
        gains = np.concatenate([np.ones(8), np.geomspace(1e-5, 1, 8)]).astype(np.float32)
        tf.nn.relu(tf.concat(parts, 1) * gains, name="out")

    deployed = Deployed(build, ["out"], tmp_path, feeds=[feed()])
    assert [deployed.records[name].skip_fusion for name in ("a/fc", "b/fc")] == [True, True]
    assert deployed.sqnr(feed(1)) > 25


def test_the_record_is_that_of_the_weights(tmp_path):
    deployed = Deployed(block(4), ["out"], tmp_path, feeds=[feed()])
    weights = tf.make_ndarray(deployed.float_graph.get_operation_by_name("w").get_attr("value"))
    [scale] = read_record(deployed.record)["fc"].scale_w
    assert scale == pytest.approx(np.abs(weights).max() / 127, rel=0.01)
