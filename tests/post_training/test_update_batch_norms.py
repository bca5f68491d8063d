"""update_batch_norms and what follows: new statistics from the configuration to the saved model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hard_graphs import Maker
from small_graphs import batch, configure, conv_net, freeze, load, run, sqnr

import amct_tensorflow as amct
from amct_tensorflow.errors import AmctError, AmctRuntimeError, AmctTypeError, AmctValueError
from amct_tensorflow.graph.sessions import lean_session
from amct_tensorflow.graph_passes.batch_norm_statistics import replaced_statistics
from amct_tensorflow.graph_passes.planning.find_batch_norms import find_batch_norms
from amct_tensorflow.record import read_balance_factors, read_batch_norms, rounding_path

tf1 = tf.compat.v1
UPDATE = "batch_num: 2 update_bn: true bn_update_config { bn_update_iterations: 2 %s}\n"
BALANCE = 'override_layer_configs { layer_name: "last" calibration_config { dmq_balancer { } } }\n'


def net(*, training: bool = False) -> tf.Graph:
    """x -> conv -> bn, folded -> relu -> bn2, not folded -> last -> out; their statistics are those of other data."""
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, 8, 8, 3], name="x")
        make = Maker(0, {"x": 0.3 * batch(size=16)})
        y = tf.nn.relu(make.batch_norm(make.conv(x, "conv", 4), "bn", training=training))
        y = make.batch_norm(y, "bn2", training=training)
        tf.identity(make.conv(y, "last", 5), name="out")
    return graph


def shifted(seed: int) -> np.ndarray:
    return 2 * batch(seed, size=16) + 1


def with_statistics(graph: tf.Graph, record: str) -> tf.Graph:
    """The float model with the statistics beside a record."""
    with replaced_statistics(find_batch_norms(graph)[0], read_batch_norms(record)):
        return graph


def gather(folder: Path, text: str = UPDATE % "", make: Callable[[], tf.Graph] = net) -> tuple[str, str]:
    """update_batch_norms and its runs; returns the config and the record."""
    graph, record = make(), str(folder / "record.txt")
    config = configure(graph, folder, text)
    amct.update_batch_norms(graph, config, record)
    for seed in range(2):
        run(graph, shifted(seed))
    return config, record


def calibrate(config: str, record: str, *jobs: Callable[..., object]) -> None:
    for job in jobs or (amct.quantize_model,):
        graph = net()
        job(graph, config, record)
        for seed in range(2):
            run(graph, shifted(seed))


def save(folder: Path, record: str, job=amct.save_model) -> tf.Graph:
    job(freeze(net(), folder / "model.pb"), ["out"], record, str(folder / "int8"))
    return load(folder / "int8_quantized.pb")


def values(graph: tf.Graph) -> list[np.ndarray]:
    return [tf.make_ndarray(op.get_attr("value")) for op in graph.get_operations() if op.type == "Const"]


def test_the_int8_model_is_that_of_the_float_model_with_new_statistics(tmp_path):
    config, record = gather(tmp_path)
    calibrate(config, record)
    int8, expected = save(tmp_path, record), run(with_statistics(net(), record), shifted(9))
    assert sqnr(run(net(), shifted(9)), expected) < 5  # they do make a difference
    assert sqnr(expected, run(int8, shifted(9))) > 30


def test_a_batch_norm_that_is_not_folded_has_them_too(tmp_path):
    config, record = gather(tmp_path)
    calibrate(config, record)
    found, constants = read_batch_norms(record), values(save(tmp_path, record))
    kept = {name: any(np.array_equal(value, one.mean) for value in constants) for name, one in found.items()}
    assert kept == {"bn": False, "bn2": True}


def test_while_it_runs_the_graph_computes_as_in_training(tmp_path):
    graph = net()
    amct.update_batch_norms(graph, configure(graph, tmp_path, UPDATE % ""), str(tmp_path / "new" / "record.txt"))
    np.testing.assert_allclose(run(graph, shifted(0)), run(net(training=True), shifted(0)), rtol=1e-4, atol=1e-4)


def add_batch_norm_in_training(graph: tf.Graph, name: str) -> None:
    with graph.as_default():
        y, *_ = tf.raw_ops.FusedBatchNormV3(
            x=graph.get_tensor_by_name("x:0"),
            scale=[1.0] * 3,
            offset=[0.0] * 3,
            mean=[],
            variance=[],
            name=name,
        )
        tf.identity(y, name="beside")


def test_the_lines_of_the_log(tmp_path, capsys):
    def make():
        graph = net()
        add_batch_norm_in_training(graph, "trained")
        return graph

    config, record = gather(tmp_path, make=make)
    lines = capsys.readouterr().err
    assert "WARNING - [AMCT]:[update_batch_norms]: batch norm trained keeps its statistics, because it is in" in lines
    assert "[update_batch_norms]: 2 batch norms will get new statistics" in lines
    assert f"run the graph 2 time(s) in a new session, then call quantize_model with {record} on a new graph" in lines
    amct.quantize_model(make(), config, record)
    lines = capsys.readouterr().err
    assert "[quantize_model]: 2 of 2 batch norms have the statistics of the calibration data\n" in lines
    assert "will be overwritten" not in lines


def test_batch_norms_that_are_not_run_keep_theirs(tmp_path, capsys):
    def make():
        graph = net()
        with graph.as_default():
            tf.identity(Maker(1, {"x": batch()}).batch_norm(graph.get_tensor_by_name("x:0"), "aside"), name="beside")
        return graph

    config, record = gather(tmp_path, make=make)
    amct.quantize_model(make(), config, record)
    line = "2 of 3 batch norms have the statistics of the calibration data; those that were not run keep theirs: aside"
    assert line in capsys.readouterr().err


def test_balanced_layers_are_balanced_with_them(tmp_path):
    config, record = gather(tmp_path, UPDATE % "" + BALANCE)
    statistics = read_batch_norms(record)
    calibrate(config, record, amct.quantize_preprocess, amct.quantize_model)
    found, (factors,) = read_batch_norms(record), read_balance_factors(record).values()
    assert all(np.array_equal(found[name].variance, one.variance) for name, one in statistics.items())
    graph = with_statistics(net(), record)
    largest = [np.abs(run(graph, shifted(seed), "bn2:0")).max(axis=(0, 1, 2)) for seed in range(2)]
    weights = np.abs(tf.make_ndarray(graph.get_operation_by_name("last/weights").get_attr("value"))).max(axis=(0, 1, 3))
    np.testing.assert_allclose(factors, np.sqrt(np.max(largest, axis=0) / weights), rtol=1e-4)
    expected = run(graph, shifted(9))
    assert sqnr(expected, run(save(tmp_path, record), shifted(9))) > 30


def test_convert_model_takes_them_too(tmp_path):
    """A record may have been edited."""
    config, record = gather(tmp_path)
    calibrate(config, record)
    expected = run(with_statistics(net(), record), shifted(9))
    assert sqnr(expected, run(save(tmp_path, record, amct.convert_model), shifted(9))) > 30


def test_never_without_update_bn(tmp_path):
    """What an earlier run left beside the record does not count, and goes."""
    _, record = gather(tmp_path)
    config = configure(net(), tmp_path, "batch_num: 2")
    calibrate(config, record)
    assert read_batch_norms(record) == {}
    assert sqnr(run(net(), shifted(9)), run(save(tmp_path, record), shifted(9))) > 25


def test_the_dump(tmp_path):
    folder = tmp_path / "new" / "dump"
    config, record = gather(tmp_path, UPDATE % f'bn_dump_dir: "{folder}"')
    calibrate(config, record)
    dump = np.load(folder / "batch_norms.npz")
    found = read_batch_norms(record)
    assert sorted(dump.files) == sorted(f"{name}/{key}" for name in found for key in ("mean", "variance"))
    for name, one in found.items():
        np.testing.assert_array_equal(dump[f"{name}/mean"], one.mean)
        np.testing.assert_array_equal(dump[f"{name}/variance"], one.variance)


def test_models_of_keras(tmp_path):
    """Their batch norms are of small ops."""
    tf.keras.utils.set_random_seed(0)
    layers = tf.keras.layers
    model = tf.keras.Sequential(
        [
            tf.keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(2, 3),
        ]
    )
    (tmp_path / "a.cfg").write_text("update_bn: true")
    data = shifted(0)
    result = amct.quantize(model, data, "out/m", config=tmp_path / "a.cfg")
    (statistics,) = read_batch_norms(result.record_file).values()
    seen = tf.keras.Model(model.inputs, model.layers[0].output)(data).numpy().reshape(-1, 4)
    np.testing.assert_allclose(statistics.mean, seen.mean(axis=0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(statistics.variance, seen.var(axis=0, ddof=1), rtol=1e-4)
    model.layers[1].moving_mean.assign(statistics.mean)
    model.layers[1].moving_variance.assign(statistics.variance)
    output = result.outputs[0]
    with tf1.Session(graph=load(result.model)) as session:
        int8 = session.run(output, {result.inputs[0]: shifted(1)})
    assert sqnr(model(shifted(1)).numpy(), int8) > 30


# quantize


@pytest.fixture
def model(tmp_path) -> str:
    return freeze(net(), tmp_path / "model.pb")


@pytest.mark.parametrize("balance", ["", BALANCE], ids=["", "balanced"])
def test_in_one_call(model, tmp_path, balance):
    config, record = configure(net(), tmp_path, UPDATE % "" + balance), str(tmp_path / "record.txt")
    balancing = [amct.quantize_preprocess] if balance else []
    for job in (amct.update_batch_norms, *balancing, amct.quantize_model):
        graph = net()
        job(graph, config, record)
        amct.calibrate(graph, ["out"], list(map(shifted, range(2))))
    save(tmp_path, record)
    result = amct.quantize(model, map(shifted, range(2)), "out/m", config=tmp_path / "a.cfg")
    for ours, theirs in (
        (result.model, "int8_quantized.pb"),
        (result.config_file, "config.json"),
        (result.record_file, "record.txt"),
        (result.rounding_file, "record.txt.safetensors"),
    ):
        assert Path(ours).read_bytes() == (tmp_path / theirs).read_bytes(), ours


class Evaluator:
    """Runs two batches, and counts."""

    calls = 0

    def calibration(self, graph, outputs):
        self.calls += 1
        for seed in range(2):
            run(graph, shifted(seed), outputs[0])


def test_batches_start_over_where_they_are_too_few(model, tmp_path):
    text = "batch_num: 2 update_bn: true bn_update_config { bn_update_iterations: 5 }"
    (tmp_path / "a.cfg").write_text(text)
    by_hand = str(tmp_path / "record.txt")
    graph = net()
    amct.update_batch_norms(graph, configure(graph, tmp_path, text), by_hand)
    for seed in (0, 1, 0, 1, 0):
        run(graph, shifted(seed))
    evaluator = Evaluator()
    for data in (map(shifted, range(2)), evaluator):
        result = amct.quantize(model, data, "out/m", config=tmp_path / "a.cfg")
        for name, found in read_batch_norms(result.record_file).items():
            np.testing.assert_array_equal(found.mean, read_batch_norms(by_hand)[name].mean)
    assert evaluator.calls == 4  # three times for the batch norms, once for the calibration


def test_fewer_iterations_than_batches(model, tmp_path):
    (tmp_path / "a.cfg").write_text("batch_num: 3 update_bn: true bn_update_config { bn_update_iterations: 2 }")
    result = amct.quantize(model, map(shifted, range(3)), "out/m", config=tmp_path / "a.cfg")
    _, record = gather(tmp_path)
    for name, found in read_batch_norms(result.record_file).items():
        np.testing.assert_array_equal(found.mean, read_batch_norms(record)[name].mean)


@pytest.mark.parametrize("data", [np.full((4, 8, 8, 3), np.nan, np.float32), np.zeros((0, 8, 8, 3), np.float32)])
def test_after_an_error_the_files_are_as_they_were(model, tmp_path, data):
    (tmp_path / "a.cfg").write_text(UPDATE % "")
    result = amct.quantize(model, map(shifted, range(2)), "out/m", config=tmp_path / "a.cfg")
    before = {path: Path(path).read_bytes() for path in result.files}
    with pytest.raises(AmctError):
        amct.quantize(model, [data, data], "out/m", config=tmp_path / "a.cfg")
    assert {str(path): path.read_bytes() for path in Path("out").iterdir()} == before


# What is refused


def no_fused(kind):
    def make() -> tf.Graph:
        graph = conv_net()
        if kind == "training":
            add_batch_norm_in_training(graph, "bn")
        return graph

    return make


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("", "update_bn is true, but the graph has no batch norm that can get new statistics: set update_bn to false"),
        ("training", "can get new statistics; bn: it is in training mode: set update_bn to false"),
    ],
)
def test_nothing_to_update(tmp_path, kind, words):
    graph = no_fused(kind)()
    config, before = configure(graph, tmp_path, UPDATE % ""), graph.as_graph_def()
    with pytest.raises(AmctValueError) as caught:
        amct.update_batch_norms(graph, config, str(tmp_path / "record.txt"))
    assert words in str(caught.value)
    assert graph.as_graph_def() == before and not (tmp_path / "record.txt").exists()
    with pytest.raises(AmctValueError, match="no batch norm that can get new statistics"):
        amct.quantize(no_fused(kind)(), [shifted(0)] * 2, "out/m", outputs=["out"], config=config)
    assert not Path("out").exists() or not list(Path("out").iterdir())


def test_variables(tmp_path):
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, 8, 8, 3], name="x")
        mean = tf1.get_variable("mean", initializer=np.zeros(4, np.float32), use_resource=True)
        y = Maker(0).conv(x, "conv", 4)
        tf.raw_ops.FusedBatchNormV3(
            x=y, scale=[1.0] * 4, offset=[0.0] * 4, mean=mean, variance=[1.0] * 4, is_training=False, name="bn"
        )
    words = r"bn: its mean and variance are not stored as constants: give a SavedModel"
    with pytest.raises(AmctValueError, match=words):
        amct.update_batch_norms(graph, configure(graph, tmp_path, UPDATE % ""), str(tmp_path / "record.txt"))


def test_without_update_bn(tmp_path):
    graph = net()
    with pytest.raises(AmctValueError, match=r"update_bn of .*config\.json is not true, so batch norms keep their"):
        amct.update_batch_norms(graph, configure(graph, tmp_path), str(tmp_path / "record.txt"))


@pytest.mark.parametrize("job", [amct.quantize_model, amct.quantize_preprocess])
@pytest.mark.parametrize("runs", [None, 0, 1])
def test_without_statistics(tmp_path, job, runs):
    graph, record = net(), str(tmp_path / "record.txt")
    config = configure(graph, tmp_path, UPDATE % "" + BALANCE)
    if runs is not None:
        amct.update_batch_norms(net(), config, record)
        started = net()
        amct.update_batch_norms(started, config, record)
        for seed in range(runs):
            run(started, shifted(seed))
    before = graph.as_graph_def()
    words = r"config_file indicates update_bn, but there are no statistics .* run its graph 2 time\(s\) before, or set"
    with pytest.raises(AmctRuntimeError, match=words):
        job(graph, config, record)
    assert graph.as_graph_def() == before


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (conv_net, "has statistics of 4 channels of batch norm bn, but the model has no such batch norm: give the"),
        (lambda: wider(), "has statistics of 4 channels of batch norm bn, but the model has 6 there: give the model"),
    ],
    ids=["none", "wider"],
)
def test_statistics_of_another_model(tmp_path, other, words):
    config, record = gather(tmp_path)
    graph = other()
    (tmp_path / "other").mkdir()
    before = graph.as_graph_def()
    with pytest.raises(AmctRuntimeError, match=words):
        amct.quantize_model(graph, configure(graph, tmp_path / "other", UPDATE % ""), record)
    assert graph.as_graph_def() == before
    calibrate(config, record)
    for job in (amct.save_model, amct.convert_model):
        with pytest.raises(AmctRuntimeError, match=words):
            job(freeze(other(), tmp_path / "other.pb"), ["out"], record, str(tmp_path / "int8"))
    assert not (tmp_path / "int8_quantized.pb").exists()


def wider() -> tf.Graph:
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, 8, 8, 3], name="x")
        make = Maker(0, {"x": batch()})
        tf.identity(make.batch_norm(make.conv(x, "conv", 6), "bn"), name="out")
    return graph


def test_a_damaged_file(tmp_path):
    config, record = gather(tmp_path)
    path = Path(rounding_path(record))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    words = r"record\.txt\.safetensors, which has the statistics of batch norms, is damaged: calibrate again, from"
    with pytest.raises(AmctRuntimeError, match=words):
        amct.quantize_model(net(), config, record)


def test_a_lost_file_is_found_out(tmp_path):
    """The scales are those of weights with other statistics folded in."""
    config, record = gather(tmp_path)
    calibrate(config, record)
    Path(rounding_path(record)).unlink()
    with pytest.raises(AmctRuntimeError, match=r"the weights of layer conv .*: the record is of another model"):
        save(tmp_path, record)


def test_an_error_of_quantize_model_leaves_the_statistics(tmp_path):
    config, record = gather(tmp_path)
    document = json.loads(Path(config).read_text())
    document["conv"]["dmq_balancer_param"] = 0.5
    Path(config).write_text(json.dumps(document))
    graph = net()
    before = graph.as_graph_def()
    with pytest.raises(AmctRuntimeError, match="config_file indicates dmq_balancer"):
        amct.quantize_model(graph, config, record)
    assert graph.as_graph_def() == before and len(read_batch_norms(record)) == 2


def test_a_dump_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    config, record = gather(tmp_path, UPDATE % f'bn_dump_dir: "{tmp_path / "file"}"')
    graph = net()
    before = graph.as_graph_def()
    with pytest.raises(AmctRuntimeError, match=r"bn_dump_dir .*batch_norms\.npz cannot be written"):
        amct.quantize_model(graph, config, record)
    assert graph.as_graph_def() == before


def test_batches_of_one_value_per_channel(tmp_path):
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, 1, 1, 3], name="x")
        make = Maker(0, {"x": np.float32(np.random.default_rng(0).standard_normal((8, 1, 1, 3)))})
        tf.identity(make.batch_norm(make.conv(x, "conv", 4), "bn"), name="out")
    amct.update_batch_norms(graph, configure(graph, tmp_path, UPDATE % ""), str(tmp_path / "record.txt"))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r'batch norm "bn" has one value in each channel'):
        run(graph, np.ones((1, 1, 1, 3), np.float32))


def test_wrong_types(tmp_path):
    with pytest.raises(AmctTypeError, match="Func update_batch_norms argument graph must be Graph"):
        amct.update_batch_norms("graph", "config.json", "record.txt")


def test_a_finalized_graph(tmp_path):
    graph = net()
    config = configure(graph, tmp_path, UPDATE % "")
    graph.finalize()
    with pytest.raises(AmctRuntimeError, match="is finalized"):
        amct.update_batch_norms(graph, config, str(tmp_path / "record.txt"))


# A real model


def test_resnet8_of_images_that_jpeg_has_changed(shared, tmp_path):
    """The batch norms are those of the images before; of the float model with new ones, int8 may lose 0.7 points."""
    data = np.load(shared / "data" / "resnet8_cifar10" / "cifar10_1200.npz")
    images, labels = data["x"].astype(np.float32), data["y"]
    path = str(shared / "data" / "resnet8_cifar10" / "resnet8_cifar10.pb")

    def top1(graph: tf.Graph) -> float:
        with lean_session(graph) as session:
            found = [session.run("Identity:0", {"input:0": images[at : at + 100]}) for at in range(0, 1200, 100)]
        return 100 * float(np.mean(np.concatenate(found).argmax(1) == labels))

    (tmp_path / "a.cfg").write_text("batch_num: 4 update_bn: true bn_update_config { bn_moving_average_fraction: 0.9 }")
    result = amct.quantize(path, images[::9][:128], "out/m", config=tmp_path / "a.cfg")
    before = top1(amct.load_graph(path))
    updated = top1(with_statistics(amct.load_graph(path), result.record_file))
    assert before < 77.5 and updated > 80
    assert top1(load(result.model)) >= updated - 0.7
