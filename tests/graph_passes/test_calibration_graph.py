"""What quantize_model makes of a graph: the user runs it as before, and every layer is calibrated."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from small_graphs import NEAREST
from small_models import (
    PARAMETERS,
    SMALL_NET_LAYERS,
    avg_pool,
    batch,
    constant,
    flat,
    graph_of,
    image,
    is_complete,
    ops_behind,
    quantize,
    read_record,
    ref_variable,
    run,
    small_net,
    sqnr,
    v1,
    variable,
)

import amct_tensorflow as amct
from amct_tensorflow.errors import AmctError
from amct_tensorflow.ops import batches_seen, flush_record
from amct_tensorflow.record import read_rounding

REPOSITORY = Path(amct.__file__).resolve().parents[1]


def _bytes(graph):
    return graph.as_graph_def().SerializeToString(deterministic=True)


def _calibration_ops(graph):
    return {op.name for op in graph.get_operations() if op.type in ("QuantIfmr", "QuantArq", "SearchN")}


def _of_type(graph, op_type):
    return [op for op in graph.get_operations() if op.type == op_type]


def layers_of(record):
    """The layers of a record file, calibrated or not."""
    return [line.split('"')[1] for line in Path(record).read_text().splitlines() if "key:" in line]


def _known_now(record):
    """The record with what the ops have not written yet, because layers are missing."""
    flush_record(record)
    return read_record(record)


def is_calibrated(record):
    return "scale_d" in Path(record).read_text() and is_complete(record)


# -- Outputs -------------------------------------------------------------------------------------------------

TAILS = {
    "conv": lambda net, y: net.conv(y, "out"),
    "conv, Identity": lambda net, y: tf.identity(net.conv(y, "tail/conv"), name="out"),
    "conv, BiasAdd": lambda net, y: net.bias(net.conv(y, "tail/conv"), "out"),
    "conv, Add": lambda net, y: net.add(net.conv(y, "tail/conv"), "out", [6]),
    "conv, BN": lambda net, y: net.batch_norm(net.conv(y, "tail/conv"), "out"),
    "conv, BN V1": lambda net, y: net.batch_norm(net.conv(y, "tail/conv"), "out", ""),
    "conv, BiasAdd, BN": lambda net, y: net.batch_norm(net.bias(net.conv(y, "tail/conv"), "tail/bias"), "out"),
    "conv, ReLU": lambda net, y: tf.nn.relu(net.conv(y, "tail/conv"), name="out"),
    "depthwise": lambda net, y: net.depthwise(y, "out", multiplier=2),
    "depthwise, BN": lambda net, y: net.batch_norm(net.depthwise(y, "tail/conv", multiplier=2), "out"),
    "matmul": lambda net, y: net.matmul(flat(y), "out"),
    "matmul, BiasAdd": lambda net, y: net.bias(net.matmul(flat(y), "tail/matmul"), "out"),
    "matmul, Add": lambda net, y: net.add(net.matmul(flat(y), "tail/matmul"), "out", [6]),
    "matmul, Add swapped": lambda net, y: net.add(net.matmul(flat(y), "tail/matmul"), "out", [1, 6], swapped=True),
    "matmul, Reshape, BN": lambda net, y: net.batch_norm(
        tf.reshape(net.matmul(flat(y), "tail/matmul"), [-1, 1, 1, 6]), "out"
    ),
    "matmul, Softmax": lambda net, y: tf.nn.softmax(net.matmul(flat(y), "tail/matmul"), name="out"),
    "AvgPool": lambda net, y: avg_pool(y, "out"),
    "residual Add": lambda net, y: tf.raw_ops.AddV2(x=net.conv(y, "tail/conv", channels=4), y=y, name="out"),
    "no layer": lambda net, y: tf.nn.relu(y, name="out"),
}


def _with_tail(tail):
    def build(net):
        y = tf.nn.relu(net.batch_norm(net.conv(image(), "first/conv", channels=4), "first/bn"), name="first/relu")
        TAILS[tail](net, y)

    return build


@pytest.mark.parametrize("calib_outputs", [None, ["out"]], ids=["found", "named"])
@pytest.mark.parametrize("tail", TAILS)
def test_fetching_the_output_calibrates_every_layer(tmp_path, tail, calib_outputs):
    graph = graph_of(_with_tail(tail))
    tensor = graph.get_tensor_by_name("out:0")
    expected = run(graph, tensor, batch())
    layers = {
        op.name for op in graph.get_operations() if op.type in ("Conv2D", "DepthwiseConv2dNative", "MatMul", "AvgPool")
    }
    record = quantize(graph, tmp_path, batch_num=2, calib_outputs=calib_outputs)
    assert set(layers_of(record)) == layers
    assert _calibration_ops(graph) <= {op.name for op in ops_behind(graph, "out")}
    assert sqnr(expected, run(graph, tensor, batch())) > 25
    assert not is_calibrated(record)
    assert sqnr(expected, run(graph, "out:0", batch())) > 25
    assert is_calibrated(record)


def test_the_names_of_the_users_ops_stay(tmp_path):
    graph = graph_of(small_net)
    before = [(op.name, op.type) for op in graph.get_operations()]
    quantize(graph, tmp_path)
    assert [(op.name, op.type) for op in graph.get_operations()][: len(before)] == before


def test_tensors_from_before_can_be_fetched(tmp_path):
    graph = graph_of(small_net)
    tensors = [op.outputs[0] for op in graph.get_operations() if op.type != "Placeholder"]
    quantize(graph, tmp_path)
    assert all(np.isfinite(value).all() for value in run(graph, tensors, batch()))
    assert is_complete(str(tmp_path / "record.txt"))


def _two_heads(net):
    y = tf.nn.relu(net.conv(image(), "trunk/conv", channels=4))
    net.bias(net.conv(y, "left/conv"), "left/out")
    tf.nn.softmax(net.bias(net.matmul(flat(y), "right/matmul"), "right/logits"), name="right/out")


@pytest.mark.parametrize("together", [True, False], ids=["in one run", "one after the other"])
def test_several_outputs(tmp_path, together):
    graph = graph_of(_two_heads)
    record = quantize(graph, tmp_path, batch_num=2)
    for fetches in [["left/out:0", "right/out:0"]] if together else ["left/out:0", "right/out:0"]:
        assert not is_calibrated(record)
        for index in range(2):
            run(graph, fetches, batch(index))
    assert is_calibrated(record)


@pytest.mark.parametrize("calib_outputs", [["right/logits"], ["right/logits", "right/out", "left/out"]], ids=len)
def test_an_output_that_is_consumed_too(tmp_path, calib_outputs):
    graph = graph_of(_two_heads)
    fetches = ["right/logits:0", "left/out:0"]
    expected = run(graph, [*fetches, "right/out:0"], batch())
    record = quantize(graph, tmp_path, calib_outputs=calib_outputs)
    if "left/out" in calib_outputs:
        run(graph, fetches, batch())
        assert is_calibrated(record)
    for actual, wanted in zip(run(graph, [*fetches, "right/out:0"], batch()), expected, strict=True):
        assert sqnr(wanted, actual) > 25
    assert _known_now(record)["right/matmul"].shift_bit


def test_an_output_in_the_middle_of_a_layer(tmp_path):
    """The output is a bias, behind which a batch norm follows."""

    def build(net):
        y = net.bias(net.conv(image(), "conv"), "bias")
        tf.nn.relu(net.batch_norm(y, "bn"), name="out")

    graph = graph_of(build)
    expected = run(graph, ["bias:0", "out:0"], batch())
    record = quantize(graph, tmp_path, calib_outputs=["bias", "out"])
    run(graph, "bias:0", batch())
    assert is_calibrated(record)
    for actual, wanted in zip(run(graph, ["bias:0", "out:0"], batch()), expected, strict=True):
        assert sqnr(wanted, actual) > 25


AS_OUTPUTS = {
    "names": lambda graph: ["left/out", "right/out"],
    "tensor names": lambda graph: ["left/out:0", "right/out:0"],
    "tensors": lambda graph: [graph.get_tensor_by_name(f"{side}/out:0") for side in ("left", "right")],
    "ops": lambda graph: [graph.get_operation_by_name(f"{side}/out") for side in ("left", "right")],
    "mixed": lambda graph: ["left/out:0", graph.get_operation_by_name("right/out")],
}


@pytest.mark.parametrize("kind", AS_OUTPUTS)
def test_calib_outputs_may_be(tmp_path, kind):
    graph = graph_of(_two_heads)
    outputs = AS_OUTPUTS[kind](graph)
    before = list(outputs)
    record = quantize(graph, tmp_path, calib_outputs=outputs)
    assert len(outputs) == 2
    assert all(now is then for now, then in zip(outputs, before, strict=True))
    fetches = [f"{output}:0" if isinstance(output, str) and ":" not in output else output for output in outputs]
    run(graph, fetches, batch())
    assert is_calibrated(record)


def test_layers_beside_the_outputs_are_calibrated_when_they_run(tmp_path):
    """calib_outputs name one head only: the other is in the record, and waits for its own run."""
    graph = graph_of(_two_heads)
    record = quantize(graph, tmp_path, calib_outputs=["right/out"])
    run(graph, "right/out:0", batch())
    calibrated = {name: entry.scale_d is not None for name, entry in _known_now(record).items()}
    assert calibrated == {"trunk/conv": True, "left/conv": False, "right/matmul": True}
    run(graph, ["left/out:0"], batch())
    assert _known_now(record)["left/conv"].scale_d is not None


# -- What is shared ------------------------------------------------------------------------------------------


def _siblings(net):
    """Layers a and d see their input in the same way, b and c each in a way of its own."""
    y = tf.nn.relu(image(), name="relu")
    made = [net.conv(y, "a/conv"), net.conv(y, "b/conv", size=1), net.depthwise(y, "c/conv"), net.conv(y, "d/conv")]
    tf.concat(made, axis=3, name="out")


def test_layers_fed_by_one_tensor_share_their_observer(tmp_path):
    graph = graph_of(_siblings)
    record = quantize(graph, tmp_path)
    (op,) = _of_type(graph, "QuantIfmr")
    assert op.get_attr("layers") == [b"a/conv", b"b/conv", b"c/conv", b"d/conv"]
    moments = _of_type(graph, "InputMoments")
    assert [op.get_attr("layers") for op in moments] == [[b"a/conv", b"d/conv"], [b"b/conv"], [b"c/conv"]]
    assert {seen.inputs[0].op.name for seen in moments} == {op.name}
    for seen in moments:
        for layer in seen.get_attr("layers"):
            assert graph.get_operation_by_name(f"{layer.decode()}/quantized").inputs[0].op.name == seen.name
    run(graph, "out:0", batch())
    factors = {(entry.scale_d, entry.offset_d) for entry in read_record(record).values()}
    assert len(factors) == 1


@pytest.mark.parametrize("other", ["b", "d"])
def test_layers_with_other_parameters_do_not(tmp_path, other):
    graph = graph_of(_siblings)
    record = quantize(graph, tmp_path, **{f"{other}/conv": {"activation_quant_params": {"asymmetric": False}}})
    observed = sorted(op.get_attr("layers") for op in _of_type(graph, "QuantIfmr"))
    assert observed == [[f"{name}/conv".encode() for name in "abcd" if name != other], [f"{other}/conv".encode()]]
    run(graph, "out:0", batch())
    assert is_calibrated(record)
    records = read_record(record)
    assert records[f"{other}/conv"].offset_d == 0
    assert records["a/conv"].offset_d == -128


def test_moments_are_gathered_only_for_layers_that_want_them(tmp_path):
    graph = graph_of(_siblings)
    record = quantize(graph, tmp_path, **NEAREST, **{"b/conv": {"weight_quant_params": {"bias_correction": True}}})
    (op,) = _of_type(graph, "InputMoments")
    assert op.get_attr("layers") == [b"b/conv"]
    run(graph, "out:0", batch())
    rounding = read_rounding(record)
    assert [name for name, found in rounding.items() if found] == ["b/conv"]
    assert rounding["b/conv"].weights is None and rounding["b/conv"].bias.shape == (6,)


def test_no_moments_are_gathered_for_the_nearest_integers(tmp_path):
    graph = graph_of(_siblings)
    record = quantize(graph, tmp_path, **NEAREST)
    assert not _of_type(graph, "InputMoments")
    run(graph, "out:0", batch())
    assert read_rounding(record) == dict.fromkeys(f"{name}/conv" for name in "abcd")


def _shared_weights(net):
    """Two layers with the same weights, in a row; the second feeds nothing but the output."""
    weights = net.parameter(net.random("shared", (3, 3, 4, 4)) / 6, "shared")
    conv = {"filter": weights, "strides": [1, 1, 1, 1], "padding": "SAME"}
    y = tf.nn.relu(tf.raw_ops.Conv2D(input=image(), name="a/conv", **conv))
    tf.nn.relu(tf.raw_ops.Conv2D(input=y, name="b/conv", **conv), name="out")


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_shared_weights(tmp_path, parameters):
    graph = graph_of(_shared_weights, PARAMETERS[parameters])
    expected = run(graph, "out:0", batch())
    record = quantize(graph, tmp_path)
    assert sqnr(expected, run(graph, "out:0", batch())) > 25
    assert is_calibrated(record)
    records = read_record(record)
    assert records["a/conv"].scale_w == records["b/conv"].scale_w
    assert len(records["a/conv"].scale_w) == 4


def test_shared_constant_weights_are_quantized_once(tmp_path):
    graph = graph_of(_shared_weights)
    quantize(graph, tmp_path)
    a, b = (graph.get_operation_by_name(f"{name}/conv/quantized").inputs[1] for name in "ab")
    assert a.name == b.name != "shared:0"


def test_shared_weights_of_a_layer_that_is_left_out_stay_float(tmp_path):
    graph = graph_of(_shared_weights)
    quantize(graph, tmp_path, skip_layers=["a/conv"])
    assert graph.get_operation_by_name("a/conv").inputs[1].name == "shared:0"
    assert graph.get_operation_by_name("b/conv/quantized").inputs[1].name != "shared:0"


# -- Runs ----------------------------------------------------------------------------------------------------


def test_a_session_for_all_batches_is_as_good_as_one_for_each(tmp_path):
    records = []
    for name in ("one", "many"):
        (tmp_path / name).mkdir()
        graph = graph_of(small_net)
        record = quantize(graph, tmp_path / name, batch_num=3)
        if name == "one":
            with v1.Session(graph=graph) as session:
                for index in range(3):
                    session.run("out:0", {"x:0": batch(index)})
        else:
            for index in range(3):
                run(graph, "out:0", batch(index))
        records.append(Path(record).read_text())
    assert records[0] == records[1]


def test_batches_may_differ_in_size(tmp_path):
    graph = graph_of(small_net)
    record = quantize(graph, tmp_path, batch_num=3)
    for index, size in enumerate((1, 7, 2)):
        run(graph, "out:0", batch(index, (size, 8, 8, 4)))
    assert is_calibrated(record)


def test_extra_batches_are_ignored(tmp_path):
    graph = graph_of(small_net)
    record = quantize(graph, tmp_path, batch_num=2)
    for index in range(2):
        run(graph, "out:0", batch(index))
    before = Path(record).read_bytes()
    for index in range(3):
        run(graph, "out:0", 100 * batch(index))
    assert Path(record).read_bytes() == before


def test_quantize_model_again_begins_again(tmp_path):
    first = graph_of(small_net)
    record = quantize(first, tmp_path)
    run(first, "out:0", batch())
    calibrated = Path(record).read_bytes()
    second = graph_of(small_net)
    quantize(second, tmp_path)
    assert "scale_d" not in Path(record).read_text()
    run(first, "out:0", 10 * batch())  # of the earlier call: passes on, and records nothing
    assert "scale_d" not in Path(record).read_text()
    run(second, "out:0", batch())
    assert Path(record).read_bytes() == calibrated


def test_two_graphs_with_records_of_their_own_do_not_meet(tmp_path):
    graphs, records = [], []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        graphs.append(graph_of(small_net))
        records.append(quantize(graphs[-1], tmp_path / name))
    run(graphs[0], "out:0", batch())
    assert is_calibrated(records[0])
    assert "scale_d" not in Path(records[1]).read_text()


def test_the_same_call_gives_the_same_graph(tmp_path):
    assert _normal(_quantized(tmp_path)) == _normal(_quantized(tmp_path))


def test_a_calibrated_graph_is_not_quantized_again(tmp_path):
    graph = graph_of(small_net)
    quantize(graph, tmp_path)
    before = _bytes(graph)
    with pytest.raises(AmctError, match="already quantized"):
        amct.quantize_model(graph, str(tmp_path / "config.json"), str(tmp_path / "again.txt"))
    assert _bytes(graph) == before


# -- What is recorded ----------------------------------------------------------------------------------------


def _arq(weights, axes):
    """One symmetric scale per channel, as in the specification, section 3."""
    rest = tuple(axis for axis in range(weights.ndim) if axis not in axes)
    low, high = weights.min(axis=rest), weights.max(axis=rest)
    return np.where(np.abs(high) > np.abs(low), high / np.float32(127), low / np.float32(-128)).ravel()


def test_weight_scales_are_those_of_the_folded_weights(tmp_path):
    graph = graph_of(small_net)
    value = {op.name: tf.make_ndarray(op.get_attr("value")) for op in _of_type(graph, "Const")}
    record = quantize(graph, tmp_path)
    run(graph, "out:0", batch())
    records = read_record(record)
    factor = value["a/bn_scale"] / np.sqrt(value["a/bn_variance"] + np.float32(1e-3))
    np.testing.assert_allclose(records["a/conv"].scale_w, _arq(value["a/conv_w"] * factor, (3,)), rtol=1e-6)
    np.testing.assert_allclose(records["b/depthwise"].scale_w, _arq(value["b/depthwise_w"], (2, 3)), rtol=1e-6)
    np.testing.assert_allclose(records["fc/matmul"].scale_w, _arq(value["fc/matmul_w"], ()), rtol=1e-6)
    assert records["pool"].scale_w == ()
    assert list(records) == SMALL_NET_LAYERS
    assert [len(entry.shift_bit) for entry in records.values()] == [6, 12, 0, 1]
    assert not any(entry.skip_fusion for entry in records.values())


def test_weight_scales_are_recorded_before_the_first_run(tmp_path):
    record = quantize(graph_of(small_net), tmp_path)
    assert Path(record).read_text().count("scale_w") == 6 + 12 + 1
    assert layers_of(record) == SMALL_NET_LAYERS


def test_activation_factors_cover_the_data(tmp_path):
    graph = graph_of(small_net)
    record = quantize(graph, tmp_path)
    run(graph, "out:0", batch())
    records = read_record(record)
    low, high = batch().min(), batch().max()
    assert records["a/conv"].scale_d == pytest.approx((high - low) / 255, rel=0.31)
    assert records["b/depthwise"].offset_d == -128  # ReLU6 in front
    assert records["b/depthwise"].scale_d <= 1.3 * 6 / 255


def test_without_shift_n_nothing_is_shifted(tmp_path):
    graph = graph_of(small_net)
    record = quantize(graph, tmp_path, shift_n=False)
    run(graph, "out:0", batch())
    assert _of_type(graph, "SearchN") == []
    assert all(entry.scale_d and not entry.shift_bit for entry in read_record(record).values())


def test_layers_without_fusion_are_recorded_so(tmp_path):
    graph = graph_of(small_net)
    record = quantize(graph, tmp_path, skip_fusion_layers=["a/conv"])
    run(graph, "out:0", batch())
    assert {name: entry.skip_fusion for name, entry in read_record(record).items()}["a/conv"] is True
    assert "FusedBatchNormV3" in {op.type for op in ops_behind(graph, "out")}


# -- Variables -----------------------------------------------------------------------------------------------

VARIABLES = {"resource": variable, "ref": ref_variable}


@pytest.mark.parametrize("kind", VARIABLES)
def test_no_variable_is_added(tmp_path, kind):
    graph = graph_of(small_net, VARIABLES[kind])
    before = {name: list(graph.get_collection(name)) for name in graph.get_all_collection_keys()}
    with graph.as_default():
        amct.create_quant_config(str(tmp_path / "config.json"), graph)
        added = amct.quantize_model(graph, str(tmp_path / "config.json"), str(tmp_path / "record.txt"))
        assert v1.global_variables() == before[v1.GraphKeys.GLOBAL_VARIABLES]
    assert added == []
    assert {name: list(graph.get_collection(name)) for name in graph.get_all_collection_keys()} == before


@pytest.mark.parametrize("kind", VARIABLES)
def test_variables_give_the_record_of_constants(tmp_path, kind):
    texts = []
    for parameter in (constant, VARIABLES[kind]):
        graph = graph_of(small_net, parameter)
        with graph.as_default():
            record = quantize(graph, tmp_path, batch_num=2)
        for index in range(2):
            run(graph, "out:0", batch(index))
        texts.append(read_record(record))
    for name, entry in texts[0].items():
        other = texts[1][name]
        np.testing.assert_allclose(entry.scale_w, other.scale_w, rtol=1e-6)
        assert entry.scale_d == pytest.approx(other.scale_d, rel=1e-2)
        assert (entry.shift_bit, entry.skip_fusion) == (other.shift_bit, other.skip_fusion)


@pytest.mark.parametrize("kind", VARIABLES)
def test_a_checkpoint_is_restored_into_the_calibration_graph(tmp_path, kind):
    """The Saver may be made before or after; calibration sees the restored values."""
    source = graph_of(small_net, VARIABLES[kind])
    with source.as_default(), v1.Session() as session:
        session.run(v1.global_variables_initializer())
        doubled = [variable.assign(variable * 2) for variable in v1.global_variables() if "conv_w" in variable.name]
        session.run(doubled)
        v1.train.Saver().save(session, str(tmp_path / "model.ckpt"))
    scales = []
    for restore in (False, True):
        graph = graph_of(small_net, VARIABLES[kind])
        with graph.as_default():
            record = quantize(graph, tmp_path)
            with v1.Session() as session:
                session.run(v1.global_variables_initializer())
                if restore:
                    v1.train.Saver().restore(session, str(tmp_path / "model.ckpt"))
                session.run("out:0", {"x:0": batch()})
        scales.append(np.array(read_record(record)["a/conv"].scale_w))
    np.testing.assert_allclose(scales[1], 2 * scales[0], rtol=1e-6)


def test_calibration_follows_a_variable_that_is_assigned(tmp_path):
    graph = graph_of(lambda net: tf.nn.relu(net.conv(image(), "conv"), name="out"), variable)
    quantize(graph, tmp_path)
    with graph.as_default(), v1.Session() as session:
        session.run(v1.global_variables_initializer())
        before = session.run("out:0", {"x:0": batch()})
        weights = graph.get_collection(v1.GraphKeys.GLOBAL_VARIABLES)[0]
        weights.load(2 * session.run(weights), session)
        np.testing.assert_allclose(session.run("out:0", {"x:0": batch()}), 2 * before, rtol=1e-5)


# -- Failures leave everything as it was ---------------------------------------------------------------------


def _nan(value, name):
    value = np.array(value)
    value.flat[0] = np.nan if name == "fc/matmul_w" else value.flat[0]
    return constant(value, name)


def _nan_among_variables(value, name):
    return (_nan if name.startswith("fc/matmul") else variable)(value, name)


def _huge(value, name):
    return constant(np.asarray(value) * (1e12 if name == "fc/matmul_w" else 1), name)


def _edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))


FAILURES = {
    "broken config": lambda graph, folder: (folder / "config.json").write_text("{"),
    "missing config": lambda graph, folder: (folder / "config.json").unlink(),
    "unknown layer": lambda graph, folder: _edit(folder, **{"no/layer": {"quant_enable": True}}),
    "illegal value": lambda graph, folder: _edit(folder, batch_num=0),
    "nothing enabled": lambda graph, folder: _edit(
        folder, **{name: {"quant_enable": False} for name in SMALL_NET_LAYERS}
    ),
    "unsupported value": lambda graph, folder: _edit(folder, fakequant_precision_mode="FORCE_FP16_QUANT"),
    "record is a folder": lambda graph, folder: (folder / "record.txt").mkdir(),
    "record below a file": lambda graph, folder: {"record_file": str(folder / "config.json" / "record.txt")},
    "record cannot be made": lambda graph, folder: {"record_file": "/proc/no/record.txt"},
    "record cannot be written": lambda graph, folder: {"record_file": "/proc/record.txt"},
    "finalized graph": lambda graph, folder: graph.finalize(),
    "unknown output": lambda graph, folder: {"calib_outputs": ["uot"]},
    "no output": lambda graph, folder: {"calib_outputs": []},
    "outputs of another type": lambda graph, folder: {"calib_outputs": "out"},
    "an output of another type": lambda graph, folder: {"calib_outputs": [3]},
    "record of another type": lambda graph, folder: {"record_file": b"record.txt"},
}


@pytest.mark.parametrize("parameters", ["constants", "variables"])
@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_leaves_the_graph_as_it_was(tmp_path, failure, parameters):
    graph = graph_of(small_net, PARAMETERS[parameters])
    _fail_and_compare(graph, tmp_path, FAILURES[failure])


@pytest.mark.parametrize("parameter", [_nan, _nan_among_variables, _huge], ids=["NaN", "NaN among variables", "huge"])
def test_weights_that_cannot_be_quantized_leave_the_graph_as_it_was(tmp_path, parameter):
    error = _fail_and_compare(graph_of(small_net, parameter), tmp_path, lambda graph, folder: None)
    assert 'layer "fc/matmul"' in str(error)


def _fail_and_compare(graph, folder, failure):
    amct.create_quant_config(str(folder / "config.json"), graph)
    arguments = failure(graph, folder)
    arguments = arguments if isinstance(arguments, dict) else {}
    arguments = {"config_file": str(folder / "config.json"), "record_file": str(folder / "record.txt"), **arguments}
    before, files = _bytes(graph), sorted(folder.rglob("*"))
    with graph.as_default(), pytest.raises(AmctError) as raised:
        amct.quantize_model(graph, **arguments)
    assert _bytes(graph) == before
    assert sorted(folder.rglob("*")) == files
    return raised.value


def test_a_failure_leaves_the_old_record_as_it_was(tmp_path):
    graph = graph_of(small_net, _nan)
    amct.create_quant_config(str(tmp_path / "config.json"), graph)
    (tmp_path / "record.txt").write_text("old")
    with pytest.raises(AmctError):
        amct.quantize_model(graph, str(tmp_path / "config.json"), str(tmp_path / "record.txt"))
    assert (tmp_path / "record.txt").read_text() == "old"


def test_after_a_failure_the_graph_can_be_quantized(tmp_path):
    graph = graph_of(small_net, variable)
    with graph.as_default():
        with pytest.raises(AmctError):
            quantize(graph, tmp_path, calib_outputs=["uot"])
        record = quantize(graph, tmp_path)
    run(graph, "out:0", batch())
    assert is_calibrated(record)


# -- Whatever the caller has active --------------------------------------------------------------------------


def _normal(graph):
    """The graph's bytes without what differs from call to call."""
    graph_def = graph.as_graph_def()
    for node in graph_def.node:
        # TensorFlow itself sets the last one on the op that a caller of control_dependencies names.
        for attribute in ("record_file", "generation", "_has_manual_control_dependencies"):
            if attribute in node.attr:
                del node.attr[attribute]
    return graph_def.SerializeToString(deterministic=True)


def _quantized(folder, parameters="constants", caller=lambda graph: contextlib.nullcontext()):
    graph = graph_of(small_net, PARAMETERS[parameters])
    amct.create_quant_config(str(folder / "config.json"), graph)
    with graph.as_default(), caller(graph):
        amct.quantize_model(graph, str(folder / "config.json"), str(folder / "record.txt"))
    return graph


CALLERS = {
    "a scope": lambda graph: graph.name_scope("callers"),
    "a variable scope": lambda graph: v1.variable_scope("callers"),
    "a control dependency": lambda graph: graph.control_dependencies([graph.get_operation_by_name("a/relu")]),
    "a device": lambda graph: graph.device("/device:GPU:7"),
    "a colocation": lambda graph: graph.colocate_with(graph.get_operation_by_name("a/relu")),
    "another graph": lambda graph: tf.Graph().as_default(),
    "eager mode": lambda graph: tf.init_scope(),
}


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("parameters", ["constants", "variables"])
def test_the_callers_context_leaves_no_trace(tmp_path, parameters, caller):
    plain = _quantized(tmp_path, parameters)
    graph = _quantized(tmp_path, parameters, CALLERS[caller])
    assert _normal(graph) == _normal(plain)
    run(graph, "out:0", batch())
    assert is_calibrated(str(tmp_path / "record.txt"))


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_in_eager_mode(tmp_path, parameters):
    assert tf.executing_eagerly()
    graph = graph_of(small_net, PARAMETERS[parameters])
    record = quantize(graph, tmp_path)
    assert tf.executing_eagerly()
    run(graph, "out:0", batch())
    assert is_calibrated(record)


SCRIPT = """
import sys
import tensorflow as tf
tf.compat.v1.disable_v2_behavior()
import amct_tensorflow as amct
from small_models import batch, is_complete, ref_variable, small_net, Net
for parameter in (ref_variable, None):
    tf.compat.v1.reset_default_graph()
    small_net(Net(parameter) if parameter else Net())
    graph = tf.compat.v1.get_default_graph()
    amct.create_quant_config("config.json", graph)
    assert amct.quantize_model(graph, "config.json", "record.txt") == []
    with tf.compat.v1.Session() as session:
        session.run(tf.compat.v1.global_variables_initializer())
        session.run("out:0", {"x:0": batch()})
    assert is_complete("record.txt")
print("done")
"""


def test_as_in_tensorflow_1(tmp_path):
    """Eager execution, control flow v2 and resource variables off, and the default graph of the process."""
    helpers = Path(__file__).parent
    path = os.pathsep.join(map(str, [REPOSITORY, helpers, helpers.parent]))
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("done")


@pytest.mark.parametrize("fetched", ["conv", "bias", "bn"])
def test_fetching_what_a_layer_absorbed_calibrates_it(tmp_path, fetched):
    """Without naming it in calib_outputs, although other ops use it."""

    def build(net):
        y = net.batch_norm(net.bias(net.conv(image(), "conv"), "bias"), "bn")
        tf.nn.relu(net.conv(tf.nn.relu(y), "last/conv"), name="out")

    graph = graph_of(build)
    before = run(graph, f"{fetched}:0", batch())
    record = quantize(graph, tmp_path)
    np.testing.assert_array_equal(run(graph, f"{fetched}:0", batch()), before)
    assert (batches_seen(record, "conv"), batches_seen(record, "last/conv")) == (1, 0)
