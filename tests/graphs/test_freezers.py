"""Models as the tools of TensorFlow leave them: frozen, optimized by grappler, optimized for inference."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from small_models import (
    SMALL_NET_LAYERS,
    Deployed,
    Net,
    avg_pool,
    batch,
    constant,
    flat,
    graph_of,
    ref_variable,
    small_net,
    sqnr,
    v1,
    variable,
)
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
from tensorflow.python.grappler import tf_optimizer
from tensorflow.python.tools import optimize_for_inference_lib

import amct_tensorflow as amct


def imported(graph_def: Any):
    """What builds the graph of a GraphDef."""
    return lambda net: tf.import_graph_def(graph_def, name="")


def types_of(graph_def: Any) -> set[str]:
    return {node.op for node in graph_def.node}


def deploy(graph_def: Any, output: str, folder: Any) -> Deployed:
    return Deployed(imported(graph_def), [output], folder, feeds=[batch(0), batch(1)])


def check(deployed: Deployed, layers: list[str] | None = None) -> None:
    """The layers of `small_net`, whatever their names are now, are quantized, and the result is right."""
    types = sorted(op.type for op in deployed.float_graph.get_operations() if op.name in deployed.quantized)
    assert types == ["AvgPool", "Conv2D", "DepthwiseConv2dNative", "MatMul"]
    if layers is not None:
        assert deployed.quantized == layers
    assert len(deployed.of_type("AscendDequant")) == 4
    assert deployed.outputs[0] in deployed.nodes
    assert deployed.sqnr(batch(7)) > 20
    other = sqnr(deployed.run_float(batch(7)), deployed.run(batch(8)))
    assert other < 20  # the result of another batch would not pass


# -- Freezing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameter", [variable, ref_variable], ids=["resource variables", "ref variables"])
def test_frozen_by_tensorflow_1(tmp_path, parameter):
    """Leaves Identity, and ReadVariableOp as Identity."""
    graph = graph_of(small_net, parameter)
    with v1.Session(graph=graph) as session, graph.as_default():
        session.run(v1.global_variables_initializer())
        frozen = v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), ["out"])
    assert "Identity" in types_of(frozen)
    check(deploy(frozen, "out", tmp_path), SMALL_NET_LAYERS)


class _Variables(Net):
    """Makes parameters that are variables of TensorFlow 2."""

    def __init__(self) -> None:
        super().__init__(self._variable)
        self._made: dict[str, tf.Variable] = {}

    def _variable(self, value: Any, name: str) -> tf.Tensor:
        if name not in self._made:
            with tf.init_scope():
                self._made[name] = tf.Variable(np.asarray(value, np.float32), name=name)
        return tf.convert_to_tensor(self._made[name])


def _body(net: Net, x: tf.Tensor) -> tf.Tensor:
    y = tf.nn.relu6(net.batch_norm(net.conv(x, "a/conv"), "a/bn"))
    y = tf.nn.relu(net.bias(net.depthwise(y, "b/depthwise", multiplier=2), "b/bias"))
    return tf.nn.softmax(net.add(net.matmul(flat(avg_pool(y, "pool")), "fc/matmul", channels=5), "fc/add", [5]))


def _concrete(function: Any) -> Any:
    return tf.function(function).get_concrete_function(tf.TensorSpec([None, 8, 8, 4], tf.float32, name="x"))


@pytest.mark.parametrize("lower_control_flow", [True, False], ids=["lowered", "functional"])
def test_frozen_by_tensorflow_2(tmp_path, lower_control_flow):
    net = _Variables()
    frozen = convert_variables_to_constants_v2(_concrete(lambda x: _body(net, x)), lower_control_flow)
    check(deploy(frozen.graph.as_graph_def(), frozen.outputs[0].op.name, tmp_path), SMALL_NET_LAYERS)


def test_frozen_with_nested_functions_and_assertions(tmp_path):
    """Leaves NoOp, control edges, and names with the scopes of the calls."""
    net = _Variables()
    inner = tf.function(lambda x: _body(net, x))

    def outer(x):
        tf.debugging.assert_rank(x, 4)
        with tf.control_dependencies([tf.debugging.assert_less(tf.reduce_max(x), 100.0)]):
            return inner(tf.identity(x)) * 1.0

    frozen = convert_variables_to_constants_v2(_concrete(outer))
    graph_def = frozen.graph.as_graph_def()
    assert types_of(graph_def) & {"NoOp", "Assert"}
    check(deploy(graph_def, frozen.outputs[0].op.name, tmp_path))


def test_a_call_that_is_not_inlined(tmp_path, capsys):
    """The functions of a graph that was exported without freezing stay in its library, out of reach."""
    weights = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)

    @tf.function(autograph=False)
    def head(y):
        return tf.linalg.matmul(y, weights, name="hidden")

    def build(net):
        y = net.conv(v1.placeholder(tf.float32, [None, 8, 8, 4], name="x"), "conv")
        tf.identity(head(tf.reduce_mean(tf.nn.relu(y), [1, 2])), name="out")

    graph_def = graph_of(build).as_graph_def()
    assert graph_def.library.function
    deployed = deploy(graph_def, "out", tmp_path)
    assert deployed.quantized == ["conv"]
    assert deployed.sqnr(batch(7)) > 20
    assert re.search(r"INFO .*MatMul \S*head\S*/hidden: left float because it is inside", capsys.readouterr().err)


@pytest.mark.parametrize("functional", [True, False], ids=["If", "Switch and Merge"])
def test_a_condition_of_tensorflow_2(tmp_path, functional):
    net = _Variables()

    def branch(x):
        y = tf.nn.relu(net.conv(x, "first/conv", channels=4))
        y = tf.cond(
            tf.reduce_mean(x) > 0.0,
            lambda: tf.nn.relu(net.conv(y, "then/conv", channels=4)),
            lambda: avg_pool(y, "else/pool", strides=[1, 1, 1, 1], padding="SAME"),
        )
        return tf.nn.relu(net.conv(y, "last/conv"))

    frozen = convert_variables_to_constants_v2(_concrete(branch), lower_control_flow=not functional)
    graph_def = frozen.graph.as_graph_def()
    assert types_of(graph_def) & ({"If", "StatelessIf"} if functional else {"Merge"})
    feeds = [batch(), -batch()]
    output = frozen.outputs[0].op.name
    deployed = Deployed(imported(graph_def), [output], tmp_path, feeds=feeds)
    assert {"first/conv", "last/conv"} <= set(deployed.quantized)
    signs = {np.mean(feed) > 0 for feed in feeds}
    assert len(signs) == 2
    for feed in feeds:
        assert deployed.sqnr(feed) > 20


@pytest.mark.parametrize("functional", [True, False], ids=["While", "Enter and Exit"])
def test_a_loop_of_tensorflow_2(tmp_path, functional, capsys):
    net = _Variables()

    def loop(x):
        y = tf.nn.relu(net.conv(x, "first/conv", channels=4))
        for _ in tf.range(3):
            y = tf.nn.relu(net.conv(y, "inner/conv", channels=4))
        return tf.nn.relu(net.conv(y, "last/conv"))

    frozen = convert_variables_to_constants_v2(_concrete(loop), lower_control_flow=not functional)
    graph_def = frozen.graph.as_graph_def()
    assert types_of(graph_def) & ({"While", "StatelessWhile"} if functional else {"Enter"})
    deployed = deploy(graph_def, frozen.outputs[0].op.name, tmp_path)
    assert deployed.quantized == ["first/conv", "last/conv"]
    assert deployed.sqnr(batch(7)) > 20
    assert re.search(r"INFO .*Conv2D \S*inner/conv: left float because it is inside", capsys.readouterr().err)


# -- Grappler -------------------------------------------------------------------------------------------------


def grappler(graph_def: Any, output: str, optimizers: list[str]) -> Any:
    """Runs these optimizers of TensorFlow's grappler, as `tf_optimizer` offers it to users."""
    with graph_of(imported(graph_def)).as_default() as graph:
        meta_graph = v1.train.export_meta_graph(graph=graph)
    meta_graph.collection_def["train_op"].node_list.value.append(output)
    config = v1.ConfigProto()
    options = config.graph_options.rewrite_options
    options.optimizers.extend(optimizers)
    options.min_graph_nodes = -1
    return tf_optimizer.OptimizeGraph(config, meta_graph)


@pytest.mark.parametrize(
    "optimizers",
    [["constfold"], ["constfold", "arithmetic", "dependency"], ["function", "pruning", "common_subgraph_elimination"]],
    ids="+".join,
)
def test_optimized_by_grappler(tmp_path, optimizers):
    frozen = graph_of(small_net).as_graph_def()
    check(deploy(grappler(frozen, "out", optimizers), "out", tmp_path), SMALL_NET_LAYERS)


def _remapped() -> Any:
    """A model with convolutions that grappler fused with what follows them, and one that it did not."""

    def build(net):
        y = tf.nn.relu(net.bias(net.conv(v1.placeholder(tf.float32, [4, 8, 8, 4], name="x"), "a/conv"), "a/bias"))
        y = avg_pool(y, "pool")
        tf.nn.relu(net.bias(net.matmul(flat(y), "fc/matmul"), "fc/bias"), name="out")

    return _remap(build)


def _remap(build: Any) -> Any:
    graph_def = graph_of(build).as_graph_def()
    for node in graph_def.node:
        node.device = "/job:localhost/replica:0/task:0/device:CPU:0"  # else it does not know whether it may
    return grappler(graph_def, "out", ["remap"])


def test_a_remapped_model_is_right(tmp_path):
    """What is left of it to quantize."""
    graph_def = _remapped()
    assert "_FusedConv2D" in types_of(graph_def)
    deployed = deploy(graph_def, "out", tmp_path)
    assert "pool" in deployed.quantized
    assert deployed.sqnr(batch(7)) > 20


@pytest.mark.parametrize("op_type", ["_FusedConv2D", "_FusedMatMul"])
def test_what_grappler_fused_is_reported(tmp_path, capsys, op_type):
    graph_def = _remapped()
    assert op_type in types_of(graph_def)
    deploy(graph_def, "out", tmp_path)
    assert re.search(rf"WARNING .*{op_type} \S+: left float because", capsys.readouterr().err)


def test_a_model_of_fused_convolutions_alone(tmp_path):
    """Nothing to quantize, and the message must say what is in the way."""

    def build(net):
        y = net.bias(net.conv(v1.placeholder(tf.float32, [4, 8, 8, 4], name="x"), "a/conv"), "a/bias")
        tf.nn.relu(y, name="out")

    graph_def = _remap(build)
    with pytest.raises(amct.AmctError, match="_FusedConv2D"):
        amct.create_quant_config(str(tmp_path / "config.json"), graph_of(imported(graph_def)))


# -- optimize_for_inference ------------------------------------------------------------------------------------


def _optimized_for_inference(build: Any, output: str = "out") -> Any:
    graph_def = graph_of(build).as_graph_def()
    return optimize_for_inference_lib.optimize_for_inference(graph_def, ["x"], [output], tf.float32.as_datatype_enum)


def test_optimized_for_inference(tmp_path):
    """It folds batch norms itself."""
    graph_def = _optimized_for_inference(small_net)
    assert not [op_type for op_type in types_of(graph_def) if op_type.startswith("FusedBatchNorm")]
    check(deploy(graph_def, "out", tmp_path))


def _pad_and_convolutions(net):
    x = v1.placeholder(tf.float32, [None, 8, 8, 4], name="x")
    y = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="REFLECT")
    y = tf.nn.relu(net.conv(y, "a/conv", padding="VALID"), name="a/relu")
    tf.nn.relu(net.conv(y, "b/conv"), name="out")


def test_a_pad_fused_into_a_convolution(tmp_path):
    """optimize_for_inference makes one op of them, which cannot be quantized; the next layer can."""
    graph_def = _optimized_for_inference(_pad_and_convolutions)
    assert "FusedPadConv2D" in types_of(graph_def)
    deployed = deploy(graph_def, "out", tmp_path)
    assert deployed.quantized == ["b/conv"]
    assert deployed.sqnr(batch(1)) > 20
    np.testing.assert_array_equal(deployed.run(batch(7), "a/relu"), deployed.run_float(batch(7), "a/relu"))


def test_a_pad_fused_into_a_convolution_is_reported(tmp_path, capsys):
    deploy(_optimized_for_inference(_pad_and_convolutions), "out", tmp_path)
    assert re.search(r"WARNING .*FusedPadConv2D a/conv: left float because", capsys.readouterr().err)


@pytest.mark.parametrize("name", ["conv/w.1", "1x1/W", "kernel-0", "a__cf__3", "Stateful.Call/_1/a>b"])
def test_odd_names(tmp_path, name):
    """Every name that TensorFlow lets pass."""

    def build(net):
        x = v1.placeholder(tf.float32, [None, 8, 8, 4], name="x")
        weights = constant(net.random("w", (3, 3, 4, 6)) / 6, f"{name}/weights")
        y = tf.raw_ops.Conv2D(input=x, filter=weights, strides=[1] * 4, padding="SAME", name=name)
        tf.nn.relu(net.bias(y, f"{name}/bias"), name="out")

    deployed = deploy(graph_of(build).as_graph_def(), "out", tmp_path)
    assert deployed.quantized == [name]
    assert deployed.sqnr(batch(7)) > 20
