"""MatMul, BatchMatMul and Einsum with a weight scale for each column, where the configuration says so."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from small_graphs import NEAREST
from small_models import PARAMETERS, Deployed, Net, flat, graph_of, image, load, quantize, run, sqnr, v1, write_pb

import amct_tensorflow as amct
from amct_tensorflow.record import read_record

CHANNEL_WISE = {"weight_quant_params": {"channel_wise": True}}


def _op(op_type, **attributes):
    def multiply(x, w):
        return getattr(tf.raw_ops, op_type)(**{_OPERANDS[op_type][0]: x, _OPERANDS[op_type][1]: w}, **attributes)

    return multiply


def _first(op_type, **attributes):
    return lambda x, w: _op(op_type, **attributes)(w, x)


def _einsum(equation):
    return lambda x, w: tf.raw_ops.Einsum(inputs=[x, w], equation=equation, name="layer")


_OPERANDS = {"MatMul": "ab", "SparseMatMul": "ab", "BatchMatMul": "xy", "BatchMatMulV2": "xy"}

# The op, what it computes of x and weights for np.einsum, and the op that does when it is quantized.
PRODUCTS = {
    "MatMul": (_op("MatMul", name="layer"), "ab,bc->ac", "MatMul"),
    "MatMul, transpose_a": (_op("MatMul", transpose_a=True, name="layer"), "ba,bc->ac", "MatMul"),
    "MatMul, transpose_b": (_op("MatMul", transpose_b=True, name="layer"), "ab,cb->ac", "MatMul"),
    "MatMul, weights first": (_first("MatMul", name="layer"), "ba,cb->ca", "MatMul"),
    "SparseMatMul": (_op("SparseMatMul", name="layer"), "ab,bc->ac", "MatMul"),
    "BatchMatMul": (_op("BatchMatMul", name="layer"), "ab,bc->ac", "BatchMatMul"),
    "BatchMatMulV2": (_op("BatchMatMulV2", name="layer"), "adb,bc->adc", "BatchMatMulV2"),
    "BatchMatMulV2, adj_y": (_op("BatchMatMulV2", adj_y=True, name="layer"), "adb,cb->adc", "BatchMatMulV2"),
    "BatchMatMulV2, adj_x": (_op("BatchMatMulV2", adj_x=True, name="layer"), "abd,bc->adc", "MatMul"),
    "BatchMatMulV2, weights first": (_first("BatchMatMulV2", name="layer"), "abd,cb->acd", "MatMul"),
    "many matrices": (_op("BatchMatMulV2", name="layer"), "adeb,dbc->adec", "BatchMatMulV2"),
    "many matrices, adj_y": (_op("BatchMatMulV2", adj_y=True, name="layer"), "adeb,dcb->adec", "BatchMatMulV2"),
    "Einsum": (_einsum("adb,bc->adc"), "adb,bc->adc", "MatMul"),
    "Einsum of heads": (_einsum("adb,bec->adec"), "adb,bec->adec", "MatMul"),
    "Einsum that sums twice": (_einsum("adeb,ebc->adc"), "adeb,ebc->adc", "MatMul"),
    "Einsum, columns in the middle": (_einsum("adb,bc->acd"), "adb,bc->acd", "MatMul"),
    "Einsum of a batch": (_einsum("adb,dbc->adc"), "adb,dbc->adc", "BatchMatMulV2"),
}

_SIZES = {"a": 4, "b": 6, "c": 5, "d": 3, "e": 2}


class Case:
    """One of PRODUCTS, with columns that differ by up to 100 times."""

    def __init__(self, case):
        self.multiply, self.equation, self.op_type = PRODUCTS[case]
        operands, self.result = self.equation.split("->")
        self.x, self.w = operands.split(",")
        self.columns = [label for label in self.w if label in self.result and label not in self.x]
        self.weights = Net().random("w", self._shape(self.w)) / 2
        sizes = np.random.default_rng(1).uniform(-2, 0, [_SIZES[label] for label in self.columns])
        self.weights *= (10 ** sizes.reshape([_SIZES[at] if at in self.columns else 1 for at in self.w])).astype("f")
        self.bias = Net().random("b", [_SIZES[at] if at in self.columns else 1 for at in self.result])
        self.data = np.random.default_rng(0).standard_normal(self._shape(self.x)).astype(np.float32)

    def _shape(self, labels):
        return [_SIZES[label] for label in labels]

    def build(self, net):
        x = v1.placeholder(tf.float32, [None if at == "a" else _SIZES[at] for at in self.x], name="x")
        y = self.multiply(x, net.parameter(self.weights, "w"))
        tf.nn.relu(y + net.parameter(self.bias, "b"), name="out")

    def scales(self):
        """ARQ of each column, over the parts of a batch: shaped to broadcast against the weights."""
        others = tuple(at for at, label in enumerate(self.w) if label not in self.columns)
        high, low = (reduce(self.weights, axis=others, keepdims=True) for reduce in (np.max, np.min))
        return np.where(high >= -low, high / np.float32(127), low / np.float32(-128)).astype(np.float32)

    def expected(self, record):
        """What int8 arithmetic makes of the data."""
        steps = np.clip(np.round(self.data / np.float32(record.scale_d)) + record.offset_d, -128, 127) - record.offset_d
        weights = np.clip(np.round(self.weights / self.scales()), -128, 127)
        per_column = self._of_columns(record.scale_w) * np.float64(np.float32(record.scale_d))
        total = np.einsum(self.equation, steps.astype(np.float64), weights) + np.round(self.bias / per_column)
        step = 2.0 ** self._of_columns(record.shift_bit or np.zeros(len(record.scale_w)))
        shifted = np.clip(np.floor(total / step), -(2**15), 2**15 - 1) * step
        return np.maximum(np.where(step > 1, shifted, total) * per_column, 0)

    def _of_columns(self, values):
        return np.float64(values).reshape([_SIZES[at] if at in self.columns else 1 for at in self.result])


@pytest.mark.parametrize("shift_n", [False, True], ids=["", "shift_n"])
@pytest.mark.parametrize("case", PRODUCTS)
def test_the_whole_job(case, shift_n, tmp_path):
    case = Case(case)
    settings = {**NEAREST, "shift_n": shift_n, "layer": CHANNEL_WISE}
    deployed = Deployed(case.build, ["out"], tmp_path, feeds=[case.data], **settings)
    record = deployed.records["layer"]
    np.testing.assert_allclose(record.scale_w, case.scales().reshape(-1), rtol=1e-6)
    assert len(record.shift_bit) == (len(record.scale_w) if shift_n else 0)
    assert deployed.nodes["layer"].op == case.op_type and not deployed.of_type("AddV2")
    assert [deployed.nodes[name].op for name in deployed.inputs("layer")] == ["AscendQuant", "AscendWeightQuant"]
    assert deployed.constant("dequant/deq_scale").size == len(record.scale_w)
    np.testing.assert_allclose(deployed.run(case.data), case.expected(record), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("case", PRODUCTS)
def test_variables_get_the_scales_of_constants(case, tmp_path):
    case = Case(case)
    records = []
    for name, parameter in PARAMETERS.items():
        (tmp_path / name).mkdir()
        graph = graph_of(case.build, parameter)
        path = quantize(graph, tmp_path / name, layer=CHANNEL_WISE)
        run(graph, "out:0", case.data)
        records.append(read_record(path)["layer"])
    assert len(records[0].scale_w) == case.scales().size
    assert records[0] == records[1] == records[2]


def mean_of_columns(deployed, x):
    """The SQNR of a column of the result, on average."""
    expected, actual = deployed.run_float(x), deployed.run(x)
    return np.mean([sqnr(expected[:, at], actual[:, at]) for at in range(expected.shape[-1])])


def test_what_it_gains(tmp_path):
    """With one scale, the weights of columns that are 100 times smaller become 1, 0 or -1."""

    def build(net):
        weights = net.random("w", (64, 32)) * np.geomspace(0.01, 1, 32)
        x = v1.placeholder(tf.float32, (None, 64), name="x")
        tf.identity(tf.matmul(x, net.parameter(weights, "w"), name="layer"), name="out")

    x = np.random.default_rng(0).standard_normal((256, 64)).astype(np.float32)
    found = []
    for name, settings in (("one", {}), ("each", {"layer": CHANNEL_WISE})):
        (tmp_path / name).mkdir()
        found.append(mean_of_columns(Deployed(build, ["out"], tmp_path / name, feeds=[x], **settings), x))
    one, each = found
    assert each > 35 and each > one + 10


@pytest.mark.parametrize("kind", ["matmul", "conv"])
def test_a_product_that_feeds_softmax_has_what_is_said_and_a_convolution_has_one_scale(kind, tmp_path, capsys):
    def build(net):
        y = net.matmul(flat(image()), "layer") if kind == "matmul" else net.conv(image(), "layer")
        tf.nn.softmax(net.bias(y, "bias"), name="out")

    deployed = Deployed(build, ["out"], tmp_path, layer=CHANNEL_WISE)
    assert len(deployed.records["layer"].scale_w) == (6 if kind == "matmul" else 1)
    warned = "layer layer feeds Softmax, so its weights get one scale although its channel_wise is true"
    assert (warned in capsys.readouterr().err) == (kind == "conv")


def test_in_float16(tmp_path):
    def build(net):
        x = v1.placeholder(tf.float16, (None, 3, 6), name="x")
        w = tf.constant(net.random("w", (6, 2, 4)) * np.geomspace(0.1, 1, 4), tf.float16)
        y = tf.raw_ops.Einsum(inputs=[x, w], equation="abc,cde->abde", name="layer")
        tf.nn.relu(y + tf.constant(net.random("b", (2, 4)), tf.float16), name="out")

    x = np.random.default_rng(0).standard_normal((4, 3, 6)).astype(np.float16)
    deployed = Deployed(build, ["out"], tmp_path, feeds=[x], layer=CHANNEL_WISE)
    assert len(deployed.records["layer"].scale_w) == 8
    assert sqnr(deployed.run_float(x).astype(np.float32), deployed.run(x).astype(np.float32)) > 30


def test_uneven_gains_are_folded(tmp_path):
    """With one scale they would not be, see uneven_gains.py."""

    def build(net):
        x = v1.placeholder(tf.float32, (None, 16), name="x")
        y = net.matmul(x, "layer", 32) * net.parameter(np.geomspace(1e-4, 1, 32), "gains")
        tf.identity(y + net.parameter(net.random("beta", (32,)), "beta"), name="out")

    x = np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32)
    deployed = Deployed(build, ["out"], tmp_path, feeds=[x], layer=CHANNEL_WISE)
    assert not deployed.records["layer"].skip_fusion and not deployed.of_type("Mul")
    assert mean_of_columns(deployed, x) > 35


def test_the_bias_of_a_column_of_zeros(tmp_path):
    """Its scale is free, see scales_for_biases.py."""

    def build(net):
        x = v1.placeholder(tf.float32, (None, 6), name="x")
        y = tf.matmul(x, net.parameter(net.random("w", (6, 3)) * [1, 0, 1], "w"), name="layer")
        tf.identity(y + net.parameter([0.3, 0.0123, 0.2], "b"), name="out")

    x = np.random.default_rng(0).standard_normal((16, 6)).astype(np.float32)
    deployed = Deployed(build, ["out"], tmp_path, feeds=[x], layer=CHANNEL_WISE)
    np.testing.assert_allclose(deployed.run(x)[:, 1], 0.0123, rtol=1e-3)


@pytest.mark.parametrize("wise", [["a"], ["a", "b"]], ids=["one", "both"])
def test_layers_that_are_joined(wise, tmp_path):
    def build(net):
        x = v1.placeholder(tf.float32, (None, 6), name="x")
        y = tf.concat([net.matmul(x, "a", 3), net.matmul(x, "b", 4)], 1)
        y = y * net.parameter(np.geomspace(0.1, 1, 7), "gains") + net.parameter(net.random("beta", (7,)), "beta")
        tf.nn.relu(y, name="out")

    x = np.random.default_rng(0).standard_normal((16, 6)).astype(np.float32)
    deployed = Deployed(build, ["out"], tmp_path, feeds=[x], **dict.fromkeys(wise, CHANNEL_WISE))
    assert [len(deployed.records[name].scale_w) for name in "ab"] == [3, 4 if "b" in wise else 1]
    assert not deployed.of_type("Mul") and deployed.sqnr(x) > 30


def test_classes_that_the_calibration_has_not_seen(tmp_path):
    """What one output has reached passes through the shifts of all."""

    def build(net):
        weights = (np.eye(20) * np.geomspace(0.5, 1, 20) + 0.02).repeat(10, axis=0)
        x = v1.placeholder(tf.float32, (None, 200), name="x")
        tf.raw_ops.MatMul(a=x, b=net.parameter(weights, "w"), name="fc")

    random = np.random.default_rng(0)

    def samples(first, last):
        classes = np.eye(20, dtype=np.float32)[random.integers(first, last, 64)]
        return random.standard_normal((64, 200)).astype(np.float32) + 9 * classes.repeat(10, axis=1)

    deployed = Deployed(build, ["fc"], tmp_path, feeds=[samples(10, 20)], fc=CHANNEL_WISE)
    assert len(set(deployed.records["fc"].scale_w)) == 20
    assert deployed.sqnr(samples(0, 10)) > 30


def tied(net):
    """There by a matrix, and back by the same one, transposed: its columns are its rows there."""
    w = net.parameter(net.random("w", (6, 6)) * np.geomspace(0.1, 1, 6), "w")
    x = v1.placeholder(tf.float32, (None, 6), name="x")
    y = tf.nn.relu(tf.raw_ops.BatchMatMulV2(x=x, y=w, name="there"))
    tf.nn.relu(tf.raw_ops.BatchMatMulV2(x=y, y=w, adj_y=True, name="back"), name="out")


def test_tied_weights(tmp_path):
    x = np.random.default_rng(0).standard_normal((16, 6)).astype(np.float32)
    deployed = Deployed(tied, ["out"], tmp_path, feeds=[x], there=CHANNEL_WISE, back=CHANNEL_WISE)
    assert deployed.records["there"].scale_w != deployed.records["back"].scale_w
    assert len(deployed.of_type("AscendWeightQuant")) == 2
    assert deployed.sqnr(x) > 30


def test_tied_weights_with_the_same_scales_in_both_directions(tmp_path):
    """As a user's record may have them."""
    graph = graph_of(tied)
    largest = np.abs(tf.make_ndarray(graph.get_operation_by_name("w").get_attr("value"))).max()
    scales = tuple(map(float, np.geomspace(1, 2, 6) * largest / 127))
    values = "".join(f" scale_w: {scale!r} offset_w: 0" for scale in scales)
    lines = [
        f'record {{ key: "{name}" value {{ scale_d: {scale_d} offset_d: 0{values} }} }}'
        for name, scale_d in (("there", 0.025), ("back", 0.05))
    ]
    (tmp_path / "record.txt").write_text("\n".join(lines))
    pb = write_pb(graph, tmp_path / "float.pb")
    amct.convert_model(pb, ["out"], str(tmp_path / "record.txt"), str(tmp_path / "m"))
    x = np.random.default_rng(0).standard_normal((16, 6)).astype(np.float32)
    assert sqnr(run(graph, "out:0", x), run(load(tmp_path / "m_quantized.pb"), "out:0", x)) > 25


def test_balanced(tmp_path):
    case = Case("Einsum of heads")
    (tmp_path / "quant.cfg").write_text(
        'override_layer_types { layer_type: "Einsum" '
        "calibration_config { dmq_balancer { } arq_quantize { channel_wise: true } } }"
    )
    graph = graph_of(case.build)
    pb, config, record = write_pb(graph, tmp_path / "float.pb"), str(tmp_path / "c.json"), str(tmp_path / "r.txt")
    amct.create_quant_config(config, graph, config_defination=str(tmp_path / "quant.cfg"))
    amct.quantize_preprocess(graph, config, record)
    run(graph, "out:0", case.data)
    graph = load(pb)
    amct.quantize_model(graph, config, record)
    run(graph, "out:0", case.data)
    amct.save_model(pb, ["out"], record, str(tmp_path / "m"))
    entry = read_record(record)["layer"]
    assert len(entry.scale_w) == len(entry.shift_bit) == 10 and len(entry.tensor_balance_factor) == 6
    expected = run(load(pb), "out:0", case.data)
    assert sqnr(expected, run(load(tmp_path / "m_quantized.pb"), "out:0", case.data)) > 30
