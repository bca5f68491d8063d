"""inspect_model: what a model has, which of it can be quantized, and what its inputs and outputs are."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from small_graphs import batch, conv_net, freeze, prepare, run

import amct_tensorflow as amct
from amct_tensorflow.analysis.inspect_model import (
    InputReport,
    ModelReport,
    inspect_model,
)
from amct_tensorflow.errors import AmctTypeError, AmctValueError
from amct_tensorflow.record import read_record

tf1 = tf.compat.v1


def inspect(graph: tf.Graph, folder, **options) -> ModelReport:
    return inspect_model(freeze(graph, folder / "model.pb"), **options)


def with_batch_norm(*, output_before: bool = False) -> tf.Graph:
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, 8, 8, 3], name="x")
        y = tf.nn.conv2d(x, np.ones((3, 3, 3, 4), np.float32), 1, "SAME", name="conv")
        if output_before:
            tf.identity(y, "early")
        one = np.ones(4, np.float32)
        y, *_ = tf1.nn.fused_batch_norm(y, one, one, one, one, is_training=False, name="bn")
        tf.identity(y, "out")
    return graph


def test_a_float_model(tmp_path):
    report = inspect(conv_net(), tmp_path)
    assert report.kind == "float"
    assert report.inputs == (InputReport("x:0", (None, 8, 8, 3), "float32"),)
    assert report.outputs == ("out:0",)
    conv, pool, dense = report.layers
    assert (conv.name, conv.op_type) == ("block/conv", "Conv2D")
    assert (conv.weight_shape, conv.output_shape) == ((3, 3, 3, 4), (None, 8, 8, 4))
    assert (pool.weight_shape, pool.output_shape) == (None, (None, 1, 1, 4))
    assert dense.weight_shape == (4, 5)
    assert all(layer.quantizable and layer.reason is None and not layer.quantized for layer in report.layers)


def test_batch_norms(tmp_path):
    (layer,) = inspect(with_batch_norm(), tmp_path).layers
    assert (layer.batch_norm, layer.unfused_because) == ("bn", None)
    (layer,) = inspect(with_batch_norm(output_before=True), tmp_path).layers
    assert layer.batch_norm is None
    assert layer.unfused_because == "batch norm bn is not folded: conv is used elsewhere too"
    assert layer.quantizable


def test_reasons(tmp_path):
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [2, 8], name="x")
        tf.matmul(x, x, transpose_b=True, name="out")
    (layer,) = inspect(graph, tmp_path).layers
    reason = "its weights 'x:0' are computed, not a constant or a variable"
    assert (layer.quantizable, layer.reason) == (False, reason)


def test_what_the_outputs_do_not_need(tmp_path):
    report = inspect(conv_net(), tmp_path, outputs=["block/relu:0"])
    assert report.outputs == ("block/relu:0",)
    assert {layer.name: layer.reason for layer in report.layers} == {
        "block/conv": None,
        "head/pool": "the outputs do not need it",
        "head/fc": "the outputs do not need it",
    }


@pytest.mark.parametrize("inlined", [True, False])
def test_layers_in_functions(tmp_path, inlined):
    @tf.function(experimental_attributes=None if inlined else {"_noinline": True})
    def dense(x):
        return tf.matmul(x, tf.ones((3, 3)), name="dense")

    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [2, 3], name="x")
        tf.identity(dense(x), "out")
    (layer,) = inspect(graph, tmp_path).layers
    assert (layer.op_type, layer.quantizable) == ("MatMul", inlined)
    assert inlined or "it is inside the function" in str(layer.reason)


def test_quantized_models(tmp_path):
    graph = conv_net()
    model = freeze(graph, tmp_path / "float.pb")
    record = prepare(graph, tmp_path)
    calibration = inspect(graph, tmp_path)
    run(graph, batch())
    amct.save_model(model, ["out"], record, str(tmp_path / "m"))
    quantized = inspect_model(str(tmp_path / "m_quantized.pb"))
    assert (calibration.kind, quantized.kind) == ("calibration", "quantized")
    assert [layer.name for layer in quantized.layers if layer.quantized] == ["block/conv", "head/pool", "head/fc"]
    assert not any(layer.quantizable for layer in quantized.layers)
    found = read_record(record)
    for layer in quantized.layers:
        factors = found[layer.name]
        [data] = layer.facts.inputs
        assert (data.scale, data.offset) == (pytest.approx(factors.scale_d, rel=1e-6), factors.offset_d)
        assert data.lowest == pytest.approx((-128 - factors.offset_d) * factors.scale_d)
        assert data.highest == pytest.approx((127 - factors.offset_d) * factors.scale_d)
        assert layer.facts.scale_w == pytest.approx(factors.scale_w, rel=1e-6)
        assert layer.facts.shift_bit[: len(factors.shift_bit)] == factors.shift_bit
    weights = graph.get_tensor_by_name("head/weights:0")
    with tf1.Session(graph=graph) as session:
        values = session.run(weights)
    assert quantized.layers[2].facts.lowest_weight == pytest.approx(values.min(), rel=0.02)
    assert quantized.layers[2].facts.highest_weight == pytest.approx(values.max(), rel=0.02)


def test_fake_quantized_models(tmp_path):
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [2, 8], name="x")
        weights = tf.quantization.fake_quant_with_min_max_vars(tf.ones((8, 8)), -1.0, 1.0)
        tf.matmul(x, weights, name="out")
    report = inspect(graph, tmp_path)
    assert report.kind == "fake-quantized"
    assert report.layers[0].reason == "it has fake-quant nodes: convert the model instead of calibrating it"


def test_the_file_is_left_alone(tmp_path):
    model = freeze(conv_net(), tmp_path / "model.pb")
    before = (tmp_path / "model.pb").read_bytes()
    inspect_model(model)
    assert (tmp_path / "model.pb").read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["model.pb"]


def test_errors(tmp_path):
    with pytest.raises(AmctValueError, match="does not exist"):
        inspect_model("missing.pb")
    with pytest.raises(AmctTypeError, match="pb_model must be str"):
        inspect_model(1)  # type: ignore[arg-type]
    with pytest.raises(AmctTypeError, match="outputs must be a list"):
        inspect(conv_net(), tmp_path, outputs="out")
    with pytest.raises(AmctValueError, match="did you mean 'out'"):
        inspect(conv_net(), tmp_path, outputs=["outt"])


# Inputs and outputs


def test_inputs_with_a_default(tmp_path):
    with conv_net().as_default() as graph:
        keep = tf1.placeholder_with_default(1.0, [], name="keep")
        tf.multiply(graph.get_tensor_by_name("out:0"), keep, "end")
    assert inspect(graph, tmp_path).inputs[1] == InputReport("keep:0", (), "float32", has_default=True)


def test_models_with_variables(tmp_path):
    """Only those that the outputs need count."""
    with conv_net().as_default() as graph:
        tf1.get_variable("step", [])
        weights = tf1.get_variable("weights", [5, 5])
        tf.matmul(graph.get_tensor_by_name("out:0"), weights, name="end")
    assert inspect(graph, tmp_path).kind == "not frozen"
    assert inspect(graph, tmp_path, outputs=["out"]).kind == "float"


def test_loops_return_more_than_outputs(tmp_path):
    """Counters and lists of tensors are no outputs, be they of TensorFlow 1 or 2."""

    def double(x: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(lambda row: row * 2, x)

    for wrapped in (double, tf.function(double)):
        with conv_net().as_default() as graph:
            tf.identity(wrapped(graph.get_tensor_by_name("out:0")), name="end")
        assert inspect(graph, tmp_path).outputs == ("end:0",)


def test_a_loop_may_be_the_output(tmp_path):
    with conv_net().as_default() as graph:
        tf.while_loop(lambda x: tf.reduce_sum(x) < 9, lambda x: (x * 2,), [graph.get_tensor_by_name("out:0")])
    assert "while/Identity_2:0" in inspect(graph, tmp_path).outputs
