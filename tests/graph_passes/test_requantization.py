"""Rewrites between an AscendDequant and the next AscendQuant: Relu6 becomes Relu, a MaxPool reads int8 values."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
from small_models import Deployed, avg_pool, batch, image, load, run

import amct_tensorflow as amct
from amct_tensorflow.record import read_record, record_text


def max_pool(x, name="pool", **attributes):
    attributes = {"ksize": [1, 2, 2, 1], "strides": [1, 2, 2, 1], "padding": "VALID", **attributes}
    return tf.raw_ops.MaxPool(input=x, name=name, **attributes)


def six(net):
    """Values beyond 6 are frequent."""
    y = tf.nn.relu6(net.conv(image(), "a/conv") * 6, name="a/relu")
    tf.identity(net.conv(y, "b/conv"), name="out")


def saved_with(deployed, prefix, **factors):
    """Saves the model again, with other factors of b/conv."""
    records = read_record(deployed.record)
    records["b/conv"] = dataclasses.replace(records["b/conv"], **factors)
    path = deployed.folder / f"{prefix}.txt"
    path.write_bytes(record_text(records))
    amct.convert_model(deployed.pb, deployed.outputs, str(path), str(deployed.folder / prefix))
    return load(deployed.folder / f"{prefix}_quantized.pb")


# (factors, whether the int8 range ends at or before 6)
FACTORS = [
    ({"scale_d": 6 / 255, "offset_d": -128}, True),
    ({"scale_d": 5.9 / 255, "offset_d": -128}, True),
    ({"scale_d": 6.01 / 255, "offset_d": -128}, True),  # 6 still rounds to 127
    ({"scale_d": 6.1 / 255, "offset_d": -128}, False),
    ({"scale_d": 6 / 127, "offset_d": 0}, True),
    ({"scale_d": 6 / 126, "offset_d": 0}, False),
    ({"scale_d": 8 / 255, "offset_d": -64}, True),
    ({"scale_d": 8 / 255, "offset_d": -65}, False),
]


@pytest.mark.parametrize(("factors", "relaxed"), FACTORS, ids=str)
def test_relu6_becomes_relu_where_the_range_ends_as_early(tmp_path, factors, relaxed):
    deployed = Deployed(six, ["out"], tmp_path)
    graph = saved_with(deployed, "other", **factors)
    assert graph.get_operation_by_name("a/relu").type == ("Relu" if relaxed else "Relu6")
    # The same, with a Relu6 that is kept because it is fetched.
    amct.convert_model(deployed.pb, ["out", "a/relu"], str(tmp_path / "other.txt"), str(tmp_path / "fetched"))
    kept = load(tmp_path / "fetched_quantized.pb")
    assert kept.get_operation_by_name("a/relu").type == "Relu6"
    np.testing.assert_array_equal(run(graph, "out:0", batch()), run(kept, "out:0", batch()))


def two_readers(net):
    y = tf.nn.relu6(net.conv(image(), "a/conv") * 6, name="a/relu")
    tf.identity(net.conv(y, "b/conv") + tf.reduce_mean(y), name="out")


def test_relu6_that_something_else_reads_stays(tmp_path):
    deployed = Deployed(two_readers, ["out"], tmp_path)
    graph = saved_with(deployed, "other", scale_d=5 / 255, offset_d=-128)
    assert graph.get_operation_by_name("a/relu").type == "Relu6"


def stem(net):
    """As in ResNet and Inception: a MaxPool beside a layer."""
    y = tf.nn.relu6(net.conv(image(), "a/conv", 8), name="a/relu")
    z = max_pool(y, "b/pool")
    tf.concat([net.conv(y, "b/conv", 4, strides=[1, 2, 2, 1]), z], 3, name="out")


def test_a_max_pool_reads_what_the_layer_beside_it_reads(tmp_path):
    deployed = Deployed(stem, ["out"], tmp_path, feeds=[batch(0), batch(1)])
    [pool] = deployed.inputs("b/pool")
    assert deployed.nodes[pool].op == "AscendAntiQuant"
    assert pool == "b/anti_quant/AscendAntiQuant"
    assert deployed.nodes[pool].input[0] in deployed.inputs("b/conv")
    assert len(deployed.of_type("AscendQuant")) == 2
    assert deployed.nodes["a/relu"].op in ("Relu", "Relu6")
    assert deployed.users("a/relu") == [deployed.nodes[pool].input[0]]
    assert deployed.sqnr(batch(0)) > 25


def several_pools(net):
    y = net.conv(image(), "a/conv", 8)
    pools = [max_pool(y, f"p{size}/pool", ksize=[1, size, size, 1], padding="SAME") for size in (2, 3)]
    tf.concat([net.conv(y, "b/conv", 4, strides=[1, 2, 2, 1]), *pools], 3, name="out")


def test_several_max_pools_share_an_op(tmp_path):
    deployed = Deployed(several_pools, ["out"], tmp_path)
    assert len(deployed.of_type("AscendAntiQuant")) == 1
    assert deployed.sqnr(batch()) > 25


def read_by_an_add(net):
    y = net.conv(image(), "a/conv", 8)
    tf.concat([net.conv(y, "b/conv", 4, strides=[1, 2, 2, 1]), max_pool(y), max_pool(y + 1, "q")], 3, name="out")


def two_factors(net):
    """The average pool has parameters of its own, see below."""
    y = net.conv(image(), "a/conv", 8)
    tf.concat([net.conv(y, "b/conv", 4, strides=[1, 2, 2, 1]), max_pool(y), avg_pool(y, "avg")], 3, name="out")


@pytest.mark.parametrize("case", ["an Add reads it, too", "two AscendQuants", "it is fetched"])
def test_left_alone(tmp_path, case):
    build = {"an Add reads it, too": read_by_an_add, "two AscendQuants": two_factors}.get(case, several_pools)
    outputs = ["out", "a/conv"] if case == "it is fetched" else ["out"]
    avg = {"activation_quant_params": {"act_algo": "hfmg"}}
    settings = {"avg": avg} if build is two_factors else {}
    deployed = Deployed(build, outputs, tmp_path, calib_outputs=outputs, **settings)
    assert not deployed.of_type("AscendAntiQuant")
    assert deployed.sqnr(batch()) > 25
