"""quantize_preprocess and what follows: balanced layers, and HFMG, from the configuration to the saved model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf
from small_graphs import batch, configure, conv_net, freeze, int8_model, load, run, sqnr, write_record

import amct_tensorflow as amct
from amct_tensorflow.errors import AmctRuntimeError, AmctTypeError, AmctValueError
from amct_tensorflow.record import LayerRecord, read_balance_factors, read_record

tf1 = tf.compat.v1

RANGES = np.float32([0.01, 1, 100])  # of the input channels


def uneven_batch(seed: int = 0) -> np.ndarray:
    return batch(seed) * RANGES


def uneven_net() -> tf.Graph:
    """conv_net with a convolution whose weights are small where its input is large."""
    weights = np.random.default_rng(0).standard_normal((3, 3, 3, 4)).astype(np.float32) / RANGES[:, None]
    return conv_net(weights=weights)


BALANCED_CONV = """
batch_num: 2
override_layer_configs {
  layer_name: "block/conv"
  calibration_config { dmq_balancer { migration_strength: 0.5 } }
}
"""


def test_balancing_helps_where_channels_differ(tmp_path):
    relu = "block/relu:0"
    reference = run(uneven_net(), uneven_batch(9), relu)
    found = {}
    for name, text in {"plain": "batch_num: 2", "balanced": BALANCED_CONV}.items():
        (tmp_path / name).mkdir()
        found[name] = sqnr(
            reference, run(load(int8_model(uneven_net, uneven_batch, tmp_path / name, text)), uneven_batch(9), relu)
        )
    assert found["balanced"] > found["plain"] + 10


def test_the_record_keeps_the_factors(tmp_path):
    int8_model(uneven_net, uneven_batch, tmp_path, BALANCED_CONV)
    data = np.stack([uneven_batch(0), uneven_batch(1)])
    weights = np.random.default_rng(0).standard_normal((3, 3, 3, 4)).astype(np.float32) / RANGES[:, None]
    expected = np.sqrt(np.abs(data).max(axis=(0, 1, 2, 3)) / np.abs(weights).max(axis=(0, 1, 3)))
    records = read_record(tmp_path / "record.txt")
    np.testing.assert_allclose(records["block/conv"].tensor_balance_factor, expected, rtol=1e-5)
    assert not records["head/fc"].tensor_balance_factor
    # What was balanced was calibrated: the scales are those of balanced weights and inputs.
    balanced = weights * expected[:, None]
    scales = np.maximum(balanced.max(axis=(0, 1, 2)) / 127, balanced.min(axis=(0, 1, 2)) / -128)
    np.testing.assert_allclose(records["block/conv"].scale_w, scales, rtol=1e-5)
    span = (data / expected).max() - (data / expected).min()
    assert 0.7 * span / 255 < records["block/conv"].scale_d < 1.3 * span / 255


def test_the_deployed_graph(tmp_path):
    graph = load(int8_model(uneven_net, uneven_batch, tmp_path, BALANCED_CONV))
    quants = {op.name: op for op in graph.get_operations() if op.type == "AscendQuant"}
    assert quants["block/act_quant/AscendQuant"].inputs[0].op.name == "block/dmq_balance/Mul"
    assert len([op for op in graph.get_operations() if op.type == "Mul"]) == 1


def test_preprocessing_changes_no_result(tmp_path, capsys):
    graph = uneven_net()
    before = run(graph, uneven_batch())
    amct.quantize_preprocess(graph, configure(graph, tmp_path, BALANCED_CONV), str(tmp_path / "new" / "record.txt"))
    np.testing.assert_array_equal(run(graph, uneven_batch()), before)
    lines = capsys.readouterr().err
    assert "Conv2D block/conv: will be balanced" in lines
    assert "run the graph 2 time(s) in a new session, then call quantize_model with" in lines


@pytest.mark.parametrize("bins", [1024, 8192])
def test_hfmg(tmp_path, bins):
    text = f"batch_num: 2 common_config {{ hfmg_quantize {{ num_of_bins: {bins} }} }}"
    path = int8_model(conv_net, batch, tmp_path, text)
    assert json.loads((tmp_path / "config.json").read_text())["block/conv"]["activation_quant_params"] == {
        "num_bits": 8,
        "act_algo": "hfmg",
        "num_of_bins": bins,
    }
    assert sqnr(run(conv_net(), batch(9)), run(load(path), batch(9))) > 25


def test_layers_of_one_tensor_with_different_algorithms(tmp_path):
    def two_convs() -> tf.Graph:
        graph = conv_net()
        with graph.as_default():
            other = tf.nn.conv2d(
                graph.get_tensor_by_name("x:0"), np.ones((1, 1, 3, 2), np.float32), 1, "SAME", name="b"
            )
            tf.nn.relu(other, name="other")
        return graph

    graph = two_convs()
    text = 'override_layer_configs { layer_name: "b" calibration_config { hfmg_quantize { } } }'
    amct.quantize_model(graph, configure(graph, tmp_path, text), str(tmp_path / "record.txt"))
    types = [op.type for op in graph.get_operations()]
    assert types.count("QuantHfmg") == 1 and types.count("QuantIfmr") == 3
    with tf1.Session(graph=graph) as session:
        session.run(["out:0", "other:0"], {"x:0": batch()})
    records = read_record(tmp_path / "record.txt")
    assert records["b"].scale_d != records["block/conv"].scale_d


# What is refused


def test_no_layer_to_balance(tmp_path):
    graph = conv_net()
    with pytest.raises(AmctValueError, match=r"config\.json has a dmq_balancer_param for none of the layers"):
        amct.quantize_preprocess(graph, configure(graph, tmp_path), str(tmp_path / "record.txt"))
    assert not (tmp_path / "record.txt").exists()


def test_quantize_model_without_preprocessing(tmp_path):
    graph = conv_net()
    config, before = configure(graph, tmp_path, BALANCED_CONV), len(graph.get_operations())
    with pytest.raises(AmctRuntimeError, match=r"config_file indicates dmq_balancer, but .* does not exist: call"):
        amct.quantize_model(graph, config, str(tmp_path / "record.txt"))
    assert len(graph.get_operations()) == before


def test_quantize_model_after_too_few_batches(tmp_path):
    graph = uneven_net()
    config, record = configure(graph, tmp_path, BALANCED_CONV), str(tmp_path / "record.txt")
    amct.quantize_preprocess(graph, config, record)
    run(graph, uneven_batch())
    with pytest.raises(AmctRuntimeError, match=r"config_file indicates dmq_balancer, but .* has no tensor_balance"):
        amct.quantize_model(uneven_net(), config, record)


def test_factors_of_another_layer(tmp_path):
    graph = conv_net()
    config = configure(graph, tmp_path, BALANCED_CONV)
    record = write_record(tmp_path / "record.txt", {"head/fc": LayerRecord(tensor_balance_factor=(1.0,))})
    with pytest.raises(AmctRuntimeError, match=r"record_file .* has no tensor_balance_factor of layer block/conv"):
        amct.quantize_model(graph, config, record)
    record = write_record(tmp_path / "record.txt", {"block/conv": LayerRecord(tensor_balance_factor=(1.0,))})
    with pytest.raises(AmctRuntimeError, match="has 1 values of tensor_balance_factor for layer block/conv of 3 input"):
        amct.quantize_model(graph, config, record)
    assert read_balance_factors(record) == {"block/conv": (1.0,)}


def test_both_jobs_on_one_graph(tmp_path):
    graph = uneven_net()
    config, record = configure(graph, tmp_path, BALANCED_CONV), str(tmp_path / "record.txt")
    amct.quantize_preprocess(graph, config, record)
    with pytest.raises(AmctValueError, match="it contains DmqBalance: start from the float model"):
        amct.quantize_model(graph, config, record)


def test_saving_right_after_preprocessing(tmp_path):
    model = freeze(uneven_net(), tmp_path / "model.pb")
    graph = uneven_net()
    config, record = configure(graph, tmp_path, BALANCED_CONV), str(tmp_path / "record.txt")
    amct.quantize_preprocess(graph, config, record)
    for seed in range(2):
        run(graph, uneven_batch(seed))
    with pytest.raises(AmctRuntimeError, match="record_file is empty, no layers to be quantized"):
        amct.save_model(model, ["out"], record, str(tmp_path / "int8"))


def test_bad_arguments(tmp_path):
    graph = conv_net()
    config = configure(graph, tmp_path, BALANCED_CONV)
    with pytest.raises(AmctTypeError, match="quantize_preprocess argument record_file must be str"):
        amct.quantize_preprocess(graph, config, None)
    with pytest.raises(AmctValueError, match="output 'nothing' does not exist in the graph"):
        amct.quantize_preprocess(graph, config, str(tmp_path / "r.txt"), ["nothing"])
    with pytest.raises(AmctValueError, match="the record would overwrite it"):
        amct.quantize_preprocess(graph, config, config)
    graph.finalize()
    with pytest.raises(AmctRuntimeError, match="the graph is finalized"):
        amct.quantize_preprocess(graph, config, str(tmp_path / "r.txt"))


def test_a_convolution_whose_groups_are_not_known(tmp_path):
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None] * 4, name="x")
        tf.nn.relu(tf.nn.conv2d(x, np.ones((3, 3, 4, 8), np.float32), 1, "SAME", name="conv"), name="out")
    before = graph.as_graph_def().SerializeToString(deterministic=True)
    config = configure(graph, tmp_path, "common_config { dmq_balancer { } }")
    with pytest.raises(AmctValueError, match="layer conv cannot be balanced, because the number of its input channels"):
        amct.quantize_preprocess(graph, config, str(tmp_path / "record.txt"))
    assert graph.as_graph_def().SerializeToString(deterministic=True) == before
    assert not (tmp_path / "record.txt").exists()
