"""convert_model: factors of any origin make an int8 model, and each rule of the record has its words."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from small_graphs import NEAREST, batch, conv_net, freeze, load, prepare, run, write_record

import amct_tensorflow as amct
from amct_tensorflow.errors import AmctError, AmctRuntimeError, AmctTypeError, AmctValueError
from amct_tensorflow.record import LayerRecord, read_record

tf1 = tf.compat.v1


@pytest.fixture
def model(tmp_path) -> str:
    return freeze(conv_net(), tmp_path / "model.pb")


@pytest.fixture
def records(tmp_path) -> dict[str, LayerRecord]:
    """The factors that a calibration of `model` finds."""
    graph = conv_net()
    path = prepare(graph, tmp_path, **NEAREST)
    run(graph, batch())
    return read_record(path)


def convert(model: str, records: dict[str, LayerRecord], folder: Path, outputs: tuple[str, ...] = ("out",)) -> Path:
    record = write_record(folder / "user_record.txt", records)
    amct.convert_model(model, list(outputs), record, str(folder / "int8"))
    return folder / "int8_quantized.pb"


def sqnr(reference: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(np.sum(reference**2.0) / np.sum((reference - other) ** 2.0)))


# What it makes


def test_the_record_of_a_calibration_gives_the_same_files_as_save_model(tmp_path, model, records):
    amct.save_model(model, ["out"], str(tmp_path / "record.txt"), str(tmp_path / "saved" / "m"))
    amct.convert_model(model, ["out"], str(tmp_path / "record.txt"), str(tmp_path / "converted" / "m"))
    for name in ("m_quantized.pb", "m_quant.json"):
        assert (tmp_path / "saved" / name).read_bytes() == (tmp_path / "converted" / name).read_bytes()


def test_the_rounding_of_a_calibration_is_for_save_model_only(tmp_path, model, records):
    (tmp_path / "default").mkdir()
    graph = conv_net()
    record = prepare(graph, tmp_path / "default")
    run(graph, batch())
    assert read_record(record) == records
    made = {}
    for job in (amct.save_model, amct.convert_model):
        job(model, ["out"], record, str(tmp_path / job.__name__))
        made[job.__name__] = (tmp_path / f"{job.__name__}_quantized.pb").read_bytes()
    assert made["save_model"] != made["convert_model"] == convert(model, records, tmp_path).read_bytes()


@pytest.mark.parametrize("with_shift", [[], ["block/conv"], ["head/fc"]], ids=["none", "only_conv", "only_fc"])
def test_with_or_without_shift_bit(tmp_path, model, records, with_shift):
    some = {
        name: record if name in with_shift else dataclasses.replace(record, shift_bit=())
        for name, record in records.items()
    }
    path = convert(model, some, tmp_path)
    assert sqnr(run(conv_net(), batch()), run(load(path), batch())) > 25


def test_layers_without_factors_stay_float(tmp_path, model, records, capsys):
    path = convert(model, {"block/conv": records["block/conv"], "head/pool": LayerRecord()}, tmp_path)
    types = [op.type for op in load(path).get_operations()]
    assert types.count("AscendQuant") == types.count("AscendDequant") == 1
    lines = capsys.readouterr().err
    assert "Conv2D block/conv: quantized" in lines
    assert "AvgPool head/pool: left float because the record has no factors for it" in lines
    assert "MatMul head/fc: left float because the record has no factors for it" in lines
    assert f"The model is saved in <{path}>" in lines


def test_layers_that_the_outputs_do_not_need_are_left_out(tmp_path, model, records, capsys):
    path = convert(model, records, tmp_path, outputs=("block/relu",))
    assert [op.type for op in load(path).get_operations()].count("AscendQuant") == 1
    assert "MatMul head/fc: left float because the outputs do not need it" in capsys.readouterr().err


def test_balance_factors_of_a_record(tmp_path, model, records):
    factors = (0.5, 2.0, 1.25)
    weights = np.random.default_rng(0).standard_normal((3, 3, 3, 4)).astype(np.float32)  # those of conv_net
    balanced = weights * np.reshape(np.float32(factors), [3, 1])
    low, high = balanced.min(axis=(0, 1, 2)), balanced.max(axis=(0, 1, 2))
    record = LayerRecord(
        scale_d=0.06,
        offset_d=0,
        scale_w=tuple(map(float, np.maximum(high / 127, -low / 128))),
        offset_w=(0,) * 4,
        tensor_balance_factor=factors,
    )
    graph = load(convert(model, {"block/conv": record}, tmp_path))
    quantized = next(op for op in graph.get_operations() if op.type == "AscendQuant")
    reciprocal = tf.get_static_value(quantized.inputs[0].op.inputs[1])
    np.testing.assert_allclose(reciprocal, np.float32(1) / np.float32(factors), rtol=1e-6)
    assert sqnr(run(conv_net(), batch()), run(graph, batch())) > 25


def test_the_published_record_of_mobilenet_v2(shared, tmp_path, capsys):
    from PIL import Image

    folder = shared / "data" / "mobilenet_v2"
    model, record = folder / "mobilenet_v2_1.0_224_frozen.pb", folder / "record_quantized.txt"
    amct.convert_model(str(model), ["MobilenetV2/Predictions/Reshape_1"], str(record), str(tmp_path / "m"))
    lines = capsys.readouterr().err
    assert "54 of 54" in lines
    # Its depthwise scales are those of the weights before the fold; those of the convolutions after it.
    assert "WARNING" in lines and "17 layer(s) go on without the fusion of their batch norm" in lines
    assert len(re.findall("quantized; batch norm .* is not folded", lines)) == 17
    paths = sorted((shared / "data" / "imagenet").glob("*.jpg"))
    images = np.stack([np.asarray(Image.open(path).convert("RGB"), np.float32)[16:240, 16:240] for path in paths])
    images = images / np.float32(127.5) - 1
    logits = []
    for path in (model, tmp_path / "m_quantized.pb"):
        with tf1.Session(graph=load(path)) as session:
            parts = [
                session.run("MobilenetV2/Logits/output:0", {"input:0": images[start : start + 50]})
                for start in range(0, len(images), 50)
            ]
        logits.append(np.concatenate(parts))
    assert np.mean(logits[0].argmax(1) == logits[1].argmax(1)) >= 0.97
    assert sqnr(*logits) >= 17.5


# Scales of weights with or without their batch norm


def norm_net(gamma: np.ndarray) -> tf.Graph:
    """x [?, 8, 8, 3] -> conv -> batch norm -> out."""
    random = np.random.default_rng(1)
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, 8, 8, 3], name="x")
        weights = random.uniform(-1, 1, (3, 3, 3, 4)).astype(np.float32)
        y = tf.nn.conv2d(x, tf.constant(weights, name="weights"), 1, "SAME", name="conv")
        ones, zeros = np.ones(4, np.float32), np.zeros(4, np.float32)
        y = tf1.nn.fused_batch_norm(y, gamma.astype(np.float32), zeros, zeros, ones, 0.0, is_training=False, name="bn")
        tf.nn.relu(y[0], name="out")
    return graph


def norm_record(gamma: np.ndarray, **changes) -> LayerRecord:
    """Scales for the weights of `norm_net`, after a batch norm of this gamma."""
    weights = np.random.default_rng(1).uniform(-1, 1, (3, 3, 3, 4)).astype(np.float32) * gamma.astype(np.float32)
    scales = np.maximum(weights.max(axis=(0, 1, 2)) / 127, weights.min(axis=(0, 1, 2)) / -128)
    record = LayerRecord(scale_d=0.04, offset_d=0, scale_w=tuple(map(float, scales)), offset_w=(0,) * 4)
    return dataclasses.replace(record, **changes)


ONES = np.ones(4)
MIXED = np.array([0.5, 3.0, 1.0, 0.2])
SMALL = np.array([0.5, 0.3, 0.9, 0.01])


@pytest.mark.parametrize(
    ("gamma", "record", "fused"),
    [
        (MIXED, norm_record(MIXED), True),
        (MIXED, norm_record(MIXED, skip_fusion=False), True),
        (MIXED, norm_record(ONES), False),  # saturate when folded
        (SMALL, norm_record(ONES), False),  # fit when folded, but use a hundredth of the range
        (SMALL, norm_record(SMALL), True),
        (MIXED, norm_record(ONES, skip_fusion=True), False),
        (ONES, norm_record(ONES), True),
        (MIXED * [0, 1, 1, 1], norm_record(ONES), False),  # a dead channel
        (np.array([1, 1, 1, 0.0]), norm_record(ONES), True),  # dead when folded, the others the same: either fits
    ],
    ids=[
        "of_folded",
        "explicit",
        "of_unfolded",
        "of_unfolded_small",
        "small",
        "skip_fusion",
        "ones",
        "dead",
        "dead_same",
    ],
)
def test_the_fold_that_the_scales_belong_to(tmp_path, gamma, record, fused, capsys):
    model = freeze(norm_net(gamma), tmp_path / "model.pb")
    graph = load(convert(model, {"conv": record}, tmp_path))
    assert ("FusedBatchNormV3" not in [op.type for op in graph.get_operations()]) == fused
    assert sqnr(run(norm_net(gamma), batch()), run(graph, batch())) > 25
    warned = "1 layer(s) go on without the fusion" in capsys.readouterr().err
    assert warned == (not fused and not record.skip_fusion)


@pytest.mark.parametrize("fused", [True, False], ids=["of_folded", "of_unfolded"])
@pytest.mark.parametrize("gamma", [MIXED, SMALL, 30 * ONES, 0.1 * ONES], ids=["mixed", "small", "all_30", "all_0.1"])
@pytest.mark.parametrize("rule", [0.7, 0.85, 1.2, 2.0], ids=str)
def test_scales_with_head_room_or_clipping(tmp_path, rule, gamma, fused):
    record = norm_record(gamma if fused else ONES)
    record = dataclasses.replace(record, scale_w=tuple(rule * scale for scale in record.scale_w))
    model = freeze(norm_net(gamma), tmp_path / "model.pb")
    graph = load(convert(model, {"conv": record}, tmp_path))
    assert ("FusedBatchNormV3" not in [op.type for op in graph.get_operations()]) == fused
    assert sqnr(run(norm_net(gamma), batch()), run(graph, batch())) > (12 if rule < 1 else 25)


@pytest.mark.parametrize("fused", [True, False], ids=["of_folded", "of_unfolded"])
def test_scales_for_a_multiplication(tmp_path, fused, capsys):
    random = np.random.default_rng(3)
    weights = random.standard_normal((3, 3, 3, 4)).astype(np.float32)
    factor = MIXED.astype(np.float32)
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, 8, 8, 3], name="x")
        tf.nn.relu(tf.nn.conv2d(x, weights, 1, "SAME", name="conv") * factor, name="out")
    scales = np.abs(weights * factor if fused else weights).max(axis=(0, 1, 2)) / 127
    record = LayerRecord(scale_d=0.04, offset_d=0, scale_w=tuple(map(float, scales)), offset_w=(0,) * 4)
    converted = load(convert(freeze(graph, tmp_path / "model.pb"), {"conv": record}, tmp_path))
    assert ("Mul" not in [op.type for op in converted.get_operations()]) == fused
    assert (
        "Mul mul is not folded: scale_w of the record is of the weights without" in capsys.readouterr().err
    ) != fused
    assert sqnr(run(graph, batch()), run(converted, batch())) > 25


@pytest.mark.parametrize("fused", [True, False], ids=["of_folded", "of_unfolded"])
def test_a_scale_for_each_column_of_a_matmul(tmp_path, fused, capsys):
    weights = np.random.default_rng(3).standard_normal((192, 4)).astype(np.float32)
    factor = MIXED.astype(np.float32)
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, 8, 8, 3], name="x")
        tf.nn.relu(tf.matmul(tf.reshape(x, [-1, 192]), weights, name="fc") * factor, name="out")
    scales = np.abs(weights * factor if fused else weights).max(axis=0) / 127
    record = LayerRecord(scale_d=0.04, offset_d=0, scale_w=tuple(map(float, scales)), offset_w=(0,) * 4)
    record = dataclasses.replace(record, shift_bit=(1, 2, 1, 2))
    converted = load(convert(freeze(graph, tmp_path / "model.pb"), {"fc": record}, tmp_path))
    types = [op.type for op in converted.get_operations()]
    assert ("Mul" not in types, types.count("AscendDequant")) == (fused, 1)
    assert ("1 layer(s) go on without the fusion" in capsys.readouterr().err) != fused
    assert sqnr(run(graph, batch()), run(converted, batch())) > 25


def test_scales_that_leave_most_of_the_range_unused(tmp_path, model, records, capsys):
    scales = tuple(10 * scale for scale in records["block/conv"].scale_w)
    convert(model, {"block/conv": dataclasses.replace(records["block/conv"], scale_w=scales)}, tmp_path)
    assert re.search(
        r"WARNING .*scale_w of layer block/conv uses only 10\.\d% of the int8 range", capsys.readouterr().err
    )


@pytest.mark.parametrize("factor", [0.9, 1.2])
def test_save_model_wants_the_scales_of_its_weights(tmp_path, model, records, factor):
    scales = tuple(factor * scale for scale in records["head/fc"].scale_w)
    records["head/fc"] = dataclasses.replace(records["head/fc"], scale_w=scales)
    record = write_record(tmp_path / "changed.txt", records)
    words = "are up to 1.1" if factor < 1 else "use only 0.8"
    with pytest.raises(AmctRuntimeError, match=f"the weights of layer head/fc {words}.* of another model, calibrate"):
        amct.save_model(model, ["out"], record, str(tmp_path / "int8"))


def test_scales_that_clip_a_few_weights_on_purpose(tmp_path, capsys):
    weights = np.random.default_rng(2).standard_normal((3, 3, 3, 4)).astype(np.float32)
    weights[0, 0, 0, 0] = 2 * np.abs(weights).max()  # the one of 108 that is clipped
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, 8, 8, 3], name="x")
        tf.nn.relu(tf.nn.conv2d(x, weights, 1, "SAME", name="conv"), name="out")
    scale = float(np.abs(weights).max() / 2 / 127)
    record = LayerRecord(scale_d=0.04, offset_d=0, scale_w=(scale,), offset_w=(0,))
    convert(freeze(graph, tmp_path / "model.pb"), {"conv": record}, tmp_path)
    assert re.search(r"WARNING .*scale_w of layer conv clips 0\.93% of its weights", capsys.readouterr().err)


# What is refused, with which words (specification D.4)

SCALES = "scale_w: 0.04 " * 4
OFFSETS = "offset_w: 0 " * 4


def entry(value: str, key: str = "block/conv") -> str:
    return f'record {{ key: "{key}" value {{ {value} }} }}'


REFUSED: dict[str, tuple[str, type[AmctError], str]] = {
    "not_text_format": ("layer: conv", AmctRuntimeError, r"the record_file\{.*\} cannot be parsered, please ensure it"),
    "no_key": ("record { value { scale_d: 1 offset_d: 0 } }", AmctRuntimeError, 'Cannot find "key" in record file'),
    "no_value": ('record { key: "block/conv" }', AmctRuntimeError, "cannot find 'value' in block/conv in record_file"),
    "no_entries": ("", AmctRuntimeError, "record_file is empty, no layers to be quantized"),
    "only_empty_entries": (entry(""), AmctRuntimeError, "record_file is empty, no layers to be quantized"),
    "twice": (entry("scale_d: 1") * 2, AmctValueError, "layer block/conv appears twice"),
    "unknown_layer": (
        entry(f"scale_d: 0.04 offset_d: 0 {SCALES}{OFFSETS}", "blok/conv"),
        AmctRuntimeError,
        r"find blok/conv failure in .*model\.pb\. Please match .*record\.txt; did you mean 'block/conv'",
    ),
    "not_quantizable": (
        entry("scale_d: 0.04 offset_d: 0", "block/relu"),
        AmctRuntimeError,
        "layer block/relu cannot be quantized, its op type is not quantizable: remove its entry",
    ),
    "no_scale_d": (
        entry(f"offset_d: 0 {SCALES}{OFFSETS}"),
        AmctRuntimeError,
        "cannot find scale_d of layer block/conv in record_file, please check data calibration process!",
    ),
    "no_offset_d": (
        entry(f"scale_d: 0.04 {SCALES}{OFFSETS}"),
        AmctRuntimeError,
        "cannot find offset_d of layer block/conv in record_file",
    ),
    "no_scale_w": (
        entry("scale_d: 0.04 offset_d: 0"),
        AmctRuntimeError,
        "cannot find scale_w of layer block/conv in record_file",
    ),
    "weights_of_a_pool": (
        entry("scale_d: 0.04 offset_d: 0 scale_w: 1 offset_w: 0", "head/pool"),
        AmctRuntimeError,
        "find undesirable scale_w of layer head/pool in record_file: AvgPool has no weights",
    ),
    "balance_of_a_pool": (
        entry("scale_d: 0.04 offset_d: 0 tensor_balance_factor: 1", "head/pool"),
        AmctRuntimeError,
        "find undesirable tensor_balance_factor of layer head/pool",
    ),
    "offset_d": (
        entry(f"scale_d: 0.04 offset_d: 128 {SCALES}{OFFSETS}"),
        AmctValueError,
        r"offset_d's value should be in \[-128, 127\] in layer block/conv",
    ),
    "offset_w": (
        entry(f"scale_d: 0.04 offset_d: 0 {SCALES}offset_w: 0 offset_w: 0 offset_w: 0 offset_w: 1"),
        AmctValueError,
        r"offset_w's value should be 0 in layer block/conv .*offset_w\[3\] is 1",
    ),
    "scale_d_zero": (entry("scale_d: 0 offset_d: 0"), AmctValueError, "scale_d's value shoule be in positivate range"),
    "scale_d_inf": (entry("scale_d: inf offset_d: 0"), AmctValueError, "scale_d's value shoule be in positivate range"),
    "scale_w_nan": (
        entry("scale_d: 0.04 offset_d: 0 scale_w: nan offset_w: 0"),
        AmctValueError,
        "scale_w's value shoule be in positivate range of float32",
    ),
    "scale_d_without_reciprocal": (
        entry(f"scale_d: 1e-30 offset_d: 0 {SCALES}{OFFSETS}"),
        AmctValueError,
        r"scale_d's value should be in \[FLT_EPSILON, 1 / FLT_EPSILON\]",
    ),
    "shift_bit": (
        entry(f"scale_d: 0.04 offset_d: 0 {SCALES}{OFFSETS}" + "shift_bit: 17 " * 4),
        AmctValueError,
        r"shift_bit's value should be in \[1, 16\] or all be 0 in layer block/conv",
    ),
    "shift_bit_mixed_with_0": (
        entry(f"scale_d: 0.04 offset_d: 0 {SCALES}{OFFSETS}shift_bit: 0 " + "shift_bit: 1 " * 3),
        AmctValueError,
        r"shift_bit's value should be in \[1, 16\] or all be 0",
    ),
    "shift_bit_of_a_pool": (
        entry("scale_d: 0.04 offset_d: 0 shift_bit: 1", "head/pool"),
        AmctRuntimeError,
        "should be equal|shift_bit is not support, please delete shift_bit of layer head/pool",
    ),
    "lengths": (
        entry(f"scale_d: 0.04 offset_d: 0 {SCALES}offset_w: 0"),
        AmctRuntimeError,
        r"scale_w's length\(4\) and offset_w's length\(1\) should be equal in layer block/conv",
    ),
    "channels": (
        entry("scale_d: 0.04 offset_d: 0 " + "scale_w: 0.04 offset_w: 0 " * 3),
        AmctRuntimeError,
        "should be equal to 1 or to its 4 output channels for the Conv2D layer block/conv",
    ),
    "channels_of_a_matmul": (
        entry("scale_d: 0.04 offset_d: 0 " + "scale_w: 0.04 offset_w: 0 " * 4, "head/fc"),
        AmctRuntimeError,
        "should be equal to 1 or to its 5 output channels for the MatMul layer head/fc",
    ),
    "balance_length": (
        entry(f"scale_d: 0.04 offset_d: 0 {SCALES}{OFFSETS}tensor_balance_factor: 1"),
        AmctRuntimeError,
        r"tensor_balance_factor's length\(1\) should be equal to the 3 input channels of the Conv2D layer block/conv",
    ),
    "balance_range": (
        entry(f"scale_d: 0.04 offset_d: 0 {SCALES}{OFFSETS}tensor_balance_factor: 1e-9"),
        AmctValueError,
        r"tensor_balance_factor's value should be in \[FLT_EPSILON, 1/FLT_EPSILON\]",
    ),
    "cluster_length": (
        entry(f"scale_d: 0.04 offset_d: 0 {SCALES}{OFFSETS}cluster: 1"),
        AmctValueError,
        "cluster's length should be 16 or 32",
    ),
    "cluster": (
        entry(f"scale_d: 0.04 offset_d: 0 {SCALES}{OFFSETS}" + "cluster: 1 " * 16),
        AmctValueError,
        "cluster in layer block/conv .* is not supported yet",
    ),
    "act_type": (
        entry(f'scale_d: 0.04 offset_d: 0 {SCALES}{OFFSETS}act_type: "FP8"'),
        AmctRuntimeError,
        "Do not support act_type FP8 in layer block/conv",
    ),
    "dst_type_int4": (
        entry(f'scale_d: 0.04 offset_d: 0 {SCALES}{OFFSETS}dst_type: "INT4"'),
        AmctValueError,
        "dst_type INT4 in layer block/conv .* is not supported yet; use INT8",
    ),
    "a_tensor": (
        entry("scale_d: 0.04 offset_d: 0", "block/relu:0"),
        AmctRuntimeError,
        r"input 0 of block/relu cannot be quantized, it is of type Relu6?, only inputs of MaxPool, Add, AddV2 are "
        r"quantized alone: remove the entry block/relu:0 from",
    ),
    "of_other_weights": (
        entry("scale_d: 0.04 offset_d: 0 " + "scale_w: 0.001 offset_w: 0 " * 4),
        AmctRuntimeError,
        r"the weights of layer block/conv keep an SQNR of only 1\.0 dB under scale_w of the record, being 14\.\d to "
        r"18\.\d times as large as it allows: the record is of another model",
    ),
    "bias": (
        entry("scale_d: 1e-5 offset_d: 0 scale_w: 1e-6 offset_w: 0", "head/fc"),
        AmctRuntimeError,
        r"the weights of layer head/fc|Quantized bias of layer",
    ),
}


@pytest.mark.parametrize(("text", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_refused_records(tmp_path, model, text, error, words):
    record = tmp_path / "record.txt"
    record.write_text(text)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error, match=words) as caught:
        amct.convert_model(model, ["out"], str(record), str(tmp_path / "int8"))
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_bias_beyond_int32(tmp_path):
    model = freeze(conv_net(bias=np.full(4, 1e6, np.float32)), tmp_path / "model.pb")
    record = LayerRecord(scale_d=1e-4, offset_d=0, scale_w=(0.04,) * 4, offset_w=(0,) * 4)
    with pytest.raises(AmctRuntimeError, match='Quantized bias of layer "block/conv" exceed int32 range'):
        convert(model, {"block/conv": record}, tmp_path)


def test_a_quantized_model_is_refused(tmp_path, model, records):
    path = convert(model, records, tmp_path)
    with pytest.raises(AmctValueError, match="the graph is already quantized, it contains AscendDequant"):
        amct.convert_model(str(path), ["out"], str(tmp_path / "record.txt"), str(tmp_path / "again"))


BAD_CALLS: dict[str, tuple[Callable[[str, str], object], type[AmctError], str]] = {
    "model_type": (
        lambda m, r: amct.convert_model(3, ["out"], r, "x"),
        AmctTypeError,
        "convert_model argument pb_model",
    ),
    "outputs": (lambda m, r: amct.convert_model(m, ["ot"], r, "x"), AmctValueError, "'ot' does not exist .*'out'"),
    "no_outputs": (lambda m, r: amct.convert_model(m, [], r, "x"), AmctValueError, "outputs is empty"),
    "no_model": (lambda m, r: amct.convert_model("no.pb", ["out"], r, "x"), AmctValueError, "no.pb does not exist"),
    "no_record": (
        lambda m, r: amct.convert_model(m, ["out"], "no.txt", "x"),
        AmctRuntimeError,
        "no.txt cannot be read",
    ),
    "no_save_path": (lambda m, r: amct.convert_model(m, ["out"], r, ""), AmctValueError, "save_path is empty"),
}


@pytest.mark.parametrize(("call", "error", "words"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_arguments(tmp_path, model, records, call, error, words):
    with pytest.raises(error, match=words):
        call(model, str(tmp_path / "record.txt"))
    assert not Path("x_quantized.pb").exists()
