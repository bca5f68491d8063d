"""convert_qat_model: the int8 model computes what the model did that was trained with fake-quant ops."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import tensorflow as tf
from qat_graphs import (
    Converted,
    batch,
    batch_norm,
    bias,
    conv,
    convolution,
    depthwise,
    fake_quant,
    flat,
    image,
    matmul,
    per_channel,
    per_tensor,
    random,
    run,
    weights,
)

from amct_tensorflow.record import read_record

tf1 = tf.compat.v1

OWN = ("AscendQuant", "AscendWeightQuant", "AscendDequant", "AscendAntiQuant")


# -- Layers --------------------------------------------------------------------------------------------------


def convolution_per_tensor():
    tf.nn.relu(bias(conv(fake_quant(image(), "fq"), "conv", make=per_tensor), "bias"), name="out")


def depthwise_with_multiplier():
    tf.nn.relu(depthwise(fake_quant(image(), "fq"), "depthwise", 2), name="out")


def depthwise_per_channel():
    """The op's channels are the last axis of the weights, the multiplier: a scale for each of two."""
    tf.nn.relu(depthwise(fake_quant(image(), "fq"), "depthwise", 2, per_channel), name="out")


def matrix_product():
    tf.nn.relu(bias(matmul(fake_quant(flat(image()), "fq"), "fc"), "bias"), name="out")


def matrix_product_per_channel():
    tf.nn.relu(bias(matmul(fake_quant(flat(image()), "fq"), "fc", make=per_channel), "bias"), name="out")


def matrix_product_by_rows():
    """The columns of the result are the rows of the weights."""
    values = random("fc", [5, 256])
    high = np.abs(values).max(axis=1)
    kernel = tf.raw_ops.QuantizeAndDequantizeV3(
        input=values, input_min=-high, input_max=high, num_bits=8, narrow_range=True, axis=0
    )
    tf.nn.relu(
        bias(tf.matmul(fake_quant(flat(image()), "fq"), kernel, transpose_b=True, name="fc"), "bias"), name="out"
    )


def heads_with_a_scale_for_each_size():
    """The scales of one axis of two that the columns are along."""
    y = tf.raw_ops.Einsum(
        inputs=[fake_quant(image(), "fq"), per_channel("layer", [4, 2, 3])], equation="abcd,def->abcef", name="layer"
    )
    tf.nn.relu(y, name="out")


def average_pool():
    tf.nn.relu(tf1.nn.avg_pool(fake_quant(image(), "fq"), 2, 2, "VALID", name="pool"), name="out")


def a_chain():
    y = fake_quant(image(), "fq1", -2.9, 2.6)
    y = fake_quant(tf.nn.relu(bias(conv(y, "conv"), "bias")), "fq2", 0.0, 6.0)
    y = fake_quant(tf.nn.relu6(depthwise(y, "depthwise")), "fq3", 0.0, 6.0)
    y = fake_quant(tf1.nn.avg_pool(y, 2, 2, "VALID", name="pool"), "fq4", 0.0, 5.37)
    tf.identity(bias(matmul(flat(y), "fc"), "fc_bias"), name="out")


def through_ops_that_move_values():
    y = fake_quant(image(), "fq")
    y = tf.pad(tf.nn.max_pool2d(y, 2, 1, "SAME"), [[0, 0], [1, 1], [1, 1], [0, 0]])
    y = tf.nn.relu(tf.transpose(tf.transpose(y, [0, 3, 1, 2]), [0, 2, 3, 1]))
    y = tf.squeeze(tf.expand_dims(y[:, 1:, 1:], 1), [1])
    y = conv(tf.space_to_batch(y, [2, 2], [[0, 1], [0, 1]]), "conv")
    tf.identity(tf.batch_to_space(y, [2, 2], [[0, 1], [0, 1]]), name="out")


def two_layers_on_one():
    y = fake_quant(image(), "fq")
    tf.add(conv(y, "a"), conv(y, "b"), name="out")


def one_weight_for_two_layers():
    kernel = per_channel("shared", [3, 3, 4, 4])
    y = tf.nn.conv2d(fake_quant(image(), "fq1"), kernel, 1, "SAME", name="a")
    tf.nn.conv2d(fake_quant(y, "fq2", -20, 20), kernel, 1, "SAME", name="b")
    tf.identity(tf1.get_default_graph().get_tensor_by_name("b:0"), name="out")


def narrow_activations_and_identities():
    y = tf.identity(fake_quant(tf.identity(image()), "fq", -4.0, 4.0, narrow_range=True))
    tf.nn.relu(conv(y, "conv", make=lambda *args: tf.identity(per_channel(*args))), name="out")


def quantize_and_dequantize(op_type, **weight_options):
    """As the toolkit of TensorRT does: a range that is given, signed, half to even."""

    def make(name, shape):
        kernel = weights(name, shape)
        if op_type == "QuantizeAndDequantizeV3":
            high = np.abs(random(name, shape)).max(axis=(0, 1, 2))
            return tf.raw_ops.QuantizeAndDequantizeV3(
                input=kernel, input_min=-high, input_max=high, num_bits=8, narrow_range=True, axis=3, **weight_options
            )
        return getattr(tf.raw_ops, op_type)(
            input=kernel, input_min=-3.0, input_max=3.0, range_given=True, narrow_range=True, **weight_options
        )

    def build():
        bits = {"num_bits": tf.constant(8)} if op_type == "QuantizeAndDequantizeV3" else {}
        x = getattr(tf.raw_ops, op_type)(
            input=image(), input_min=tf.identity(-2.5), input_max=2.5, range_given=True, **bits
        )
        tf.nn.relu(bias(conv(x, "conv", make=make), "bias"), name="out")

    return build


def unsigned_activations():
    x = tf.raw_ops.QuantizeAndDequantizeV2(
        input=tf.nn.relu(image()), input_min=0.0, input_max=2.5, range_given=True, signed_input=False
    )
    tf.nn.relu(conv(x, "conv"), name="out")


def range_of_the_weights():
    def make(name, shape):
        return tf.raw_ops.QuantizeAndDequantizeV4(
            input=weights(name, shape), input_min=0.0, input_max=0.0, range_given=False, narrow_range=True
        )

    tf.nn.relu(conv(fake_quant(image(), "fq"), "conv", make=make), name="out")


def minimum_and_maximum_by_arithmetic():
    """The range of weights computed from them in the graph."""

    def make(name, shape):
        kernel = weights(name, shape)
        high = tf.reduce_max(tf.abs(kernel), [0, 1, 2])
        return tf.quantization.fake_quant_with_min_max_vars_per_channel(kernel, -high, high, narrow_range=True)

    tf.nn.relu(conv(fake_quant(image(), "fq"), "conv", make=make), name="out")


def kernel_of_a_1d_convolution():
    x = fake_quant(image(), "fq")
    kernel = tf.expand_dims(per_channel("conv", [3, 4, 6]), 0)
    tf.nn.relu(tf.nn.conv2d(x, kernel, 1, "SAME", name="conv"), name="out")


def kernel_in_the_order_of_pytorch():
    x = fake_quant(image(), "fq")
    values = random("conv", [6, 4, 3, 3])
    high = np.abs(values).max(axis=(1, 2, 3))
    kernel = tf.raw_ops.QuantizeAndDequantizeV3(
        input=values, input_min=-high, input_max=high, num_bits=8, narrow_range=True, axis=0
    )
    tf.nn.relu(tf.nn.conv2d(x, tf.transpose(kernel, [2, 3, 1, 0]), 1, "SAME", name="conv"), name="out")


def a_channel_of_zeros():
    def make(name, shape):
        values = random(name, shape) * np.float32([1, 0, 1, 1, 1, 1])
        high = np.abs(values).max(axis=(0, 1, 2))
        return tf.quantization.fake_quant_with_min_max_vars_per_channel(values, -high, high, narrow_range=True)

    tf.nn.relu(bias(conv(fake_quant(image(), "fq"), "conv", make=make), "bias"), name="out")


def batch_norm_of_training():
    """As contrib.quantize leaves it: folded by arithmetic, in front of the fake-quant op."""
    gamma, variance = random("gamma", [6]), np.abs(random("variance", [6])) + np.float32(0.5)
    factor = tf.multiply(tf.math.rsqrt(tf.constant(variance) + 1e-3), tf.identity(gamma))

    def make(name, shape):
        return fake_quant(
            tf.multiply(weights(name, shape), factor, name="mul_fold"), "wfq", -4.0, 4.0, narrow_range=True
        )

    y = conv(fake_quant(image(), "fq"), "conv", make=make)
    correction = tf.subtract(tf.constant(random("beta", [6])), tf.constant(random("mean", [6])) * factor)
    tf.nn.relu(tf.add(y, correction, name="add_fold"), name="out")


LAYERS = {
    build.__name__: build
    for build in (
        convolution,
        convolution_per_tensor,
        depthwise_with_multiplier,
        depthwise_per_channel,
        matrix_product,
        matrix_product_per_channel,
        matrix_product_by_rows,
        heads_with_a_scale_for_each_size,
        average_pool,
        a_chain,
        through_ops_that_move_values,
        two_layers_on_one,
        one_weight_for_two_layers,
        narrow_activations_and_identities,
        unsigned_activations,
        range_of_the_weights,
        minimum_and_maximum_by_arithmetic,
        kernel_of_a_1d_convolution,
        kernel_in_the_order_of_pytorch,
        a_channel_of_zeros,
        batch_norm_of_training,
    )
} | {
    op_type: quantize_and_dequantize(op_type)
    for op_type in ("QuantizeAndDequantizeV2", "QuantizeAndDequantizeV3", "QuantizeAndDequantizeV4")
}


# Where a rare tie in one layer is seen by many results of the next.
CHAINS = ("a_chain", "one_weight_for_two_layers")


@pytest.mark.parametrize("case", LAYERS)
def test_all_layers_in_int8(case, tmp_path, capsys):
    converted = Converted(LAYERS[case], tmp_path)
    converted.assert_same(equal=0.4 if case in CHAINS else 0.99)
    layers = [op for op in converted.trained.get_operations() if op.type in amct_types()]
    assert converted.count("AscendDequant") == len(layers)
    assert converted.count("AscendAntiQuant") == 0
    assert converted.fake_quants == []
    lines = capsys.readouterr().err
    assert f"{len(layers)} of {len(layers)}" in lines
    assert "WARNING" not in lines
    assert_no_float_weights(converted)


def amct_types() -> tuple[str, ...]:
    return ("Conv2D", "DepthwiseConv2dNative", "MatMul", "Einsum", "AvgPool")


def assert_no_float_weights(converted: Converted) -> None:
    for op in converted.graph.get_operations():
        if op.type == "Const" and op.outputs[0].dtype == tf.float32:
            assert op.outputs[0].shape.num_elements() <= 16, f"{op.name} is left"


def test_the_names_are_those_of_the_other_jobs(tmp_path):
    converted = Converted(convolution, tmp_path)
    types = {op.name: op.type for op in converted.graph.get_operations() if op.type in (*OWN, "Conv2D", "Relu")}
    assert types == {
        "act_quant/AscendQuant": "AscendQuant",
        "weight_quant/AscendWeightQuant": "AscendWeightQuant",
        "conv": "Conv2D",
        "dequant/AscendDequant": "AscendDequant",
        "out": "Relu",
    }
    info = json.loads((tmp_path / "int8_quant.json").read_text())
    assert "conv" in {op["name"] for op in info["graph"][0]["op"]}


# -- Batch norms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [per_channel, per_tensor], ids=["per_channel", "per_tensor"])
@pytest.mark.parametrize("kind", ["conv", "depthwise"])
@pytest.mark.parametrize("with_bias", [False, True], ids=["no_bias", "bias"])
def test_batch_norms_are_folded_with_the_scales(tmp_path, kind, make, with_bias):
    """Of random gammas, half are negative: the integers of these channels turn their signs."""
    gamma = np.float32([1.5, -0.5, 0.2, -2.0, 3.0, 0.7, -1.0, 1.0])

    def build():
        y = fake_quant(image(), "fq")
        y = conv(y, "layer", 8, make) if kind == "conv" else depthwise(y, "layer", 2, make)
        y = bias(y, "bias") if with_bias else y
        tf.nn.relu(batch_norm(y, "bn", gamma), name="out")

    record = tmp_path / "record.txt"
    converted = Converted(build, tmp_path, record_file=str(record))
    converted.assert_same()
    assert converted.count("FusedBatchNormV3") == 0
    found = read_record(str(record))["layer"]
    assert len(found.scale_w) == 8 and not found.skip_fusion
    Converted(
        lambda: (
            conv(fake_quant(image(), "fq"), "layer", 8, make)
            if kind == "conv"
            else depthwise(fake_quant(image(), "fq"), "layer", 2, make)
        ),
        tmp_path,
        outputs=["layer"],
        record_file=str(tmp_path / "plain.txt"),
    )
    variance = np.abs(random("bnvariance", [8])) + np.float32(0.5)
    expected = read_record(str(tmp_path / "plain.txt"))["layer"].scale_w * np.abs(gamma) / np.sqrt(variance + 1e-3)
    np.testing.assert_allclose(found.scale_w, expected, rtol=1e-5)


@pytest.mark.parametrize("size", [0.0, 1e-4, 1e-8, 1e-20], ids=str)
def test_channels_that_a_batch_norm_switches_off(tmp_path, size):
    """Their scales would become so small that the bias is beyond int32."""

    def build():
        y = conv(fake_quant(image(), "fq"), "conv", 6, per_tensor)
        tf.nn.relu(batch_norm(y, "bn", [1.0, size, -size, 1.0, 0.5, 2.0]), name="out")

    record = str(tmp_path / "record.txt")
    converted = Converted(build, tmp_path, record_file=record)
    converted.assert_same()
    assert converted.count("FusedBatchNormV3") == 0
    assert min(read_record(record)["conv"].scale_w) >= 2.0**-23


def test_a_batch_norm_behind_a_matmul_stays(tmp_path):
    def build():
        y = matmul(fake_quant(flat(image()), "fq"), "fc", 6)
        tf.nn.relu(batch_norm(tf.reshape(y, [-1, 1, 1, 6]), "bn"), name="out")

    record = str(tmp_path / "record.txt")
    converted = Converted(build, tmp_path, record_file=record)
    converted.assert_same()
    assert converted.count("FusedBatchNormV3") == converted.count("AscendDequant") == 1
    assert read_record(record)["fc"].skip_fusion


def test_a_batch_norm_behind_a_matmul_with_a_scale_for_each_column_is_folded(tmp_path):
    def build():
        y = matmul(fake_quant(flat(image()), "fq"), "fc", 6, per_channel)
        tf.nn.relu(batch_norm(tf.reshape(y, [-1, 1, 1, 6]), "bn"), name="out")

    record = str(tmp_path / "record.txt")
    converted = Converted(build, tmp_path, record_file=record)
    converted.assert_same()
    assert converted.count("FusedBatchNormV3") == 0
    assert len(read_record(record)["fc"].scale_w) == 6 and not read_record(record)["fc"].skip_fusion


def test_a_batch_norm_behind_a_fake_quant_op_stays(tmp_path):
    def build():
        y = fake_quant(conv(fake_quant(image(), "fq"), "conv"), "fq2", -9, 9)
        tf.nn.relu(batch_norm(y, "bn"), name="out")

    converted = Converted(build, tmp_path)
    converted.assert_same()
    assert converted.count("FusedBatchNormV3") == converted.count("AscendAntiQuant") == 1


# -- Fake-quant ops that are for more than layers ------------------------------------------------------------


def residual():
    y = fake_quant(image(), "fq")
    y = fake_quant(tf.add(y, bias(conv(y, "conv", 4), "bias")), "fq2", -12, 12)
    tf.nn.relu(conv(y, "conv2"), name="out")


def for_no_layer():
    y = conv(fake_quant(image(), "fq"), "conv")
    tf.reduce_mean(fake_quant(tf.nn.relu(y), "fq2", 0, 6), [1, 2], name="out")


def as_output():
    y = matmul(fake_quant(flat(image()), "fq"), "fc")
    fake_quant(bias(y, "bias"), "out", -40, 40)


def as_output_of_a_layer_that_leads_on():
    y = fake_quant(conv(fake_quant(image(), "fq"), "conv"), "middle", -9, 9)
    tf.nn.relu(conv(y, "conv2"), name="out")


def moved_values_as_output():
    y = fake_quant(conv(fake_quant(image(), "fq"), "conv"), "fq2", -9, 9)
    tf.nn.relu(matmul(flat(y, "middle"), "fc"), name="out")


def two_in_a_row():
    y = fake_quant(fake_quant(image(), "fq1", -2.0, 2.0), "fq2", -3.0, 1.5)
    tf.nn.relu(conv(y, "conv"), name="out")


def beside_a_reshape():
    y = fake_quant(image(), "fq")
    z = flat(y)
    tf.add(matmul(z, "fc"), tf.reduce_sum(z, 1, keepdims=True), name="out")


def beside_a_float_layer():
    y = fake_quant(image(), "fq")
    tf.add(conv(y, "conv"), conv(y, "float_conv", make=weights), name="out")


def same_factors_twice():
    x = image()
    first, second = fake_quant(x, "fq1"), fake_quant(x, "fq2")
    tf.add(conv(first, "conv", 4), second, name="out")


KEPT = {  # outputs, layers, AscendQuant, AscendAntiQuant
    "residual": (residual, ["out"], 2, 2, 1),
    "for_no_layer": (for_no_layer, ["out"], 1, 2, 1),
    "as_output": (as_output, ["out"], 1, 2, 1),
    "output_between": (as_output_of_a_layer_that_leads_on, ["middle", "out"], 2, 2, 1),
    "moved_values_as_output": (moved_values_as_output, ["middle", "out"], 2, 3, 1),
    "two_in_a_row": (two_in_a_row, ["out"], 1, 2, 1),
    "beside_a_reshape": (beside_a_reshape, ["out"], 1, 2, 1),
    "beside_a_float_layer": (beside_a_float_layer, ["out"], 1, 1, 1),
    "same_factors_twice": (same_factors_twice, ["out"], 1, 1, 1),
}


@pytest.mark.parametrize("case", KEPT)
def test_a_pair_of_ops_is_kept(case, tmp_path, capsys):
    build, outputs, layers, quants, anti_quants = KEPT[case]
    converted = Converted(build, tmp_path, outputs)
    converted.assert_same()
    assert converted.fake_quants == []
    assert converted.count("AscendDequant") == layers
    assert converted.count("AscendQuant") == quants
    assert converted.count("AscendAntiQuant") == anti_quants
    lines = capsys.readouterr().err
    kept = "leads to something that is not quantized: there it is kept, as AscendQuant and AscendAntiQuant"
    assert len(re.findall(kept, lines)) == anti_quants
    assert "WARNING" not in lines


def test_what_the_outputs_do_not_need(tmp_path, capsys):
    """The second head of a model, which training had."""

    def build():
        y = fake_quant(image(), "fq")
        tf.nn.relu(conv(y, "conv"), name="out")
        other = fake_quant(y, "other_fq", num_bits=4)
        tf.add(conv(other, "other_conv", 4), y, name="other_out")
        matmul(flat(y, "other_flat"), "other_fc")  # has weights of a fake-quant op, which is not folded

    converted = Converted(build, tmp_path)
    converted.assert_same()
    assert converted.count("AscendAntiQuant") == 0
    lines = capsys.readouterr().err
    assert "fake-quant op" not in lines
    for layer in ("Conv2D other_conv", "MatMul other_fc"):
        assert re.search(f"INFO .*{layer}: left float because the outputs do not need it", lines)


# -- Layers that stay float ----------------------------------------------------------------------------------


def four_bits(name, shape):
    return fake_quant(weights(name, shape), f"{name}_wfq", -3.0, 3.0, num_bits=4)


def activations_per_channel(x, name):
    return tf.quantization.fake_quant_with_min_max_vars_per_channel(
        x, np.float32([-1, -2, -3, -4]), np.float32([1, 2, 3, 4]), name=name
    )


LEFT_FLOAT = {  # the other layer, its reason, the fake-quant ops that stay
    "no_weights": (
        lambda y: conv(fake_quant(y, "fq2"), "other", make=weights),
        "no fake-quant op leads to its weights",
        0,
    ),
    "no_input": (lambda y: conv(y, "other"), "no fake-quant op leads to its input", 0),
    "neither": (lambda y: conv(y, "other", make=weights), "no fake-quant op leads to its input", 0),
    "pool": (lambda y: tf1.nn.avg_pool(y, 2, 2, "VALID", name="other"), "no fake-quant op leads to its input", 0),
    "4_bit_input": (
        lambda y: conv(fake_quant(y, "fq2", num_bits=4), "other"),
        "the fake-quant op of its input cannot be deployed: it has 4 bits, only 8 are supported",
        1,
    ),
    "4_bit_weights": (
        lambda y: conv(fake_quant(y, "fq2"), "other", make=four_bits),
        "the fake-quant op of its weights cannot be deployed: it has 4 bits, only 8 are supported",
        0,
    ),
    "input_per_channel": (
        lambda y: conv(activations_per_channel(y, "fq2"), "other"),
        "the fake-quant op of its input cannot be deployed: it has a scale per channel, as only weights may",
        1,
    ),
    "range_of_the_data": (
        lambda y: conv(
            tf.raw_ops.QuantizeAndDequantizeV2(input=y, input_min=0.0, input_max=0.0, range_given=False), "other"
        ),
        "the fake-quant op of its input cannot be deployed: its range is computed in every run",
        1,
    ),
    "never_trained": (
        lambda y: tf.nn.bias_add(conv(fake_quant(y, "fq2", 0.0, 0.0), "other"), random("bias", [6])),
        "the fake-quant op of its input cannot be deployed: its range is empty, as if it had never been trained",
        1,
    ),
    "no_matrices": (
        lambda y: tf.raw_ops.Einsum(
            inputs=[fake_quant(flat(y), "fq2"), per_tensor("other", [256])], equation="ab,b->ab", name="other"
        ),
        "it sums over no axis that both operands have",
        0,
    ),
    "computed_weights": (
        lambda y: tf.matmul(flat(fake_quant(y, "fq2")), tf.transpose(flat(fake_quant(y, "fq3"))), name="other"),
        "its weights 'transpose:0' are computed, not a constant or a variable",
        0,
    ),
}


@pytest.mark.parametrize("case", LEFT_FLOAT)
def test_left_float(case, tmp_path, capsys):
    make, reason, staying = LEFT_FLOAT[case]

    def build():
        y = conv(fake_quant(image(), "fq"), "conv", 4)
        tf.identity(make(y), name="out")

    converted = Converted(build, tmp_path)
    converted.assert_same()
    lines = capsys.readouterr().err
    level = "INFO" if reason.startswith("no fake-quant op") else "WARNING"
    assert re.search(rf"{level} .*other: left float because {re.escape(reason)}", lines)
    assert "Conv2D conv: quantized" in lines
    assert len(converted.fake_quants) == staying
    assert lines.count("stays in the model as it is") == staying


# -- Weights that are quantized anew -------------------------------------------------------------------------


def asymmetric(name, shape):
    return fake_quant(weights(name, shape), f"{name}_wfq", -2.0, 3.5)


def along_inputs(name, shape):
    high = np.abs(random(name, shape)).max(axis=(0, 1, 3))
    return tf.raw_ops.QuantizeAndDequantizeV3(
        input=weights(name, shape), input_min=-high, input_max=high, num_bits=8, axis=2
    )


ANEW = {
    "zero_point": (
        lambda: conv(fake_quant(image(), "fq"), "layer", make=asymmetric),
        "they were trained with a zero point, which int8 weights do not have",
    ),
    "matmul_along_inputs": (
        lambda: tf.matmul(
            fake_quant(flat(image()), "fq"), per_channel("layer", [5, 256]), transpose_b=True, name="layer"
        ),
        "they were trained with scales that do not lie along its output channels",
    ),
    "along_inputs": (
        lambda: conv(fake_quant(image(), "fq"), "layer", make=along_inputs),
        "they were trained with scales that do not lie along its output channels",
    ),
}


@pytest.mark.parametrize("case", ANEW)
def test_weights_that_are_quantized_anew(case, tmp_path, capsys):
    build, reason = ANEW[case]
    converted = Converted(lambda: tf.nn.relu(build(), name="out"), tmp_path)
    converted.assert_same(equal=0)
    assert converted.fake_quants == []
    lines = capsys.readouterr().err
    assert re.search(f"WARNING .*the weights of layer layer are quantized anew: {reason}", lines)
    assert "layer: quantized" in lines


@pytest.mark.parametrize("size", [2.0, 3.0], ids=["zero_point_127", "zero_point_128"])
def test_symmetric_weights_without_narrow_range(size, tmp_path, capsys):
    """In float32, the middle of -2 to 2 is 127.49999: zero becomes the integer 127, and offset -1."""

    def make(name, shape):
        return fake_quant(weights(name, shape, size / 5), f"{name}_wfq", -size, size)

    record = tmp_path / "record.txt"
    converted = Converted(
        lambda: tf.nn.relu(conv(fake_quant(image(), "fq"), "conv", make=make), name="out"),
        tmp_path,
        record_file=str(record),
    )
    converted.assert_same()
    assert "WARNING" not in capsys.readouterr().err
    assert read_record(record)["conv"].scale_w == (float(np.float32(2 * size) / np.float32(255)),)


@pytest.mark.parametrize("op_type", ["QuantizeAndDequantizeV2", "QuantizeAndDequantizeV4"])
def test_a_scale_per_channel_that_the_cpu_refuses(op_type, tmp_path):
    """TensorFlow computes it on a GPU only; it means the same as V3, which is what the result is compared with."""

    def build(op_type):
        def make(name, shape):
            high = np.abs(random(name, shape)).max(axis=(0, 1, 2))
            bits = tf.constant(8) if op_type == "QuantizeAndDequantizeV3" else 8
            return getattr(tf.raw_ops, op_type)(
                input=weights(name, shape),
                input_min=-high,
                input_max=high,
                num_bits=bits,
                range_given=True,
                axis=3,
                narrow_range=True,
            )

        return lambda: tf.nn.relu(conv(fake_quant(image(), "fq"), "conv", make=make), name="out")

    (tmp_path / "twin").mkdir()
    twin = Converted(build("QuantizeAndDequantizeV3"), tmp_path / "twin")
    twin.assert_same()
    converted = Converted(build(op_type), tmp_path)
    np.testing.assert_array_equal(converted.int8_weights("conv"), twin.int8_weights("conv"))
    np.testing.assert_array_equal(run(converted.graph, batch()), run(twin.graph, batch()))
    assert converted.fake_quants == []
