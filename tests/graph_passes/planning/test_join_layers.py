"""Layers whose results a Concat joins absorb together what stands behind it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from fusing import fuse, plan
from small_models import PARAMETERS, Deployed, batch, graph_of, image, load, types_behind

import amct_tensorflow as amct
from amct_tensorflow.record import read_record, record_text

GROUPS = ("g0/conv", "g1/conv")


def groups(net, x, *, bias=(), concat="ConcatV2", axis=3, channels=(3, 5)):
    """A grouped convolution as TensorFlow 1 writes it; `bias` are the groups that have one of their own."""
    results = []
    for at, part in enumerate(tf.split(x, 2, axis=axis)):
        data_format = "NCHW" if axis == 1 else "NHWC"
        y = net.conv(part, f"g{at}/conv", channels[at], data_format=data_format)
        results.append(net.bias(y, f"g{at}/bias") if at in bias else y)
    if concat == "Concat":
        return tf.raw_ops.Concat(concat_dim=axis, values=results, name="concat")
    return tf.concat(results, axis - 4, name="concat")


def fused(graph, **options):
    layers = fuse(graph, batch(), **options)
    return [layers[name] for name in GROUPS]


BEHIND = {
    "batch norm": lambda net, y: net.batch_norm(y, "bn"),
    "bias": lambda net, y: net.bias(y, "bias"),
    "bias, batch norm": lambda net, y: net.batch_norm(net.bias(y, "bias"), "bn"),
    "Mul, Add": lambda net, y: net.add(y * net.parameter(net.random("m", (8,)), "m"), "add", [8]),
}


@pytest.mark.parametrize("concat", ["Concat", "ConcatV2"])
@pytest.mark.parametrize("bias", [(), (1,), (0, 1)], ids=["", "one bias", "biases"])
@pytest.mark.parametrize("parameters", PARAMETERS)
@pytest.mark.parametrize("behind", BEHIND)
def test_each_takes_its_part(behind, parameters, bias, concat):
    def build(net):
        tf.negative(BEHIND[behind](net, groups(net, image(), bias=bias, concat=concat)), name="out")

    graph = graph_of(build, PARAMETERS[parameters])
    layers = fused(graph)
    has_second_bias = bool(bias) and behind == "bias"  # which stays, unless it belongs to a batch norm
    for layer in layers:
        assert layer.joined == (() if has_second_bias else GROUPS)
    assert "FusedBatchNormV3" not in types_behind(graph, "out")


def test_extreme_variances():
    def build(net):
        variance = np.geomspace(1e-6, 1e4, 8).astype(np.float32)
        tf.negative(net.batch_norm(groups(net, image()), "bn", variance=variance), name="out")

    assert [layer.folded for layer in fused(graph_of(build))] == ["bn", "bn"]


def test_a_concat_of_concats():
    def build(net):
        halves = [groups(net, image("x")), net.conv(net.bias(image("y"), "b"), "third/conv", 2)]
        tf.negative(net.batch_norm(tf.concat(halves, 3), "bn"), name="out")

    layers = fuse(graph_of(build), {"x": batch(), "y": batch(1)})
    assert [layer.folded for layer in layers.values()] == ["bn"] * 3


def _used_elsewhere(net):
    y = groups(net, image())
    part = y.op.inputs[0]
    tf.negative(net.batch_norm(y, "bn") + tf.reduce_sum(part), name="out")


def _not_only_layers(net):
    y = tf.concat([net.conv(image(), "g0/conv"), net.conv(image("x2"), "g1/conv"), image("x3")], 3)
    tf.negative(net.batch_norm(y, "bn"), name="ignored")
    tf.identity(image("x4"), name="out")


def _twice(net):
    y = net.conv(image(), "g0/conv")
    tf.negative(net.batch_norm(tf.concat([y, y, net.conv(image(), "g1/conv")], 3), "bn"), name="ignored")


def _along_the_rows(net):
    y = tf.concat([net.conv(image(), "g0/conv"), net.conv(image("x2"), "g1/conv")], 1)
    tf.negative(net.batch_norm(y, "bn"), name="ignored")


@pytest.mark.parametrize("build", [_used_elsewhere, _not_only_layers, _twice, _along_the_rows])
def test_left_alone(build):
    graph = graph_of(build)
    _, layers = plan(graph)
    assert [layers[name].absorbed for name in GROUPS] == [[name] for name in GROUPS]


def test_a_fold_that_one_of_them_cannot_take_is_taken_by_none():
    def build(net):
        variance = np.float32([1] * 7 + [0])
        tf.negative(net.batch_norm(groups(net, image()), "bn", variance=variance, epsilon=0.0), name="ignored")

    _, layers = plan(graph_of(build))
    for name in GROUPS:
        assert layers[name].absorbed == [name]
        assert layers[name].unfused_because == "batch norm bn is not folded: the folded parameters are not finite"


def _net(net):
    y = tf.nn.relu(net.batch_norm(groups(net, image()), "bn"))
    tf.nn.relu(net.conv(y, "last/conv"), name="out")


def test_the_whole_job(tmp_path):
    deployed = Deployed(_net, ["out"], tmp_path, feeds=[batch(0), batch(1)])
    assert set(deployed.quantized) == {*GROUPS, "last/conv"}
    assert not deployed.of_type("FusedBatchNormV3")
    assert deployed.sqnr(batch(1)) > 25
    originals = deployed.info["g1/dequant/AscendDequant"]["attr"][0]["value"]["list"]["s"]
    assert originals == ["g1/conv", "bn"]


@pytest.mark.parametrize("fetched", ["bn", "concat"])
def test_an_output_behind_the_concat(tmp_path, fetched):
    def build(net):
        net.batch_norm(groups(net, image()), "bn")

    deployed = Deployed(build, [fetched], tmp_path, calib_outputs=[fetched])
    assert deployed.sqnr(batch()) > 25


def test_one_of_them_that_shall_not_be_fused_keeps_all_of_them(tmp_path):
    deployed = Deployed(_net, ["out"], tmp_path, skip_fusion_layers=["g1/conv"])
    assert [deployed.records[name].skip_fusion for name in GROUPS] == [True, True]
    assert len(deployed.of_type("FusedBatchNormV3")) == 1
    assert deployed.sqnr(batch()) > 25


def test_a_record_of_unfused_weights_keeps_all_of_them(tmp_path):
    """convert_model finds by the scales that the batch norm is not in the weights of one, so it is in those of none."""
    deployed = Deployed(_net, ["out"], tmp_path, skip_fusion_layers=list(GROUPS))
    records = read_record(deployed.record)
    plain = {name: dataclasses.replace(record, skip_fusion=False) for name, record in records.items()}
    (tmp_path / "plain.txt").write_bytes(record_text(plain))
    amct.convert_model(deployed.pb, ["out"], str(tmp_path / "plain.txt"), str(tmp_path / "converted"))
    types = [op.type for op in load(tmp_path / "converted_quantized.pb").get_operations()]
    assert types.count("FusedBatchNormV3") == 1


def _one_skipped(net):
    tf.nn.relu(net.batch_norm(groups(net, image()), "bn"), name="out")


def test_a_batch_norm_behind_a_concat_that_stays_has_a_reason(tmp_path, capsys):
    deployed = Deployed(_one_skipped, ["out"], tmp_path, skip_layers=["g0/conv"])
    assert deployed.quantized == ["g1/conv"]
    assert (
        "Conv2D g1/conv: quantized; batch norm bn is not folded: the ConcatV2 concat before it joins results of which "
        "not all can be folded into"
    ) in capsys.readouterr().err
