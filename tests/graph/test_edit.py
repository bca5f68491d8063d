from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from amct_tensorflow.graph.edit import (
    add_control_input,
    at_root,
    clone,
    consumers,
    replace_uses,
    scope_of,
    set_input,
    sole_consumer,
    unique_scope,
)

v1 = tf.compat.v1


@pytest.fixture
def graph():
    """x = 2 -> a = -x, b = x + x, c = x * a."""
    graph = tf.Graph()
    with graph.as_default():
        x = tf.constant(2.0, name="x")
        a = tf.raw_ops.Neg(x=x, name="a")
        tf.raw_ops.AddV2(x=x, y=x, name="b")
        tf.raw_ops.Mul(x=x, y=a, name="c")
    return graph


def _tensor(graph, name):
    return graph.get_tensor_by_name(f"{name}:0")


def _run(graph, name):
    with v1.Session(graph=graph) as session:
        return session.run(f"{name}:0")


# -- Names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "scope"), [("conv", ""), ("net/conv", "net/"), ("net/block_1/conv", "net/block_1/")], ids=str
)
def test_scope_of(name, scope):
    assert scope_of(name) == scope


def test_a_scope_is_given_out_once(graph):
    assert unique_scope(graph, "net/act_quant") == "net/act_quant"
    assert unique_scope(graph, "net/act_quant") == "net/act_quant_1"
    assert unique_scope(graph, "act_quant") == "act_quant"


def test_a_scope_that_exists_is_not_given_out(graph):
    with graph.as_default():
        tf.constant(1.0, name="act_quant")
        with tf.name_scope("net/dequant"):
            tf.constant(1.0)
    assert unique_scope(graph, "act_quant") == "act_quant_1"
    assert unique_scope(graph, "net/dequant") == "net/dequant_1"


# -- Who uses a tensor ---------------------------------------------------------------------------------------


def test_every_use_is_listed(graph):
    uses = [(op.name, index) for op, index in consumers(_tensor(graph, "x"))]
    assert sorted(uses) == [("a", 0), ("b", 0), ("b", 1), ("c", 0)]


def test_only_the_uses_of_this_output_are_listed():
    with tf.Graph().as_default():
        first, second = tf.split(tf.constant([1.0, 2.0]), 2)
        tf.raw_ops.Sub(x=second, y=first, name="difference")
    assert [(op.name, index) for op, index in consumers(first)] == [("difference", 1)]


def test_sole_consumer(graph):
    op, index = sole_consumer(_tensor(graph, "a"))
    assert (op.name, index) == ("c", 1)


@pytest.mark.parametrize("name", ["x", "c"], ids=["several", "none"])
def test_no_sole_consumer(graph, name):
    assert sole_consumer(_tensor(graph, name)) is None


def test_two_uses_by_one_op_are_not_sole():
    with tf.Graph().as_default():
        x = tf.constant(1.0)
        tf.raw_ops.AddV2(x=x, y=x)
    assert sole_consumer(x) is None


# -- Rewiring ------------------------------------------------------------------------------------------------


def test_set_input(graph):
    set_input(graph.get_operation_by_name("c"), 1, _tensor(graph, "b"))
    assert _run(graph, "c") == 2 * 4
    assert _run(graph, "a") == -2


def test_replace_uses(graph):
    with graph.as_default():
        new = tf.constant(10.0, name="new")
    replace_uses(_tensor(graph, "x"), new)
    assert consumers(_tensor(graph, "x")) == []
    assert [_run(graph, name) for name in ("x", "a", "b", "c")] == [2, -10, 20, -100]


def test_replace_uses_but_not_in_some(graph):
    with graph.as_default():
        new = tf.raw_ops.AddV2(x=_tensor(graph, "x"), y=1.0, name="new")
    replace_uses(_tensor(graph, "x"), new, but_not_in=[new.op, graph.get_operation_by_name("b")])
    assert [_run(graph, name) for name in ("new", "a", "b", "c")] == [3, -3, 4, -9]


def test_replace_uses_of_a_tensor_without_uses(graph):
    before = graph.as_graph_def().SerializeToString(deterministic=True)
    replace_uses(_tensor(graph, "c"), _tensor(graph, "a"))
    assert graph.as_graph_def().SerializeToString(deterministic=True) == before


def test_add_control_input(graph):
    a, b = graph.get_operation_by_name("a"), graph.get_operation_by_name("b")
    add_control_input(b, a)
    assert b.control_inputs == [a]
    assert _run(graph, "b") == 4


# -- Clones --------------------------------------------------------------------------------------------------


def _conv(x):
    return tf.raw_ops.Conv2D(
        input=x,
        filter=np.ones((3, 3, 2, 4), np.float32),
        strides=[1, 2, 2, 1],
        padding="EXPLICIT",
        explicit_paddings=[0, 0, 1, 2, 0, 1, 0, 0],
        dilations=[1, 1, 1, 1],
        name="net/op",
    )


CLONED = {
    "Conv2D": _conv,
    "AvgPool": lambda x: tf.raw_ops.AvgPool(
        value=x, ksize=[1, 3, 2, 1], strides=[1, 2, 1, 1], padding="VALID", name="net/op"
    ),
    "several outputs": lambda x: tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=[1.0, 2.0],
        offset=[3.0, 4.0],
        mean=[5.0, 6.0],
        variance=[7.0, 8.0],
        epsilon=0.125,
        is_training=False,
        name="net/op",
    )[0],
}


@pytest.mark.parametrize("case", CLONED)
def test_a_clone_has_the_inputs_and_attributes(case):
    graph = tf.Graph()
    with graph.as_default():
        op = CLONED[case](tf.random.stateless_normal([1, 8, 8, 2], [1, 2])).op
    before = graph.as_graph_def()
    copy = clone(op, "net/op/quantized")
    assert copy.name == "net/op/quantized"
    assert (copy.type, list(copy.inputs)) == (op.type, list(op.inputs))
    assert dict(copy.node_def.attr) == dict(op.node_def.attr)
    assert [(out.dtype, str(out.shape)) for out in copy.outputs] == [(out.dtype, str(out.shape)) for out in op.outputs]
    with v1.Session(graph=graph) as session:
        np.testing.assert_array_equal(*session.run([op.outputs[0], copy.outputs[0]]))
    assert list(graph.as_graph_def().node)[:-1] == list(before.node)


def test_a_clone_gets_a_free_name(graph):
    op = graph.get_operation_by_name("a")
    assert [clone(op, "copy").name, clone(op, "copy").name] == ["copy", "copy_1"]


def test_a_clone_keeps_unusual_attributes_but_no_place(graph):
    op = graph.get_operation_by_name("a")
    op._set_attr("_class", tf.compat.v1.AttrValue(list=tf.compat.v1.AttrValue.ListValue(s=[b"loc:@x"])))
    op._set_attr("_mine", tf.compat.v1.AttrValue(i=7))
    made = clone(op, "copy")
    assert made.get_attr("_mine") == 7
    assert "_class" not in made.node_def.attr


# -- Where new ops go ----------------------------------------------------------------------------------------


def _caller(graph, kind):
    """What may be active while a user calls into the package."""
    other = tf.Graph()
    return {
        "nothing, eager": tf.init_scope,
        "the graph": graph.as_default,
        "another graph": other.as_default,
        "a scope": lambda: graph.name_scope("callers"),
        "a control dependency": lambda: graph.control_dependencies([graph.get_operation_by_name("b")]),
        "a device": lambda: graph.device("/device:GPU:7"),
        "a colocation": lambda: graph.colocate_with(graph.get_operation_by_name("b")),
    }[kind]()


CALLERS = [
    "nothing, eager",
    "the graph",
    "another graph",
    "a scope",
    "a control dependency",
    "a device",
    "a colocation",
]


@pytest.mark.parametrize("kind", CALLERS)
def test_at_root_forgets_the_caller(graph, kind):
    with _caller(graph, kind):
        with at_root(graph):
            op = tf.raw_ops.Neg(x=_tensor(graph, "x"), name="scope/new").op
        copy = clone(graph.get_operation_by_name("a"), "scope/copy")
        name = unique_scope(graph, "scope/reserved")
    assert name == "scope/reserved"
    for new, expected in ((op, "scope/new"), (copy, "scope/copy")):
        assert new.graph is graph
        assert new.name == expected
        assert new.control_inputs == []
        assert new.device == ""
        assert "_class" not in new.node_def.attr
    assert _run(graph, "scope/new") == -2


def test_at_root_gives_the_caller_back_what_was_active(graph):
    with (
        graph.as_default(),
        graph.name_scope("callers"),
        graph.control_dependencies([graph.get_operation_by_name("b")]),
    ):
        with at_root(graph):
            pass
        op = tf.raw_ops.Neg(x=_tensor(graph, "x"), name="theirs").op
    assert op.name == "callers/theirs"
    assert [after.name for after in op.control_inputs] == ["b"]
    assert tf.executing_eagerly()
