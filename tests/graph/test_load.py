"""load_graph: models in all their forms, frozen under names that can be found, always the same."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from small_graphs import NEAREST, conv_net, freeze, prepare

import amct_tensorflow as amct
from amct_tensorflow.analysis.inspect_model import inspect_model
from amct_tensorflow.errors import AmctTypeError, AmctValueError
from amct_tensorflow.graph import model_file, saved_model

v1 = tf.compat.v1
layers = tf.keras.layers


def _digest(graph: tf.Graph) -> str:
    return hashlib.sha256(graph.as_graph_def().SerializeToString(deterministic=True)).hexdigest()


def _names(graph: tf.Graph) -> tuple[list[str], list[str], list[str]]:
    """Returns the inputs, the outputs and the layers."""
    report = inspect_model(graph)
    return [each.name for each in report.inputs], list(report.outputs), [layer.name for layer in report.layers]


def _run(graph: tf.Graph, feeds: dict, outputs: list[str]) -> list[np.ndarray]:
    with v1.Session(graph=graph) as session:
        return session.run(outputs, feeds)


def _data(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


# -- Keras models --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image_model():
    """image [?, 12, 12, 3] -> Conv2D, batch norm, relu, Dropout, swish -> scores."""
    tf.keras.utils.set_random_seed(0)
    image = layers.Input([12, 12, 3], name="image")
    y = layers.BatchNormalization()(layers.Conv2D(6, 3, use_bias=False, name="conv")(image))
    y = layers.Flatten()(layers.Dropout(0.5)(layers.ReLU()(y)))
    scores = layers.Dense(4, activation="softmax", name="scores")(layers.Activation("swish")(y))
    model = tf.keras.Model(image, scores, name="net")
    for variable in model.get_layer(index=2).weights:
        variable.assign(np.random.default_rng(1).uniform(0.5, 2, variable.shape))
    return model


IMAGE_LAYERS = ["net_1/conv_1/convolution", "net_1/scores_1/MatMul"]


def _folder_of(model, path: Path) -> str:
    model.export(path, verbose=False)
    return str(path)


def _file_of(model, path: Path) -> str:
    model.save(path)
    return str(path)


@pytest.fixture(scope="module", params=["model", "keras", "h5", "SavedModel", "saved_model.pb"])
def form(request, image_model, tmp_path_factory):
    """The model in each form, with the names of its input and output."""
    folder = tmp_path_factory.mktemp("forms")
    if request.param == "model":
        return image_model, "image", "scores"
    if request.param == "SavedModel":
        return _folder_of(image_model, folder / "saved"), "image", "output_0"
    if request.param == "saved_model.pb":
        return os.path.join(_folder_of(image_model, folder / "saved"), "saved_model.pb"), "image", "output_0"
    return _file_of(image_model, folder / f"model.{request.param}"), "image", "scores"


def test_names_and_values(form, image_model):
    model, entry, end = form
    graph = amct.load_graph(model)
    assert _names(graph) == ([f"{entry}:0"], [f"{end}:0"], IMAGE_LAYERS)
    data = _data(5, 12, 12, 3)
    (scores,) = _run(graph, {f"{entry}:0": data}, [f"{end}:0"])
    np.testing.assert_allclose(scores, image_model(data, training=False), atol=1e-6)
    assert not any("variable" in op.type.lower() or "Call" in op.type for op in graph.get_operations())


def test_two_loads_are_equal(form):
    model, _, _ = form
    first = amct.load_graph(model)
    with tf.Graph().as_default(), tf.name_scope("other"):
        second = amct.load_graph(model)
    assert first is not second and _digest(first) == _digest(second)


def test_calibrate_and_save(form, image_model, tmp_path):
    model, entry, end = form
    graph = amct.load_graph(model)
    data = _data(16, 12, 12, 3)
    record = prepare(graph, tmp_path, **NEAREST)
    _run(graph, {f"{entry}:0": data}, [f"{end}:0"])
    amct.save_model(model, [end], record, str(tmp_path / "int8"))
    saved = str(tmp_path / "int8_quantized.pb")
    assert [layer.name for layer in inspect_model(saved).layers if layer.quantized] == IMAGE_LAYERS
    (scores,) = _run(amct.load_graph(saved), {f"{entry}:0": data}, [f"{end}:0"])
    expected = image_model(data, training=False).numpy()
    assert 10 * np.log10(np.sum(expected**2) / np.sum((expected - scores) ** 2)) > 20
    amct.convert_model(model, [end], record, str(tmp_path / "again"))
    assert (tmp_path / "again_quantized.pb").read_bytes() == Path(saved).read_bytes()


LOAD = """
import hashlib, sys
import amct_tensorflow as amct
for path in sys.argv[1:]:
    graph_def = amct.load_graph(path).as_graph_def()
    print(hashlib.sha256(graph_def.SerializeToString(deterministic=True)).hexdigest())
"""


def test_other_processes_load_the_same(image_model, tmp_path):
    sequence = layers.Input([6, 3])
    recurrent = tf.keras.Model(sequence, layers.Dense(2)(layers.LSTM(4)(sequence)))
    paths = [
        _file_of(image_model, tmp_path / "image.keras"),
        _folder_of(image_model, tmp_path / "image"),
        _file_of(recurrent, tmp_path / "recurrent.keras"),
        _folder_of(recurrent, tmp_path / "recurrent"),
        _calling_pb(tmp_path / "calls.pb"),
    ]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *paths],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [_digest(amct.load_graph(path)) for path in paths]


def test_a_sequential_model_leaves_the_batch_open():
    model = tf.keras.Sequential([layers.Conv2D(2, 3, name="first"), layers.Flatten(), layers.Dense(3, name="last")])
    with pytest.raises(AmctValueError, match="does not know the shapes of its inputs yet: call it once"):
        amct.load_graph(model)
    model(_data(2, 6, 6, 1))
    (entry,) = inspect_model(model).inputs
    assert (entry.shape, inspect_model(model).outputs) == ((None, 6, 6, 1), ("last:0",))


def test_several_inputs_and_outputs():
    a, b = layers.Input([8], name="a"), layers.Input([4], name="b")
    one, two = layers.Dense(3, name="one")(layers.concatenate([a, b])), layers.Dense(2, name="two")(b)
    data = {"a:0": _data(2, 8), "b:0": _data(2, 4)}

    model = tf.keras.Model([b, a], [one, two])
    graph = amct.load_graph(model)
    assert _names(graph)[:2] == (["b:0", "a:0"], ["one:0", "two:0"])
    for found, expected in zip(_run(graph, data, ["one:0", "two:0"]), model([data["b:0"], data["a:0"]]), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)

    model = tf.keras.Model({"a": a, "b": b}, {"z": one, "y": two})
    graph = amct.load_graph(model)
    assert _names(graph)[:2] == (["a:0", "b:0"], ["y:0", "z:0"])
    expected = model({"a": data["a:0"], "b": data["b:0"]})
    for name, found in zip("yz", _run(graph, data, ["y:0", "z:0"]), strict=True):
        np.testing.assert_allclose(found, expected[name], atol=1e-6)


class Subclassed(tf.keras.Model):
    broken = False

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(5)

    def call(self, x, training=True):
        if self.broken:
            raise KeyError("no such thing")
        y = self.dense(x["words"] if isinstance(x, dict) else x)
        return [y * 100.0 if training else y, tf.nn.relu(y)]


def test_subclassed_models():
    model, data = Subclassed(), _data(2, 7)
    with pytest.raises(AmctValueError, match="does not know the shapes of its inputs yet"):
        amct.load_graph(model)
    model(data)
    graph = amct.load_graph(model)
    assert _names(graph)[:2] == (["input:0"], ["output_0:0", "output_1:0"])
    (found,) = _run(graph, {"input:0": data}, ["output_0:0"])
    np.testing.assert_allclose(found, model(data, training=False)[0], atol=1e-6)

    model = Subclassed()
    model({"words": data})
    assert _names(amct.load_graph(model))[0] == ["words:0"]


def test_errors_of_keras_models(tmp_path):
    model = Subclassed()
    model(_data(2, 7))
    model.broken = True
    with pytest.raises(AmctValueError, match=r"TensorFlow cannot freeze the Keras model 'subclassed.*no such thing"):
        amct.load_graph(model)
    model = Subclassed()
    model(_data(2, 7))
    model.save(tmp_path / "custom.keras")
    (tmp_path / "weights.h5").write_bytes(b"\x89HDF\r\n\x1a\nx")
    for name in ("custom.keras", "weights.h5"):
        with pytest.raises(AmctValueError, match=rf"Keras cannot load .*{name} .*: if the file is whole, load it in"):
            amct.load_graph(str(tmp_path / name))


LEGACY = """
import numpy as np, tensorflow as tf
import amct_tensorflow as amct
from amct_tensorflow.analysis.inspect_model import inspect_model
layers = tf.keras.layers
image = layers.Input([8, 8, 3])
y = layers.BatchNormalization()(layers.Conv2D(4, 3)(image))
model = tf.keras.Model(image, layers.Dense(2, name="end")(layers.Flatten()(y)))
class Own(tf.keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3)
    def call(self, x, training=None):
        return self.dense(x)
own = Own()
try:
    amct.load_graph(own)
except amct.AmctError as error:
    print("error", error)
own(np.zeros((2, 5), np.float32))
model.save("legacy.h5")
model.save("legacy")
for each in (model, "legacy.h5", "legacy", own):
    report = inspect_model(each)
    print([each.name for each in report.inputs], list(report.outputs), [layer.name for layer in report.layers])
"""


def test_models_of_tf_keras(tmp_path):
    pytest.importorskip("tf_keras", reason="needs tf_keras")
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", LEGACY],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root), "TF_USE_LEGACY_KERAS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    functional = "['input_1:0'] ['end:0'] ['model/conv2d/Conv2D', 'model/end/MatMul']"
    assert done.stdout.splitlines() == [
        "error the Keras model 'own' does not know the shapes of its inputs yet: call it once, on a batch of data",
        functional,
        functional,
        functional,
        "['input:0'] ['output:0'] ['own/dense/MatMul']",
    ]


# -- SavedModels ---------------------------------------------------------------------------------------------


class Module(tf.Module):
    def __init__(self):
        self.weights = tf.Variable(_data(4, 3), name="weights")
        self.table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(tf.range(4, dtype=tf.int64), tf.constant([1.0, 2.0, 3.0, 4.0])), 0.0
        )

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32)])
    def serve(self, x):
        return {"x": self.dense(x), "a name": tf.map_fn(lambda row: row * 2.0, x)}

    @tf.function
    def dense(self, x):
        return tf.matmul(x, self.weights, name="dense")

    @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32)])
    def twice(self, x):
        return self.dense(x) * 2.0

    @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)])
    def look_up(self, word):
        return self.table.lookup(word)


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("module") / "saved")
    module = Module()
    signatures = {"serving_default": module.serve, "twice": module.twice, "words": module.look_up}
    tf.saved_model.save(module, folder, signatures=signatures)
    return folder, module


def test_signatures(module):
    folder, original = module
    data = _data(2, 4)
    graph = amct.load_graph(folder)
    assert _names(graph) == (["x:0"], ["a_name:0", "x_1:0"], ["dense"])  # names that are taken or illegal change
    doubled, dense = _run(graph, {"x:0": data}, ["a_name:0", "x_1:0"])
    np.testing.assert_allclose(doubled, data * 2)
    np.testing.assert_allclose(dense, original.dense(data), rtol=1e-6)
    assert "weights" in {op.name for op in graph.get_operations()}
    graph = amct.load_graph(folder, signature="twice")
    np.testing.assert_allclose(_run(graph, {"x:0": data}, ["output_0:0"])[0], original.twice(data), rtol=1e-6)


def test_a_graph_of_another_signature_can_be_saved(module, tmp_path):
    folder, _ = module
    graph, record = amct.load_graph(folder, "twice"), str(tmp_path / "record.txt")
    amct.create_quant_config(str(tmp_path / "config.json"), graph)
    amct.quantize_model(graph, str(tmp_path / "config.json"), record)
    _run(graph, {"x:0": _data(8, 4)}, ["output_0:0"])
    original = amct.load_graph(folder, "twice")
    before = _digest(original)
    amct.save_model(original, ["output_0"], record, str(tmp_path / "int8"))
    assert _digest(original) == before
    with pytest.raises(AmctValueError, match="output 'nothing' does not exist in the graph"):
        amct.save_model(original, ["nothing"], record, str(tmp_path / "int8"))
    with pytest.raises(AmctValueError, match="is already quantized"):
        amct.save_model(graph, ["output_0"], record, str(tmp_path / "int8"))


def test_errors_of_signatures(module, tmp_path):
    folder, _ = module
    with pytest.raises(
        AmctValueError, match=r"no signature 'twise'; did you mean 'twice'.*: serving_default, twice, words"
    ):
        amct.load_graph(folder, "twise")
    with pytest.raises(
        AmctValueError, match=r"needs the content of 'captured' \(a resource\), which TensorFlow cannot"
    ):
        amct.load_graph(folder, "words")
    tf.saved_model.save(tf.Module(), tmp_path / "empty")
    with pytest.raises(AmctValueError, match="has no signature: export it with one"):
        amct.load_graph(str(tmp_path / "empty"))
    with pytest.raises(AmctValueError, match="has no signatures, only a SavedModel has: leave signature out"):
        amct.load_graph(freeze(conv_net(), tmp_path / "model.pb"), "serving_default")


@pytest.mark.parametrize("content", [b"\x08\x01\x12\x05\n", b"\x08\x01"], ids=["damaged", "without a graph"])
def test_saved_models_that_cannot_be_read(tmp_path, content):
    (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(AmctValueError, match=r"the SavedModel .* (cannot be read|has no graph with the tag 'serve')"):
        amct.load_graph(str(tmp_path))


def test_a_saved_model_without_its_variables(tmp_path, module):
    folder, _ = module
    (tmp_path / "saved_model.pb").write_bytes((Path(folder) / "saved_model.pb").read_bytes())
    for path in (tmp_path, tmp_path / "saved_model.pb"):
        with pytest.raises(
            AmctValueError, match=r"the SavedModel .* cannot be read .*: copy its folder variables, too"
        ):
            amct.load_graph(path)


def _tensorflow_1(folder: str, *, resources: bool, tag: str = "serve") -> np.ndarray:
    """Saves images [?, 8, 8, 3] -> conv -> relu -> probs, and returns its weights."""
    with tf.Graph().as_default():
        images = v1.placeholder(tf.float32, [None, 8, 8, 3], name="images")
        weights = v1.get_variable("conv/weights", [3, 3, 3, 4], use_resource=resources)
        relu = tf.nn.relu(tf.nn.conv2d(images, weights, 1, "SAME", name="conv/Conv2D"), name="relu")
        probs = tf.nn.softmax(tf.reduce_mean(relu, [1, 2]), name="probs")
        table = tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(tf.range(4, dtype=tf.int64), tf.constant(list("abcd"))), "?"
        )
        words = table.lookup(tf.argmax(probs, 1))
        signature = v1.saved_model.predict_signature_def
        with v1.Session() as session:
            session.run([v1.global_variables_initializer(), v1.tables_initializer()])
            builder = v1.saved_model.Builder(folder)
            signatures = {
                "serving_default": signature({"in": images}, {"probabilities": probs}),
                "features": signature({"in": images}, {"out": relu}),
                "words": signature({"in": images}, {"out": words}),
            }
            builder.add_meta_graph_and_variables(session, [tag], signatures, main_op=v1.tables_initializer())
            builder.save()
            return session.run(weights)


@pytest.mark.parametrize("resources", [False, True], ids=["reference variables", "resource variables"])
def test_saved_models_of_tensorflow_1_keep_their_names(tmp_path, resources):
    folder = str(tmp_path / "v1")
    weights = _tensorflow_1(folder, resources=resources)
    graph = amct.load_graph(folder)
    assert _names(graph) == (["images:0"], ["probs:0"], ["conv/Conv2D"])
    assert _names(amct.load_graph(folder, "features"))[1] == ["relu:0"]
    assert _digest(graph) == _digest(amct.load_graph(folder))
    data = _data(2, 8, 8, 3)
    expected = tf.nn.softmax(tf.reduce_mean(tf.nn.relu(tf.nn.conv2d(data, weights, 1, "SAME")), [1, 2]))
    np.testing.assert_allclose(_run(graph, {"images:0": data}, ["probs:0"])[0], expected, rtol=1e-5)
    with pytest.raises(AmctValueError, match=r"needs the content of 'hash_table' \(HashTableV2\)"):
        amct.load_graph(folder, "words")


def test_a_saved_model_that_is_not_for_serving(tmp_path):
    _tensorflow_1(str(tmp_path / "v1"), resources=True, tag="train")
    with pytest.raises(AmctValueError, match="has no graph with the tag 'serve', only train: export it for serving"):
        amct.load_graph(str(tmp_path / "v1"))


# -- Frozen graphs -------------------------------------------------------------------------------------------


def test_a_frozen_pb_keeps_names_and_bytes(tmp_path):
    graph = conv_net()
    assert _digest(amct.load_graph(freeze(graph, tmp_path / "model.pb"))) == _digest(graph)
    (tmp_path / "model.pbtxt").write_text(str(graph.as_graph_def()))
    assert _digest(amct.load_graph(str(tmp_path / "model.pbtxt"))) == _digest(graph)
    assert _digest(amct.load_graph(graph)) == _digest(graph)


def _calling_pb(path: Path) -> str:
    """Writes x -> call of dense -> relu (out), where dense has a loop behind its MatMul."""

    @tf.function
    def dense(x):
        return tf.map_fn(lambda row: row + 1.0, tf.matmul(x, tf.constant(_data(4, 3)), name="product"))

    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        tf.nn.relu(tf.nn.relu(dense(x), name="before"), name="out")
    return freeze(graph, path)


def test_calls_of_functions_are_inlined(tmp_path):
    path = _calling_pb(tmp_path / "model.pb")
    graph = amct.load_graph(path)
    (layer,) = inspect_model(path).layers
    assert layer.quantizable and layer.name.endswith("/product")
    assert {"x", "before", "out"} < {op.name for op in graph.get_operations()}
    data = _data(2, 4)
    (found,) = _run(graph, {"x:0": data}, ["out:0"])
    np.testing.assert_allclose(found, np.maximum(data @ _data(4, 3) + 1, 0), rtol=1e-5)


def test_frozen_by_tensorflow_1(tmp_path):
    """Identity ops that were reads of variables, and a NoOp that nothing needs."""
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        y = x
        for resources in (False, True):
            weights = v1.get_variable(f"weights_{resources}", [4, 4], use_resource=resources)
            y = tf.matmul(y, weights, name=f"dense_{resources}")
        out = tf.identity(y, name="out")
        tf.group(out, name="step")
        with v1.Session() as session:
            session.run(v1.global_variables_initializer())
            frozen = v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), ["out", "step"])
    (tmp_path / "model.pb").write_bytes(frozen.SerializeToString())
    graph = amct.load_graph(str(tmp_path / "model.pb"))
    assert {"Identity", "NoOp"} < {op.type for op in graph.get_operations()}
    assert _names(graph) == (["x:0"], ["out:0"], ["dense_False", "dense_True"])
    assert all(layer.quantizable for layer in inspect_model(graph).layers)


def test_what_is_no_model(tmp_path):
    forms = "a frozen .pb or .pbtxt, a SavedModel folder, or a .keras or .h5 file"
    with pytest.raises(AmctValueError, match=f"is a folder without a saved_model.pb: pass the path of {forms}"):
        amct.load_graph(str(tmp_path))
    with pytest.raises(AmctValueError, match=f"the path of the model is empty: pass that of {forms}"):
        amct.load_graph("")
    (tmp_path / "model.keras").write_bytes(b"")
    with pytest.raises(AmctValueError, match=r"does not exist; did you mean 'model\.keras'"):
        amct.load_graph(str(tmp_path / "modell.keras"))
    with pytest.raises(AmctTypeError, match="argument model must be str or Graph or KerasModel, not Dense"):
        amct.load_graph(layers.Dense(3))
    with pytest.raises(AmctTypeError, match="argument signature must be str, not int"):
        amct.load_graph("model.pb", 3)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = freeze(conv_net(), tmp_path / "model.pb")
    os.chmod(path, 0)
    with pytest.raises(AmctValueError, match="cannot be read"):
        amct.load_graph(path)


def test_a_graph_with_variables(tmp_path):
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        tf.matmul(x, v1.get_variable("weights", [4, 4]), name="out")
    for model in (graph, freeze(graph, tmp_path / "model.pb")):
        with pytest.raises(
            AmctValueError, match="is not frozen, it has variables such as 'weights': give a SavedModel"
        ):
            amct.load_graph(model)


def test_more_than_2_gb_of_weights(monkeypatch, image_model, tmp_path):
    """With a smaller limit: real ones would take 2 GB of memory."""
    weights = sum(variable.numpy().nbytes for variable in image_model.variables)
    paths = [_folder_of(image_model, tmp_path / "saved"), str(tmp_path / "v1")]
    _tensorflow_1(paths[1], resources=True)
    monkeypatch.setattr(saved_model, "check_file_size", lambda path: None)
    monkeypatch.setattr(model_file, "_LARGEST_FILE", weights // 2)
    for model in (image_model, paths[0]):
        with pytest.raises(AmctValueError, match="GB: a frozen graph can have at most 2 GB, so split"):
            amct.load_graph(model)
    monkeypatch.setattr(model_file, "_LARGEST_FILE", 3 * 3 * 3 * 4 * 4 - 1)
    with pytest.raises(AmctValueError, match="a frozen graph can have at most 2 GB, so split the model"):
        amct.load_graph(paths[1])


@pytest.mark.parametrize("name", ["model.pb", "model.pbtxt", "saved_model.pb"])
def test_a_file_beyond_2_gb(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\x08")
    os.truncate(path, 2**31)
    with pytest.raises(
        AmctValueError, match=r"takes 2\.00 GB: a frozen graph can have at most 2 GB, so split the model"
    ):
        amct.load_graph(str(path))


def test_results_do_not_overwrite_the_model(tmp_path, image_model):
    path = _file_of(image_model, tmp_path / "model.keras")
    os.rename(path, tmp_path / "m_quantized.pb")
    with pytest.raises(AmctValueError, match="would overwrite the model"):
        amct.save_model(str(tmp_path / "m_quantized.pb"), ["scores"], "record.txt", str(tmp_path / "m"))
