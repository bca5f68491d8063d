"""calibrate: the loop of step 3, in a session of the package's own."""

from __future__ import annotations

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
        *("text", "ragged", "other shape"),
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


def test_after_a_failure_one_can_go_on(tmp_path):
    graph = calibration_graph(tmp_path)
    with pytest.raises(AmctValueError):
        amct.calibrate(graph, ["out"], iter([batch(0)]))
    amct.calibrate(graph, ["out"], [batch(0), batch(1)])
    assert set(read_record(tmp_path / "record.txt")) == set(CONV_NET_LAYERS)
