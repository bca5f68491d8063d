"""calibrate: the loop of step 3, in a session of the package's own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from small_graphs import CONV_NET_LAYERS, batch, conv_net, freeze, load, prepare, run

import amct_tensorflow as amct
from amct_tensorflow.errors import AmctRuntimeError, AmctTypeError, AmctValueError
from amct_tensorflow.record import read_balance_factors, read_record

tf1 = tf.compat.v1


def calibration_graph(folder: Path, graph: tf.Graph | None = None, batch_num: int = 2) -> tf.Graph:
    graph = conv_net() if graph is None else graph
    prepare(graph, folder, batch_num=batch_num)
    return graph


def prepare_two_inputs() -> tf.Graph:
    """a [2, ?], b [4, 3] with a default, c: out = fc(a) + c."""
    with tf.Graph().as_default() as graph:
        a = tf1.placeholder(tf.float32, [2, 4], name="a")
        b = tf1.placeholder_with_default(np.float32(1), [], name="b")
        c = tf1.placeholder(tf.int32, [], name="c")
        weights = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
        tf.add(tf.matmul(a, weights, name="fc") * b, tf.cast(c, tf.float32), name="out")
    return graph


def test_it_finds_what_a_loop_of_ones_own_finds(tmp_path):
    model = freeze(conv_net(), tmp_path / "model.pb")
    saved = []
    for name in ("own", "ours"):
        (tmp_path / name).mkdir()
        graph = calibration_graph(tmp_path / name)
        if name == "own":
            with tf1.Session(graph=graph) as session:
                for seed in range(2):
                    session.run("out:0", {"x:0": batch(seed)})
        else:
            assert amct.calibrate(graph, ["out"], [batch(0), batch(1)]) is None
        amct.save_model(model, ["out"], str(tmp_path / name / "record.txt"), str(tmp_path / name / "int8"))
        saved.append(load(tmp_path / name / "int8_quantized.pb"))
    assert (tmp_path / "own" / "record.txt").read_bytes() == (tmp_path / "ours" / "record.txt").read_bytes()
    np.testing.assert_array_equal(*(run(graph, batch(9)) for graph in saved))


@pytest.mark.parametrize(
    "as_batch",
    [
        lambda graph, data: {"x": data},
        lambda graph, data: {"x:0": data},
        lambda graph, data: {graph.get_tensor_by_name("x:0"): data},
        lambda graph, data: {graph.get_operation_by_name("x"): data},
        lambda graph, data: {"x": data.tolist()},
        lambda graph, data: {"x": data.astype(np.float64)},
        lambda graph, data: data,
        lambda graph, data: data.tolist(),
        lambda graph, data: tf.constant(data),
    ],
    ids=["op", "tensor name", "tensor", "operation", "lists", "float64", "array", "list", "eager tensor"],
)
def test_forms_of_a_batch(tmp_path, as_batch):
    graph = calibration_graph(tmp_path)
    amct.calibrate(graph, ["out:0"], [as_batch(graph, batch(seed)) for seed in range(2)])
    assert set(read_record(tmp_path / "record.txt")) == set(CONV_NET_LAYERS)


def test_several_inputs(tmp_path):
    graph = calibration_graph(tmp_path, prepare_two_inputs(), batch_num=1)
    amct.calibrate(graph, [graph.get_tensor_by_name("out:0")], [{"a": np.ones((2, 4)), "c:0": 3}])
    assert set(read_record(tmp_path / "record.txt")) == {"fc"}


def test_only_batch_num_batches_are_taken(tmp_path):
    taken = []

    def batches():
        for seed in range(5):
            taken.append(seed)
            yield batch(seed)

    amct.calibrate(calibration_graph(tmp_path), ["out"], batches())
    assert taken == [0, 1]


def test_batches_of_tf_data(tmp_path):
    data = tf.data.Dataset.from_tensor_slices(batch(0, 8)).batch(4)
    amct.calibrate(calibration_graph(tmp_path), ["out"], data)
    assert set(read_record(tmp_path / "record.txt")) == set(CONV_NET_LAYERS)


def test_the_graph_of_quantize_preprocess(tmp_path):
    (tmp_path / "a.cfg").write_text("batch_num: 2 common_config { dmq_balancer { migration_strength: 0.5 } }")
    graph, config, record = conv_net(), str(tmp_path / "config.json"), str(tmp_path / "record.txt")
    amct.create_quant_config(config, graph, config_defination=str(tmp_path / "a.cfg"))
    amct.quantize_preprocess(graph, config, record)
    amct.calibrate(graph, ["out"], [batch(0), batch(1)])
    assert set(read_balance_factors(record)) == {"block/conv", "head/fc"}


def test_a_model_in_nchw_runs_without_kernels_for_it(tmp_path):
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, 3, 8, 8], name="x")
        weights = np.random.default_rng(0).standard_normal((3, 3, 3, 4)).astype(np.float32)
        y = tf.nn.conv2d(x, weights, 1, "SAME", data_format="NCHW", name="conv")
        tf.nn.max_pool2d(y, 2, 2, "VALID", data_format="NCHW", name="out")
    calibration_graph(tmp_path, graph, batch_num=1)
    amct.calibrate(graph, ["out"], [np.moveaxis(batch(0), 3, 1)])
    assert set(read_record(tmp_path / "record.txt")) == {"conv"}


def test_data_that_cannot_be_calibrated_with(tmp_path):
    data = batch(0)
    data[0, 0, 0, 0] = np.nan
    graph = calibration_graph(tmp_path)
    with pytest.raises(AmctRuntimeError, match=r'^the activation of layer "block/conv" has invalid value inf or nan'):
        amct.calibrate(graph, ["out"], [data, data])


def test_a_graph_without_calibration():
    with pytest.raises(AmctRuntimeError, match="has no calibration ops: call quantize_model on it first"):
        amct.calibrate(conv_net(), ["out"], [batch(0)])


def test_a_calibration_of_another_process(tmp_path):
    graph_def = calibration_graph(tmp_path).as_graph_def()
    path = tmp_path / "graph.pb"
    path.write_bytes(graph_def.SerializeToString())
    code = (
        "import sys, tensorflow as tf, amct_tensorflow as amct\n"
        "graph = amct.load_graph(sys.argv[1])\n"
        "try:\n    amct.calibrate(graph, ['out'], [])\n"
        "except amct.AmctError as error:\n    print(error)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert "was not started in this process: call quantize_model on the float graph" in ended.stdout


def test_variables(tmp_path):
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, 4], name="x")
        weights = tf1.get_variable("w", [4, 3], use_resource=True)
        tf.matmul(x, weights, name="out")
    calibration_graph(tmp_path, graph, batch_num=1)
    with pytest.raises(AmctValueError, match="variables such as 'w', whose values only a session of yours has"):
        amct.calibrate(graph, ["out"], [np.ones((1, 4))])


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ({"x": 1}, AmctTypeError, "batches must be a list or an iterator of batches, not dict"),
        (np.ones((2, 8, 8, 3)), AmctTypeError, "batches must be a list or an iterator of batches, not ndarray"),
        (5, AmctTypeError, "batches must be a list or an iterator of batches, not int"),
        ([batch(0)], AmctValueError, "batches has 1 batch, but batch_num is 2: give more of them"),
        (iter([batch(0)]), AmctValueError, "batches has 1 batch, but batch_num is 2: give more of them"),
        ([{}] * 2, AmctValueError, "a batch has no data for the input 'x': add an array under this name"),
        ([{"block/relu": batch(0)}] * 2, AmctValueError, "'block/relu' does not exist in the calibration graph"),
        ([{3: batch(0)}] * 2, AmctTypeError, "the keys of a batch must be names of inputs or tensors, not int"),
        (
            [(batch(0), [0, 1, 2, 3])] * 2,
            AmctTypeError,
            "a batch is a tuple, as of images and labels: leave the labels",
        ),
        (
            tf.constant(batch(0)),
            AmctTypeError,
            "batches must be a list or an iterator of batches, not EagerTensor: write",
        ),
        ([{"x": [[2**70]]}] * 2, AmctValueError, "the data for the input 'x'"),
        ([{"x": "cat"}] * 2, AmctValueError, "the data for the input 'x' cannot become an array of float32"),
        ([[[1, 2], [3]]] * 2, AmctValueError, "the data for the input 'x' cannot become an array of float32"),
        ([np.ones((2, 3))] * 2, AmctValueError, r"the data for the input 'x' has the shape \[2, 3\], but it takes"),
    ],
    ids=[
        *(
            "dictionary",
            "array",
            "number",
            "short list",
            "short iterator",
            "no input",
            "no such input",
            "number as key",
        ),
        *("tuple", "tensor", "huge", "text", "ragged", "other shape"),
    ],
)
def test_batches_that_cannot_be_used(tmp_path, batches, error, message):
    with pytest.raises(error, match=message):
        amct.calibrate(calibration_graph(tmp_path), ["out"], batches)


def test_an_array_for_several_inputs(tmp_path):
    graph = calibration_graph(tmp_path, prepare_two_inputs(), batch_num=1)
    with pytest.raises(AmctTypeError, match=r"a batch must be a dictionary of arrays .* which are a, c, not"):
        amct.calibrate(graph, ["out"], [np.ones((2, 4))])


def test_an_output_that_does_not_exist(tmp_path):
    with pytest.raises(
        AmctValueError, match="output 'oat' does not exist in the calibration graph; did you mean 'out'"
    ):
        amct.calibrate(calibration_graph(tmp_path), ["oat"], [batch(0)] * 2)


def record_of(folder: Path, *calls: list, make=conv_net) -> bytes:
    """The record after calls of calibrate, which may fail."""
    folder.mkdir()
    graph = calibration_graph(folder, make())
    for batches in calls:
        with contextlib.suppress(amct.AmctError):
            amct.calibrate(graph, ["out"], batches)
    return (folder / "record.txt").read_bytes()


@pytest.mark.parametrize(
    "before",
    [
        [3 * batch(5), batch(0)[:, :3]],
        [3 * batch(5), np.full_like(batch(0), np.nan)],
        iter([3 * batch(5)]),
        [3 * batch(5), 2 * batch(6)],
    ],
    ids=["other shape", "nan", "too few", "a whole calibration"],
)
def test_every_call_starts_anew(tmp_path, before):
    batches = [batch(0), batch(1)]
    assert record_of(tmp_path / "twice", before, batches) == record_of(tmp_path / "once", batches)


def test_balancing_starts_anew(tmp_path):
    (tmp_path / "a.cfg").write_text("batch_num: 2 common_config { dmq_balancer { migration_strength: 0.5 } }")
    found = []
    for before in ([], [[5 * batch(5), np.full_like(batch(0), np.nan)]]):
        graph, config, record = conv_net(), str(tmp_path / "config.json"), str(tmp_path / "record.txt")
        amct.create_quant_config(config, graph, config_defination=str(tmp_path / "a.cfg"))
        amct.quantize_preprocess(graph, config, record)
        for batches in before:
            with pytest.raises(AmctRuntimeError, match="has invalid value"):
                amct.calibrate(graph, ["out"], batches)
        amct.calibrate(graph, ["out"], [batch(0), batch(1)])
        found.append(Path(record).read_bytes())
    assert found[0] == found[1]


def test_a_failed_call_leaves_no_whole_record(tmp_path):
    model = freeze(conv_net(), tmp_path / "model.pb")
    graph = calibration_graph(tmp_path)
    amct.calibrate(graph, ["out"], [batch(0), batch(1)])
    with pytest.raises(AmctValueError):
        amct.calibrate(graph, ["out"], iter([batch(0)]))
    with pytest.raises(AmctRuntimeError, match="calibration is not finished"):
        amct.save_model(model, ["out"], str(tmp_path / "record.txt"), str(tmp_path / "int8"))


class NoLength:
    """As a loader of a stream has it: a length that cannot be asked for."""

    def __len__(self):
        raise TypeError("no len")

    def __iter__(self):
        return iter([batch(0), batch(1)])


@pytest.mark.parametrize("make", [tf.data.Dataset.repeat, tf.data.Dataset.unbatch], ids=["endless", "unknown"])
def test_datasets_of_no_known_length(tmp_path, make):
    data = make(tf.data.Dataset.from_tensor_slices(batch(0, 8)).batch(4))
    data = data if data.element_spec.shape.rank == 4 else data.batch(4)
    with tf.Graph().as_default():  # in which no dataset can be iterated
        amct.calibrate(calibration_graph(tmp_path), ["out"], data)
    assert set(read_record(tmp_path / "record.txt")) == set(CONV_NET_LAYERS)


def test_a_loader_of_no_known_length(tmp_path):
    amct.calibrate(calibration_graph(tmp_path), ["out"], NoLength())
    assert set(read_record(tmp_path / "record.txt")) == set(CONV_NET_LAYERS)


def test_a_dataset_with_eager_mode_off(tmp_path):
    with tf.Graph().as_default():
        data = tf.data.Dataset.from_tensor_slices(batch(0, 8)).batch(4)  # belongs to this graph
        with pytest.raises(AmctTypeError, match="made with eager mode off: pass a generator of arrays"):
            amct.calibrate(calibration_graph(tmp_path), ["out"], data)


def test_an_output_that_is_an_input(tmp_path):
    amct.calibrate(calibration_graph(tmp_path), ["x", "out"], [batch(0), batch(1)])
    assert set(read_record(tmp_path / "record.txt")) == set(CONV_NET_LAYERS)


def one_input(dtype: tf.DType, default: object = None) -> tf.Graph:
    with tf.Graph().as_default() as graph:
        if default is None:
            x = tf1.placeholder(dtype, [None, 4], name="x")
        else:
            x = tf1.placeholder_with_default(default, [None, 4], name="x")
        weights = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
        tf.matmul(tf.cast(x, tf.float32), weights, name="out")
    return graph


def test_an_array_for_the_only_input_which_has_a_default(tmp_path):
    graph = one_input(tf.float32, np.zeros((1, 4), np.float32))
    amct.calibrate(calibration_graph(tmp_path, graph, batch_num=1), ["out"], [np.ones((2, 4))])
    assert read_record(tmp_path / "record.txt")["out"].scale_d == pytest.approx(1 / 255)


@pytest.mark.parametrize(
    ("dtype", "data"),
    [
        (tf.int32, np.ones((2, 4), np.float64)),
        (tf.int32, np.ones((2, 4), np.int64)),
        (tf.uint8, [[1, 2, 3, 255]]),
        (tf.bool, np.ones((2, 4), np.int32)),
        (tf.float32, np.full((2, 4), 0.1)),
        (tf.bfloat16, np.full((2, 4), 0.1)),
    ],
    ids=lambda value: getattr(value, "name", "data"),
)
def test_data_of_other_types(tmp_path, dtype, data):
    amct.calibrate(calibration_graph(tmp_path, one_input(dtype), batch_num=1), ["out"], [data])
    assert read_record(tmp_path / "record.txt")["out"].scale_d is not None


@pytest.mark.parametrize(
    ("dtype", "data"),
    [
        (tf.int32, np.full((2, 4), 1.5)),
        (tf.int32, np.full((2, 4), np.nan)),
        (tf.int32, np.full((2, 4), 2**40)),
        (tf.uint8, np.full((2, 4), -1)),
        (tf.float32, np.full((2, 4), 1j)),
    ],
    ids=["fraction", "nan", "too large", "negative", "complex"],
)
@pytest.mark.filterwarnings("ignore::numpy.exceptions.ComplexWarning")
def test_data_that_would_change(tmp_path, dtype, data):
    graph = calibration_graph(tmp_path, one_input(dtype), batch_num=1)
    with pytest.raises(AmctValueError, match=r"the data for the input 'x' are \w+ and would change as"):
        amct.calibrate(graph, ["out"], [data])
