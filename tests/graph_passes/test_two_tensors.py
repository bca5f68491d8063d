"""BatchMatMul of two computed tensors, as in attention: both are quantized, symmetrically."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from small_models import Deployed, run, sqnr, v1

import amct_tensorflow as amct
from amct_tensorflow.errors import AmctRuntimeError
from amct_tensorflow.record import read_record, record_text

VERSIONS = ("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3")


def multiply(x, y, name, version="BatchMatMulV2", **attributes):
    attributes |= {"Tout": tf.float32} if version == "BatchMatMulV3" else {}
    return getattr(tf.raw_ops, version)(x=x, y=y, name=name, **attributes)


def product(version="BatchMatMulV2", adj_y=False):
    def build(net):
        x = v1.placeholder(tf.float32, [None, 7, 6], name="x")
        y = v1.placeholder(tf.float32, [None, 5, 6] if adj_y else [None, 6, 5], name="y")
        tf.nn.relu(multiply(x, y, "a/product", version, adj_y=adj_y), name="out")

    return build


def feed(seed=0, adj_y=False):
    random = np.random.default_rng(seed)
    shapes = {"x": (4, 7, 6), "y": (4, 5, 6) if adj_y else (4, 6, 5)}
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("shift_n", [True, False], ids=["shift", ""])
@pytest.mark.parametrize("adj_y", [False, True], ids=["", "adj_y"])
@pytest.mark.parametrize("version", VERSIONS)
def test_the_whole_job(tmp_path, version, adj_y, shift_n):
    feeds = [feed(0, adj_y), feed(1, adj_y)]
    deployed = Deployed(product(version, adj_y), ["out"], tmp_path, feeds=feeds, shift_n=shift_n)
    assert list(deployed.records) == ["a/product", "a/product:1"]
    both = [deployed.records[key] for key in ("a/product", "a/product:1")]
    assert [record.offset_d for record in both] == [0, 0]
    assert [len(record.shift_bit) for record in both] == [int(shift_n), 0]
    assert [deployed.nodes[name].op for name in deployed.inputs("a/product")] == ["AscendQuant", "AscendQuant"]
    word = deployed.constant(deployed.inputs("a/dequant/AscendDequant")[1])
    scale = np.float32(both[0].scale_d) * np.float32(both[1].scale_d)
    assert (word & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.float32).tolist() == [scale]
    # Few values are summed here, so that a shift by at least 1 costs more than it would a real layer.
    assert deployed.sqnr(feed(0, adj_y)) > (20 if shift_n else 35)


def test_of_a_tensor_with_itself(tmp_path):
    """One op observes it for both inputs, and one AscendQuant feeds them."""

    def build(net):
        x = v1.placeholder(tf.float32, [None, 7, 6], name="x")
        tf.nn.relu(multiply(x, x, "product", adj_y=True), name="out")

    deployed = Deployed(build, ["out"], tmp_path, feeds=[feed()["x"]], shift_n=False)
    assert len(deployed.of_type("AscendQuant")) == 1
    assert deployed.records["product"].scale_d == deployed.records["product:1"].scale_d
    assert deployed.sqnr(feed()["x"]) > 30


def test_hfmg_for_both(tmp_path):
    entry = {"activation_quant_params": {"act_algo": "hfmg", "num_of_bins": 1024}}
    deployed = Deployed(product(), ["out"], tmp_path, feeds=[feed()], shift_n=False, **{"a/product": entry})
    assert deployed.sqnr(feed()) > 30


def attention(net):
    x = v1.placeholder(tf.float32, [None, 9, 8], name="x")

    def project(name):
        y = net.bias(tf.reshape(net.matmul(tf.reshape(x, [-1, 8]), f"{name}/matmul", 8), [-1, 9, 8]), f"{name}/bias")
        return tf.transpose(tf.reshape(y, [-1, 9, 2, 4]), [0, 2, 1, 3])

    query, key, value = map(project, ("query", "key", "value"))
    weights = tf.nn.softmax(multiply(query, key, "scores/product", adj_y=True) * 0.5)
    context = tf.transpose(multiply(weights, value, "context/product"), [0, 2, 1, 3])
    tf.identity(net.matmul(tf.reshape(context, [-1, 8]), "last/matmul", 8), name="out")


def test_attention(tmp_path):
    feeds = [np.random.default_rng(seed).standard_normal((4, 9, 8)).astype(np.float32) for seed in range(3)]
    deployed = Deployed(attention, ["out"], tmp_path, feeds=feeds)
    assert len(deployed.of_type("AscendDequant")) == 6
    assert deployed.sqnr(feeds[0]) > 25
    assert not [node.name for node in deployed.nodes.values() if node.op == "AddV2"]  # biases are with their layers


def test_convert_model_takes_the_record(tmp_path):
    deployed = Deployed(product(), ["out"], tmp_path, feeds=[feed()])
    amct.convert_model(deployed.pb, ["out"], deployed.record, str(tmp_path / "converted"))
    assert (tmp_path / "converted_quantized.pb").read_bytes() == (tmp_path / "model_quantized.pb").read_bytes()


CHANGES = {
    "no second": (
        lambda records: records.pop("a/product:1"),
        "cannot find scale_d of layer a/product:1 in record_file, please check data calibration process!",
    ),
    "offset": (
        lambda records: records.update(
            {"a/product": dataclasses.replace(records["a/product"], offset_d=-3)},
        ),
        "offset_d of layer a/product in record_file is -3: both inputs of a BatchMatMulV2 are quantized symmetrically",
    ),
    "second offset": (
        lambda records: records.update(
            {"a/product:1": dataclasses.replace(records["a/product:1"], offset_d=5)},
        ),
        "offset_d of layer a/product:1 in record_file is 5",
    ),
    "weights": (
        lambda records: records.update(
            {"a/product": dataclasses.replace(records["a/product"], scale_w=(1.0,), offset_w=(0,))},
        ),
        "find undesirable scale_w of layer a/product",
    ),
    "second alone": (
        lambda records: records.pop("a/product"),
        "has a/product:1, the factors of the second input of a/product, but none of the first: add an entry a/product",
    ),
    "second with a shift": (
        lambda records: records.update(
            {"a/product:1": dataclasses.replace(records["a/product:1"], shift_bit=(1,))},
        ),
        "please delete shift_bit of layer a/product:1",
    ),
    "another input": (
        lambda records: records.update({"a/product:0": records["a/product:1"]}),
        "input 0 of a/product cannot be quantized, the entries of this layer are a/product and a/product:1: remove",
    ),
}


@pytest.mark.parametrize("case", CHANGES)
def test_refused_records(tmp_path, case):
    change, message = CHANGES[case]
    deployed = Deployed(product(), ["out"], tmp_path, feeds=[feed()])
    records = read_record(deployed.record)
    change(records)
    (tmp_path / "changed.txt").write_bytes(record_text(records))
    with pytest.raises(AmctRuntimeError, match=message):
        amct.convert_model(deployed.pb, ["out"], str(tmp_path / "changed.txt"), str(tmp_path / "converted"))


def test_variables_and_constants_beside_it_are_told_apart(tmp_path):
    """A second input that is a variable makes weights, one that is computed makes a second tensor."""

    def build(net):
        x = v1.placeholder(tf.float32, [None, 7, 6], name="x")
        y = multiply(x, net.parameter(net.random("w", (6, 6)), "w"), "weights/product")
        tf.nn.relu(multiply(y, tf.transpose(x, [0, 2, 1]), "tensors/product"), name="out")

    deployed = Deployed(build, ["out"], tmp_path, feeds=[feed()["x"]])
    assert len(deployed.of_type("AscendWeightQuant")) == 1
    assert list(deployed.records) == ["weights/product", "tensors/product", "tensors/product:1"]
    assert sqnr(run(deployed.float_graph, "out:0", feed()["x"]), deployed.run(feed()["x"])) > 20
