"""Which weights are rounded with knowledge of their input, what they share, and what is left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from fusing import plan
from small_models import Deployed, batch, constant, flat, graph_of, image, quantize, run, v1, variable

from amct_tensorflow.config import WeightParams
from amct_tensorflow.graph_passes.calibrate_weights import find_weight_scales
from amct_tensorflow.graph_passes.planning.plan_rounding import InputMoments, Rounding, _most_block, plan_rounding
from amct_tensorflow.graph_passes.workspace import Layer
from amct_tensorflow.record import read_rounding
from amct_tensorflow.stencils import layout_of

DEFAULT = WeightParams(8, "arq_quantize", True, "compensated", True)
NEAREST = dataclasses.replace(DEFAULT, weight_rounding="nearest")
NOT_CORRECTED = dataclasses.replace(DEFAULT, bias_correction=False)
NOTHING = dataclasses.replace(NEAREST, bias_correction=False)


def planned(
    build: Callable[..., Any],
    params: Mapping[str, WeightParams] | None = None,
    *,
    change: Callable[[dict[str, Layer]], None] = lambda layers: None,
    **options: Any,
) -> Rounding:
    """Plans the rounding of a graph; `params` are those of layers that want something else than the default."""
    graph = graph_of(build, **options)
    with graph.as_default():
        workspace, layers = plan(graph)
        find_weight_scales(workspace)
        change(layers)
        return plan_rounding(workspace.layers, lambda name: (params or {}).get(name, DEFAULT))


def names(rounding: Rounding) -> tuple[list[list[str]], list[list[str]]]:
    """Returns the layers of each plan, and those of each of the moments."""
    plans, moments = (
        [[layer.name for layer in item.layers] for item in items] for items in (rounding.plans, rounding.moments)
    )
    return plans, moments


def layers_in_line(net: Any) -> None:
    y = tf.nn.relu(net.bias(net.conv(image(), "conv"), "bias"))
    y = tf.nn.relu(net.depthwise(y, "depthwise"))
    net.matmul(flat(tf.nn.avg_pool2d(y, 2, 2, "VALID")), "fc")


def test_layers_in_line():
    """One plan and one set of moments each; what has no weights has none."""
    rounding = planned(layers_in_line)
    assert names(rounding) == ([["conv"], ["depthwise"], ["fc"]],) * 2
    assert [item.moments for item in rounding.plans] == [[item.name] for item in rounding.moments]
    assert all(item.compensate and item.correct_bias for item in rounding.plans)
    assert [item.stencil is None for item in rounding.moments] == [False, False, True]
    assert rounding.reasons == {} and rounding.most_block == 1024


def test_what_layers_ask_for():
    rounding = planned(layers_in_line, {"conv": NEAREST, "depthwise": NOT_CORRECTED, "fc": NOTHING})
    assert names(rounding) == ([["conv"], ["depthwise"]],) * 2
    assert [(item.compensate, item.correct_bias) for item in rounding.plans] == [(False, True), (True, False)]
    assert rounding.reasons == {}


# -- What layers share -----------------------------------------------------------------------------------------


def attention_head(net: Any) -> None:
    x = flat(image())
    for name in "qkv":
        net.matmul(x, name)


def test_queries_keys_and_values_share_moments():
    plans, moments = names(planned(attention_head))
    assert (plans, moments) == ([["q"], ["k"], ["v"]], [["q", "k", "v"]])


def test_they_share_one_op_of_the_calibration_graph(tmp_path):
    graph = graph_of(attention_head)
    record = quantize(graph, tmp_path, batch_num=1)
    (op,) = [op for op in graph.get_operations() if op.type == "InputMoments"]
    assert [user.type for user in op.outputs[0].consumers()] == ["MatMul"] * 3
    run(graph, ["q:0", "k:0", "v:0"], batch())
    found = read_rounding(record)
    assert set(found) == set("qkv")
    np.testing.assert_array_equal(found["q"].inputs.mean, found["v"].inputs.mean)


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ({}, {"channels": 9}, True),
        ({}, {"size": 1}, False),
        ({}, {"padding": "VALID"}, False),
        ({}, {"strides": [1, 2, 2, 1]}, False),
        ({}, {"dilations": [1, 2, 2, 1]}, False),
        ({}, {"groups": 2}, False),
        ({"size": 1}, {"size": 1, "strides": [1, 2, 2, 1]}, False),
    ],
    ids=["channels", "size", "padding", "strides", "dilations", "groups", "strides of 1x1"],
)
def test_layers_that_see_the_same_input(first, second, shared):
    """They share moments only if they see it in the same way."""

    def build(net):
        x = image()
        net.conv(x, "a", **first)
        net.conv(x, "b", **second)

    assert names(planned(build))[1] == ([["a", "b"]] if shared else [["a"], ["b"]])


def test_a_depthwise_layer_sees_other_groups():
    def build(net):
        x = image()
        net.conv(x, "conv")
        net.depthwise(x, "depthwise")

    assert names(planned(build))[1] == [["conv"], ["depthwise"]]


def test_a_balanced_layer_has_an_input_of_its_own():
    def balance(layers):
        layers["k"].balance = np.ones(256, np.float32)

    assert names(planned(attention_head, change=balance))[1] == [["q", "v"], ["k"]]


def siamese(same_input: bool = False, **second: Any) -> Callable[..., Any]:
    """Two convolutions with the same weights."""

    def build(net):
        inputs = [image("x")] * 2 if same_input else [image("x"), image("y")]
        weights = net.parameter(net.random("w", (3, 3, 4, 6)), "w")
        for name, x, other in zip("ab", inputs, ({}, second), strict=True):
            options = {"strides": [1, 1, 1, 1], "padding": "SAME"} | other
            tf.nn.relu(tf.raw_ops.Conv2D(input=x, filter=weights, name=name, **options), name=f"out_{name}")

    return build


@pytest.mark.parametrize(
    ("same_input", "moments"), [(False, [["a"], ["b"]]), (True, [["a", "b"]])], ids=["two inputs", "one input"]
)
def test_layers_that_share_weights(same_input, moments):
    """One rounding, which knows the moments of both inputs."""
    rounding = planned(siamese(same_input))
    assert names(rounding) == ([["a", "b"]], moments)
    assert [item.moments for item in rounding.plans] == [["a", "a" if same_input else "b"]]


@pytest.mark.parametrize(
    "second",
    [{"padding": "VALID"}, {"strides": [1, 2, 2, 1]}, {"dilations": [1, 2, 2, 1]}],
    ids=["padding", "strides", "dilations"],
)
def test_shared_weights_that_see_their_inputs_in_other_ways(second):
    assert names(planned(siamese(**second))) == ([["a"], ["b"]],) * 2


@pytest.mark.parametrize("other", [NEAREST, NOT_CORRECTED, NOTHING], ids=["nearest", "not corrected", "nothing"])
def test_shared_weights_of_layers_that_ask_for_different_things(other):
    plans, moments = names(planned(siamese(), {"b": other}))
    assert plans == moments == ([["a"]] if other is NOTHING else [["a"], ["b"]])


def test_shared_weights_that_are_variables_or_balanced_are_of_each_layer_alone():
    def balance(layers):
        for layer in layers.values():
            layer.balance = np.ones(4, np.float32)

    assert names(planned(siamese(), parameter=variable)) == ([["a"], ["b"]],) * 2
    assert names(planned(siamese(), change=balance)) == ([["a"], ["b"]],) * 2


def test_shared_weights_share_the_result_and_the_constant(tmp_path):
    feed = {"x": batch(0), "y": 3 * batch(1) + 1}
    deployed = Deployed(siamese(), ["out_a", "out_b"], tmp_path, feeds=[feed])
    found = read_rounding(deployed.record)
    assert found["a"].weights is found["b"].weights
    for name, x in (("a", feed["x"]), ("b", feed["y"])):
        np.testing.assert_allclose(found[name].inputs.mean[4], x.mean(axis=(0, 1, 2)), rtol=1e-4, atol=1e-6)
    (quant,) = deployed.of_type("AscendWeightQuant")
    assert deployed.users(quant.name) == ["a", "b"]
    np.testing.assert_array_equal(deployed.constant(deployed.inputs(quant.name)[0]), found["a"].weights)
    for output in ("out_a", "out_b"):
        assert deployed.sqnr(feed, output) > 30


# -- Biases ----------------------------------------------------------------------------------------------------


def test_a_grouped_convolution_gets_no_bias_that_it_has_not():
    def build(net):
        net.conv(image("x"), "without", groups=2)
        net.bias(net.conv(image("y"), "with", groups=2), "bias")
        net.conv(image("z"), "each_channel", channels=8, groups=4)

    correct = {item.layers[0].name: item.correct_bias for item in planned(build).plans}
    assert correct == {"without": False, "with": True, "each_channel": True}


def matrices(shape: tuple[int | None, ...], weights: tuple[int, ...]) -> Callable[..., Any]:
    def build(net):
        x = v1.placeholder(tf.float32, shape, name="x")
        tf.raw_ops.BatchMatMulV2(x=x, y=constant(net.random("w", weights), "w"), name="layer")

    return build


def test_a_batch_of_matrices_has_one_bias_for_all_and_gets_no_correction():
    (item,) = planned(matrices((None, 3, 5, 6), (3, 6, 4))).plans
    assert (item.layout.groups, item.layout.batched, item.compensate, item.correct_bias) == (3, True, True, False)


# -- What is left out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(None, None, 5, 6), (None, 1, 5, 6), (5, 6), None], ids=str)
def test_data_that_are_no_batch_of_as_many_parts(shape):
    rounding = planned(matrices(shape, (3, 6, 4)))
    assert rounding.plans == rounding.moments == []
    assert rounding.reasons == {"layer": "the data are not a batch of as many parts as its weights"}


@pytest.mark.parametrize("taps", [1024, 1025], ids=str)
def test_a_large_kernel(taps):
    def build(net):
        weights = constant(net.random("w", (taps, 1, 2, 1)), "w")
        tf.nn.conv2d(image(shape=(None, taps, 1, 2)), weights, 1, "SAME", name="conv")

    rounding = planned(build)
    if taps == 1024:
        assert names(rounding) == ([["conv"]],) * 2
    else:
        assert names(rounding) == ([], [])
        assert rounding.reasons == {"conv": "its kernel has 1025 taps, at most 1024 are supported"}


@pytest.mark.parametrize("shape", [(None, 8, 8, None), None], ids=["channels", "rank"])
def test_unknown_channels(shape):
    def build(net):
        weights = constant(net.random("w", (3, 3, 2, 6)), "w")
        tf.nn.conv2d(image(shape=shape), weights, 1, "SAME", name="conv")
        net.conv(image("y"), "other")

    rounding = planned(build)
    assert names(rounding) == ([["other"]],) * 2
    assert rounding.reasons == {"conv": "the number of its input channels is not known"}


def test_a_layer_that_asks_for_nothing_needs_no_reason():
    def build(net):
        weights = constant(net.random("w", (3, 3, 2, 6)), "w")
        tf.nn.conv2d(image(shape=(None, 8, 8, None)), weights, 1, "SAME", name="conv")

    assert planned(build, {"conv": NOTHING}).reasons == {}


# -- Memory ----------------------------------------------------------------------------------------------------


def made_up(*shapes: tuple[int, ...]) -> list[InputMoments]:
    """Moments of layers with weights of these shapes: kernels, or matrices."""
    layouts = [layout_of(shape, (len(shape) - 1,), len(shape) - 2, 1, is_kernel=len(shape) == 4) for shape in shapes]
    return [InputMoments("layer", [], layout, None) for layout in layouts]


@pytest.mark.parametrize(
    ("shapes", "most_block"),
    [
        ([], 1024),
        ([(1024, 8)] * 64, 1024),  # 64 times 4 MB
        ([(1024, 8)] * 65, 512),
        ([(3, 3, 512, 8)] * 14, 1024),  # 4608 inputs in blocks
        ([(3, 3, 512, 8)] * 15, 512),
        ([(200, 8)] * 1600, 1024),  # 160 kB each, in one block
        ([(200, 8)] * 1700, 128),
        ([(4096, 8)] * 200, 64),
        ([(4096, 8)] * 5000, 64),  # and never less
        ([(3, 3, 1, 8)] * 20_000, 1024),
    ],
    ids=lambda value: f"{len(value)} of {value[0]}" if isinstance(value, list) and value else str(value),
)
def test_blocks_get_smaller_until_all_fits(shapes, most_block):
    """The moments of all layers take at most 256 MB, K * min(K, block) floats each."""
    assert _most_block(made_up(*shapes)) == most_block


def test_large_kernels_are_left_out():
    """A block has all taps of a channel: what does not fit is left out, the largest first."""

    def build(net):
        x = image(shape=(None, 64, 64, 200))
        for name, size in (("small", 3), ("large", 31), ("medium", 13)):
            weights = net.parameter(net.random(f"{name}_w", (size, size, 200, 1)), f"{name}_w")
            tf.raw_ops.DepthwiseConv2dNative(input=x, filter=weights, strides=[1, 1, 1, 1], padding="SAME", name=name)

    rounding = planned(build)
    assert names(rounding) == ([["small"], ["medium"]],) * 2
    assert rounding.reasons == {"large": "the second moments of its input would be too large"}
