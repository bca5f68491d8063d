"""Fused graphs compute what the float graphs computed, and a fusion that would not is left alone."""

from __future__ import annotations

import ast
import contextlib

import numpy as np
import pytest
import tensorflow as tf
from fusing import fuse, plan, rewrite_in_float
from small_models import (
    PARAMETERS,
    assert_close,
    batch,
    constant,
    flat,
    graph_of,
    image,
    ref_variable,
    run,
    types_behind,
    v1,
)

# -- Every layer with every bias and batch norm --------------------------------------------------------------

LAYERS = {
    "conv VALID": lambda net, x: net.conv(x, "net/layer", padding="VALID"),
    "conv SAME": lambda net, x: net.conv(x, "net/layer"),
    "conv stride": lambda net, x: net.conv(x, "net/layer", strides=[1, 2, 2, 1]),
    "conv dilation": lambda net, x: net.conv(x, "net/layer", dilations=[1, 2, 2, 1]),
    "depthwise": lambda net, x: net.depthwise(x, "net/layer"),
    "depthwise x2": lambda net, x: net.depthwise(x, "net/layer", multiplier=2),
    "matmul": lambda net, x: net.matmul(flat(x), "net/layer"),
}


def _ones_but_channels(y):
    return [*[1] * (y.shape.rank - 1), y.shape[-1]]


BIASES = {
    "no bias": None,
    "BiasAdd": lambda net, y: net.bias(y, "net/bias"),
    "Add scalar": lambda net, y: net.add(y, "net/bias", []),
    "Add C": lambda net, y: net.add(y, "net/bias", [y.shape[-1]]),
    "Add 1...C": lambda net, y: net.add(y, "net/bias", _ones_but_channels(y)),
    "Add swapped": lambda net, y: net.add(y, "net/bias", _ones_but_channels(y), swapped=True),
    "Add of size 1": lambda net, y: net.add(y, "net/bias", [1]),
    "Add of TensorFlow 1": lambda net, y: tf.raw_ops.Add(
        x=y, y=net.parameter(net.random("net/bias", [y.shape[-1]]), "net/bias_b"), name="net/bias"
    ),
}

BATCH_NORMS = {
    "no BN": None,
    "V1": lambda net, y: net.batch_norm(y, "net/bn", "", epsilon=0.01),
    "V2": lambda net, y: net.batch_norm(y, "net/bn", "V2", epsilon=1e-5),
    "V3": lambda net, y: net.batch_norm(y, "net/bn", "V3"),
}


def build_block(net, layer, bias, batch_norm):
    y = LAYERS[layer](net, image())
    if BIASES[bias]:
        y = BIASES[bias](net, y)
    if BATCH_NORMS[batch_norm]:
        if layer == "matmul":
            y = tf.reshape(y, [-1, 1, 1, y.shape[-1]], name="net/reshape")
        y = BATCH_NORMS[batch_norm](net, y)
    tf.negative(y, name="out")


def check_block(layer, bias, batch_norm, parameters):
    graph = graph_of(lambda net: build_block(net, layer, bias, batch_norm), PARAMETERS[parameters])
    layers = fuse(graph, batch())
    absorbed = ["net/layer"]
    absorbed += ["net/bias"] if BIASES[bias] else []
    absorbed += ["net/bn"] if BATCH_NORMS[batch_norm] else []
    assert layers["net/layer"].absorbed == absorbed
    assert layers["net/layer"].unfused_because is None
    types = types_behind(graph, "out")
    assert not [found for found in types if found.startswith(("FusedBatchNorm", "Add"))] or parameters == "variables"
    assert types.count("BiasAdd") == (len(absorbed) > 1)
    assert not [found for found in types if found.startswith("FusedBatchNorm")]


@pytest.mark.parametrize("batch_norm", BATCH_NORMS)
@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("layer", LAYERS)
def test_of_constants(layer, bias, batch_norm):
    check_block(layer, bias, batch_norm, "constants")


@pytest.mark.parametrize("parameters", ["variables", "identities"])
@pytest.mark.parametrize("batch_norm", ["no BN", "V3"])
@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("layer", ["conv SAME", "depthwise x2", "matmul"])
def test_of_other_parameters(layer, bias, batch_norm, parameters):
    check_block(layer, bias, batch_norm, parameters)


@pytest.mark.parametrize("batch_norm", ["no BN", "V3"])
@pytest.mark.parametrize("bias", ["no bias", "BiasAdd", "Add C"])
def test_of_a_grouped_convolution(bias, batch_norm):
    def build(net):
        y = net.conv(image(), "net/layer", groups=2)
        y = BIASES[bias](net, y) if BIASES[bias] else y
        tf.negative(net.batch_norm(y, "net/bn") if batch_norm == "V3" else y, name="out")

    # TensorFlow itself cannot run the op into which grappler fuses a grouped convolution and its bias.
    layers = fuse(graph_of(build), batch(), remapping=False)
    assert len(layers["net/layer"].absorbed) == 1 + (bias != "no bias") + (batch_norm == "V3")


def test_of_ref_variables():
    graph = graph_of(lambda net: build_block(net, "conv SAME", "BiasAdd", "V3"), ref_variable)
    assert fuse(graph, batch())["net/layer"].absorbed == ["net/layer", "net/bias", "net/bn"]


@pytest.mark.parametrize("what", ["weights", "bias", "batch norm"])
def test_of_a_variable_among_constants(what):
    def parameter(value, name):
        kind = {"w": "weights", "b": "bias"}.get(name.rpartition("_")[2], "batch norm")
        return (PARAMETERS["variables"] if kind == what else constant)(value, name)

    graph = graph_of(lambda net: build_block(net, "depthwise x2", "BiasAdd", "V3"), parameter)
    assert fuse(graph, batch())["net/layer"].absorbed == ["net/layer", "net/bias", "net/bn"]


@contextlib.contextmanager
def _scope_of(graph):
    with graph.as_default(), graph.name_scope("callers"):
        yield


@pytest.mark.parametrize("caller", ["eager", "in the graph", "in a scope", "in another graph"])
@pytest.mark.parametrize("parameters", PARAMETERS)
def test_whatever_the_caller_has_active(parameters, caller):
    graph = graph_of(lambda net: build_block(net, "conv SAME", "Add C", "V3"), PARAMETERS[parameters])
    before = run(graph, "out:0", batch())
    manager = {
        "eager": tf.init_scope,
        "in the graph": graph.as_default,
        "in a scope": lambda: _scope_of(graph),
        "in another graph": tf.Graph().as_default,
    }[caller]
    with manager():
        workspace, _ = plan(graph)
        rewrite_in_float(workspace)
    assert_close(run(graph, "out:0", batch()), before)
    assert not [op.name for op in graph.get_operations() if op.name.startswith("callers")]


@pytest.mark.parametrize("epsilon", [0.0, 1e-5, 1e-3])
@pytest.mark.parametrize("layer", ["conv SAME", "depthwise x2", "matmul"])
def test_extreme_batch_norms(layer, epsilon):
    def build(net):
        y = LAYERS[layer](net, image())
        y = tf.reshape(y, [-1, 1, 1, y.shape[-1]]) if layer == "matmul" else y
        channels = y.shape[-1]
        random = np.random.default_rng(5)
        variance = np.geomspace(1e-6, 1e4, channels).astype(np.float32)
        gamma = np.where(np.arange(channels) % 3 == 1, 0, random.normal(size=channels) * 10).astype(np.float32)
        values = {"scale": gamma, "mean": random.normal(size=channels), "offset": random.normal(size=channels) * 100}
        tf.negative(net.batch_norm(y, "net/bn", variance=variance, epsilon=epsilon, **values), name="out")

    layers = fuse(graph_of(build), batch())
    assert layers["net/layer"].absorbed == ["net/layer", "net/bn"]


def test_several_layers_in_a_row():
    def build(net):
        y = image()
        for i in range(3):
            y = net.conv(y, f"block_{i}/conv", channels=4)
            y = net.bias(y, f"block_{i}/bias") if i % 2 else y
            y = net.batch_norm(y, f"block_{i}/bn")
        tf.negative(y, name="out")

    graph = graph_of(build)
    layers = fuse(graph, batch())
    assert [layer.absorbed[-1] for layer in layers.values()] == ["block_0/bn", "block_1/bn", "block_2/bn"]
    assert types_behind(graph, "out").count("Conv2D") == 3


# -- The result stands where the original stood --------------------------------------------------------------


# A batch norm behind a MatMul and a Reshape that is an output is left alone, see below.
@pytest.mark.parametrize(
    ("layer", "batch_norm"),
    [
        ("conv SAME", "no BN"),
        ("conv SAME", "V3"),
        ("depthwise x2", "no BN"),
        ("depthwise x2", "V3"),
        ("matmul", "no BN"),
    ],
)
@pytest.mark.parametrize("bias", ["no bias", "BiasAdd", "Add C"])
def test_an_output_keeps_its_ops_and_a_clone_goes_on(layer, bias, batch_norm):
    """The user's ops still compute the output; consumers read the clone, with the same result."""
    graph = graph_of(lambda net: build_block(net, layer, bias, batch_norm))
    end = graph.get_operation_by_name("out").inputs[0]
    before = run(graph, [end, "out:0"], batch())
    workspace, layers = plan(graph, [end.op.name])
    rewrite_in_float(workspace)
    result = layers["net/layer"].output()
    assert layers["net/layer"].op.name == "net/layer/quantized"
    assert result.op.name not in (end.op.name, "net/layer", "net/bias", "net/bn")
    assert graph.get_operation_by_name("out").inputs[0].name == result.name
    for actual, expected in zip(run(graph, [end, "out:0"], batch()), before, strict=True):
        assert_close(actual, expected)
    assert_close(run(graph, result, batch()), before[0])


def test_all_consumers_get_the_result():
    def build(net):
        y = net.batch_norm(net.conv(image(), "conv", channels=4), "bn")
        tf.negative(y + tf.square(y) * net.conv(y, "second", channels=4), name="out")

    layers = fuse(graph_of(build), batch())
    assert layers["conv"].absorbed == ["conv", "bn"]


def test_a_new_bias_stands_in_the_scope_of_the_layer():
    graph = graph_of(lambda net: build_block(net, "conv SAME", "Add C", "V3"))
    layers = fuse(graph, batch())
    assert layers["net/layer"].output().op.name == "net/bias_add/BiasAdd"
    assert layers["net/layer"].op.name == "net/layer/quantized"


def test_a_bias_add_is_cloned():
    graph = graph_of(lambda net: build_block(net, "conv SAME", "BiasAdd", "V3"))
    assert fuse(graph, batch())["net/layer"].output().op.name == "net/bias/quantized"


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_planning_changes_nothing(parameters):
    graph = graph_of(lambda net: build_block(net, "conv SAME", "Add C", "V3"), PARAMETERS[parameters])
    before = graph.as_graph_def().SerializeToString(deterministic=True)
    with graph.as_default():
        plan(graph)
    assert graph.as_graph_def().SerializeToString(deterministic=True) == before


def test_no_fusion_where_it_is_switched_off():
    graph = graph_of(lambda net: build_block(net, "conv SAME", "BiasAdd", "V3"))
    workspace, layers = plan(graph, fuse=False)
    before = run(graph, "out:0", batch())
    rewrite_in_float(workspace)
    assert layers["net/layer"].absorbed == ["net/layer", "net/bias"]
    assert layers["net/layer"].unfused_because is None
    assert "FusedBatchNormV3" in types_behind(graph, "out")
    assert_close(run(graph, "out:0", batch()), before)


# -- NCHW ----------------------------------------------------------------------------------------------------

CHANNELS_FIRST = (None, 4, 8, 8)


def _nchw_layer(net, kind):
    x = image(shape=CHANNELS_FIRST)
    if kind == "conv":
        return net.conv(x, "net/layer", data_format="NCHW", strides=[1, 1, 2, 2])
    return net.depthwise(x, "net/layer", multiplier=2, data_format="NCHW")


NCHW_BIASES = {
    "no bias": None,
    "BiasAdd": lambda net, y: net.bias(y, "net/bias", data_format="NCHW"),
    "Add scalar": lambda net, y: net.add(y, "net/bias", []),
    "Add 1C11": lambda net, y: net.add(y, "net/bias", [1, y.shape[1], 1, 1]),
    "Add C11 swapped": lambda net, y: net.add(y, "net/bias", [y.shape[1], 1, 1], swapped=True),
}


@pytest.mark.parametrize("batch_norm", ["no BN", "", "V2", "V3"], ids=["no BN", "V1", "V2", "V3"])
@pytest.mark.parametrize("bias", NCHW_BIASES)
@pytest.mark.parametrize("kind", ["conv", "depthwise"])
def test_nchw(kind, bias, batch_norm):
    def build(net):
        y = _nchw_layer(net, kind)
        y = NCHW_BIASES[bias](net, y) if NCHW_BIASES[bias] else y
        y = y if batch_norm == "no BN" else net.batch_norm(y, "net/bn", batch_norm, data_format="NCHW")
        tf.transpose(tf.negative(y), [0, 2, 3, 1], name="out")

    graph = graph_of(build)
    layers = fuse(graph, batch(shape=(4, 4, 8, 8)))
    layer = layers["net/layer"]
    assert layer.data_format == "NCHW"
    assert layer.absorbed == ["net/layer"] + ["net/bias"] * (bias != "no bias") + ["net/bn"] * (batch_norm != "no BN")
    added = [op for op in graph.get_operations() if op.type == "BiasAdd" and op.name == layer.output().op.name]
    assert [op.get_attr("data_format") for op in added] == [b"NCHW"] * (len(layer.absorbed) > 1)
    if layer.bias is not None:
        assert layer.bias.shape == (layer.channels,)


@pytest.mark.parametrize("shape", [[8], [1, 1, 1, 8], [1, 8]], ids=str)
def test_an_addend_along_the_width_of_nchw_is_no_bias(shape):
    def build(net):
        y = net.conv(image(shape=CHANNELS_FIRST), "conv", channels=8, data_format="NCHW")
        y = net.add(y, "add", shape)
        tf.transpose(tf.negative(y), [0, 2, 3, 1], name="out")

    graph = graph_of(build)
    layers = fuse(graph, batch(shape=(4, 4, 8, 8)))
    assert layers["conv"].absorbed == ["conv"]


# -- Left alone ----------------------------------------------------------------------------------------------


def _training(net):
    y = net.conv(image(), "conv")
    outputs = net.batch_norm_outputs(y, "bn", is_training=True, mean=np.float32([]), variance=np.float32([]))
    tf.negative(outputs[0], name="out")


def _used_before_and_after(net):
    y = net.conv(image(), "conv")
    tf.negative(y + net.batch_norm(y, "bn"), name="out")


def _used_by_two_batch_norms(net):
    y = net.conv(image(), "conv")
    tf.negative(net.batch_norm(y, "bn") + net.batch_norm(y, "bn2"), name="out")


def _used_behind_the_bias(net):
    y = net.bias(net.conv(image(), "conv"), "bias")
    tf.negative(tf.nn.relu(y) + net.batch_norm(y, "bn"), name="out")


def _statistics_used(net):
    outputs = net.batch_norm_outputs(net.conv(image(), "conv"), "bn")
    tf.negative(outputs[0] + outputs[1] + outputs[2], name="out")


def _computed(which):
    def build(net):
        y = net.conv(image(), "conv")
        value = tf.exp(v1.placeholder_with_default(np.float32([1, 2, 3, 4, 5, 6]), [6]))
        tf.negative(net.batch_norm(y, "bn", **{which: value}), name="out")

    return build


def _fed(net):
    y = net.conv(image(), "conv")
    tf.negative(net.batch_norm(y, "bn", scale=v1.placeholder_with_default(np.ones(6, np.float32), [6])), name="out")


def _other_data_format(net):
    y = net.conv(image(), "conv", channels=8)
    tf.negative(net.batch_norm(y, "bn", data_format="NCHW"), name="out")


def _zero_variance(net):
    variance = np.float32([1, 1, 0, 1, 1, 1])
    tf.negative(net.batch_norm(net.conv(image(), "conv"), "bn", variance=variance, epsilon=0.0), name="ignored")
    tf.negative(net.conv(image("x2"), "conv2"), name="out")


def _negative_variance(net):
    variance = np.float32([1, 1, -1, 1, 1, 1])
    tf.negative(net.batch_norm(net.conv(image(), "conv"), "bn", variance=variance), name="ignored")


def _overflow(net):
    scale = np.full(6, 1e38, np.float32)
    tf.negative(net.batch_norm(net.conv(image(), "conv"), "bn", scale=scale, variance=np.full(6, 1e-4)), name="ignored")


NOT_FOLDED = {
    "training mode": (_training, "it is in training mode"),
    "used before and after": (_used_before_and_after, "conv is used elsewhere too"),
    "two batch norms": (_used_by_two_batch_norms, "conv is used elsewhere too"),
    "used behind the bias": (_used_behind_the_bias, "bias is used elsewhere too"),
    "statistics used": (_statistics_used, "its statistics are used elsewhere"),
    "computed scale": (_computed("scale"), "its parameters are computed, not constants or variables"),
    "computed offset": (_computed("offset"), "its parameters are computed, not constants or variables"),
    "computed mean": (_computed("mean"), "its parameters are computed, not constants or variables"),
    "computed variance": (_computed("variance"), "its parameters are computed, not constants or variables"),
    "fed scale": (_fed, "its parameters are computed, not constants or variables"),
    "other data_format": (
        _other_data_format,
        "its data_format is NCHW, but the channels before it are along axis 3",
    ),
}


@pytest.mark.parametrize("case", NOT_FOLDED)
def test_a_batch_norm_is_left_alone(case):
    build, reason = NOT_FOLDED[case]
    graph = graph_of(build)
    norms = [kind for kind in types_behind(graph, "out") if kind.startswith("FusedBatchNorm")]
    layers = fuse(graph, batch())
    assert layers["conv"].unfused_because == f"batch norm bn is not folded: {reason}"
    assert not {"bn", "bn2"} & set(layers["conv"].absorbed)
    assert [kind for kind in types_behind(graph, "out") if kind.startswith("FusedBatchNorm")] == norms


@pytest.mark.parametrize(
    "build", [_zero_variance, _negative_variance, _overflow], ids=["zero variance", "negative variance", "overflow"]
)
def test_a_fold_that_is_not_finite_is_left_alone(build):
    graph = graph_of(build)
    weights = graph.get_tensor_by_name("conv_w:0")
    workspace, layers = plan(graph)
    layer = layers["conv"]
    assert layer.unfused_because == "batch norm bn is not folded: the folded parameters are not finite"
    assert (layer.absorbed, layer.bias) == (["conv"], None)
    np.testing.assert_array_equal(layer.weights, tf.make_ndarray(weights.op.get_attr("value")))
    rewrite_in_float(workspace)
    assert "FusedBatchNormV3" in types_behind(graph, "ignored")


@pytest.mark.parametrize("bias", ["no bias", "BiasAdd", "Add C"])
def test_a_batch_norm_behind_an_output_is_left_alone(bias):
    """Also with a bias between: the reason must reach the record, for save_model may have other outputs."""
    graph = graph_of(lambda net: build_block(net, "conv SAME", bias, "V3"))
    before = run(graph, ["net/layer:0", "out:0"], batch())
    workspace, layers = plan(graph, ["net/layer"])
    rewrite_in_float(workspace)
    for actual, expected in zip(run(graph, ["net/layer:0", "out:0"], batch()), before, strict=True):
        assert_close(actual, expected)
    assert layers["net/layer"].absorbed == ["net/layer"]
    assert "net/layer is an output of the model" in (layers["net/layer"].unfused_because or "no reason")


@pytest.mark.parametrize("bias", ["BiasAdd", "Add C"])
def test_a_batch_norm_behind_a_bias_of_a_used_layer_is_left_alone(bias):
    """The layer's result is also used without the bias, so neither bias nor batch norm can be absorbed."""

    def build(net):
        y = net.conv(image(), "net/layer")
        tf.negative(y + net.batch_norm(BIASES[bias](net, y), "net/bn"), name="out")

    layers = fuse(graph_of(build), batch())
    assert layers["net/layer"].absorbed == ["net/layer"]
    assert "net/layer is used elsewhere too" in (layers["net/layer"].unfused_because or "no reason")


def test_a_bias_that_is_an_output_keeps_the_batch_norm():
    graph = graph_of(lambda net: build_block(net, "conv SAME", "BiasAdd", "V3"))
    layers = fuse(graph, batch(), outputs=["net/bias"])
    assert layers["net/layer"].absorbed == ["net/layer", "net/bias"]
    assert layers["net/layer"].unfused_because == "batch norm net/bn is not folded: net/bias is an output of the model"


# Shared weights


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_shared_weights_under_two_batch_norms(parameters):
    """Each layer folds its own batch norm into weights of its own."""

    def build(net):
        x = image()
        weights = net.parameter(net.random("shared", (3, 3, 4, 5)), "shared")
        halves = []
        for name in ("a", "b"):
            y = tf.raw_ops.Conv2D(input=x, filter=weights, strides=[1, 1, 1, 1], padding="SAME", name=f"{name}/conv")
            halves.append(net.batch_norm(y, f"{name}/bn"))
        tf.concat(halves, axis=3, name="out")

    layers = fuse(graph_of(build, PARAMETERS[parameters]), batch())
    assert [layer.absorbed for layer in layers.values()] == [["a/conv", "a/bn"], ["b/conv", "b/bn"]]
    assert layers["a/conv"].weights_key != layers["b/conv"].weights_key


def test_weights_shared_with_a_layer_without_batch_norm():
    def build(net):
        x = image()
        weights = net.parameter(net.random("shared", (3, 3, 4, 4)), "shared")
        conv = {"filter": weights, "strides": [1, 1, 1, 1], "padding": "SAME"}
        plain = tf.raw_ops.Conv2D(input=x, name="plain", **conv)
        normed = net.batch_norm(tf.raw_ops.Conv2D(input=x, name="normed", **conv), "bn")
        tf.concat([plain, normed, tf.broadcast_to(tf.reduce_sum(weights), tf.shape(x))], axis=3, name="out")

    layers = fuse(graph_of(build), batch())
    assert (layers["plain"].absorbed, layers["normed"].absorbed) == (["plain"], ["normed", "bn"])


def test_a_shared_batch_norm_parameter():
    def build(net):
        shared = constant(np.abs(net.random("shared", [4])) + 0.5, "shared")
        y = image()
        for name in ("a", "b"):
            y = net.batch_norm(net.conv(y, f"{name}/conv", channels=4), f"{name}/bn", scale=shared, variance=shared)
        tf.negative(y, name="out")

    layers = fuse(graph_of(build), batch())
    assert [layer.absorbed[-1] for layer in layers.values()] == ["a/bn", "b/bn"]


# Reshape between MatMul and batch norm


def _reshaped(shape, *, version="V3", data_format="NHWC", channels=8):
    def build(net):
        y = net.matmul(flat(image()), "matmul", channels=channels)
        y = tf.reshape(y, shape, name="reshape")
        tf.negative(net.batch_norm(y, "bn", version, data_format=data_format), name="out")

    return build


@pytest.mark.parametrize("shape", [[-1, 1, 1, 8], [4, 1, 1, 8], [-1, 2, 2, 8], [1, 4, 1, 8], [2, -1, 1, 8]], ids=str)
def test_a_reshape_that_keeps_the_channels_last(shape):
    graph = graph_of(_reshaped(shape))
    layers = fuse(graph, batch())
    assert layers["matmul"].absorbed == ["matmul", "bn"]
    assert types_behind(graph, "out").count("Reshape") == 2


@pytest.mark.parametrize("shape", [[-1, 8, 1, 1], [4, 8, 1, 1]], ids=str)
def test_a_reshape_that_puts_the_channels_first(shape):
    graph = graph_of(_reshaped(shape, data_format="NCHW"))
    assert fuse(graph, batch())["matmul"].absorbed == ["matmul", "bn"]


MOVED = {
    "[-1, 2, 2, 2]": "the channels before it are along 3 axes",
    "[2, 1, 1, 16]": "the Reshape reshape before it moves the channels",
}


@pytest.mark.parametrize("shape", MOVED)
def test_a_reshape_that_moves_the_channels(shape):
    layers = fuse(graph_of(_reshaped(ast.literal_eval(shape))), batch())
    assert layers["matmul"].absorbed == ["matmul"]
    assert layers["matmul"].unfused_because == f"batch norm bn is not folded: {MOVED[shape]}"


def test_a_reshape_that_puts_the_channels_beside_the_axis_of_the_batch_norm():
    layers = fuse(graph_of(_reshaped([-1, 1, 8, 1])), batch())
    assert layers["matmul"].absorbed == ["matmul"]
    assert (
        layers["matmul"].unfused_because
        == "batch norm bn is not folded: its data_format is NHWC, but the channels before it are along axis 2"
    )


def test_a_reshape_to_a_computed_shape():
    def build(net):
        y = net.matmul(flat(image()), "matmul", channels=8)
        y = tf.reshape(y, tf.stack([tf.shape(y)[0], 1, 1, 8]), name="reshape")
        tf.negative(net.batch_norm(y, "bn"), name="out")

    layer = fuse(graph_of(build), batch())["matmul"]
    assert (layer.absorbed == ["matmul", "bn"]) == (layer.unfused_because is None)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("matmul", "matmul is an output of the model"),
        ("reshape", "reshape is an output of the model"),
    ],
)
def test_an_output_between_matmul_and_batch_norm(output, reason):
    graph = graph_of(_reshaped([-1, 1, 1, 8]))
    before = run(graph, f"{output}:0", batch())
    layers = fuse(graph, batch(), outputs=[output])
    assert layers["matmul"].absorbed == ["matmul"]
    assert layers["matmul"].unfused_because == f"batch norm bn is not folded: {reason}"
    assert_close(run(graph, f"{output}:0", batch()), before)


def test_a_batch_norm_behind_a_reshape_is_an_output():
    graph = graph_of(_reshaped([-1, 1, 1, 8]))
    before = run(graph, "bn:0", batch())
    layers = fuse(graph, batch(), outputs=["bn"])
    assert layers["matmul"].absorbed == ["matmul", "bn"]
    assert_close(run(graph, "bn:0", batch()), before)
    assert_close(run(graph, graph.get_operation_by_name("out").inputs[0], batch()), before)


def test_a_reshape_that_is_used_elsewhere():
    def build(net):
        y = tf.reshape(net.matmul(flat(image()), "matmul", channels=8), [-1, 1, 1, 8], name="reshape")
        tf.negative(y + net.batch_norm(y, "bn"), name="out")

    layers = fuse(graph_of(build), batch())
    assert layers["matmul"].unfused_because == "batch norm bn is not folded: reshape is used elsewhere too"


def test_a_reshape_behind_a_convolution():
    def build(net):
        y = tf.reshape(net.conv(image(), "conv", channels=8), [-1, 4, 16, 8])
        tf.negative(net.batch_norm(y, "bn"), name="out")

    assert fuse(graph_of(build), batch())["conv"].absorbed == ["conv", "bn"]


# Sums that are no bias


def _residual(net):
    x = image()
    tf.negative(tf.raw_ops.AddV2(x=net.conv(x, "conv", channels=4), y=x, name="add"), name="out")


def _two_layers(net):
    x = image()
    added = tf.raw_ops.AddV2(x=net.conv(x, "conv"), y=net.conv(x, "conv2"), name="add")
    tf.negative(added, name="out")


def _doubled(net):
    y = net.conv(image(), "conv")
    tf.negative(tf.raw_ops.AddV2(x=y, y=y, name="add"), name="out")


def _added(shape, channels=6, **attributes):
    def build(net):
        y = net.conv(image(), "conv", channels=channels, **attributes)
        tf.negative(net.add(y, "add", shape), name="out")

    return build


def _added_to_matmul(shape, channels=6):
    def build(net):
        y = net.matmul(flat(image()), "conv", channels=channels)
        tf.negative(net.add(y, "add", shape), name="out")

    return build


def _fed_bias(net):
    y = net.conv(image(), "conv")
    bias = v1.placeholder_with_default(np.arange(6, dtype=np.float32), [6])
    tf.negative(tf.raw_ops.BiasAdd(value=y, bias=bias, name="add"), name="out")


def _computed_addend(net):
    y = net.conv(image(), "conv")
    addend = tf.exp(v1.placeholder_with_default(np.ones(6, np.float32), [6]))
    tf.negative(tf.raw_ops.AddV2(x=y, y=addend, name="add"), name="out")


def _used_before_the_bias(net):
    y = net.conv(image(), "conv")
    tf.negative(y * net.bias(y, "add"), name="out")


NO_BIAS = {
    "residual": _residual,
    "two layers": _two_layers,
    "itself": _doubled,
    "one value a pixel": _added([1, 8, 8, 1]),
    "one value a row": _added([8, 1, 1]),
    "one value a column": _added([8, 1], channels=8),
    "one value a sample": _added([4, 1, 1, 1]),
    "the whole shape": _added([8, 8, 6]),
    "more samples": _added([5, 1, 1, 6]),
    "more channels": _added([6], channels=1),
    "more pixels": _added([1, 3, 3, 1], size=8, padding="VALID"),
    "higher rank": _added([1, 1, 1, 1, 6]),
    "higher rank, scalar": _added([1, 1, 1, 1, 1]),
    "matmul, one value a sample": _added_to_matmul([4, 1]),
    "matmul, higher rank": _added_to_matmul([1, 1, 6]),
    "matmul, more channels": _added_to_matmul([6], channels=1),
    "fed": _fed_bias,
    "computed": _computed_addend,
    "used before": _used_before_the_bias,
}


@pytest.mark.parametrize("case", NO_BIAS)
def test_a_sum_is_left_alone(case):
    shape = (1, 8, 8, 4) if case == "more samples" else (4, 8, 8, 4)
    layers = fuse(graph_of(NO_BIAS[case]), batch(shape=shape))
    assert layers["conv"].absorbed == ["conv"]
    assert layers["conv"].bias is None


@pytest.mark.parametrize(("layer_format", "bias_format"), [("NHWC", "NCHW"), ("NCHW", "NHWC")], ids=str)
def test_a_bias_along_another_axis_is_no_bias(layer_format, bias_format):
    """BiasAdd has a data_format of its own: here it adds along the height or width, which is as long."""

    def build(net):
        shape = (None, 8, 8, 4) if layer_format == "NHWC" else CHANNELS_FIRST
        y = net.conv(image(shape=shape), "conv", channels=8, data_format=layer_format)
        y = net.batch_norm(net.bias(y, "bias", data_format=bias_format), "bn", data_format=layer_format)
        tf.negative(y, name="out")

    shape = (4, 8, 8, 4) if layer_format == "NHWC" else (4, 4, 8, 8)
    layers = fuse(graph_of(build), batch(shape=shape))
    assert layers["conv"].absorbed == ["conv"]


def test_a_second_bias_is_left_alone():
    def build(net):
        tf.negative(net.bias(net.bias(net.conv(image(), "conv"), "bias"), "bias2"), name="out")

    assert fuse(graph_of(build), batch())["conv"].absorbed == ["conv", "bias"]


def test_a_bias_behind_the_batch_norm_is_left_alone():
    def build(net):
        tf.negative(net.bias(net.batch_norm(net.conv(image(), "conv"), "bn"), "bias"), name="out")

    assert fuse(graph_of(build), batch())["conv"].absorbed == ["conv", "bn"]


def test_a_pool_absorbs_nothing():
    def build(net):
        y = tf.raw_ops.AvgPool(value=image(), ksize=[1, 2, 2, 1], strides=[1, 2, 2, 1], padding="VALID", name="pool")
        tf.negative(net.batch_norm(net.bias(y, "bias"), "bn"), name="out")

    layers = fuse(graph_of(build), batch())
    assert layers["pool"].absorbed == ["pool"]
    assert (layers["pool"].weights, layers["pool"].bias) == (None, None)


def test_a_random_net_with_everything():
    """Random chains of everything above; each stays what it was."""
    for seed in range(12):
        random = np.random.default_rng(seed)

        def build(net, random=random):
            y, older = image(), []
            for i in range(6):
                older.append(y)
                y = net.conv(y, f"b{i}/conv", channels=4) if random.random() < 0.6 else net.depthwise(y, f"b{i}/dw")
                y = [y, net.bias(y, f"b{i}/bias"), net.add(y, f"b{i}/add", [4])][random.integers(3)]
                y = net.batch_norm(y, f"b{i}/bn") if random.random() < 0.7 else y
                y = y + older[random.integers(len(older))] if random.random() < 0.3 else y
                y = tf.nn.relu6(y) if random.random() < 0.5 else y
            tf.identity(y, name="out")

        fuse(graph_of(build), batch())
