from __future__ import annotations

import os

import numpy as np
import pytest
import tensorflow as tf

from amct_tensorflow.errors import AmctRuntimeError, AmctValueError
from amct_tensorflow.graph import model_file
from amct_tensorflow.graph.edit import at_root, clone, replace_uses
from amct_tensorflow.graph.model_file import extract, import_graph, read_graph_def, serialize

v1 = tf.compat.v1


def _graph(build):
    graph = tf.Graph()
    with graph.as_default():
        build()
    return graph


def _bytes(graph_def):
    return graph_def.SerializeToString(deterministic=True)


# -- Reading -------------------------------------------------------------------------------------------------


@pytest.fixture
def model():
    """x -> net/scaled -> net/out, and net/spare beside them."""

    def build():
        x = v1.placeholder(tf.float32, [2], name="x")
        scaled = tf.raw_ops.Mul(x=x, y=tf.constant(3.0, name="net/three"), name="net/scaled")
        tf.raw_ops.Neg(x=scaled, name="net/out")
        tf.raw_ops.Exp(x=x, name="net/spare")

    return _graph(build)


def test_read(model, tmp_path):
    path = tmp_path / "model.pb"
    path.write_bytes(model.as_graph_def().SerializeToString())
    assert read_graph_def(str(path)) == model.as_graph_def()


def _saved_model_pb():
    return b"\x08\x01" + b"\x12\x00"  # SavedModel: schema_version and an empty meta graph


UNREADABLE = {
    "no nodes": (
        v1.GraphDef(versions=tf.Graph().as_graph_def().versions).SerializeToString(),
        "has no nodes, so it is not a frozen GraphDef: pass a frozen .pb",
    ),
    "text of something else": (b'{"nodes": []}', "is not a frozen GraphDef"),
    "Keras": (b"\x89HDF\r\n\x1a\n" + bytes(range(200)), "is not a frozen GraphDef"),
    "random": (np.random.default_rng(0).bytes(500), "is not a frozen GraphDef"),
    "cut off": (tf.Graph().as_graph_def().SerializeToString() + b"\x0a\x7fx", "is not a frozen GraphDef"),
    "SavedModel": (_saved_model_pb(), "is not a frozen GraphDef"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_is_not_a_model(tmp_path, case):
    content, words = UNREADABLE[case]
    path = tmp_path / "model.pb"
    path.write_bytes(content)
    with pytest.raises(AmctValueError, match=words) as raised:
        read_graph_def(str(path))
    assert str(path) in str(raised.value)
    assert "pass a frozen .pb" in str(raised.value)


@pytest.mark.parametrize("start", ["", "\n\n\n", "# a comment: \u00e4\n"], ids=["", "lines", "comment"])
@pytest.mark.parametrize("name", ["model.pbtxt", "model.pb", "model"])
def test_text(model, tmp_path, name, start):
    path = tmp_path / name
    path.write_text(start + str(model.as_graph_def()))
    assert read_graph_def(str(path)) == model.as_graph_def()


@pytest.mark.parametrize("content", [b"\xff\x00", b"node { name: }", b"{}"])
def test_text_that_is_not_a_model(tmp_path, content):
    path = tmp_path / "model.pbtxt"
    path.write_bytes(content)
    with pytest.raises(AmctValueError, match="is not a frozen GraphDef"):
        read_graph_def(str(path))


def test_a_file_beyond_2_gb_is_not_read(tmp_path):
    path = tmp_path / "model.pb"
    path.touch()
    os.truncate(path, 2**31)  # a sparse file: it takes no room on the disk, but reading it would take 2 GB
    with pytest.raises(AmctValueError, match=r"model\.pb takes 2\.00 GB: a frozen graph can have at most 2 GB"):
        read_graph_def(str(path))


def test_reads_of_constants_become_identities(tmp_path):
    """Some freezing tools turn resource variables into constants and leave their reads: TensorFlow refuses those."""

    def build():
        x = v1.placeholder(tf.float32, [2], name="x")
        handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[2], name="weights")
        read = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32, name="weights/Read")
        tf.raw_ops.Mul(x=x, y=read, name="out")

    graph_def = _graph(build).as_graph_def()
    handle = _node(graph_def, "weights")
    handle.Clear()
    handle.name, handle.op = "weights", "Const"
    handle.attr["dtype"].type = tf.float32.as_datatype_enum
    handle.attr["value"].tensor.CopyFrom(tf.make_tensor_proto([3.0, 5.0], tf.float32))
    with pytest.raises(AmctValueError, match="TensorFlow cannot import"):
        import_graph(graph_def, "model.pb")
    path = tmp_path / "model.pb"
    path.write_bytes(_bytes(graph_def))
    repaired = read_graph_def(str(path))
    assert _node(repaired, "weights/Read").op == "Identity"
    assert _run(repaired, "out", [1, 2]) == [3, 10]


# -- Importing -----------------------------------------------------------------------------------------------


def test_import_keeps_names_and_bytes(model):
    imported = import_graph(model.as_graph_def(), "model.pb")
    assert imported is not model
    assert _bytes(imported.as_graph_def()) == _bytes(model.as_graph_def())


def test_import_goes_to_a_graph_of_its_own(model):
    with tf.Graph().as_default() as callers, callers.name_scope("callers"):
        imported = import_graph(model.as_graph_def(), "model.pb")
    assert callers.get_operations() == []
    assert imported.get_operation_by_name("net/out").type == "Neg"


BROKEN = {
    "unknown op": lambda node: setattr(node, "op", "NoSuchOp"),
    "missing input": lambda node: node.input.__setitem__(0, "nobody"),
    "missing attribute": lambda node: node.attr.clear(),
    "too many inputs": lambda node: node.input.append("x"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_import_of_a_broken_graph(model, case):
    graph_def = model.as_graph_def()
    BROKEN[case](next(node for node in graph_def.node if node.name == "net/scaled"))
    with pytest.raises(AmctValueError, match=r"TensorFlow cannot import models/model\.pb: "):
        import_graph(graph_def, "models/model.pb")


# -- Extracting ----------------------------------------------------------------------------------------------


def _names(graph_def):
    return [node.name for node in graph_def.node]


def _node(graph_def, name):
    (node,) = (node for node in graph_def.node if node.name == name)
    return node


def _run(graph_def, output, value):
    graph = import_graph(graph_def, "extracted")
    with v1.Session(graph=graph) as session:
        return session.run(f"{output}:0", {"x:0": value}).tolist()


def test_only_what_the_outputs_need(model):
    extracted = extract(model, ["net/out"], {}, {})
    assert _names(extracted) == ["x", "net/three", "net/scaled", "net/out"]
    assert _run(extracted, "net/out", [1, 2]) == [-3, -6]
    for node in extracted.node:
        assert node == _node(model.as_graph_def(), node.name)


def test_several_outputs_in_graph_order(model):
    extracted = extract(model, ["net/spare", "net/scaled", "net/spare"], {}, {})
    assert _names(extracted) == ["x", "net/three", "net/scaled", "net/spare"]


def test_versions_are_kept(model):
    assert extract(model, ["net/out"], {}, {}).versions == model.as_graph_def().versions


def test_extraction_leaves_the_graph_alone(model):
    before = _bytes(model.as_graph_def())
    extract(model, ["net/out"], {"net/out": model.get_tensor_by_name("net/spare:0")}, {"net/out": "net/scaled"})
    assert _bytes(model.as_graph_def()) == before


def test_always_the_same_bytes(model):
    first = serialize(extract(model, ["net/out", "net/spare"], {}, {}), "x.pb")
    again = import_graph(model.as_graph_def(), "model.pb")
    assert serialize(extract(again, ["net/out", "net/spare"], {}, {}), "x.pb") == first
    assert v1.GraphDef.FromString(first) == extract(model, ["net/out", "net/spare"], {}, {})


def test_control_inputs_are_kept_with_what_they_need():
    def build():
        x = v1.placeholder(tf.float32, [2], name="x")
        check = tf.raw_ops.Exp(x=x, name="check")
        with tf.control_dependencies([check]):
            tf.raw_ops.Neg(x=x, name="out")
        with tf.control_dependencies([check]):
            tf.raw_ops.Abs(x=x, name="spare")

    extracted = extract(_graph(build), ["out"], {}, {})
    assert _names(extracted) == ["x", "check", "out"]
    assert list(_node(extracted, "out").input) == ["x", "^check"]
    assert _run(extracted, "out", [1, 2]) == [-1, -2]


def _waiting_for(build_waited):
    """x -> out, which waits for what `build_waited` makes."""

    def build():
        x = v1.placeholder(tf.float32, [2], name="x")
        waited = build_waited(x)
        out = tf.raw_ops.Neg(x=x, name="out")
        out.op._add_control_input(waited.op)

    return _graph(build)


def _constant_that_waits(x):
    with tf.control_dependencies([tf.raw_ops.Exp(x=x, name="check")]):
        return tf.constant(1.0, name="constant")


def _identity_that_waits(x):
    constant = tf.constant(1.0, name="constant")
    with tf.control_dependencies([tf.raw_ops.Exp(x=x, name="check")]):
        return tf.raw_ops.Identity(input=constant, name="identity")


def _identity_of_a_constant_that_waits(x):
    return tf.raw_ops.Identity(input=_constant_that_waits(x), name="identity")


@pytest.mark.parametrize(
    "waited",
    [
        lambda x: tf.constant(1.0, name="constant"),
        lambda x: tf.raw_ops.Identity(input=tf.constant(1.0, name="constant"), name="identity"),
    ],
    ids=["Const", "Identity"],
)
def test_waiting_for_a_constant_is_no_reason_to_keep_it(waited):
    extracted = extract(_waiting_for(waited), ["out"], {}, {})
    assert _names(extracted) == ["x", "out"]
    assert _run(extracted, "out", [1, 2]) == [-1, -2]


def test_waiting_for_a_constant_behind_many_identities():
    def waited(x):
        tensor = tf.constant(1.0, name="constant")
        for _ in range(1500):  # beyond what Python recurses
            tensor = tf.raw_ops.Identity(input=tensor)
        return tensor

    assert _names(extract(_waiting_for(waited), ["out"], {}, {})) == ["x", "out"]


@pytest.mark.parametrize(
    "waited", [_constant_that_waits, _identity_that_waits, _identity_of_a_constant_that_waits], ids=lambda f: f.__name__
)
def test_waiting_for_what_a_constant_waits_for_is_kept(waited):
    """The constant orders nothing; the op that it waits for, an assertion perhaps, does."""
    extracted = extract(_waiting_for(waited), ["out"], {}, {})
    assert "check" in _names(extracted)
    assert _run(extracted, "out", [1, 2]) == [-1, -2]


def test_the_function_library_is_kept():
    @tf.function(input_signature=[tf.TensorSpec([2], tf.float32)])
    def double(value):
        return value * 2.0

    def build():
        x = v1.placeholder(tf.float32, [2], name="x")
        tf.identity(double(x), name="out")

    graph = _graph(build)
    extracted = extract(graph, ["out"], {}, {})
    assert extracted.library == graph.as_graph_def().library
    assert len(extracted.library.function) > 0
    assert _run(extracted, "out", [1, 2]) == [2, 4]


def test_an_output_of_several_outputs():
    def build():
        x = v1.placeholder(tf.float32, [2], name="x")
        _, second = tf.raw_ops.Split(axis=0, value=x, num_split=2, name="split")
        tf.raw_ops.Neg(x=second, name="out")

    extracted = extract(_graph(build), ["out"], {}, {})
    assert list(_node(extracted, "out").input) == ["split:1"]
    assert _run(extracted, "out", [1, 2]) == [-2]


# -- Outputs that moved, clones that take the name of their original -----------------------------------------


@pytest.fixture
def rewritten(model):
    """net/scaled was replaced by the clone net/scaled/quantized, whose result net/moved is net/out now."""
    scaled = clone(model.get_operation_by_name("net/scaled"), "net/scaled/quantized")
    with at_root(model):
        moved = tf.raw_ops.Square(x=scaled.outputs[0], name="net/moved")
    return model, moved


def test_a_moved_output_keeps_its_name(rewritten):
    graph, moved = rewritten
    extracted = extract(graph, ["net/out"], {"net/out": moved}, {})
    assert _names(extracted) == ["x", "net/three", "net/scaled/quantized", "net/moved", "net/out"]
    out = _node(extracted, "net/out")
    assert (out.op, list(out.input), dict(out.attr)) == (
        "Identity",
        ["net/moved"],
        {"T": v1.AttrValue(type=tf.float32.as_datatype_enum)},
    )
    assert _run(extracted, "net/out", [1, 2]) == [9, 36]


def test_a_clone_takes_the_name_of_its_original(rewritten):
    graph, moved = rewritten
    extracted = extract(graph, ["net/out"], {"net/out": moved}, {"net/scaled": "net/scaled/quantized"})
    assert _names(extracted) == ["x", "net/three", "net/scaled", "net/moved", "net/out"]
    assert list(_node(extracted, "net/moved").input) == ["net/scaled"]
    assert _run(extracted, "net/out", [1, 2]) == [9, 36]


def test_a_clone_keeps_its_name_while_the_original_is_needed(rewritten):
    graph, moved = rewritten
    clones = {"net/scaled": "net/scaled/quantized"}
    extracted = extract(graph, ["net/out", "net/scaled"], {"net/out": moved}, clones)
    assert {"net/scaled", "net/scaled/quantized"} < set(_names(extracted))
    assert _run(extracted, "net/out", [1, 2]) == [9, 36]
    assert _run(extracted, "net/scaled", [1, 2]) == [3, 6]


def test_a_clone_that_is_the_moved_output(rewritten):
    graph, _ = rewritten
    copy = graph.get_tensor_by_name("net/scaled/quantized:0")
    clones = {"net/scaled": "net/scaled/quantized"}
    extracted = extract(graph, ["net/scaled"], {"net/scaled": copy}, clones)
    assert _names(extracted)[-1] == "net/scaled"
    assert len(set(_names(extracted))) == len(extracted.node)
    assert _run(extracted, "net/scaled", [1, 2]) == [3, 6]


def test_a_clone_that_nothing_needs(rewritten):
    graph, _ = rewritten
    extracted = extract(graph, ["net/spare"], {}, {"net/scaled": "net/scaled/quantized"})
    assert _names(extracted) == ["x", "net/spare"]


def test_control_edges_follow_a_renamed_clone(rewritten):
    graph, moved = rewritten
    moved.op._add_control_input(graph.get_operation_by_name("net/scaled/quantized"))
    extracted = extract(graph, ["net/moved"], {}, {"net/scaled": "net/scaled/quantized"})
    assert sorted(_node(extracted, "net/moved").input) == ["^net/scaled", "net/scaled"]
    assert _run(extracted, "net/moved", [1, 2]) == [9, 36]


def test_a_name_that_begins_like_a_renamed_one(rewritten):
    graph, moved = rewritten
    with at_root(graph):
        longer = tf.raw_ops.Neg(x=moved, name="net/scaled/quantized_2")
        tf.raw_ops.Abs(x=longer, name="end")
    extracted = extract(graph, ["end"], {}, {"net/scaled": "net/scaled/quantized"})
    assert _names(extracted) == ["x", "net/three", "net/scaled", "net/moved", "net/scaled/quantized_2", "end"]
    assert _run(extracted, "end", [1, 2]) == [9, 36]


def test_a_moved_output_that_still_is_waited_for(rewritten):
    """Data edges follow a moved output; a control edge to its old op must not bring a second node of its name."""
    graph, moved = rewritten
    with at_root(graph), graph.control_dependencies([graph.get_operation_by_name("net/out")]):
        tf.raw_ops.Neg(x=moved, name="late")
    extracted = extract(graph, ["net/out", "late"], {"net/out": moved}, {})
    assert len(set(_names(extracted))) == len(extracted.node)
    assert _run(extracted, "net/out", [1, 2]) == [9, 36]
    assert _run(extracted, "late", [1, 2]) == [-9, -36]


# -- Colocation ----------------------------------------------------------------------------------------------


def _colocate(graph, name, *others):
    places = [f"loc:@{other}".encode() for other in others]
    graph.get_operation_by_name(name)._set_attr("_class", v1.AttrValue(list=v1.AttrValue.ListValue(s=places)))


def test_colocation_with_a_node_that_stays_is_kept(model):
    _colocate(model, "net/out", "net/scaled")
    extracted = extract(model, ["net/out"], {}, {})
    assert list(_node(extracted, "net/out").attr["_class"].list.s) == [b"loc:@net/scaled"]
    assert _run(extracted, "net/out", [1, 2]) == [-3, -6]


def test_colocation_with_a_dropped_node_goes(model):
    _colocate(model, "net/out", "net/scaled", "net/spare")
    extracted = extract(model, ["net/out"], {}, {})
    assert "net/spare" not in _names(extracted)
    places = _node(extracted, "net/out").attr["_class"].list.s if "_class" in _node(extracted, "net/out").attr else []
    assert b"loc:@net/spare" not in places
    assert _run(extracted, "net/out", [1, 2]) == [-3, -6]


def test_colocation_of_a_renamed_clone(rewritten):
    graph, _ = rewritten
    _colocate(graph, "net/moved", "net/scaled/quantized")
    extracted = extract(graph, ["net/moved"], {}, {"net/scaled": "net/scaled/quantized"})
    assert b"quantized" not in _bytes(extracted)
    assert _run(extracted, "net/moved", [1, 2]) == [9, 36]


def test_colocation_with_a_moved_output(rewritten):
    graph, moved = rewritten
    _colocate(graph, "net/moved", "net/out")
    extracted = extract(graph, ["net/out"], {"net/out": moved}, {})
    assert _run(extracted, "net/out", [1, 2]) == [9, 36]


def test_replaced_uses_are_extracted(model):
    """The edit that a pass makes, seen from the file."""
    old = model.get_tensor_by_name("net/scaled:0")
    with at_root(model):
        new = tf.raw_ops.Square(x=old, name="net/squared")
    replace_uses(old, new, but_not_in=[new.op])
    assert _run(extract(model, ["net/out"], {}, {}), "net/out", [1, 2]) == [-9, -36]


# -- Serializing ---------------------------------------------------------------------------------------------


def test_a_graph_beyond_two_gigabytes(model, monkeypatch):
    monkeypatch.setattr(model_file, "_LARGEST_FILE", 10)
    with pytest.raises(AmctRuntimeError, match=r"the graph for big\.pb exceeds 2 GB, .* split the model"):
        serialize(model.as_graph_def(), "big.pb")
