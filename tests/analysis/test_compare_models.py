"""compare_models: what each layer of an int8 model differs by from the float model."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, assume, given, settings
from random_graphs import random_nets
from small_models import Deployed, Net, batch, flat, image, load, run, small_net, sqnr

import amct_tensorflow as amct
from amct_tensorflow.errors import AmctError, AmctRuntimeError, AmctTypeError, AmctValueError

v1 = tf.compat.v1
DATA = np.concatenate([batch(at) for at in range(3)])


def compared(deployed: Deployed, data=None, **options):
    """The comparison, and its layers by name."""
    found = amct.compare_models(deployed.pb, str(deployed.file), DATA if data is None else data, **options)
    return found, {layer.name: layer for layer in found.layers}


def expect(difference, reference, actual):
    """Checks a difference against plain NumPy."""
    apart = np.abs(actual.astype(np.float64) - reference)
    np.testing.assert_allclose(difference.sqnr, sqnr(reference, actual), atol=1e-3)
    np.testing.assert_allclose(difference.largest, apart.max(), rtol=1e-4)
    np.testing.assert_allclose(difference.mean, apart.mean(), rtol=1e-4)


def test_against_numpy(tmp_path):
    """Tensors that are fetched one by one; for the own errors, int8 layers are fed with what the float model has."""
    deployed = Deployed(small_net, ["out"], tmp_path)
    found, layers = compared(deployed)
    assert [layer.name for layer in found.layers] == ["a/conv", "b/depthwise", "pool", "fc/matmul"]
    inputs = {"a/conv": "x:0", "b/depthwise": "a/relu:0", "pool": "b/relu:0", "fc/matmul": "flat:0"}
    for name, fed in inputs.items():
        layer = layers[name]
        end = deployed.info[f"{name.partition('/')[0] + '/' if '/' in name else ''}dequant/AscendDequant"]["name"]
        reference = run(deployed.float_graph, layer.tensor, DATA)
        expect(layer.accumulated, reference, run(deployed.graph, f"{end}:0", DATA))
        of_float = run(deployed.float_graph, fed, DATA)
        # Its input may have become int8 on the way: the Relu is fed in reals.
        expect(layer.own, reference, run(deployed.graph, f"{end}:0", {"x": DATA, fed: of_float}))
        record = deployed.records[name]
        steps = run(deployed.graph, fed, DATA).astype(np.float64) / record.scale_d + record.offset_d
        clipped = np.mean((np.round(steps) > 127) | (np.round(steps) < -128))
        assert layer.saturated == pytest.approx(clipped, abs=1e-3)
    assert layers["a/conv"].tensor == "a/bn:0"
    assert found.samples == 12
    [output] = found.outputs
    scores = [run(graph, "out:0", DATA) for graph in (deployed.float_graph, deployed.graph)]
    expect(output.difference, *scores)
    assert output.agreement == np.mean(scores[0].argmax(1) == scores[1].argmax(1))


def test_batches_make_no_difference(tmp_path):
    deployed = Deployed(small_net, ["out"], tmp_path)
    whole, parts = (compared(deployed, data)[0] for data in (DATA, [DATA[:4], DATA[4:5], DATA[5:]]))
    assert whole.samples == parts.samples == 12
    for first, second in zip(whole.layers, parts.layers, strict=True):
        assert first.own.sqnr == pytest.approx(second.own.sqnr, abs=1e-4)
        assert first.accumulated.largest == pytest.approx(second.accumulated.largest, rel=1e-5)
        assert first.saturated == pytest.approx(second.saturated, abs=1e-9)
    assert whole.outputs[0].agreement == parts.outputs[0].agreement


def test_all_data_are_used_unless_told_otherwise(tmp_path):
    deployed = Deployed(small_net, ["out"], tmp_path)
    many = np.concatenate([batch(at) for at in range(9)])  # 36: one batch of 32, one of 4
    assert compared(deployed, many)[0].samples == 36
    assert compared(deployed, iter([DATA, DATA]))[0].samples == 24
    assert compared(deployed, iter([DATA, DATA]), batch_num=1)[0].samples == 12
    np.save(tmp_path / "x.npy", many)
    assert compared(deployed, tmp_path / "x.npy")[0].samples == 36
    assert compared(deployed, tf.data.Dataset.from_tensor_slices(many))[0].samples == 36


def test_the_worst_come_first(tmp_path):
    found, _ = compared(Deployed(small_net, ["out"], tmp_path))
    own = [layer.own.sqnr for layer in found.worst_first]
    assert own == sorted(own) and len(own) == 4
    saved = json.loads(found.to_json())
    assert [layer["name"] for layer in saved["layers"]] == [layer.name for layer in found.worst_first]
    assert saved["samples"] == 12 and saved["outputs"][0]["name"] == "out:0"
    found.save(str(tmp_path / "found.json"))
    assert json.loads((tmp_path / "found.json").read_text()) == saved


def test_an_int8_model_beside_itself_and_another(tmp_path):
    (tmp_path / "other").mkdir()
    first = Deployed(small_net, ["out"], tmp_path)
    second = Deployed(small_net, ["out"], tmp_path / "other", activation_offset=False, skip_layers=["pool"])
    same = amct.compare_models(str(first.file), str(first.file), DATA)
    assert len(same.layers) == 4
    for layer in same.layers:
        assert (layer.own.sqnr, layer.accumulated.sqnr, layer.own.largest) == (math.inf, math.inf, 0)
    assert json.loads(same.to_json())["layers"][0]["own"]["sqnr"] is None
    found = amct.compare_models(str(first.file), str(second.file), DATA)
    assert [layer.name for layer in found.layers] == ["a/conv", "b/depthwise", "fc/matmul"]
    expect(found.outputs[0].difference, *(run(graph, "out:0", DATA) for graph in (first.graph, second.graph)))


def residual(net):
    stream = tf.nn.relu(net.bias(net.conv(image(), "stem"), "stem/bias"))
    y = net.bias(net.conv(tf.nn.relu(net.batch_norm(net.conv(stream, "a"), "bn")), "b"), "b/bias")
    y = tf.nn.max_pool2d(tf.nn.relu(y + stream, name="sum"), 2, 2, "VALID")
    tf.identity(net.conv(y, "last"), name="out")


@pytest.mark.parametrize(
    "options", [{}, {"target": "onnxruntime"}, {"joint_quant": True}, {"skip_layers": ["a"]}, {"do_fusion": False}]
)
def test_own_errors_are_small_whatever_stands_between(tmp_path, options):
    deployed = Deployed(residual, ["out"], tmp_path, **options)
    _, layers = compared(deployed)
    assert set(layers) == {"stem", "a", "b", "last"} - set(options.get("skip_layers", ()))
    assert min(layer.own.sqnr for layer in layers.values()) > 30
    assert layers["stem"].own == layers["stem"].accumulated
    assert layers["last"].own.sqnr > layers["last"].accumulated.sqnr


def test_layers_with_two_activations(tmp_path):
    def build(net):
        x = flat(image(), "x2")
        a, b = (tf.reshape(net.matmul(x, name, 16), [-1, 4, 4]) for name in ("a", "b"))
        tf.matmul(a, b, name="product")
        tf.identity(v1.get_default_graph().get_tensor_by_name("product:0"), name="out")

    _, layers = compared(Deployed(build, ["out"], tmp_path))
    assert set(layers) == {"a", "b", "product"}
    assert layers["product"].own.sqnr > 25
    assert layers["product"].saturated < 0.01


def test_several_inputs_and_outputs(tmp_path):
    def build(net):
        x, y = image(), v1.placeholder(tf.int32, [None, 5], name="y")
        tf.identity(net.conv(x, "a"), name="first")
        tf.split(net.matmul(tf.cast(y, tf.float32), "b"), 2, axis=1, name="second")
        tf.strings.as_string(y, name="text")

    feeds = {"x": batch(), "y": np.arange(20).reshape(4, 5)}
    deployed = Deployed(build, ["first", "second", "text"], tmp_path, feeds=[feeds])
    found, _ = compared(deployed, feeds, outputs=["second:1", "first"])
    assert [output.name for output in found.outputs] == ["second:1", "first:0"]
    assert [output.agreement is None for output in found.outputs] == [False, True]
    with pytest.raises(AmctValueError, match="output 'text:0' is of string, and cannot be compared: name others"):
        compared(deployed, feeds, outputs=["text"])


def test_layers_that_the_outputs_do_not_need_are_left_out(tmp_path):
    def build(net):
        tf.identity(net.conv(image(), "a"), name="first")
        tf.identity(net.conv(image("y"), "b"), name="second")

    deployed = Deployed(build, ["first", "second"], tmp_path, feeds=[{"x": batch(), "y": batch(1)}])
    _, layers = compared(deployed, outputs=["first"])
    assert set(layers) == {"a"}


def test_any_graph(tmp_path_factory):
    @settings(max_examples=10, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(random_nets())
    def check(net):
        with tf.Graph().as_default():
            net(Net())
        try:
            deployed = Deployed(net, net.outputs, tmp_path_factory.mktemp("graph"))
        except AmctRuntimeError as error:
            assume("nothing would be quantized" not in str(error))
            raise
        found = amct.compare_models(deployed.pb, str(deployed.file), batch(), net.outputs)
        needed = set(deployed.quantized) & deployed.nodes.keys()
        assert {layer.name for layer in found.layers} == {name for name in needed if ":" not in name}
        assert all(layer.own.sqnr > 20 for layer in found.layers), found.layers
        same = amct.compare_models(str(deployed.file), str(deployed.file), batch(), net.outputs)
        assert all(layer.own.sqnr == layer.accumulated.sqnr == math.inf for layer in same.layers)

    check()


def test_nodes_of_another_order_run_in_step(tmp_path):
    """Two branches, whose layers wait for one another in no circle."""

    def build(net):
        x = image()
        left = right = x
        for at in range(4):
            left, right = net.conv(left, f"left{at}", 4), net.conv(right, f"right{at}", 4)
        z = net.conv(tf.concat([right, left], 3), "both", 4)
        tf.identity(net.conv(z + left, "last", 4), name="out")

    _, layers = compared(Deployed(build, ["out"], tmp_path))
    assert len(layers) == 10


# Errors


@pytest.fixture
def pair(tmp_path) -> tuple[str, Path]:
    deployed = Deployed(small_net, ["out"], tmp_path)
    return deployed.pb, deployed.file


def refused(kind, words, *arguments, **options):
    with pytest.raises(AmctError) as caught:
        amct.compare_models(*arguments, **options)
    assert isinstance(caught.value, kind), caught.value
    assert words in str(caught.value)


def test_bad_arguments(pair, tmp_path):
    model, quantized = pair
    refused(AmctTypeError, "argument quantized_model must be str", model, v1.Graph(), DATA)
    refused(AmctValueError, "is not called …quantized.pb: pass the int8 model", model, model, DATA)
    refused(AmctValueError, "does not exist", "nowhere.pb", quantized, DATA)
    refused(AmctValueError, "does not exist", model, str(tmp_path / "no_quantized.pb"), DATA)
    refused(AmctValueError, "output 'nothing' does not exist", model, quantized, DATA, ["nothing"])
    refused(AmctValueError, "batch_num is 0: give a number above 0", model, quantized, DATA, batch_num=0)
    refused(AmctTypeError, "data must be arrays", model, quantized, 3)
    refused(AmctValueError, "has the shape", model, quantized, DATA[:, :3])
    endless = tf.data.Dataset.from_tensors(DATA).repeat()
    refused(AmctValueError, "data is a tf.data.Dataset without end", model, quantized, endless)
    words = "is an int8 model: pass its path, with its …quant.json beside it"
    refused(AmctValueError, words, load(quantized), quantized, DATA)


def test_models_that_do_not_belong_together(pair, tmp_path):
    model, quantized = pair
    (tmp_path / "other").mkdir()

    def build(net):
        tf.identity(net.conv(image(), "other/conv"), name="out")

    other = Deployed(build, ["out"], tmp_path / "other")
    refused(AmctValueError, "was not made of", other.pb, quantized, DATA)
    shutil.copy(tmp_path / "model_quant.json", tmp_path / "other" / "model_quant.json")
    refused(AmctValueError, "does not belong to", model, str(other.file), DATA)


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[]", b'{"graph": [{"op": [{"attr": [{}]}]}]}', b"\xff"])
def test_a_mapping_that_cannot_be_read(pair, content):
    model, quantized = pair
    mapping = Path(str(quantized).replace("quantized.pb", "quant.json"))
    mapping.unlink()
    words = "cannot be read"
    if content is not None:
        mapping.write_bytes(content)
        words = "is not a mapping of nodes as save_model writes it"
    refused(AmctRuntimeError, words, model, quantized, DATA)


def test_data_that_the_model_cannot_run_on(tmp_path):
    def build(net):
        x = image(shape=(None, None, None, 4))
        tf.reshape(net.conv(x, "a"), [-1, 64, 6], name="out")

    deployed = Deployed(build, ["out"], tmp_path)
    refused(AmctRuntimeError, "cannot run on the data: ", deployed.pb, deployed.file, batch(shape=(1, 7, 7, 4)))
