"""Inputs that are quantized alone: by tensor_quantize, and the branches of an Add by joint_quant."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from small_models import Deployed, batch, constant, graph_of, image, run, v1, write_pb

import amct_tensorflow as amct
from amct_tensorflow.errors import AmctRuntimeError, AmctValueError
from amct_tensorflow.record import read_record


def max_pool(x, name):
    return tf.raw_ops.MaxPool(input=x, ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1], padding="VALID", name=name)


def pooled(net):
    y = tf.nn.tanh(net.conv(image(), "a/conv"))
    tf.identity(net.conv(tf.nn.elu(max_pool(y, "a/pool")), "b/conv"), name="out")


def residual(net):
    """Two blocks around the same stream: `stream`, `sum` and both branches are read by Adds."""
    stream = tf.nn.relu(net.conv(image(), "stem/conv", 6))
    y = net.conv(tf.nn.relu(net.conv(stream, "a/conv1")), "a/conv2")
    y = tf.nn.relu(tf.raw_ops.AddV2(x=y, y=stream, name="a/add"))
    z = net.conv(tf.nn.relu(net.conv(y, "b/conv1")), "b/conv2")
    tf.identity(tf.raw_ops.Add(x=z, y=y, name="b/add"), name="out")


def constant_added(net):
    y = tf.nn.tanh(net.conv(image(), "a/conv"))
    tf.identity(net.add(y, "a/add", [8, 8, 6]), name="out")


def bias_added(net):
    tf.identity(net.add(net.conv(image(), "a/conv"), "a/add", [6]), name="out")


def items(*tensors, **params):
    return [
        {"layer_name": name, "input_index": index, **({"activation_quant_params": params} if params else {})}
        for name, index in tensors
    ]


CASES = {
    "MaxPool": (pooled, "a/pool", 0),
    "Add of a constant": (constant_added, "a/add", 0),
    "Add of a bias": (bias_added, "a/add", 0),
    "Add of two branches": (residual, "a/add", 1),
}


@pytest.mark.parametrize("algorithm", ["ifmr", "hfmg"])
@pytest.mark.parametrize("case", CASES)
def test_the_input_is_quantized(tmp_path, case, algorithm):
    build, name, index = CASES[case]
    deployed = Deployed(
        build,
        ["out"],
        tmp_path,
        feeds=[batch(0), batch(1)],
        tensor_quantize=items((name, index), act_algo=algorithm),
    )
    record = deployed.records[f"{name}:{index}"]
    assert record.scale_w == record.shift_bit == ()
    restored = deployed.nodes[deployed.inputs(name)[index]]
    assert restored.op == "AscendAntiQuant"
    assert restored.name.startswith("a/anti_quant")
    quant = deployed.nodes[restored.input[0]]
    assert quant.op == "AscendQuant"
    assert quant.attr["scale"].f == pytest.approx(1 / record.scale_d, rel=1e-6)
    assert restored.attr["scale"].f == np.float32(record.scale_d)
    assert restored.attr["offset"].f == quant.attr["offset"].f == record.offset_d
    assert deployed.sqnr(batch(0)) > 25


def test_an_input_that_a_layer_has_too_shares_its_op(tmp_path):
    """With equal parameters, and then one AscendQuant."""
    deployed = Deployed(residual, ["out"], tmp_path, tensor_quantize=items(("b/add", 1)))
    restored = deployed.nodes[deployed.inputs("b/add")[1]]
    assert restored.input[0] in deployed.inputs("b/conv1")
    assert deployed.records["b/add:1"].scale_d == deployed.records["b/conv1"].scale_d


def test_the_calibration_graph_computes_what_it_did(tmp_path):
    graph = graph_of(residual)
    before = run(graph, "out:0", batch())
    deployed = Deployed(residual, ["out"], tmp_path, tensor_quantize=items(("a/add", 0), ("a/add", 1)))
    assert len(deployed.of_type("AscendAntiQuant")) == 2
    np.testing.assert_allclose(run(graph, "out:0", batch()), before)


def in_loop(net):
    v1.disable_control_flow_v2()
    try:
        _, y = v1.while_loop(
            lambda i, y: i < 2,
            lambda i, y: (i + 1, max_pool(y, "inner/pool")),
            [tf.constant(0), image()],
            shape_invariants=[tf.TensorShape([]), tf.TensorShape([None, None, None, 4])],
        )
    finally:
        v1.enable_control_flow_v2()
    tf.identity(net.conv(y, "conv"), name="out")


def in_doubles(net):
    y = max_pool(tf.cast(image(), tf.float64), "pool")
    tf.identity(net.conv(tf.cast(y, tf.float32), "conv"), name="out")


def with_halves(net):
    y = tf.nn.relu(tf.cast(max_pool(image(), "pool"), tf.float16))
    tf.identity(net.conv(tf.cast(y, tf.float32), "conv"), name="out")


REFUSED = {
    "no such op": (pooled, ("a/pol", 0), "Layer a/pol does not exist in the graph"),
    "another type": (
        pooled,
        ("a/conv", 0),
        "Input 0 of a/conv cannot be quantized, it is of type Conv2D, only inputs of MaxPool, Add, AddV2 are quantized "
        "alone; remove it from",
    ),
    "no such input": (pooled, ("a/pool", 1), "Input 1 of a/pool cannot be quantized, MaxPool has no input 1 that can"),
    "a constant": (constant_added, ("a/add", 1), "Input 1 of a/add cannot be quantized, that input is a constant or"),
    "in a loop": (in_loop, ("while/inner/pool", 0), "cannot be quantized, it is inside a while loop or a cond"),
    "float64": (in_doubles, ("pool", 0), "cannot be quantized, its type is float64, only float32 is supported"),
    "beside float16": (with_halves, ("pool", 0), "cannot be quantized, the model computes partly in float16"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path, case):
    build, tensor, message = REFUSED[case]
    graph = graph_of(build)
    amct.create_quant_config(str(tmp_path / "config.json"), graph)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tensor_quantize": items(tensor)}))
    with pytest.raises(AmctValueError, match=message):
        amct.quantize_model(graph, str(tmp_path / "config.json"), str(tmp_path / "record.txt"))


def test_a_record_without_its_factors(tmp_path):
    """Too few runs."""
    graph = graph_of(pooled)
    pb = write_pb(graph, tmp_path / "float.pb")
    amct.create_quant_config(str(tmp_path / "config.json"), graph)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tensor_quantize": items(("a/pool", 0))}))
    record = str(tmp_path / "record.txt")
    amct.quantize_model(graph, str(tmp_path / "config.json"), record)
    run(graph, "a/conv:0", batch())
    with pytest.raises(AmctRuntimeError, match=r"calibration is not finished for 2 of 3 layers .*a/pool:0 \("):
        amct.save_model(pb, ["out"], record, str(tmp_path / "model"))


def test_it_is_said(tmp_path, capsys):
    Deployed(pooled, ["out"], tmp_path, tensor_quantize=items(("a/pool", 0)))
    said = capsys.readouterr()
    assert (said.out + said.err).count("MaxPool a/pool: input 0 is quantized") == 2  # by quantize_model and save_model


# joint_quant


@pytest.mark.parametrize("algorithm", ["ifmr", "hfmg"])
def test_the_branches_of_an_add_are_quantized_jointly(tmp_path, algorithm):
    entries = {"stem/conv": {}}
    if algorithm == "hfmg":
        params = {"activation_quant_params": {"act_algo": "hfmg"}}
        entries = dict.fromkeys(("stem/conv", "a/conv1", "a/conv2", "b/conv1", "b/conv2"), params)
    deployed = Deployed(residual, ["out"], tmp_path, feeds=[batch(0), batch(1)], joint_quant=True, **entries)
    factors = {key: (record.scale_d, record.offset_d) for key, record in deployed.records.items()}
    assert factors["a/add:0"] == factors["a/add:1"] == factors["a/conv1"]  # the stream is read by a/conv1, too
    assert factors["b/add:0"] == factors["b/add:1"] == factors["b/conv1"]
    assert factors["a/add:0"] != factors["b/add:0"]
    for add in ("a/add", "b/add"):
        assert [deployed.nodes[name].op for name in deployed.inputs(add)] == ["AscendAntiQuant"] * 2
    assert deployed.sqnr(batch(0)) > 25


def test_the_joint_factors_fit_both_branches(tmp_path):
    """They are those of IFMR over the values of both, one behind the other."""

    def build(net):
        x = image()
        y = tf.nn.relu(net.conv(x, "a/conv", channels=4)) * 3
        tf.identity(tf.raw_ops.AddV2(x=x, y=y, name="add"), name="out")

    def build_both(net):
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        tf.identity(net.matmul(x, "fc"), name="out")

    (tmp_path / "joint").mkdir()
    (tmp_path / "plain").mkdir()
    deployed = Deployed(build, ["out"], tmp_path / "joint", joint_quant=True)
    branches = run(deployed.float_graph, ["x:0", "mul:0"], batch())
    # What feeds the Add in the calibration graph carries the error of the layer's weights, as it does here.
    both = np.concatenate([branch.reshape(-1, 4) for branch in branches])
    plain = Deployed(build_both, ["out"], tmp_path / "plain", feeds=[both])
    assert deployed.records["add:0"].scale_d == pytest.approx(plain.records["fc"].scale_d, rel=0.05)


def broadcast(net):
    y = net.conv(image(), "conv", channels=4)
    tf.identity(y + tf.reduce_mean(y, [1, 2], keepdims=True), name="out")


def doubled(net):
    y = net.conv(image(), "conv")
    tf.identity(tf.raw_ops.AddV2(x=y, y=y), name="out")


@pytest.mark.parametrize("build", [broadcast, doubled, bias_added])
def test_other_sums_are_left_alone(tmp_path, build):
    deployed = Deployed(build, ["out"], tmp_path, joint_quant=True)
    assert not [key for key in deployed.records if ":" in key]
    assert not deployed.of_type("AscendAntiQuant")


def test_a_tensor_that_is_named_too_is_there_once(tmp_path):
    deployed = Deployed(
        residual, ["out"], tmp_path, joint_quant=True, tensor_quantize=items(("a/add", 0), asymmetric=False)
    )
    assert [key for key in deployed.records if ":" in key] == ["a/add:0", "a/add:1", "b/add:0", "b/add:1"]
    assert read_record(deployed.record)["a/add:0"].scale_d == deployed.records["a/add:1"].scale_d


def test_a_graph_without_such_sums(tmp_path):
    build = lambda net: tf.nn.relu(net.conv(image(), "conv") + constant(net.random("c", [6]), "c"), name="out")  # noqa: E731
    assert Deployed(build, ["out"], tmp_path, joint_quant=True).sqnr(batch()) > 25


def test_no_such_sums_are_said(tmp_path, capsys):
    Deployed(bias_added, ["out"], tmp_path, joint_quant=True)
    assert "WARNING - [AMCT]:[quantize_model]: joint_quant has no effect: no Add joins two" in capsys.readouterr().err


def test_what_to_do_about_an_input_that_is_not_finite(tmp_path):
    graph = graph_of(pooled)
    amct.create_quant_config(str(tmp_path / "config.json"), graph)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "tensor_quantize": items(("a/pool", 0))}))
    amct.quantize_model(graph, str(tmp_path / "config.json"), str(tmp_path / "record.txt"))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"a/pool:0.* any other take it out of tensor_quantize"):
        run(graph, "out:0", {"x": batch(), "Tanh:0": np.full((4, 8, 8, 6), np.nan, np.float32)})


def test_a_branch_that_is_not_run(tmp_path):
    """Its Add shares factors with a layer that is."""

    def build(net):
        x = image()
        y = net.conv(x, "a/conv", 4)
        tf.identity(net.conv(y, "b/conv"), name="out")
        tf.nn.relu(tf.raw_ops.AddV2(x=y, y=net.conv(x, "c/conv", 4), name="add"), name="unused")

    graph = graph_of(build)
    pb = write_pb(graph, tmp_path / "float.pb")
    amct.create_quant_config(str(tmp_path / "config.json"), graph)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "joint_quant": True}))
    record = str(tmp_path / "record.txt")
    amct.quantize_model(graph, str(tmp_path / "config.json"), record)
    run(graph, "out:0", batch())
    with pytest.raises(AmctRuntimeError, match=r"b/conv \(it shares its factors with an input that was not run\)"):
        amct.save_model(pb, ["out"], record, str(tmp_path / "model"))
