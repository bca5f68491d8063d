"""Nothing is left out silently, and what is not needed is not asked for."""

from __future__ import annotations

import re

import numpy as np
import pytest
import tensorflow as tf
from small_graphs import batch, conv_net, freeze, prepare, run, write_record

import amct_tensorflow as amct
from amct_tensorflow.errors import AmctRuntimeError, AmctValueError
from amct_tensorflow.record import read_record

tf1 = tf.compat.v1


def with_function(*, and_layer: bool) -> tf.Graph:
    """A convolution inside a function that the graph calls, and maybe a MatMul outside."""
    weights = np.ones((3, 3, 3, 4), np.float32)

    @tf.function
    def block(x):
        return tf.nn.conv2d(x, weights, 1, "SAME", name="hidden")

    with tf.Graph().as_default() as graph:
        y = block(tf1.placeholder(tf.float32, [2, 8, 8, 3], name="x"))
        if and_layer:
            y = tf.matmul(tf.reshape(y, [2, 256]), np.ones((256, 3), np.float32), name="fc")
        tf.identity(y, name="out")
    return graph


def test_layers_in_functions_are_reported(tmp_path, capsys):
    prepare(with_function(and_layer=True), tmp_path)
    lines = capsys.readouterr().err
    assert re.search(r"INFO .*Conv2D \S*block\S*/hidden: left float because it is inside the function \S*block", lines)
    assert "1 of 2 layers are quantized" in lines


def test_only_layers_in_functions(tmp_path):
    with pytest.raises(AmctValueError, match=r"No layer support quantization in the graph\..*inside the function"):
        amct.create_quant_config(str(tmp_path / "c.json"), with_function(and_layer=False))


def two_heads() -> tf.Graph:
    graph = conv_net()
    with graph.as_default():
        relu = graph.get_tensor_by_name("block/relu:0")
        tf.nn.relu(tf.nn.conv2d(relu, np.ones((1, 1, 4, 2), np.float32), 1, "SAME", name="aux/conv"), name="aux/out")
    return graph


def test_a_head_that_is_not_saved_needs_no_calibration(tmp_path, capsys):
    graph = two_heads()
    model = freeze(graph, tmp_path / "model.pb")
    record = prepare(graph, tmp_path)
    run(graph, batch(), "out:0")
    amct.save_model(model, ["out"], record, str(tmp_path / "saved"))
    assert "Conv2D aux/conv: left float because the outputs do not need it" in capsys.readouterr().err
    with pytest.raises(AmctRuntimeError, match=r"aux/conv \(0 of 1 batches seen\)"):
        amct.save_model(model, ["out", "aux/out"], record, str(tmp_path / "both"))


def test_a_calibrated_layer_that_the_record_lost(tmp_path, capsys):
    graph = conv_net()
    model = freeze(graph, tmp_path / "model.pb")
    record = prepare(graph, tmp_path)
    run(graph, batch())
    records = read_record(record)
    del records["head/fc"]
    write_record(record, records)
    amct.save_model(model, ["out"], record, str(tmp_path / "saved"))
    assert re.search("WARNING .*layer head/fc was calibrated, but .* has no entry", capsys.readouterr().err)


def test_a_record_of_smaller_weights(tmp_path):
    """A model that was trained on after its calibration."""
    graph = conv_net()
    record = prepare(graph, tmp_path)
    run(graph, batch())
    weights = np.random.default_rng(0).standard_normal((3, 3, 3, 4)).astype(np.float32)
    model = freeze(conv_net(5 * weights), tmp_path / "model.pb")
    with pytest.raises(AmctRuntimeError, match=r"weights of layer block/conv .* 5\.04 times .*calibrate this one"):
        amct.save_model(model, ["out"], record, str(tmp_path / "saved"))


@pytest.mark.parametrize("scale", ["1e30", "1e-44", "1e-30"])
def test_a_scale_that_cannot_be_computed_with(tmp_path, scale):
    graph = conv_net()
    model = freeze(graph, tmp_path / "model.pb")
    record = prepare(graph, tmp_path)
    run(graph, batch())
    text = (tmp_path / "record.txt").read_text()
    (tmp_path / "record.txt").write_text(re.sub(r"scale_d: \S+", f"scale_d: {scale}", text, count=1))
    with pytest.raises(
        AmctValueError, match=r"scale_d's value should be in \[FLT_EPSILON, 1 / FLT_EPSILON\] .*block/conv"
    ):
        amct.save_model(model, ["out"], record, str(tmp_path / "saved"))


def test_activations_too_small_to_quantize_are_warned_of(tmp_path, capsys):
    graph = conv_net()
    prepare(graph, tmp_path)
    run(graph, 1e-6 * batch())
    assert re.search('WARNING .*"block/conv" was zero, or too small to quantize', capsys.readouterr().err)


def test_a_record_behind_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "record.txt").symlink_to(tmp_path / "real" / "record.txt")
    graph = conv_net()
    model = freeze(graph, tmp_path / "model.pb")
    record = prepare(graph, tmp_path)
    run(graph, batch())
    amct.save_model(model, ["out"], record, str(tmp_path / "saved"))
    assert (tmp_path / "record.txt").is_symlink()
    assert len(read_record(tmp_path / "real" / "record.txt")) == 3


def test_an_empty_save_path(tmp_path):
    graph = conv_net()
    model = freeze(graph, tmp_path / "model.pb")
    record = prepare(graph, tmp_path)
    run(graph, batch())
    with pytest.raises(AmctValueError, match="save_path is empty"):
        amct.save_model(model, ["out"], record, "")


def test_a_layer_named_like_a_global_parameter(tmp_path):
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [1, 4, 4, 3], name="x")
        tf.nn.conv2d(x, np.ones((1, 1, 3, 2), np.float32), 1, "SAME", name="version")
    with pytest.raises(AmctValueError, match="version is a global parameter, can not be a layer name"):
        amct.create_quant_config(str(tmp_path / "c.json"), graph)
