"""quantize: all steps in one call."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from small_graphs import CONV_NET_LAYERS, batch, conv_net, freeze, load, prepare, run, sqnr

import amct_tensorflow as amct
from amct_tensorflow.errors import AmctError, AmctRuntimeError, AmctTypeError, AmctValueError
from amct_tensorflow.record import read_record

SAMPLES = batch(size=32)


@pytest.fixture
def model(tmp_path) -> str:
    return freeze(conv_net(), tmp_path / "model.pb")


def test_it_does_what_the_four_calls_do(model, tmp_path):
    result = amct.quantize(model, SAMPLES, "out/m", batch_num=2)
    graph = conv_net()
    record = prepare(graph, tmp_path, batch_num=2)
    for at in range(2):
        run(graph, SAMPLES[16 * at : 16 * at + 16])
    amct.save_model(model, ["out"], record, str(tmp_path / "m"))
    for ours, theirs in (
        (result.model, "m_quantized.pb"),
        (result.config_file, "config.json"),
        (result.record_file, "record.txt"),
        (result.rounding_file, "record.txt.safetensors"),
    ):
        assert Path(ours).read_bytes() == (tmp_path / theirs).read_bytes(), ours
    assert sorted(map(str, Path("out").iterdir())) == sorted(result.files)


def test_the_result_knows_what_was_done(model, tmp_path):
    (tmp_path / "quant.cfg").write_text('skip_layers: "head/fc"')
    result = amct.quantize(model, SAMPLES, "out/m", config=tmp_path / "quant.cfg")
    assert (result.inputs, result.outputs, result.data) == (("x:0",), ("out:0",), "32 samples")
    conv, pool, dense = result.layers
    assert [layer.name for layer in result.layers] == CONV_NET_LAYERS
    assert (conv.op_type, conv.reason, conv.factors) == ("Conv2D", None, read_record(result.record_file)["block/conv"])
    assert conv.expected_sqnr > 30 and pool.expected_sqnr is None
    assert result.in_float == (dense,)
    assert (dense.reason, dense.factors) == ("the configuration has no entry for it", None)
    assert sqnr(run(conv_net(), SAMPLES), run(load(result.model), SAMPLES)) > 25
    assert result.notes == ()


def test_a_configuration_that_was_edited(model, tmp_path):
    amct.create_quant_config(str(tmp_path / "config.json"), conv_net())
    config = json.loads((tmp_path / "config.json").read_text())
    config["head/pool"]["quant_enable"] = False
    (tmp_path / "config.json").write_text(json.dumps(config))
    result = amct.quantize(model, SAMPLES, "out/m", config=str(tmp_path / "config.json"), target="onnxruntime")
    assert {layer.name: layer.reason for layer in result.in_float} == {"head/pool": "its quant_enable is false"}
    assert json.loads(Path(result.config_file).read_text())["target"] == "onnxruntime"


def test_models_and_data_of_keras():
    tf.keras.utils.set_random_seed(0)
    keras_model = tf.keras.Sequential(
        [tf.keras.Input((8, 8, 3), name="x"), tf.keras.layers.Conv2D(4, 3), tf.keras.layers.Flatten()]
    )
    dataset = tf.data.Dataset.from_tensor_slices(SAMPLES)
    result = amct.quantize(keras_model, dataset, "out/m", batch_num=2)
    assert (len(result.layers), result.in_float, result.data) == (1, (), "32 samples")
    expected = keras_model(SAMPLES).numpy()
    actual = run(load(result.model), SAMPLES, result.outputs[0])
    assert sqnr(expected, actual) > 30


def test_a_generator_that_is_needed_twice(model, tmp_path):
    """The data balance first, and then calibrate."""
    (tmp_path / "quant.cfg").write_text("common_config { dmq_balancer { migration_strength: 0.5 } }")
    for name, data in (("array", SAMPLES), ("generator", (SAMPLES[at : at + 16] for at in (0, 16)))):
        amct.quantize(model, data, f"out/{name}", batch_num=2, config=str(tmp_path / "quant.cfg"))
    assert Path("out/array_record.txt").read_bytes() == Path("out/generator_record.txt").read_bytes()
    assert read_record("out/array_record.txt")["block/conv"].tensor_balance_factor


def test_an_evaluator(model):
    class Evaluator:
        def calibration(self, graph, outputs):
            assert tf.compat.v1.get_default_graph() is graph and outputs == ["out:0"]
            run(graph, SAMPLES)

    assert amct.quantize(model, Evaluator(), "out/m").data == "Evaluator"
    amct.quantize(model, SAMPLES, "out/other")
    assert Path("out/m_record.txt").read_bytes() == Path("out/other_record.txt").read_bytes()


def test_few_samples_are_worth_a_note(model):
    [note] = amct.quantize(model, SAMPLES[:4], "out/m").notes
    assert note.startswith("4 samples may be too few")


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"data": [SAMPLES[..., :2]]}, AmctValueError, "has the shape [32, 8, 8, 2], but it takes (None, 8, 8, 3)"),
        ({"data": np.full_like(SAMPLES, np.nan)}, AmctRuntimeError, "has invalid value inf or nan"),
        ({"data": [SAMPLES], "batch_num": 2}, AmctValueError, "data has 1 batch, but batch_num is 2"),
        ({"data": iter([SAMPLES]), "batch_num": 2}, AmctValueError, "data has 1 batch, but batch_num is 2"),
        ({"batch_num": 0}, AmctValueError, "batch_num"),
        ({"target": "tpu"}, AmctValueError, "target"),
        ({"config": "nowhere.cfg"}, AmctRuntimeError, "nowhere.cfg"),
        ({"config": "nowhere.json"}, AmctRuntimeError, "nowhere.json"),
        ({"outputs": ["nothing"]}, AmctValueError, "output 'nothing' does not exist"),
        ({"outputs": "out"}, AmctTypeError, "outputs must be a list of op names"),
        ({"outputs": ["x"]}, AmctValueError, "output 'x:0' is an input of the model"),
        ({"signature": "serving_default"}, AmctValueError, "has no signatures"),
        ({"save_path": ""}, AmctValueError, "save_path is empty"),
    ],
)
def test_after_an_error_all_is_as_it_was(model, arguments, kind, words):
    result = amct.quantize(model, SAMPLES, "out/m")
    before = {path: Path(path).read_bytes() for path in result.files}
    with pytest.raises(AmctError) as caught:
        amct.quantize(model, **{"data": SAMPLES, "save_path": "out/m", **arguments})
    assert isinstance(caught.value, kind) and words in str(caught.value)
    assert {str(path): path.read_bytes() for path in Path("out").iterdir()} == before


def test_fake_quantized_models_are_converted_instead(tmp_path):
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [None, 8, 8, 3], name="x")
        y = tf.quantization.fake_quant_with_min_max_args(x, -3, 3)
        tf.nn.conv2d(y, np.ones((3, 3, 3, 4), np.float32), 1, "SAME", name="out")
    with pytest.raises(AmctValueError, match=r"was trained with fake-quant ops.*: call convert_qat_model"):
        amct.quantize(freeze(graph, tmp_path / "model.pb"), SAMPLES, "out/m")
