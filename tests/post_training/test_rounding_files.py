"""The file beside the record, from quantize_model to the int8 model: what it is good for, and what becomes without."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from small_graphs import configure, freeze, load, run, sqnr

import amct_tensorflow as amct
from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.record import read_rounding

tf1 = tf.compat.v1

NEAREST = "weight_rounding: nearest bias_correction: false"


def constant(value: np.ndarray, name: str) -> tf.Tensor:
    return tf.constant(value, name=name)


def net(seed: int = 0, parameter: Callable[[np.ndarray, str], tf.Tensor] = constant) -> tf.Graph:
    """x [?, 8, 8, 3] -> conv -> bias, ReLU -> depthwise -> bias, ReLU -> fc: MatMul -> out, of correlated channels."""
    random = np.random.default_rng(seed)

    def made(name: str, *shape: int) -> tf.Tensor:
        return parameter(random.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(shape[0])), name)

    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, 8, 8, 3], name="x")
        y = tf.nn.conv2d(x, made("conv/w", 3, 3, 3, 12), 1, "SAME", name="conv")
        y = tf.nn.relu(tf.nn.bias_add(y, made("conv/b", 12)))
        y = tf1.nn.depthwise_conv2d_native(y, made("depthwise/w", 3, 3, 12, 1), [1, 1, 1, 1], "SAME", name="depthwise")
        y = tf.nn.relu(tf.nn.bias_add(y, made("depthwise/b", 12)))
        y = tf.matmul(tf.reshape(y, [-1, 8 * 8 * 12]), made("fc/w", 8 * 8 * 12, 5), name="fc")
        tf.identity(y, name="out")
    return graph


LAYERS = ("conv", "depthwise", "fc")


def images(seed: int = 0) -> np.ndarray:
    """Smooth images, whose neighbouring pixels and channels have much in common."""
    random = np.random.default_rng([9, seed])
    coarse = random.standard_normal((16, 4, 4, 3)) + 2 * random.standard_normal((16, 1, 1, 1))
    return (coarse.repeat(2, axis=1).repeat(2, axis=2) + 0.1 * random.standard_normal((16, 8, 8, 3))).astype(np.float32)


def calibrate(folder: Path, graph: tf.Graph, text: str = "", batches: int = 2) -> str:
    """create_quant_config, quantize_model and calibrate; returns the record's path."""
    folder.mkdir(exist_ok=True)
    config = configure(graph, folder, f"batch_num: {batches} {text}")
    amct.quantize_model(graph, config, str(folder / "record.txt"))
    amct.calibrate(graph, ["out"], [images(seed) for seed in range(batches)])
    return str(folder / "record.txt")


def save(folder: Path, record: str, graph: tf.Graph | None = None) -> Path:
    """save_model; returns the path of the int8 model."""
    model = freeze(net() if graph is None else graph, folder / "model.pb")
    amct.save_model(model, ["out"], record, str(folder / "int8"))
    return folder / "int8_quantized.pb"


def beside(record: str) -> Path:
    return Path(f"{record}.safetensors")


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory) -> Path:
    """A folder with the record, and the file beside it, of `net`."""
    folder = tmp_path_factory.mktemp("calibrated")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        calibrate(folder, net())
    return folder


@pytest.fixture
def record(calibrated, tmp_path) -> str:
    """A copy of them."""
    for name in ("record.txt", "record.txt.safetensors"):
        shutil.copy(calibrated / name, tmp_path / name)
    return str(tmp_path / "record.txt")


@pytest.fixture(scope="module")
def nearest_model(calibrated, tmp_path_factory) -> bytes:
    """The int8 model of the record alone."""
    folder = tmp_path_factory.mktemp("nearest")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        shutil.copy(calibrated / "record.txt", folder)
        return save(folder, str(folder / "record.txt")).read_bytes()


@pytest.fixture
def warnings(capsys) -> Callable[[], list[str]]:
    """Returns the messages of the warnings since the last call."""
    return lambda: re.findall(r"WARNING - \[AMCT\]:\[\w+\]: (.*)", capsys.readouterr().err)


# -- With the file ---------------------------------------------------------------------------------------------


def dense_net() -> tf.Graph:
    """x [?, 8, 8, 3] -> MatMul with a bias -> out: most of its int8 error is that of its weights."""
    random = np.random.default_rng(0)
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, 8, 8, 3], name="x")
        weights = random.standard_t(4, (192, 16)).astype(np.float32)
        y = tf.matmul(tf.reshape(x, [-1, 192]), tf.constant(weights), name="fc")
        tf.nn.bias_add(y, np.ones(16, np.float32), name="out")
    return graph


def test_less_error_than_with_the_nearest_integers(tmp_path):
    unseen = np.concatenate([images(seed) for seed in range(100, 120)])
    reference = run(dense_net(), unseen)
    found = {}
    for name, text in {"default": "", "nearest": NEAREST}.items():
        record = calibrate(tmp_path / name, dense_net(), text, batches=32)
        found[name] = sqnr(reference, run(load(save(tmp_path / name, record, dense_net())), unseen))
    assert found["default"] > found["nearest"] + 3


@pytest.mark.parametrize("rounding", ["compensated", "nearest"])
@pytest.mark.parametrize("correction", ["true", "false"])
def test_what_the_file_has(tmp_path, rounding, correction):
    record = calibrate(tmp_path, net(), f"weight_rounding: {rounding} bias_correction: {correction}")
    found = read_rounding(record)
    assert set(found) == set(LAYERS)
    for layer in found.values():
        if (rounding, correction) == ("nearest", "false"):
            assert layer is None
        else:
            assert (layer.weights is not None) == (rounding == "compensated")
            assert (layer.bias is not None) == (correction == "true")


def test_the_record_is_the_same_whatever_the_rounding(tmp_path):
    """Byte for byte: nothing in it depends on it."""
    texts = {"both": "", "none": NEAREST, "integers": "bias_correction: false", "biases": "weight_rounding: nearest"}
    records = [Path(calibrate(tmp_path / name, net(), text)).read_bytes() for name, text in texts.items()]
    assert len(set(records)) == 1


def test_the_model_has_the_integers_of_the_file(record, tmp_path):
    found = read_rounding(record)
    constants = {
        op.name: tf.make_ndarray(op.get_attr("value"))
        for op in load(save(tmp_path, record)).get_operations()
        if op.type == "Const"
    }
    int8 = [value for value in constants.values() if value.dtype == np.int8 and value.any()]
    for name in LAYERS:
        assert any(np.array_equal(value, found[name].weights) for value in int8)


def test_no_warnings(record, tmp_path, warnings):
    save(tmp_path, record)
    assert warnings() == []


def test_other_settings_for_one_layer(tmp_path):
    """override_layer_configs has the last word."""
    text = """
        override_layer_configs { layer_name: "conv" calibration_config {
            arq_quantize { weight_rounding: nearest bias_correction: false } } }
    """
    found = read_rounding(calibrate(tmp_path, net(), text))
    assert found["conv"] is None and found["fc"].weights is not None and found["fc"].bias is not None


# -- Without it, or with another one ---------------------------------------------------------------------------


def assert_nearest(folder: Path, record: str, expected: bytes, warnings: Callable[[], list[str]]) -> str:
    """Saves the model, which must be that of the nearest integers; returns the one warning."""
    warnings()
    assert save(folder, record).read_bytes() == expected
    (warning,) = warnings()
    return warning


def test_the_nearest_model_is_that_of_the_nearest_configuration(tmp_path, nearest_model):
    assert save(tmp_path, calibrate(tmp_path, net(), NEAREST)).read_bytes() == nearest_model


def test_without_the_file(record, tmp_path, nearest_model, warnings):
    beside(record).unlink()
    warning = assert_nearest(tmp_path, record, nearest_model, warnings)
    assert warning.startswith(f"{beside(record)} does not exist, so weights are rounded to the nearest integers")


@pytest.mark.parametrize("size", [0, 7, 8, 100, -1])
def test_with_a_damaged_file(record, tmp_path, nearest_model, warnings, size):
    beside(record).write_bytes(beside(record).read_bytes()[:size])
    warning = assert_nearest(tmp_path, record, nearest_model, warnings)
    assert warning.startswith(f"{beside(record)} is damaged, so weights are rounded to the nearest integers")


def test_with_a_folder_in_its_place(record, tmp_path, nearest_model, warnings):
    beside(record).unlink()
    beside(record).mkdir()
    assert "cannot be read (Is a directory)" in assert_nearest(tmp_path, record, nearest_model, warnings)


def test_with_the_file_of_other_weights(record, tmp_path, nearest_model, warnings):
    """A network of the same form: every layer is named."""
    other = calibrate(tmp_path / "other", net(1))
    shutil.copy(beside(other), beside(record))
    warning = assert_nearest(tmp_path, record, nearest_model, warnings)
    assert warning.startswith("3 layer(s) are rounded to the nearest integers")
    assert all(f"{name}: " in warning for name in LAYERS)


def test_one_layer_has_other_weights(record, tmp_path, warnings):
    """The others keep their integers."""

    def changed(value: np.ndarray, name: str) -> tf.Tensor:
        return constant(value * np.float32([1, 1, 1.01, 1, 1]) if name == "fc/w" else value, name)

    found = read_rounding(record)
    graph = load(save(tmp_path, record, net(parameter=changed)))
    (warning,) = warnings()
    assert warning.startswith("1 layer(s) are rounded to the nearest integers") and "fc: its weights" in warning
    int8 = [tf.make_ndarray(op.get_attr("value")) for op in graph.get_operations() if op.type == "Const"]
    kept = {name: any(np.array_equal(value, found[name].weights) for value in int8) for name in LAYERS}
    assert kept == {"conv": True, "depthwise": True, "fc": False}


def test_a_record_that_was_edited(record, tmp_path, warnings):
    """Its factors count, and the integers that were found with others do not."""
    text = Path(record).read_text()
    scale = re.search(r"scale_d: (\S+)", text).group(1)
    Path(record).write_text(text.replace(scale, str(1.5 * float(scale)), 1))
    save(tmp_path, record)
    (warning,) = warnings()
    assert "1 layer(s)" in warning and "conv: scale_d or offset_d of its record was changed" in warning


def test_a_new_quantize_model_removes_the_file(record, tmp_path):
    """What is there would be of an earlier calibration."""
    graph = net()
    amct.quantize_model(graph, configure(graph, tmp_path), record)
    assert not beside(record).exists()


def checkpoint() -> bytes:
    """A file of the same form, as others write it."""
    header = b'{"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    return len(header).to_bytes(8, "little") + header + bytes(4)


@pytest.mark.parametrize("job", [amct.quantize_model, amct.quantize_preprocess])
@pytest.mark.parametrize("content", [checkpoint(), b"", b"{}"], ids=["checkpoint", "empty", "JSON"])
def test_a_file_of_somebody_else_in_its_place(tmp_path, job, content):
    """Nothing is taken away or written."""
    graph, record = net(), str(tmp_path / "model")
    config = configure(graph, tmp_path)
    beside(record).write_bytes(content)
    before, nodes = sorted(tmp_path.iterdir()), graph.as_graph_def()
    words = f"^{beside(record)} is in the place of .* beside {record}, but .*: move it, or choose another record_file$"
    with pytest.raises(AmctValueError, match=words):
        job(graph, config, record)
    assert beside(record).read_bytes() == content
    assert sorted(tmp_path.iterdir()) == before and graph.as_graph_def() == nodes


def test_a_folder_of_somebody_else_in_its_place(tmp_path):
    graph, record = net(), str(tmp_path / "model")
    config = configure(graph, tmp_path)
    beside(record).mkdir()
    with pytest.raises(AmctValueError, match=r"move it, or choose another record_file$"):
        amct.quantize_model(graph, config, record)
    assert beside(record).is_dir() and not Path(record).exists()


def test_a_config_file_in_its_place(tmp_path):
    graph, record = net(), str(tmp_path / "config")
    config = Path(configure(graph, tmp_path)).rename(beside(record))
    before = config.read_bytes()
    with pytest.raises(AmctValueError, match=r"move it, or choose another record_file$"):
        amct.quantize_model(graph, str(config), record)
    assert config.read_bytes() == before and not Path(record).exists()


@pytest.mark.parametrize("name", ["r" * 233, "ü" * 117, "r" * 300], ids=["bytes", "UTF-8", "far"])
def test_a_name_without_room_for_the_ending(tmp_path, name):
    """Found before anything is written, not with the last batch."""
    graph = net()
    config = configure(graph, tmp_path)
    with pytest.raises(AmctValueError, match=r"has \d+ bytes, but at most 232 .*: choose a shorter record_file$"):
        amct.quantize_model(graph, config, str(tmp_path / "new" / name))
    assert not (tmp_path / "new").exists()


def test_the_longest_name(calibrated, tmp_path):
    graph, record = net(), str(tmp_path / ("r" * 232))
    amct.quantize_model(graph, configure(graph, tmp_path, "batch_num: 2"), record)
    amct.calibrate(graph, ["out"], [images(0), images(1)])
    assert beside(record).read_bytes() == beside(str(calibrated / "record.txt")).read_bytes()


# -- convert_model ---------------------------------------------------------------------------------------------


def convert(folder: Path, record: str) -> bytes:
    amct.convert_model(freeze(net(), folder / "model.pb"), ["out"], record, str(folder / "converted"))
    return (folder / "converted_quantized.pb").read_bytes()


def test_convert_model_rounds_to_the_nearest_and_says_so(record, tmp_path, nearest_model, warnings):
    assert convert(tmp_path, record) == nearest_model
    (warning,) = warnings()
    assert warning.startswith("weights are rounded to the nearest integers") and "only save_model takes" in warning
    assert str(beside(record)) in warning


def test_convert_model_without_the_file_is_silent(record, tmp_path, nearest_model, warnings):
    beside(record).unlink()
    assert convert(tmp_path, record) == nearest_model
    assert warnings() == []


def test_convert_model_of_a_calibration_that_found_nothing_is_silent(tmp_path, nearest_model, warnings):
    record = calibrate(tmp_path, net(), NEAREST)
    assert beside(record).exists()
    warnings()
    assert convert(tmp_path, record) == nearest_model
    assert warnings() == []


def test_convert_model_beside_a_file_of_somebody_else_is_silent(record, tmp_path, nearest_model, warnings):
    beside(record).write_bytes(checkpoint())
    assert convert(tmp_path, record) == nearest_model
    assert warnings() == []


# -- Calibrations ----------------------------------------------------------------------------------------------


def test_calibrate_twice(tmp_path):
    """The same bytes for the same data, others for others."""
    graph = net()
    record = str(tmp_path / "record.txt")
    amct.quantize_model(graph, configure(graph, tmp_path, "batch_num: 2"), record)
    files = []
    for seeds in ((0, 1), (2, 3), (0, 1)):
        amct.calibrate(graph, ["out"], map(images, seeds))
        files.append((Path(record).read_bytes(), beside(record).read_bytes()))
    assert files[0] == files[2] != files[1]


def test_a_session_of_ones_own_gives_the_same_file(calibrated, tmp_path):
    graph, record = net(), str(tmp_path / "record.txt")
    amct.quantize_model(graph, configure(graph, tmp_path, "batch_num: 2"), record)
    with tf1.Session(graph=graph) as session:
        for seed in range(2):
            session.run("out:0", {"x:0": images(seed)})
    assert beside(record).read_bytes() == beside(str(calibrated / "record.txt")).read_bytes()


def test_a_batch_that_cannot_be_used_does_not_count(calibrated, tmp_path):
    graph, record = net(), str(tmp_path / "record.txt")
    amct.quantize_model(graph, configure(graph, tmp_path, "batch_num: 2"), record)
    with tf1.Session(graph=graph) as session:
        session.run("out:0", {"x:0": images(0)})
        for bad in (np.full_like(images(), np.nan), images()[:0]):
            with pytest.raises(tf.errors.InvalidArgumentError):
                session.run("out:0", {"x:0": bad})
        session.run("out:0", {"x:0": images(1)})
    assert beside(record).read_bytes() == beside(str(calibrated / "record.txt")).read_bytes()


@pytest.mark.parametrize("use_resource", [True, False], ids=["resource", "TensorFlow 1"])
def test_weights_that_are_variables(tmp_path, use_resource, warnings):
    """Their values are those that the session has restored; save_model gets them frozen."""

    def as_variable(value: np.ndarray, name: str) -> tf.Tensor:
        made = tf1.get_variable(name, value.shape, initializer=tf.zeros_initializer(), use_resource=use_resource)
        tf1.add_to_collection("values", (made, value))
        return tf.convert_to_tensor(made)

    graph = net(parameter=as_variable)
    with graph.as_default():
        saver = tf1.train.Saver()
    with tf1.Session(graph=graph) as session:
        for made, value in graph.get_collection("values"):
            made.load(value, session)
        checkpoint = saver.save(session, str(tmp_path / "restored"))
    record = str(tmp_path / "record.txt")
    amct.quantize_model(graph, configure(graph, tmp_path, "batch_num: 2"), record)
    with tf1.Session(graph=graph) as session:
        saver.restore(session, checkpoint)
        for seed in range(2):
            session.run("out:0", {"x:0": images(seed)})
    constants = read_rounding(calibrate(tmp_path / "constants", net()))
    for name, found in read_rounding(record).items():
        np.testing.assert_array_equal(found.weights, constants[name].weights)
        np.testing.assert_allclose(found.bias, constants[name].bias, rtol=1e-4, atol=1e-6)
    warnings()
    save(tmp_path, record)
    assert warnings() == []


@pytest.mark.parametrize("width", [5, 300])
def test_a_batch_that_the_layer_refuses(tmp_path, warnings, width):
    """It was seen before MatMul refused it, and is not taken for the input of the weights."""

    def build() -> tf.Graph:
        with tf.Graph().as_default() as graph:
            x = tf1.placeholder(tf.float32, [None, None], name="x")
            tf.identity(tf.matmul(x, tf.constant(np.eye(8, 4, dtype=np.float32)), name="fc"), name="out")
        return graph

    graph, record = build(), str(tmp_path / "record.txt")
    amct.quantize_model(graph, configure(graph, tmp_path), record)
    random = np.random.default_rng(0)
    with pytest.raises(tf.errors.InvalidArgumentError):
        run(graph, random.standard_normal((4, width)))
    run(graph, random.standard_normal((4, 8)))
    save(tmp_path, record, build())
    assert any("rounded to the nearest integers" in warning for warning in warnings())


# -- What a layer loses ----------------------------------------------------------------------------------------


def uneven_net() -> tf.Graph:
    """x -> good: MatMul, ReLU -> bad: MatMul, whose input channels differ 10,000-fold in range, which it undoes."""
    random = np.random.default_rng(0)
    ranges = np.geomspace(1e-4, 1, 16).astype(np.float32)
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, 8, 8, 3], name="x")
        first = random.standard_normal((192, 16)).astype(np.float32) / 14
        y = tf.matmul(tf.reshape(x, [-1, 192]), tf.constant(first), name="good")
        y = tf.nn.tanh(y) * ranges
        second = random.standard_normal((16, 8)).astype(np.float32) / ranges[:, None]
        tf.identity(tf.matmul(y, tf.constant(second), name="bad"), name="out")
    return graph


def test_a_layer_that_loses_much_is_warned_of_once(tmp_path, warnings):
    record = calibrate(tmp_path, uneven_net())
    warnings()
    save(tmp_path, record, uneven_net())
    (warning,) = warnings()
    match = re.match(r"layer bad keeps only about (\S+) dB of its result in int8: ", warning)
    assert match is not None and float(match.group(1)) < 10


def test_lines_of_the_layers_have_forecasts(record, tmp_path, capsys):
    save(tmp_path, record)
    lines = re.findall(
        r"INFO - \[AMCT\]:\[save_model\]: \w+ (\w+): quantized.* about (\d+\.\d) dB", capsys.readouterr().err
    )
    assert {name for name, _ in lines} == set(LAYERS)
    assert all(float(expected) > 25 for _, expected in lines)
