"""Whole models, usual and awkward: right in int8, or left float for a reason."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from small_models import (
    Deployed,
    avg_pool,
    batch,
    constant,
    control_flow_of_tensorflow_1,
    flat,
    graph_of,
    image,
    small_net,
    used_before_the_bias,
    used_twice,
    v1,
)

# -- Whole blocks --------------------------------------------------------------------------------------------


def _residual_block(net):
    x = tf.nn.relu(net.conv(image(), "stem/conv", channels=8))
    y = tf.nn.relu(net.batch_norm(net.conv(x, "block/conv1", channels=8), "block/bn1"))
    y = net.batch_norm(net.conv(y, "block/conv2", channels=8), "block/bn2")
    shortcut = net.batch_norm(net.conv(x, "block/conv3", channels=8, size=1), "block/bn3")
    tf.nn.relu(tf.raw_ops.AddV2(x=y, y=shortcut), name="out")


def _concat_block(net):
    x = tf.nn.relu(net.conv(image(), "stem/conv", channels=8))
    branches = [
        tf.nn.relu(net.batch_norm(net.conv(x, "one/conv", channels=4, size=1), "one/bn")),
        tf.nn.relu(net.bias(net.conv(x, "three/conv", channels=4), "three/bias")),
        avg_pool(x, "pool/pool", 3, strides=[1, 1, 1, 1], padding="SAME"),
        x,
    ]
    tf.nn.relu(net.conv(tf.concat(branches, axis=3), "last/conv"), name="out")


def _separable_block(net):
    x = tf.nn.relu6(net.batch_norm(net.conv(image(), "stem/conv", channels=8, strides=[1, 2, 2, 1]), "stem/bn"))
    y = tf.nn.relu6(net.batch_norm(net.conv(x, "expand/conv", channels=16, size=1), "expand/bn"))
    y = tf.nn.relu6(net.batch_norm(net.depthwise(y, "depthwise/conv"), "depthwise/bn"))
    y = net.batch_norm(net.conv(y, "project/conv", channels=8, size=1), "project/bn")
    tf.identity(x + y, name="out")


def _relu6_net(net):
    y = image()
    for i, stride in enumerate((1, 2, 1)):
        y = net.conv(y, f"conv_{i}/conv", channels=8, strides=[1, stride, stride, 1])
        y = tf.nn.relu6(net.batch_norm(y, f"conv_{i}/bn"))
    y = tf.squeeze(net.conv(avg_pool(y, "pool", 4), "logits/conv", channels=5, size=1), [1, 2])
    tf.nn.softmax(net.bias(y, "logits/bias"), name="out")


BLOCKS = {
    "small net": (small_net, 4),
    "residual": (_residual_block, 4),
    "concat": (_concat_block, 5),
    "separable": (_separable_block, 4),
    "ReLU6": (_relu6_net, 5),
}


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks(tmp_path, block):
    build, layers = BLOCKS[block]
    deployed = Deployed(build, ["out"], tmp_path, feeds=[batch(i) for i in range(4)])
    assert len(deployed.of_type("AscendDequant")) == len(deployed.quantized) == layers
    assert not [node for node in deployed.nodes.values() if node.op.startswith("FusedBatchNorm")]
    assert deployed.sqnr(batch(7)) > 25


def test_the_logits_before_softmax_have_one_scale(tmp_path):
    deployed = Deployed(_relu6_net, ["out"], tmp_path)
    assert len(deployed.records["logits/conv"].scale_w) == 1
    assert deployed.constant(deployed.inputs("logits/dequant/AscendDequant")[1]).shape == (1,)
    offset_w = deployed.constant(deployed.inputs("logits/weight_quant/AscendWeightQuant")[1])
    assert offset_w.shape == (1, 1, 1, 1)


def _random_net(seed):
    """A net with branches, and the names of outputs: all ends, and some tensors on the way."""
    outputs = []

    def build(net):
        random = np.random.default_rng(seed)
        tensors = [image()]
        for i in range(random.integers(3, 8)):
            y = tensors[random.integers(max(0, len(tensors) - 3), len(tensors))]
            scope = f"b{i}/" if random.random() < 0.7 else ""
            kind = ["conv", "conv", "depthwise", "pool", "sum"][random.integers(5)]
            if kind == "pool":
                y = avg_pool(y, f"{scope}pool{i}", strides=[1, 1, 1, 1], padding="SAME")
            elif kind == "sum":
                y = tf.raw_ops.AddV2(x=y, y=tensors[random.integers(len(tensors))], name=f"{scope}sum{i}")
            else:
                y = net.conv(y, f"{scope}conv{i}", 4) if kind == "conv" else net.depthwise(y, f"{scope}dw{i}")
                tensors.append(y)
                bias = random.integers(3)
                if bias:
                    y = net.bias(y, f"{scope}bias{i}") if bias == 1 else net.add(y, f"{scope}add{i}", [4])
                    tensors.append(y)
                if random.random() < 0.5:
                    y = tf.nn.relu6(net.batch_norm(y, f"{scope}bn{i}"), name=f"{scope}relu{i}")
            tensors.append(y)
        ends = [not y.consumers() or random.random() < 0.15 for y in tensors[1:]]
        outputs[:] = [y.op.name for y, end in zip(tensors[1:], ends, strict=True) if end]

    graph_of(build)
    return build, outputs


@pytest.mark.parametrize("seed", range(20))
def test_random_nets(tmp_path, seed):
    build, outputs = _random_net(seed)
    deployed = Deployed(build, outputs, tmp_path, calib_outputs=outputs, feeds=[batch(0), batch(1)])
    assert len(deployed.of_type("AscendDequant")) == len(deployed.quantized)
    for output in outputs:
        assert deployed.sqnr(batch(1), output) > 20


# -- Awkward graphs: right, or left float for a reason -------------------------------------------------------


def _decomposed_batch_norm(net):
    y = net.conv(image(), "conv") * constant(net.random("mul", [6]), "mul")
    tf.nn.relu(net.add(y, "add", [6]), name="out")


def _batch_norm_before(net):
    tf.nn.relu(net.conv(net.batch_norm(image(), "bn"), "conv"), name="out")


def _batch_norm_in_training_mode(net):
    empty = np.float32([])
    y = net.batch_norm(net.conv(image(), "conv"), "bn", is_training=True, mean=empty, variance=empty)
    tf.nn.relu(y, name="out")


def _conv1d(net):
    x = tf.reshape(image(), [-1, 64, 4])
    kernel = constant(net.random("kernel", (1, 5, 4, 6)) / 5, "kernel")
    y = tf.raw_ops.Conv2D(input=tf.expand_dims(x, 1), filter=kernel, strides=[1, 1, 1, 1], padding="SAME", name="conv")
    tf.nn.relu(net.bias(tf.squeeze(y, [1]), "bias"), name="out")


def _dead_channel(net):
    weights = net.random("w", (3, 3, 4, 6)) / 6
    weights[..., 2] = 0
    weights[..., 4] = 1e-9
    y = tf.nn.conv2d(image(), constant(weights, "w"), 1, "SAME", name="conv")
    tf.nn.relu(net.bias(y, "bias"), name="out")


def _dead_output(net):
    y = tf.nn.relu(net.conv(image(), "dead/conv") - 1000.0)
    tf.nn.relu(net.bias(net.conv(y, "conv"), "bias"), name="out")


def _deconvolution(net):
    y = tf.nn.relu(net.conv(image(), "conv"))
    kernel = constant(net.random("kernel", (2, 2, 5, 6)) / 5, "kernel")
    shape = tf.stack([tf.shape(y)[0], 16, 16, 5])
    tf.nn.relu(tf.nn.conv2d_transpose(y, kernel, shape, 2, name="deconv"), name="out")


def _dilated_by_space_to_batch(net):
    y = tf.space_to_batch(image(), [2, 2], [[2, 2], [2, 2]])
    y = tf.batch_to_space(net.conv(y, "conv", padding="VALID"), [2, 2], [[0, 0], [0, 0]])
    tf.nn.relu(net.bias(y, "bias"), name="out")


def _einsum(net):
    y = tf.nn.relu(net.conv(image(), "conv"))
    tf.nn.relu(tf.einsum("nhwc,cd->nhwd", y, constant(net.random("w", (6, 5)), "w")), name="out")


def _explicit_padding(net):
    y = net.conv(image(), "conv", padding="EXPLICIT", explicit_paddings=[0, 0, 2, 1, 0, 1, 0, 0])
    tf.nn.relu(y, name="out")


def _pad_before(net):
    y = net.conv(tf.pad(image(), [[0, 0], [1, 1], [1, 1], [0, 0]]), "conv", padding="VALID")
    tf.nn.relu(y, name="out")


def _half_precision(net):
    y = tf.cast(tf.nn.relu(net.conv(image(), "conv")), tf.float16)
    weights = tf.constant(net.random("half", (3, 3, 6, 5)) / 6, tf.float16)
    tf.cast(tf.nn.relu(tf.nn.conv2d(y, weights, 1, "SAME", name="half/conv")), tf.float32, name="out")


def _identity_weights(net):
    weights = tf.identity(tf.identity(constant(net.random("w", (3, 3, 4, 6)) / 6, "w")), name="w/read")
    tf.nn.relu(tf.nn.conv2d(image(), weights, 1, "SAME", name="conv"), name="out")


def _leaky_and_hard_swish(net):
    y = tf.nn.leaky_relu(net.bias(net.conv(image(), "a/conv"), "a/bias"), 0.1)
    y = net.bias(net.conv(y, "b/conv"), "b/bias")
    tf.identity(y * tf.nn.relu6(y + 3) / 6, name="out")


def _transposed_matmul(net):
    y = tf.nn.relu(net.matmul(flat(image()), "a/matmul"))
    weights = constant(net.random("w", (5, 6)), "w")
    tf.nn.relu(tf.raw_ops.MatMul(a=y, b=weights, transpose_b=True, name="b/matmul"), name="out")


def _computed_weights(net):
    y = tf.nn.relu(net.conv(image(), "conv"))
    weights = tf.tanh(constant(net.random("w", (3, 3, 6, 5)), "w"))
    tf.nn.relu(tf.nn.conv2d(y, weights, 1, "SAME", name="computed/conv"), name="out")


def _constant_batch_matmul(net):
    y = tf.nn.relu(net.conv(image(), "conv"))
    weights = constant(net.random("w", (1, 8, 6, 5)), "w")
    tf.nn.relu(tf.raw_ops.BatchMatMulV2(x=y, y=weights), name="out")


def _conv3d(net):
    y = tf.nn.relu(net.conv(image(), "conv"))
    weights = constant(net.random("w", (3, 3, 3, 1, 2)) / 9, "w")
    tf.nn.relu(tf.nn.conv3d(tf.expand_dims(y, 4), weights, [1] * 5, "SAME"), name="out")


def _shared_weights_two_batch_norms(net):
    weights = constant(net.random("w", (3, 3, 4, 4)) / 6, "w")
    y = image()
    for name in ("a", "b"):
        y = tf.nn.conv2d(y, weights, 1, "SAME", name=f"{name}/conv")
        scale = [10, 0.1, 1, 5] if name == "a" else [0.1, 10, 5, 1]
        y = tf.nn.relu(net.batch_norm(y, f"{name}/bn", scale=np.float32(scale)))
    tf.identity(y, name="out")


def _loop(net, body):
    y = tf.nn.relu(net.conv(image(), "conv", channels=4))
    _, y = v1.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, body(net, y)), [tf.constant(0), y])
    tf.nn.relu(net.conv(y, "last/conv"), name="out")


def _conv_in_loop(net, y):
    return tf.nn.relu(net.conv(y, "inner/conv", channels=4))


def _conv_with_bias_in_loop(net, y):
    return tf.nn.relu(net.bias(net.conv(y, "inner/conv", channels=4), "inner/bias"))


def _pool_in_loop(net, y):
    return avg_pool(y, "inner/pool", strides=[1, 1, 1, 1], padding="SAME")


def _in_loop(body):
    def build(net):
        with control_flow_of_tensorflow_1():
            _loop(net, body)

    return build


def _in_functional_loop(net):
    _loop(net, _conv_in_loop)


def _conv_with_outer_weights_in_loop(net):
    with control_flow_of_tensorflow_1():
        weights = constant(net.random("outer", (3, 3, 4, 4)) / 6, "outer")

        def body(net, y):
            return tf.nn.relu(tf.nn.conv2d(y, weights, 1, "SAME", name="inner/conv"))

        _loop(net, body)


def _in_condition(net):
    with control_flow_of_tensorflow_1():
        x = image()
        y = tf.nn.relu(net.conv(x, "conv", channels=4))
        y = v1.cond(
            x[0, 0, 0, 0] > 0,
            lambda: tf.nn.relu(net.bias(net.conv(y, "then/conv", channels=4), "then/bias")),
            lambda: avg_pool(y, "else/pool", strides=[1, 1, 1, 1], padding="SAME"),
        )
        tf.nn.relu(net.conv(y, "last/conv"), name="out")


# What is quantized of it; None: the test does not care which layers of a loop are.
AWKWARD = {
    "add as bias": (lambda net: tf.nn.relu(net.add(net.conv(image(), "conv"), "add", [6]), name="out"), {"conv"}),
    "batch norm as Mul and Add": (_decomposed_batch_norm, {"conv"}),
    "batch norm before conv": (_batch_norm_before, {"conv"}),
    "batch norm in training mode": (_batch_norm_in_training_mode, {"conv"}),
    "conv1d": (_conv1d, {"conv"}),
    "conv used twice": (used_twice, {"conv"}),
    "conv used before the bias": (used_before_the_bias, {"conv"}),
    "dead channel": (_dead_channel, {"conv"}),
    "dead output": (_dead_output, {"dead/conv", "conv"}),
    "deconvolution": (_deconvolution, {"conv", "deconv"}),
    "depthwise multiplier 2": (
        lambda net: tf.nn.relu(net.depthwise(image(), "conv", multiplier=2), name="out"),
        {"conv"},
    ),
    "dilation": (lambda net: tf.nn.relu(net.conv(image(), "conv", dilations=[1, 2, 3, 1]), name="out"), {"conv"}),
    "dilation by SpaceToBatchND": (_dilated_by_space_to_batch, {"conv"}),
    "einsum": (_einsum, {"conv", "einsum/Einsum"}),
    "explicit padding": (_explicit_padding, {"conv"}),
    "Pad before": (_pad_before, {"conv"}),
    "half precision": (_half_precision, {"conv", "half/conv"}),
    "grouped": (lambda net: tf.nn.relu(net.conv(image(), "conv", groups=2), name="out"), {"conv"}),
    "Identity of weights": (_identity_weights, {"conv"}),
    "leaky ReLU and hard swish": (_leaky_and_hard_swish, {"a/conv", "b/conv"}),
    "transposed matmul": (_transposed_matmul, {"a/matmul", "b/matmul"}),
    "computed weights": (_computed_weights, {"conv", "computed/conv"}),
    "BatchMatMul": (_constant_batch_matmul, {"conv", "BatchMatMulV2"}),
    "conv3d": (_conv3d, {"conv", "Conv3D"}),
    "shared weights, two batch norms": (_shared_weights_two_batch_norms, {"a/conv", "b/conv"}),
    "loop": (_in_loop(_conv_in_loop), None),
    "loop, bias": (_in_loop(_conv_with_bias_in_loop), None),
    "loop, AvgPool": (_in_loop(_pool_in_loop), None),
    "loop, weights from outside": (_conv_with_outer_weights_in_loop, None),
    "functional loop": (_in_functional_loop, {"conv", "last/conv"}),
    "condition": (_in_condition, None),
}


@pytest.mark.parametrize("imported", [False, True], ids=["as built", "imported"])
@pytest.mark.parametrize("case", AWKWARD)
def test_awkward_graphs(tmp_path, case, imported):
    """The graph that is calibrated is built in Python, or imported from its .pb."""
    build, quantized = AWKWARD[case]
    feeds = [batch(), -batch()]  # either goes another way through a condition, which must see two batches, too
    deployed = Deployed(build, ["out"], tmp_path, feeds=2 * feeds, batch_num=2, imported=imported)
    if quantized is not None:
        assert set(deployed.quantized) == quantized
    assert len(deployed.of_type("AscendDequant")) == len(deployed.quantized)
    for feed in feeds:
        assert deployed.sqnr(feed) > 25
