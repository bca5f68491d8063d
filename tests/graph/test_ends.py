from __future__ import annotations

import pytest
import tensorflow as tf
from small_graphs import conv_net

from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.graph.ends import (
    find_outputs,
    find_placeholder,
    natural_outputs,
    needed_inputs,
    only_natural_output,
    resolve_outputs,
)

tf1 = tf.compat.v1


def test_natural_outputs():
    """Not what only looks like one: constants, forgotten parameters and inputs, Assert, NoOp, summaries."""
    with conv_net().as_default() as graph:
        out = graph.get_tensor_by_name("out:0")
        tf.constant(1.0, name="constant")
        tf.identity(tf.constant(1.0), name="forgotten/read")
        tf1.placeholder(tf.float32, name="unused")
        tf.debugging.Assert(tf.reduce_all(out > 0), [out], name="assert")
        tf1.summary.scalar("mean", tf.reduce_mean(out), collections=[])
        tf.group(out, name="train")
    assert natural_outputs(graph) == []
    with graph.as_default():
        tf.identity(out, "end")
    assert natural_outputs(graph) == ["end"]
    assert only_natural_output(graph, "m.pb") == "end"


def test_control_edges_consume_nothing():
    with conv_net().as_default() as graph:
        tf.group(graph.get_tensor_by_name("out:0"), name="train")
    assert natural_outputs(graph) == ["out"]


def test_a_graph_without_placeholders():
    with tf.Graph().as_default() as graph:
        tf.identity(tf.constant(1.0), name="out")
    assert natural_outputs(graph) == ["out"]


def test_several_natural_outputs():
    with conv_net().as_default() as graph:
        for at in range(25):
            tf.identity(graph.get_tensor_by_name("block/relu:0"), f"side{at}")
    with pytest.raises(AmctValueError, match=r'm\.pb has 26 ops.*"out:0;side0:0;.*" and 6 more'):
        only_natural_output(graph, "m.pb")
    with pytest.raises(AmctValueError, match="no op that nothing consumes"):
        only_natural_output(tf.Graph(), "m.pb")


@pytest.fixture
def split_net() -> tf.Graph:
    with conv_net().as_default() as graph:
        tf.split(graph.get_tensor_by_name("block/relu:0"), 2, axis=3, name="split")
        tf.group(graph.get_tensor_by_name("out:0"), name="train")
    return graph


def test_find_outputs(split_net):
    names = ["out", "block/relu:0", "split", "split:1", "train"]
    assert [op.name for op in find_outputs(split_net, names, "m")] == ["out", "block/relu", "split", "split", "train"]


def test_resolve_outputs(split_net):
    names = ["out", "block/relu:0", "split", "split:1"]
    found = ["out:0", "block/relu:0", "split:0", "split:1"]
    assert [tensor.name for tensor in resolve_outputs(split_net, names, "m")] == found
    with pytest.raises(AmctValueError, match=r"output 'train' does not exist in m: op 'train' has 0 output\(s\)"):
        resolve_outputs(split_net, ["train"], "m")


@pytest.mark.parametrize("find", [find_outputs, resolve_outputs])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("block/rleu", "output 'block/rleu' does not exist in m; did you mean 'block/relu'?"),
        ("relu", "output 'relu' does not exist in m; did you mean 'block/relu'?"),
        ("relu:0", "output 'relu:0' does not exist in m; did you mean 'block/relu'?"),
        ("other/block/relu", "output 'other/block/relu' does not exist in m; did you mean 'block/relu'?"),
        ("zzzzzzzz", "output 'zzzzzzzz' does not exist in m: pass op names of it"),
        ("", "output '' does not exist in m: pass op names of it"),
        *[
            (
                name,
                f"output '{name}' does not exist in m: op '{op}' has {count} output(s), numbered from 0",
            )
            for name, op, count in (
                ("out:1", "out", 1),
                ("out:x", "out", 1),
                ("out:-1", "out", 1),
                ("split:2", "split", 2),
                ("train:0", "train", 0),
            )
        ],
    ],
)
def test_an_output_that_does_not_exist(split_net, find, name, message):
    with pytest.raises(AmctValueError) as raised:
        find(split_net, ["out", name], "m")
    assert str(raised.value) == message


def test_inputs():
    with conv_net().as_default() as graph:
        tf.identity(tf1.placeholder(tf.float32, name="y"), "other")
    (needed,) = needed_inputs(graph, resolve_outputs(graph, ["out"], "m"))
    assert needed.name == "x:0"
    assert find_placeholder(graph, "y", "m").name == find_placeholder(graph, "y:0", "m").name == "y:0"
    with pytest.raises(AmctValueError, match="input 'input' does not exist in m: its inputs are x, y"):
        find_placeholder(graph, "input", "m")
