"""Models of all kinds on the command line: what is said of them, and which are quantized."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from small_graphs import batch, conv_net, freeze

tf1 = tf.compat.v1


def calibration(model: object, data: object, *options: object) -> tuple[object, ...]:
    return ("calibration", "--model", model, "--save_path", "out/m", "--data_dir", data, *options)


def test_a_layer_that_is_an_output_counts(cli, samples, tmp_path):
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, 8, 8, 3], name="x")
        y = tf.nn.conv2d(x, np.ones((3, 3, 3, 4), np.float32), 1, "SAME", name="first")
        tf.nn.conv2d(y, np.ones((3, 3, 4, 4), np.float32), 1, "SAME", name="last")
    model = freeze(graph, tmp_path / "m.pb")
    assert "2 of 2 layers are quantized\n" in cli(*calibration(model, samples)).out
    options = ("--model", model, "--save_path", "again/m", "--record_file", "out/m_record.txt")
    assert "2 of 2 layers are quantized\n" in cli("convert", *options).out


def test_layers_that_the_outputs_do_not_need(cli, model, samples):
    code, out, err = cli(*calibration(model, samples, "--outputs", "block/relu:0"))
    assert code == 0, err
    assert "1 of 3 layers is quantized, left float:\n  AvgPool head/pool: the outputs do not need it\n" in out
    assert "calibrating 1 layer with" in err


def test_convert_checks_the_number_of_an_output(failing, model):
    options = ("--model", model, "--save_path", "out/m", "--record_file", "r.txt")
    assert "op 'out' has 1 output(s)" in failing("convert", *options, "--outputs", "out:5")


def test_nchw_on_a_cpu(cli, tmp_path):
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, 3, 8, 8], name="x")
        y = tf.nn.conv2d(x, np.ones((3, 3, 3, 4), np.float32), 1, "SAME", data_format="NCHW", name="conv")
        tf.nn.relu(y, name="out")
    np.save(tmp_path / "x.npy", batch(size=16).transpose(0, 3, 1, 2))
    code, out, err = cli(*calibration(freeze(graph, tmp_path / "m.pb"), tmp_path / "x.npy"))
    assert code == 0, err
    assert "1 of 1 layer is quantized\n" in out


@pytest.fixture
def loose(tmp_path) -> str:
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, 8, 8, 3], name="x")
        weights = tf1.get_variable("weights", [3, 3, 3, 4])
        tf.nn.conv2d(x, weights, 1, "SAME", name="out")
    return freeze(graph, tmp_path / "loose.pb")


def test_variables(cli, failing, loose, samples, tmp_path):
    line = failing(*calibration(loose, samples))
    assert "is not frozen, it has variables such as 'weights': give a SavedModel or a Keras file" in line
    assert not (tmp_path / "out").exists()
    assert "It is not frozen: give a SavedModel or a Keras file" in cli("inspect", "--model", loose).out


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("m.h5", b"\x89HDF\r\n\x1a\n", "Keras cannot load"),
        ("m.keras", b"PK\x03\x04", "Keras cannot load"),
        ("saved_model.pb", b"\x08\x01\x12\x05\n", "the SavedModel"),
        ("m.pb", b"<!DOCTYPE html>", "is HTML or XML, not a model"),
        ("m.pb", b"x", "is not a frozen GraphDef"),
    ],
)
@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_damaged_files(failing, tmp_path, command, name, content, words):
    (tmp_path / name).write_bytes(content)
    more = () if command == "inspect" else ("--save_path", "out/m")
    assert words in failing(command, "--model", tmp_path / name, *more)


@pytest.fixture(scope="module")
def keras_model():
    layers = tf.keras.layers
    tf.keras.utils.set_random_seed(0)
    x, end = layers.Input([8, 8, 3], name="x"), layers.Dense(5, name="end")
    return tf.keras.Model(x, end(layers.Flatten()(layers.Conv2D(4, 3, name="first")(x))), name="net")


@pytest.mark.parametrize("form", ["keras", "SavedModel", "pbtxt"])
def test_other_forms(cli, samples, nearest, tmp_path, keras_model, form):
    path, options, end = tmp_path / "model.keras", (), "end:0"
    if form == "keras":
        keras_model.save(path)
    elif form == "SavedModel":
        path, options, end = tmp_path / "model", ("--signature", "serve"), "output_0:0"
        keras_model.export(path, verbose=False)
    else:
        path, end = tmp_path / "model.pbtxt", "out:0"
        path.write_text(str(conv_net().as_graph_def()))
    out = cli("inspect", "--model", path, *options).out
    assert f"{path} is a float model" in out
    assert f'--outputs "{end}"\n  --input_shape "x:32,8,8,3"\n' in out
    code, out, err = cli(*calibration(path, samples, *options, *nearest))
    assert code == 0, err
    assert "layers are quantized\n" in out and "than the float model" in out
    again = ("--save_path", "out/again", "--record_file", "out/m_record.txt")
    code, _, err = cli("convert", "--model", path, *again, *options)
    assert code == 0, err
    with open("out/m_quantized.pb", "rb") as first, open("out/again_quantized.pb", "rb") as second:
        assert first.read() == second.read()


def test_balancing_another_form(cli, samples, tmp_path, keras_model):
    keras_model.save(tmp_path / "model.keras")
    layer = "net_1/first_1/convolution"
    (tmp_path / "dmq.cfg").write_text(
        f'override_layer_configs {{ layer_name: "{layer}" calibration_config {{ dmq_balancer {{ }} }} }}'
    )
    code, out, err = cli(*calibration(tmp_path / "model.keras", samples, "--calibration_config", tmp_path / "dmq.cfg"))
    assert code == 0, err
    assert "2 of 2 layers are quantized\n" in out and "balancing 1 layer" in err


def test_signatures(failing, model, tmp_path, keras_model):
    assert "has no signatures" in failing("inspect", "--model", model, "--signature", "serve")
    keras_model.export(tmp_path / "saved", verbose=False)
    line = failing("inspect", "--model", tmp_path / "saved", "--signature", "servee")
    assert "did you mean 'serve'?; give one of those it has: serve, serving_default" in line


def test_a_wrong_path(failing, model, tmp_path):
    assert "does not exist; did you mean 'model.pb'?" in failing("inspect", "--model", tmp_path / "modell.pb")


@pytest.mark.parametrize("command", ["inspect", "convert", "calibration"])
def test_an_input_is_no_output(failing, model, samples, command):
    more = {
        "inspect": (),
        "convert": ("--save_path", "out/m", "--record_file", "r.txt"),
        "calibration": ("--save_path", "out/m", "--data_dir", samples),
    }[command]
    line = failing(command, "--model", model, "--outputs", "x", *more)
    assert "output 'x:0' is an input of the model" in line


def fake_quantized(folder) -> str:
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, 8], name="x")
        weights = tf.quantization.fake_quant_with_min_max_vars(tf.ones((8, 8)), -1.0, 1.0)
        tf.matmul(x, weights, name="out")
    return freeze(graph, folder / "trained.pb")


def test_a_model_with_fake_quant_ops(cli, failing, samples, tmp_path):
    model = fake_quantized(tmp_path)
    assert "was trained with fake-quant ops" in failing(*calibration(model, samples))
    out = cli("inspect", "--model", model).out
    assert "is a model trained with fake-quant ops" in out and "give the command convert this option:" in out
    assert "can be quantized" not in out and "quantized already" not in out


# What inspect suggests


def suggestions(cli, graph: tf.Graph, folder) -> str:
    return cli("inspect", "--model", freeze(graph, folder / "m.pb")).out.partition("folded into them.\n")[2]


def with_input(dtype: tf.DType, shape: list[int] | None) -> tf.Graph:
    with conv_net().as_default() as graph:
        other = tf1.placeholder(dtype, shape, name="other")
        with tf.control_dependencies([tf.identity(other)]):
            tf.identity(graph.get_tensor_by_name("out:0"), "end")
    return graph


@pytest.mark.parametrize(
    ("dtype", "shape", "words"),
    [(tf.bool, [], "other:0 (a bool scalar)"), (tf.string, [None], "other:0 (string)")],
    ids=["scalar", "string"],
)
def test_inputs_that_no_file_can_feed(cli, tmp_path, dtype, shape, words):
    shown = suggestions(cli, with_input(dtype, shape), tmp_path)
    assert f"No file of data can feed {words}: freeze the model with a constant" in shown
    assert "--evaluator evaluator.py" in shown and "--input_shape" not in shown


def test_an_input_with_a_default_may_be_left_out(cli, tmp_path):
    with conv_net().as_default() as graph:
        keep = tf1.placeholder_with_default(1.0, [], name="keep")
        tf.multiply(graph.get_tensor_by_name("out:0"), keep, "end")
    assert suggestions(cli, graph, tmp_path).endswith('--input_shape "x:32,8,8,3"\n')


def test_sizes_that_the_model_does_not_know(cli, tmp_path):
    shown = suggestions(cli, with_input(tf.float32, [None, None, 3]), tmp_path)
    assert "other:32,?,3" in shown
    assert "The model does not know the sizes that are '?' here" in shown


def test_loops_have_no_natural_outputs(cli, tmp_path):
    with conv_net().as_default() as graph:
        out = graph.get_tensor_by_name("out:0")
        tf.identity(tf.map_fn(lambda row: row * 2, out), name="end")
    assert '--outputs "end:0"\n' in suggestions(cli, graph, tmp_path)


def test_a_model_without_layers(cli, tmp_path):
    with tf.Graph().as_default() as graph:
        tf.nn.relu(tf1.placeholder(tf.float32, [1], name="x"), name="out")
    out = cli("inspect", "--model", freeze(graph, tmp_path / "m.pb")).out
    assert "It has no layer of a type that can be quantized." in out
