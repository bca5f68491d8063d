"""The two files of save_model: the model, and the mapping of its nodes to those of the float model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from small_models import (
    SMALL_NET_NODES,
    Deployed,
    batch,
    flat,
    graph_of,
    image,
    read_pb,
    small_net,
    variable,
    write_pb,
)

import amct_tensorflow as amct
from amct_tensorflow.errors import AmctError, AmctRuntimeError
from amct_tensorflow.fusion_info import read_fusion_info

REPOSITORY = Path(amct.__file__).resolve().parents[1]


# -- The files -----------------------------------------------------------------------------------------------

SCRIPT = """
import sys
import numpy as np
import tensorflow as tf
import amct_tensorflow
graph_def = tf.compat.v1.GraphDef()
graph_def.ParseFromString(open(sys.argv[1], "rb").read())
with tf.Graph().as_default() as graph:
    tf.import_graph_def(graph_def, name="")
with tf.compat.v1.Session(graph=graph) as session:
    np.save("result.npy", session.run("out:0", {"x:0": np.load("x.npy")}))
"""


def test_the_model_loads_in_a_new_process_after_the_import(small, tmp_path):
    np.save(tmp_path / "x.npy", batch(7))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(small.file)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    np.testing.assert_allclose(np.load(tmp_path / "result.npy"), small.run(batch(7)), rtol=1e-5)


def test_the_model_needs_nothing_but_the_four_ops(small):
    import_time = tf.Graph()
    with import_time.as_default():
        tf.import_graph_def(read_pb(small.file), name="prefix")
    assert import_time.get_operation_by_name("prefix/out").type == "Softmax"
    assert len(read_pb(small.file).library.function) == 0


def test_a_second_run_gives_the_same_bytes(tmp_path):
    files = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        deployed = Deployed(small_net, ["out"], tmp_path / name, feeds=[batch(0), batch(1)])
        files.append([deployed.file.read_bytes(), (tmp_path / name / "model_quant.json").read_bytes()])
    assert files[0] == files[1]


def test_saving_again_gives_the_same_bytes(small):
    before = small.file.read_bytes()
    small.save("model")
    assert small.file.read_bytes() == before


def test_saving_leaves_the_float_model_and_the_record_alone(tmp_path):
    deployed = Deployed(small_net, ["out"], tmp_path)
    before = [Path(path).read_bytes() for path in (deployed.pb, deployed.record)]
    deployed.save("again")
    assert [Path(path).read_bytes() for path in (deployed.pb, deployed.record)] == before


@pytest.mark.parametrize("where", ["below a file", "no such device"])
def test_a_place_that_cannot_be_written(small, tmp_path, where):
    (tmp_path / "file").write_text("")
    place = {"below a file": str(tmp_path / "file" / "model"), "no such device": "/proc/nothing/model"}[where]
    with pytest.raises(AmctRuntimeError, match="cannot be written"):
        amct.save_model(small.pb, ["out"], small.record, place)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_model_with_variables_is_refused(tmp_path):
    """Not frozen: the weights are not in the file."""
    deployed = Deployed(small_net, ["out"], tmp_path)
    unfrozen = write_pb(graph_of(small_net, variable), tmp_path / "unfrozen.pb")
    with pytest.raises(AmctError, match="freeze"):
        amct.save_model(unfrozen, ["out"], deployed.record, str(tmp_path / "bad"))
    assert list(tmp_path.glob("bad*")) == []


def test_a_quantized_model_is_not_quantized_again(small, tmp_path):
    with pytest.raises(AmctError, match="already quantized"):
        amct.save_model(str(small.file), ["out"], small.record, str(tmp_path / "twice"))


# -- _quant.json ---------------------------------------------------------------------------------------------


def _originals(info):
    (attribute,) = info["attr"]
    assert attribute["key"] == "_datadump_original_op_names"
    assert set(attribute["value"]) == {"list"}
    assert attribute["value"]["list"]["val_type"] == 1
    return attribute["value"]["list"]["s"]


def test_the_mapping_lists_every_node(small):
    assert set(small.json) == {"name", "graph"}
    assert small.json["name"] == "model"
    (graph,) = small.json["graph"]
    assert set(graph) == {"op"}
    assert [(op["name"], op["type"]) for op in graph["op"]] == [
        (node.name, node.op) for node in read_pb(small.file).node
    ]


ABSORBED = {
    "a/conv": ["a/conv", "a/bn"],
    "b/depthwise": ["b/depthwise", "b/bias"],
    "fc/matmul": ["fc/matmul", "fc/add"],
    "pool": ["pool"],
}


@pytest.mark.parametrize("layer", ABSORBED)
def test_the_mapping_of_a_layer(small, layer):
    quant, weight_quant, dequant = SMALL_NET_NODES[layer]
    owned = [layer, quant, dequant, *([weight_quant, small.users(layer)[0]] if weight_quant else [])]
    for name in owned:
        assert _originals(small.info[name]) == ABSORBED[layer]
    assert "output_desc" not in small.info[quant]
    assert small.info[dequant]["output_desc"] == [
        {
            "attr": [
                {"key": "_datadump_origin_format", "value": {"s": "NHWC"}},
                {"key": "_datadump_data_type", "value": {"s": "DT_FLOAT"}},
                {"key": "_datadump_origin_output_index", "value": {"i": 0}},
                {"key": "_datadump_origin_name", "value": {"s": ABSORBED[layer][-1]}},
            ]
        }
    ]


def test_plain_nodes_have_name_and_type_only(small):
    for name in ("x", "a/relu", "b/relu", "flat", "out"):
        assert set(small.info[name]) == {"name", "type"}
    with_output = [name for name, info in small.info.items() if "output_desc" in info]
    assert sorted(with_output) == sorted(dequant for _, _, dequant in SMALL_NET_NODES.values())


def test_the_mapping_of_a_matmul_with_batch_norm_behind_a_reshape(tmp_path):
    """What is behind the Reshape is what the batch norm did; the AscendDequant has another shape."""

    def build(net):
        y = tf.reshape(net.bias(net.matmul(flat(image()), "matmul"), "bias"), [-1, 1, 1, 6], name="reshape")
        tf.nn.relu(net.batch_norm(y, "bn"), name="out")

    deployed = Deployed(build, ["out"], tmp_path)
    for name in ("dequant/AscendDequant", "reshape"):
        assert _originals(deployed.info[name]) == ["matmul", "bias", "bn"]
    assert "output_desc" not in deployed.info["dequant/AscendDequant"]
    assert deployed.info["reshape"]["output_desc"][0]["attr"][-1]["value"] == {"s": "bn"}


def test_the_mapping_of_convolutions_that_a_concat_joins(tmp_path):
    """What their batch norm did is behind the Concat; also where that is an output under a name of its own."""

    def build(net):
        x = image()
        y = tf.concat([net.conv(x, name, 3) for name in ("a", "b")], 3, name="joined")
        tf.nn.relu(net.batch_norm(y, "bn"), name="out")

    deployed = Deployed(build, ["out"], tmp_path)
    assert [name for name, info in deployed.info.items() if "output_desc" in info] == ["joined"]
    layers = read_fusion_info(str(tmp_path / "model_quant.json"))
    assert [(layer.name, layer.end, layer.origin) for layer in layers] == [
        ("a", "joined", "bn:0"),
        ("b", "joined", "bn:0"),
    ]


def test_the_mapping_of_an_output(tmp_path):
    deployed = Deployed(lambda net: net.bias(net.conv(image(), "net/conv"), "out"), ["out"], tmp_path)
    assert _originals(deployed.info["net/dequant/AscendDequant"]) == ["net/conv", "out"]
    assert deployed.info["net/dequant/AscendDequant"]["output_desc"][0]["attr"][-1]["value"] == {"s": "out"}
    assert _originals(deployed.info["net/conv"]) == ["net/conv", "out"]
    assert set(deployed.info["out"]) >= {"name", "type"}
