"""The DMQ passes: a balanced graph computes what it did, and the factors are those of the formula."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from small_models import PARAMETERS, assert_close, batch, constant, flat, graph_of, image, run

from amct_tensorflow.graph.values import Deferred, materialize
from amct_tensorflow.graph_passes.balance_channels import balance_inputs, balance_weights, observe_balance
from amct_tensorflow.graph_passes.performing.rewrite_layers import rewrite_layers
from amct_tensorflow.graph_passes.pipelines import plan_fusions
from amct_tensorflow.graph_passes.workspace import Layer, Workspace
from amct_tensorflow.layers import find_layers
from amct_tensorflow.ops import RecordBook
from amct_tensorflow.record import read_balance_factors

BUILDS = {
    "conv": lambda net: net.conv(image(), "layer"),
    "conv_bn": lambda net: net.batch_norm(net.conv(image(), "layer"), "bn"),
    "grouped": lambda net: net.conv(image(), "layer", channels=6, groups=2),
    "depthwise": lambda net: net.depthwise(image(), "layer", multiplier=3),
    "depthwise_bn": lambda net: net.batch_norm(net.depthwise(image(), "layer", multiplier=2), "bn"),
    "matmul": lambda net: net.bias(net.matmul(flat(image()), "layer"), "bias"),
}


def planned(build, parameter) -> Workspace:
    graph = graph_of(lambda net: tf.nn.relu(build(net), name="out"), parameter)
    with graph.as_default():
        layers = [Layer.of(found, fuse=True, channel_wise=found.channel_wise) for found in find_layers(graph)]
        workspace = Workspace(graph, layers, frozenset(["out"]))
        plan_fusions(workspace)
    return workspace


def weights_of(layer: Layer) -> np.ndarray:
    """The weights with the batch norm, also of variables."""
    if isinstance(layer.weights, Deferred):
        with layer.op.graph.as_default():
            return run(layer.op.graph, layer.weights.build(), {})
    return layer.weights


def largest_per_input(weights: np.ndarray, op_type: str, groups: int) -> np.ndarray:
    """max|W| of each input channel, one after the other."""
    if op_type == "MatMul":
        return np.array([np.abs(row).max() for row in weights])
    inputs, outputs = weights.shape[2:]
    if op_type == "DepthwiseConv2dNative":
        return np.array([np.abs(weights[:, :, channel]).max() for channel in range(inputs)])
    per_group = outputs // groups
    return np.array(
        [
            np.abs(weights[:, :, channel, group * per_group : (group + 1) * per_group]).max()
            for group in range(groups)
            for channel in range(inputs)
        ]
    )


@pytest.mark.parametrize("parameter", PARAMETERS.values(), ids=PARAMETERS)
@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_a_balanced_graph_computes_the_same(build, parameter):
    workspace = planned(build, parameter)
    (layer,) = workspace.layers
    before = run(workspace.graph, "out:0", batch(), remapping=False)
    channels = layer.row.input_channels(layer.op)
    layer.balance = np.exp2(np.random.default_rng(3).uniform(-4, 4, channels)).astype(np.float32)
    with workspace.graph.as_default():
        balance_weights(workspace.layers)
        rewrite_layers(
            workspace,
            lambda workspace, layer: materialize(workspace.graph, layer.weights, "balanced_w"),
            lambda workspace, layer: materialize(workspace.graph, layer.bias, "balanced_b"),
        )
        balance_inputs(workspace)
    assert layer.data.op.type == "Mul"
    np.testing.assert_allclose(
        run(workspace.graph, layer.data, batch(), remapping=False),
        run(workspace.graph, layer.data.op.inputs[0], batch(), remapping=False) / layer.balance,
        rtol=1e-6,
    )
    assert_close(run(workspace.graph, "out:0", batch(), remapping=False), before)


@pytest.mark.parametrize("parameter", PARAMETERS.values(), ids=PARAMETERS)
@pytest.mark.parametrize("build", BUILDS.values(), ids=BUILDS)
def test_the_factors_are_those_of_the_formula(build, parameter, tmp_path):
    workspace = planned(build, parameter)
    (layer,) = workspace.layers
    before = run(workspace.graph, "out:0", batch(), remapping=False)
    groups = layer.row.groups(layer.op)
    weights = largest_per_input(weights_of(layer), layer.op.type, groups)
    data = run(workspace.graph, layer.data, batch(), remapping=False)
    activations = np.abs(data).reshape(-1, data.shape[-1]).max(axis=0)
    book = RecordBook(str(tmp_path / "record.txt"), batch_num=1)
    wanted = {"wants_weights": False, "wants_shift": False, "wants_activation": False, "wants_balance": True}
    book.add_layer("layer", scale_w=None, skip_fusion=False, **wanted)
    observe_balance(workspace, book, 1, {"layer": 0.3})
    np.testing.assert_array_equal(run(workspace.graph, "out:0", batch(), remapping=False), before)
    found = read_balance_factors(tmp_path / "record.txt")["layer"]
    np.testing.assert_allclose(found, activations**0.3 / weights**0.7, rtol=1e-5)
    book.close()


def test_channels_first():
    graph = graph_of(
        lambda net: tf.nn.relu(net.conv(image(shape=(2, 4, 8, 8)), "layer", data_format="NCHW"), name="out"), constant
    )
    (found,) = find_layers(graph)
    layer = Layer.of(found, fuse=True, channel_wise=True)
    layer.balance = np.float32([1, 2, 4, 8])
    workspace = Workspace(graph, [layer], frozenset(["out"]))
    before = layer.weights
    with graph.as_default():
        balance_weights(workspace.layers)
        balance_inputs(workspace)
    np.testing.assert_array_equal(layer.weights, before * layer.balance[:, None])
    reciprocal = tf.get_static_value(layer.data.op.inputs[1])
    np.testing.assert_array_equal(reciprocal, 1 / np.float32([1, 2, 4, 8])[:, None, None])


def test_layers_that_share_their_weights_are_balanced_apart():
    def build(net):
        kernel = constant(net.random("kernel", (3, 3, 4, 5)), "kernel")
        return [tf.nn.conv2d(image(name), kernel, 1, "SAME", name=f"{name}/layer") for name in ("x", "y")]

    graph = graph_of(build, constant)
    layers = [Layer.of(found, fuse=True, channel_wise=True) for found in find_layers(graph)]
    layers[0].balance = np.full(4, 2, np.float32)
    balance_weights(layers)
    np.testing.assert_array_equal(layers[0].weights, 2 * layers[1].weights)
    assert layers[0].weights_key != layers[1].weights_key
