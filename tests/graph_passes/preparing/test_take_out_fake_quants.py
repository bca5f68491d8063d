"""What the pass finds, and what it leaves of the graph; test_convert_qat_model.py compares what is computed."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from qat_graphs import conv, fake_quant, flat, graph_of, image, matmul, per_channel, per_tensor, random, weights

from amct_tensorflow.graph_passes.preparing.take_out_fake_quants import TakenOut, take_out_fake_quants

tf1 = tf.compat.v1


def take_out(build, *outputs: str) -> tuple[tf.Graph, TakenOut]:
    graph = graph_of(build)
    return graph, take_out_fake_quants(graph, frozenset(outputs or ("out",)))


def data_of(graph: tf.Graph, layer: str) -> str:
    return graph.get_operation_by_name(layer).inputs[0].op.name


def test_a_layer_gets_the_float_tensor_and_the_constant_weights():
    def build():
        tf.nn.relu(conv(tf.nn.relu(fake_quant(image(), "fq", -1.0, 3.0), name="relu"), "conv"), name="out")

    graph, taken = take_out(build)
    assert list(taken.records) == ["conv"]
    assert (taken.reasons, taken.remaining, taken.unusable, taken.requantized) == ({}, {}, {}, {})
    assert not taken.nothing_found
    assert data_of(graph, "conv") == "relu" and data_of(graph, "relu") == "x"
    assert graph.get_operation_by_name("conv").inputs[1].op.type == "Const"
    record = taken.records["conv"]
    assert (np.float32(record.scale_d), record.offset_d) == (np.float32(4) / np.float32(255), 64 - 128)
    high = np.abs(random("conv", [3, 3, 4, 6])).max(axis=(0, 1, 2))
    np.testing.assert_allclose(record.scale_w, high / 127, rtol=1e-6)
    assert record.offset_w == (0,) * 6 and not record.skip_fusion


def test_what_is_shared_stays():
    def build():
        y = fake_quant(image(), "fq")
        tf.add(conv(y, "conv", 4), y, name="out")

    graph, taken = take_out(build)
    assert list(taken.remaining) == ["fq"] and list(taken.records) == ["conv"]
    assert data_of(graph, "conv") == "x"
    assert data_of(graph, "fq") == "x"
    assert graph.get_operation_by_name("out").inputs[1].op.name == "fq"


def test_an_output_among_ops_that_move_values_keeps_its_values():
    def build():
        tf.nn.relu(matmul(flat(fake_quant(image(), "fq"), "moved"), "fc"), name="out")

    graph, taken = take_out(build)
    assert data_of(graph, "moved") == "x" and not taken.remaining
    graph, taken = take_out(build, "out", "moved")
    assert data_of(graph, "moved") == "fq" and list(taken.remaining) == ["fq"]
    assert list(taken.records) == ["fc"]


def test_one_scale_keeps_a_matmul_from_being_fused():
    _, taken = take_out(lambda: tf.nn.relu(matmul(fake_quant(flat(image()), "fq"), "fc"), name="out"))
    assert taken.records["fc"].skip_fusion
    assert len(taken.records["fc"].scale_w) == 1


def test_a_matmul_with_a_scale_for_each_column_may_be_fused():
    _, taken = take_out(lambda: tf.nn.relu(matmul(fake_quant(flat(image()), "fq"), "fc", make=per_channel), name="out"))
    assert not taken.records["fc"].skip_fusion and not taken.requantized
    assert len(taken.records["fc"].scale_w) == 5


def test_a_fake_quant_op_that_stays_in_the_float_path_of_weights_is_no_longer_there():
    """A layer without one at its input keeps the values of its weights, as a constant."""

    def build():
        tf.nn.relu(conv(image(), "conv", make=per_tensor), name="out")

    graph, taken = take_out(build)
    assert taken.reasons == {"conv": "no fake-quant op leads to its input"}
    assert not taken.records and not taken.remaining and not taken.unusable
    assert graph.get_operation_by_name("conv").inputs[1].op.type == "Const"


def test_unusable_ones_stay_where_they_are():
    def build():
        tf.nn.relu(conv(fake_quant(image(), "fq", num_bits=4), "conv"), name="out")

    graph, taken = take_out(build)
    assert taken.unusable == {"fq": "it has 4 bits, only 8 are supported"}
    assert data_of(graph, "conv") == "fq"
    assert not taken.records


def test_what_the_outputs_do_not_need_does_not_count():
    def build():
        y = fake_quant(image(), "fq")
        tf.nn.relu(conv(y, "conv"), name="out")
        tf.add(y, fake_quant(conv(y, "other", 4, weights), "other_fq", num_bits=2), name="other_out")

    graph, taken = take_out(build)
    assert list(taken.records) == ["conv"]
    assert not taken.remaining and not taken.unusable and not taken.reasons
    assert data_of(graph, "conv") == "x"


def test_a_graph_without_them_is_left_alone():
    graph = graph_of(lambda: tf.nn.relu(conv(image(), "conv", make=weights) * (tf.constant(2.0) * 3.0), name="out"))
    before = graph.as_graph_def().SerializeToString(deterministic=True)
    assert take_out_fake_quants(graph, frozenset(["out"])) == TakenOut(nothing_found=True)
    assert graph.as_graph_def().SerializeToString(deterministic=True) == before


def test_only_those_that_the_outputs_need_are_found():
    def build():
        x = image()
        tf.nn.relu(conv(x, "conv", make=weights), name="out")
        fake_quant(x, "fq")

    assert take_out(build)[1].nothing_found
