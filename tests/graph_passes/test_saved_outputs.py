"""Outputs keep their names in the saved model, and decide with the calibration which batch norms are folded."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from small_models import (
    Deployed,
    avg_pool,
    batch,
    flat,
    graph_of,
    image,
    ops_behind,
    quantize,
    read_pb,
    run,
    small_net,
    sqnr,
    types_behind,
    used_before_the_bias,
    used_twice,
    v1,
    write_pb,
)

import amct_tensorflow as amct
from amct_tensorflow.errors import AmctRuntimeError

# -- Outputs -------------------------------------------------------------------------------------------------

TAILS = {
    "conv": lambda net, y: net.conv(y, "out"),
    "conv, BiasAdd": lambda net, y: net.bias(net.conv(y, "tail/conv"), "out"),
    "conv, Add": lambda net, y: net.add(net.conv(y, "tail/conv"), "out", [6]),
    "depthwise": lambda net, y: net.depthwise(y, "out"),
    "matmul": lambda net, y: net.matmul(flat(y), "out"),
    "matmul, Add": lambda net, y: net.add(net.matmul(flat(y), "tail/matmul"), "out", [6]),
    "matmul, Softmax": lambda net, y: tf.nn.softmax(net.matmul(flat(y), "tail/matmul"), name="out"),
    "AvgPool": lambda net, y: avg_pool(y, "out"),
    "ReLU": lambda net, y: tf.nn.relu(net.conv(y, "tail/conv"), name="out"),
    "conv, BN, ReLU": lambda net, y: tf.nn.relu(net.batch_norm(net.conv(y, "tail/conv"), "tail/bn"), name="out"),
    "matmul, Reshape, BN, ReLU": lambda net, y: tf.nn.relu(
        # One weight scale holds gains that differ little.
        net.batch_norm(
            tf.reshape(net.matmul(flat(y), "tail/matmul"), [-1, 1, 1, 6]),
            "tail/bn",
            variance=np.ones(6),
            scale=np.ones(6),
        ),
        name="out",
    ),
    # grappler drops control edges into a batch norm: see test_calibration_graph
    "conv, BN": lambda net, y: net.batch_norm(net.conv(y, "tail/conv"), "out"),
    "conv, BiasAdd, BN": lambda net, y: net.batch_norm(net.bias(net.conv(y, "tail/conv"), "tail/bias"), "out"),
}


@pytest.mark.parametrize("tail", TAILS)
def test_the_output_keeps_its_name(tmp_path, tail):
    def build(net):
        TAILS[tail](net, tf.nn.relu(net.conv(image(), "first/conv")))

    deployed = Deployed(build, ["out"], tmp_path)
    assert "out" in deployed.nodes
    assert len(deployed.of_type("AscendDequant")) == 2
    assert {"AscendQuant", "AscendWeightQuant", "AscendDequant"} <= {*types_behind(deployed.graph, "out")}
    assert len(ops_behind(deployed.graph, "out")) == len(deployed.nodes)
    assert "FusedBatchNormV3" not in types_behind(deployed.graph, "out")
    assert deployed.sqnr(batch(7)) > 25


def _two_heads(net):
    y = tf.nn.relu(net.conv(image(), "trunk/conv", channels=4))
    net.bias(net.conv(y, "left/conv"), "left/out")
    tf.nn.softmax(net.bias(net.matmul(flat(y), "right/matmul"), "right/logits"), name="right/out")


@pytest.mark.parametrize(
    "outputs",
    [["left/out", "right/out"], ["right/out", "right/logits", "left/out"], ["right/logits", "left/out"]],
    ids=len,
)
def test_several_outputs(tmp_path, outputs):
    deployed = Deployed(_two_heads, outputs, tmp_path, calib_outputs=outputs)
    for output in outputs:
        assert deployed.sqnr(batch(7), output) > 25
    if "right/out" not in outputs:
        assert "right/out" not in deployed.nodes


def test_a_subset_of_the_outputs_is_saved_with_what_it_needs(tmp_path):
    deployed = Deployed(_two_heads, ["left/out", "right/out"], tmp_path, save_outputs=["left/out"])
    assert not [name for name in deployed.nodes if name.startswith("right/")]
    assert deployed.sqnr(batch(7)) > 25
    assert not [name for name in deployed.info if name.startswith("right/")]


def test_outputs_may_be_given_as_tensor_names(tmp_path):
    deployed = Deployed(small_net, ["out"], tmp_path)
    amct.save_model(deployed.pb, ["out:0"], deployed.record, str(tmp_path / "again"))
    assert (tmp_path / "again_quantized.pb").read_bytes() == deployed.file.read_bytes()


def test_an_output_between_two_layers(tmp_path):
    def build(net):
        y = net.bias(net.conv(image(), "a/conv", channels=4), "a/bias")
        tf.nn.relu(net.conv(y, "b/conv"), name="out")

    deployed = Deployed(build, ["a/bias", "out"], tmp_path, calib_outputs=["a/bias", "out"])
    assert deployed.sqnr(batch(7), "a/bias") > 25
    assert deployed.sqnr(batch(7), "out") > 25
    assert len(deployed.of_type("AscendDequant")) == 2


def test_an_output_before_the_bias_of_the_saved_model_only(tmp_path):
    """The calibration took the bias into the layer; the saved model has an output in front of it."""
    deployed = Deployed(
        lambda net: tf.nn.relu(net.bias(net.conv(image(), "conv"), "bias"), name="out"), ["out"], tmp_path
    )
    deployed.outputs = ["out", "conv"]
    deployed.save("other")
    assert deployed.sqnr(batch(7), "conv") > 25
    assert deployed.sqnr(batch(7), "out") > 25


def test_an_output_that_another_op_waits_for(tmp_path):
    """A control edge to an output that is a layer."""

    def build(net):
        y = net.conv(image(), "conv")
        with tf.control_dependencies([y]):
            tf.nn.relu(tf.identity(image("y")), name="late")

    feed = {"x": batch(), "y": batch(1)}
    deployed = Deployed(build, ["conv", "late"], tmp_path, feeds=[feed])
    assert deployed.sqnr(feed, "conv") > 25
    assert deployed.sqnr(feed, "late") == np.inf


@pytest.mark.parametrize("as_output", [True, False], ids=["output", "not an output"])
def test_what_a_layer_waits_for_is_kept(tmp_path, as_output):
    """A control edge into a layer, for example from an assertion."""

    def build(net):
        x = image()
        check = tf.raw_ops.CheckNumerics(tensor=x, message="x", name="check")
        y = net.conv(x, "conv")
        y.op._add_control_input(check.op)
        if not as_output:
            tf.nn.relu(y, name="relu")

    deployed = Deployed(build, ["conv" if as_output else "relu"], tmp_path)
    assert "check" in deployed.nodes
    assert deployed.sqnr(batch(7)) > 25


# -- The fusions of calibration and deployment are the same ones ---------------------------------------------


@pytest.mark.parametrize("build", [used_twice, used_before_the_bias], ids=["conv", "conv before the bias"])
def test_a_batch_norm_that_was_not_folded_stays(tmp_path, build):
    deployed = Deployed(build, ["out"], tmp_path)
    assert deployed.records["conv"].skip_fusion
    assert "FusedBatchNormV3" in types_behind(deployed.graph, "out")
    assert deployed.sqnr(batch(7)) > 25


def _conv_bn(net):
    y = tf.nn.relu(net.conv(image(), "first/conv"))
    tf.nn.relu(_big(net, net.conv(y, "conv")), name="out")


def _conv_bias_bn(net):
    y = tf.nn.relu(net.conv(image(), "first/conv"))
    tf.nn.relu(_big(net, net.bias(net.conv(y, "conv"), "bias")), name="out")


def _big(net, y):
    """A batch norm that changes the weights much: scales of folded weights do not fit the others."""
    scale = np.array([20, 0.02, 10, 0.05, 5, 0.01], np.float32)
    return net.batch_norm(y, "bn", scale=scale)


@pytest.mark.parametrize("switch", ["skip_fusion_layers", "do_fusion"])
def test_fusion_that_is_switched_off_stays_off(tmp_path, switch):
    settings = {"skip_fusion_layers": ["conv"]} if switch == "skip_fusion_layers" else {"do_fusion": False}
    deployed = Deployed(_conv_bias_bn, ["out"], tmp_path, **settings)
    assert deployed.records["conv"].skip_fusion
    assert "bn" in deployed.nodes
    assert deployed.sqnr(batch(7)) > 25


@pytest.mark.parametrize("build", [_conv_bn, _conv_bias_bn], ids=["BN", "bias and BN"])
def test_an_output_of_the_calibration_only(tmp_path, build):
    """Fetching the convolution kept its batch norm apart; the saved model must keep it apart, too."""
    deployed = Deployed(build, ["conv", "out"], tmp_path, calib_outputs=["conv", "out"], save_outputs=["out"])
    assert deployed.records["conv"].skip_fusion
    assert "bn" in deployed.nodes
    assert deployed.sqnr(batch(7)) > 25


@pytest.mark.parametrize("build", [_conv_bn, _conv_bias_bn], ids=["BN", "bias and BN"])
def test_an_output_of_the_saved_model_only(tmp_path, build):
    """The record has the scales of folded weights, and the new output forbids to fold."""
    deployed = Deployed(build, ["out"], tmp_path)
    with pytest.raises(AmctRuntimeError, match=r"layer conv was calibrated with its batch norm folded in, but .*conv"):
        amct.save_model(deployed.pb, ["conv", "out"], deployed.record, str(tmp_path / "other"))
    assert list(tmp_path.glob("other*")) == []


@pytest.mark.parametrize("build", [_conv_bn, _conv_bias_bn], ids=["BN", "bias and BN"])
def test_an_observed_tensor_of_the_training_graph(tmp_path, build):
    """The graph that is calibrated has a summary of the convolution; the frozen model has not."""
    pb = write_pb(graph_of(build), tmp_path / "float.pb")
    graph = graph_of(build)
    with graph.as_default():
        v1.summary.histogram("conv_histogram", graph.get_tensor_by_name("conv:0"))
    record = quantize(graph, tmp_path, calib_outputs=["out"])
    run(graph, "out:0", batch())
    amct.save_model(pb, ["out"], record, str(tmp_path / "model"))
    model = tf.Graph()
    with model.as_default():
        tf.import_graph_def(read_pb(tmp_path / "model_quantized.pb"), name="")
    assert sqnr(run(graph_of(build), "out:0", batch(7)), run(model, "out:0", batch(7))) > 25
