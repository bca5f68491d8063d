"""Einsum, and MatMul and BatchMatMul in forms that are not those of the chip, become products of matrices."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from fusing import fuse, plan, rewrite_in_float
from small_graphs import NEAREST
from small_models import PARAMETERS, Deployed, graph_of, load, run, sqnr, v1

import amct_tensorflow as amct
from amct_tensorflow.graph_passes.balance_channels import balance_inputs, balance_weights, observe_balance
from amct_tensorflow.layers import find_layers
from amct_tensorflow.ops import RecordBook
from amct_tensorflow.record import read_balance_factors, read_record, read_rounding


def einsum(equation, *operands, name="layer"):
    return tf.raw_ops.Einsum(inputs=operands, equation=equation, name=name)


def matmul(a, b, **attributes):
    return tf.raw_ops.MatMul(a=a, b=b, name="layer", **attributes)


def sparse_matmul(a, b, **attributes):
    return tf.raw_ops.SparseMatMul(a=a, b=b, name="layer", **attributes)


def batch_matmul(x, y, **attributes):
    return tf.raw_ops.BatchMatMulV2(x=x, y=y, name="layer", **attributes)


def _of(equation):
    return lambda x, w: einsum(equation, x, w)


def _swapped(equation):
    return lambda x, w: einsum(equation, w, x)


# The product of x and weights, the shapes of both, and the op that computes it when it is quantized.
PRODUCTS = {
    "abc,cd->abd": (_of("abc,cd->abd"), (4, 3, 6), (6, 5), "MatMul"),
    "abc,cde->abde": (_of("abc,cde->abde"), (4, 3, 6), (6, 2, 4), "MatMul"),
    "abcd,cde->abe": (_of("abcd,cde->abe"), (4, 3, 2, 4), (2, 4, 6), "MatMul"),
    "abc,cd->adb": (_of("abc,cd->adb"), (4, 3, 6), (6, 5), "MatMul"),
    "ab,cb->ac": (_of("ab,cb->ac"), (4, 6), (5, 6), "MatMul"),
    "abc,c->ab": (_of("abc,c->ab"), (4, 3, 6), (6,), "MatMul"),
    "a,ab->b": (_of("a,ab->b"), (4,), (4, 5), "MatMul"),
    "...c,cd->...d": (_of("...c,cd->...d"), (4, 2, 3, 6), (6, 5), "MatMul"),
    "abc,bcd->abd": (_of("abc,bcd->abd"), (4, 3, 6), (3, 6, 5), "BatchMatMulV2"),
    "abcd,dbe->aceb": (_of("abcd,dbe->aceb"), (4, 3, 2, 6), (6, 3, 5), "BatchMatMulV2"),
    "...bc,...cd->...bd": (_of("...bc,...cd->...bd"), (4, 3, 2, 6), (1, 6, 5), "BatchMatMulV2"),
    "weights first": (_swapped("dc,abc->adb"), (4, 3, 6), (5, 6), "MatMul"),
    "weights of heads first": (_swapped("cde,abc->abde"), (4, 3, 6), (6, 2, 4), "MatMul"),
    "MatMul, transpose_a": (lambda x, w: matmul(x, w, transpose_a=True), (6, 4), (6, 5), "MatMul"),
    "MatMul, transpose_b": (lambda x, w: matmul(x, w, transpose_b=True), (4, 6), (5, 6), "MatMul"),
    "MatMul, both": (lambda x, w: matmul(x, w, transpose_a=True, transpose_b=True), (6, 4), (5, 6), "MatMul"),
    "MatMul, weights first": (lambda x, w: matmul(w, x), (6, 4), (5, 6), "MatMul"),
    "MatMul, weights first, both": (
        lambda x, w: matmul(w, x, transpose_a=True, transpose_b=True),
        (4, 6),
        (6, 5),
        "MatMul",
    ),
    "SparseMatMul": (lambda x, w: sparse_matmul(x, w), (4, 6), (6, 5), "MatMul"),
    "SparseMatMul, weights first": (
        lambda x, w: sparse_matmul(w, x, transpose_b=True, a_is_sparse=True),
        (4, 6),
        (5, 6),
        "MatMul",
    ),
    "BatchMatMul, adj_x": (lambda x, w: batch_matmul(x, w, adj_x=True), (4, 6, 3), (6, 5), "MatMul"),
    "BatchMatMul, weights first": (lambda x, w: batch_matmul(w, x), (4, 6, 3), (5, 6), "MatMul"),
    "BatchMatMul, many, first": (lambda x, w: batch_matmul(w, x), (4, 3, 6, 2), (3, 5, 6), "BatchMatMulV2"),
    "BatchMatMul, many, adj_x": (
        lambda x, w: batch_matmul(x, w, adj_x=True),
        (4, 3, 6, 2),
        (3, 6, 5),
        "BatchMatMulV2",
    ),
}


def feed(shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def block(case, known="all but the first", behind=lambda net, y: y):
    multiply, shape, weights, _ = PRODUCTS[case]
    of_input = {"all": shape, "all but the first": (None, *shape[1:]), "none": (None,) * len(shape)}[known]

    def build(net):
        x = v1.placeholder(tf.float32, of_input, name="x")
        w = net.parameter(net.random("w", weights) / 2, "w")
        tf.nn.relu(behind(net, multiply(x, w)), name="out")

    return build


@pytest.mark.parametrize("parameter", PARAMETERS.values(), ids=PARAMETERS)
@pytest.mark.parametrize("case", PRODUCTS)
def test_computes_the_same(case, parameter):
    layer = fuse(graph_of(block(case), parameter), feed(PRODUCTS[case][1]))["layer"]
    assert layer.op.type == PRODUCTS[case][3]


@pytest.mark.parametrize("known", ["all", "none"])
@pytest.mark.parametrize("case", PRODUCTS)
def test_whatever_is_known_of_the_input(case, known):
    graph = graph_of(block(case, known))
    fuse(graph, feed(PRODUCTS[case][1]))
    if known == "all":
        assert not [op for op in graph.get_operations() if op.type == "Shape"]


@pytest.mark.parametrize("case", PRODUCTS)
def test_the_whole_job(case, tmp_path):
    x = feed(PRODUCTS[case][1])
    deployed = Deployed(block(case), ["out"], tmp_path, feeds=[x], shift_n=False, **NEAREST)
    assert deployed.quantized == ["layer"] and len(deployed.records["layer"].scale_w) == 1
    assert deployed.nodes["layer"].op == PRODUCTS[case][3]
    assert [deployed.nodes[name].op for name in deployed.inputs("layer")] == ["AscendQuant", "AscendWeightQuant"]
    assert [deployed.nodes[name].op for name in deployed.users("layer")] == ["AscendDequant"]
    assert deployed.sqnr(x) > 25


@pytest.mark.parametrize("case", PRODUCTS)
def test_the_whole_job_with_what_the_weights_see(case, tmp_path):
    """The weights are compensated, and the layer, which has no bias, may get one."""
    x = feed(PRODUCTS[case][1])
    deployed = Deployed(block(case), ["out"], tmp_path, feeds=[x], shift_n=False)
    assert set(read_rounding(deployed.record)) == {"layer"}
    before = deployed.nodes[deployed.inputs("dequant/AscendDequant")[0]]
    assert before.name == "layer" or (before.op, deployed.inputs(before.name)[0]) == ("BiasAdd", "layer")
    assert deployed.sqnr(x) > 25


def test_the_deployed_integers(tmp_path):
    """The saved graph computes what int8 arithmetic does."""

    def build(net):
        x = v1.placeholder(tf.float32, (None, 3, 6), name="x")
        y = einsum("abc,cde->abde", x, net.parameter(net.random("w", (6, 2, 4)), "w"))
        tf.identity(tf.raw_ops.AddV2(x=net.parameter(net.random("b", (2, 4)), "b"), y=y, name="plus"), name="out")

    x = feed((4, 3, 6))
    deployed = Deployed(build, ["out"], tmp_path, feeds=[x], shift_n=False, **NEAREST)
    record = deployed.records["layer"]
    steps = np.clip(np.floor(x / np.float32(record.scale_d) + 0.5) + record.offset_d, -128, 127) - record.offset_d
    weights = deployed.constant("weight_quant/weights")
    assert (weights.dtype, weights.shape) == (np.int8, (6, 8))
    scale = np.float32(record.scale_d) * np.float32(record.scale_w[0])
    bias = np.random.default_rng([*b"b", 2, 4]).normal(size=(2, 4)).astype(np.float32).reshape(-1)
    expected = (steps.reshape(-1, 6) @ weights.astype(np.float32) + np.round(bias / scale)) * scale
    np.testing.assert_allclose(deployed.run(x), expected.reshape(4, 3, 2, 4), rtol=1e-6)
    ends = [name for name, info in deployed.info.items() if "output_desc" in info]
    assert [deployed.nodes[name].op for name in ends] == ["Reshape"]  # the product is one of matrices
    assert deployed.info["layer"]["attr"][0]["value"]["list"]["s"] == ["layer", "plus"]


def test_an_output_of_the_model(tmp_path):
    x = feed((4, 3, 6))
    deployed = Deployed(block("abc,cde->abde"), ["layer"], tmp_path, feeds=[x], calib_outputs=["layer"])
    assert deployed.nodes["layer"].op == "Identity"
    assert deployed.sqnr(x) > 25


def test_in_float16(tmp_path):
    def build(net):
        x = v1.placeholder(tf.float16, (None, 3, 6), name="x")
        y = einsum("abc,cde->abde", x, tf.constant(net.random("w", (6, 2, 4)), tf.float16))
        tf.nn.relu(y + tf.constant(net.random("b", (2, 4)), tf.float16), name="out")

    x = feed((4, 3, 6)).astype(np.float16)
    deployed = Deployed(build, ["out"], tmp_path, feeds=[x])
    expected, actual = deployed.run_float(x), deployed.run(x)
    assert actual.dtype == np.float16
    assert sqnr(expected.astype(np.float32), actual.astype(np.float32)) > 25


# -- What is behind it ------------------------------------------------------------------------------------------------


def _plus(*shape):
    return lambda net, y: y + net.parameter(net.random("b", shape), "b")


def _bias_add(data_format="NHWC", size=None):
    def behind(net, y):
        return tf.nn.bias_add(y, net.parameter(net.random("b", (size or y.shape[-1],)), "b"), data_format=data_format)

    return behind


def _norm(net, y):
    given = [net.parameter(np.abs(net.random(name, y.shape[2:])) + 0.5, name) for name in ("m", "v", "beta", "gamma")]
    return tf.nn.batch_normalization(y, *given, 1e-3)


def _factor(net, y):
    return y * net.parameter(net.random("m", ()), "m")


ABSORBED = {
    "of all channels": ("abc,cde->abde", _plus(2, 4)),
    "with axes of 1": ("abc,cde->abde", _plus(1, 1, 2, 4)),
    "of the last axis": ("abc,cde->abde", _plus(4)),
    "of the first axis": ("abc,cde->abde", _plus(2, 1)),
    "of one value": ("abc,cde->abde", _plus()),
    "BiasAdd": ("abc,cde->abde", _bias_add()),
    "BiasAdd of one axis": ("abc,cd->abd", _bias_add()),
    "BiasAdd in NCHW": ("abc,cd->adb", _bias_add("NCHW", 5)),
    "a batch norm": ("abc,cde->abde", _norm),
    "a factor": ("abc,cde->abde", _factor),
    "channels first": ("MatMul, weights first", _plus(5, 1)),
    "channels in the middle": ("abc,cd->adb", _plus(5, 1)),
    "channels last": ("BatchMatMul, adj_x", _bias_add()),
}


@pytest.mark.parametrize("parameter", PARAMETERS.values(), ids=PARAMETERS)
@pytest.mark.parametrize("case", ABSORBED)
def test_absorbed(case, parameter):
    product, behind = ABSORBED[case]
    layer = fuse(graph_of(block(product, behind=behind), parameter), feed(PRODUCTS[product][1]))["layer"]
    assert len(layer.absorbed) > 1


NOT_ABSORBED = {
    "of the positions": ("abc,cde->abde", _plus(3, 1, 1)),
    "of positions and channels": ("abc,cde->abde", _plus(3, 2, 4)),
    "channels apart": ("abc,cde->dabe", _plus(4)),
    "of the rows": ("MatMul, weights first", _bias_add(size=4)),
    "of the positions, in NCHW": ("abc,cde->abde", _bias_add("NCHW", 3)),
    "of a part of the channels, in NCHW": ("abc,cde->adeb", _bias_add("NCHW", 2)),
}

PRODUCTS |= {
    equation: (_of(equation), (4, 3, 6), (6, 2, 4), "MatMul") for equation in ("abc,cde->dabe", "abc,cde->adeb")
}


@pytest.mark.parametrize("case", NOT_ABSORBED)
def test_not_absorbed(case):
    product, behind = NOT_ABSORBED[case]
    layer = fuse(graph_of(block(product, known="all", behind=behind)), feed(PRODUCTS[product][1]))["layer"]
    assert layer.absorbed == ["layer"] and layer.bias is None and layer.bias_stays


def test_behind_a_reshape_that_spreads_the_channels():
    """As Keras writes attention: BatchMatMul by a matrix, Reshape to [heads, size], Add."""

    def build(net):
        x = v1.placeholder(tf.float32, (None, 3, 6), name="x")
        y = batch_matmul(x, net.parameter(net.random("w", (6, 8)), "w"))
        y = tf.reshape(y, [-1, 3, 2, 4]) + net.parameter(net.random("b", (2, 4)), "b")
        y = tf.reshape(y, [-1, 3, 8], name="joined") * net.parameter(net.random("m", (8,)), "m")
        tf.nn.relu(y, name="out")

    layer = fuse(graph_of(build), feed((4, 3, 6)))["layer"]
    assert layer.absorbed == ["layer", "add", "mul"]


# -- Several of them --------------------------------------------------------------------------------------------------


def test_projections_of_one_tensor_share_its_matrix_and_its_quantization(tmp_path):
    def build(net):
        x = v1.placeholder(tf.float32, (None, 3, 6), name="x")
        made = [
            einsum("abc,cde->abde", x, net.parameter(net.random(name, (6, 2, 4)), f"{name}_w"), name=name)
            for name in "qkv"
        ]
        tf.nn.relu(tf.add_n(made), name="out")

    x = feed((4, 3, 6))
    deployed = Deployed(build, ["out"], tmp_path, feeds=[x])
    assert deployed.quantized == ["q", "k", "v"]
    assert len(deployed.of_type("AscendQuant")) == 1
    assert deployed.sqnr(x) > 25


def test_one_constant_in_two_forms(tmp_path):
    """Tied weights: there, and back by the transposed ones."""

    def build(net):
        w = net.parameter(net.random("w", (6, 6)) / 3, "w")
        y = tf.nn.relu(einsum("ab,bc->ac", v1.placeholder(tf.float32, (None, 6), name="x"), w, name="there"))
        tf.nn.relu(einsum("ab,cb->ac", y, w, name="back"), name="out")

    x = feed((8, 6))
    fuse(graph_of(build), x)
    assert Deployed(build, ["out"], tmp_path, feeds=[x]).sqnr(x) > 20


TWO_TENSORS = {
    "scores": ("aecd,abcd->acbe", (4, 5, 2, 6), (4, 3, 2, 6)),
    "attention": ("acbe,aecd->abcd", (4, 2, 3, 5), (4, 5, 2, 6)),
    "several axes": ("abcd,aecd->aeb", (4, 3, 2, 6), (4, 5, 2, 6)),
    "no batch": ("ab,cb->ac", (4, 6), (5, 6)),
    "dots": ("...ab,...cb->...ac", (4, 3, 6), (4, 5, 6)),
}


@pytest.mark.parametrize("known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("case", TWO_TENSORS)
def test_two_tensors(case, known, tmp_path):
    equation, *shapes = TWO_TENSORS[case]

    def build(net):
        operands = [
            v1.placeholder(tf.float32, (None, *shape[1:]) if known else (None,) * len(shape), name=name)
            for name, shape in zip("xy", shapes, strict=True)
        ]
        tf.nn.relu(einsum(equation, *operands), name="out")

    feeds = {name: feed(shape, seed) for seed, (name, shape) in enumerate(zip("xy", shapes, strict=True))}
    fuse(graph_of(build), feeds)
    deployed = Deployed(build, ["out"], tmp_path, feeds=[feeds], shift_n=False)
    assert list(deployed.records) == ["layer", "layer:1"]
    assert deployed.nodes["layer"].op == "BatchMatMulV2"
    assert [deployed.nodes[name].op for name in deployed.inputs("layer")] == ["AscendQuant"] * 2
    assert deployed.sqnr(feeds) > 25


def test_batch_matmul_of_two_tensors_with_adj_x(tmp_path):
    def build(net):
        x, y = (v1.placeholder(tf.float32, (None, 6, size), name=name) for name, size in (("x", 3), ("y", 5)))
        tf.nn.relu(batch_matmul(x, y, adj_x=True), name="out")

    feeds = {"x": feed((4, 6, 3)), "y": feed((4, 6, 5), 1)}
    deployed = Deployed(build, ["out"], tmp_path, feeds=[feeds], shift_n=False)
    assert deployed.quantized == ["layer", "layer:1"]
    assert deployed.sqnr(feeds) > 25


# -- Balance ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", ["abcd,cde->abe", "abc,bcd->abd", "MatMul, weights first", "BatchMatMul, adj_x"])
def test_balanced(case):
    graph, x = graph_of(block(case)), feed(PRODUCTS[case][1])
    before = run(graph, "out:0", x)
    with graph.as_default():
        workspace, layers = plan(graph)
        layer = layers["layer"]
        factors = np.exp2(np.random.default_rng(3).uniform(-3, 3, layer.row.input_channels(layer.op)))
        layer.balance = factors.astype(np.float32)
        balance_weights(workspace.layers)
        rewrite_in_float(workspace)
        balance_inputs(workspace)
    assert layer.data.op.type == "Mul"
    np.testing.assert_allclose(run(graph, "out:0", x), before, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["abcd,cde->abe", "MatMul, weights first"])
def test_the_balance_that_is_found(case, tmp_path):
    graph, x = graph_of(block(case)), feed(PRODUCTS[case][1])
    before = run(graph, "out:0", x)
    with graph.as_default():
        workspace, layers = plan(graph)
        weights = layers["layer"].weights
        book = RecordBook(str(tmp_path / "record.txt"), batch_num=1)
        wanted = {"wants_weights": False, "wants_shift": False, "wants_activation": False, "wants_balance": True}
        book.add_layer("layer", scale_w=None, skip_fusion=False, **wanted)
        observe_balance(workspace, book, 1, {"layer": 0.5})
    np.testing.assert_array_equal(run(graph, "out:0", x), before)
    factors = read_balance_factors(tmp_path / "record.txt")["layer"]
    data = x.T if case.startswith("MatMul") else x.reshape(-1, len(weights))
    expected = np.sqrt(np.abs(data).max(axis=0) / np.abs(weights).max(axis=1))
    np.testing.assert_allclose(factors, expected, rtol=1e-5)
    book.close()


# -- What stays float -------------------------------------------------------------------------------------------------


def fed(*shape, name="x") -> tf.Tensor:
    return v1.placeholder(tf.float32, shape, name=name)


def ones(*shape) -> np.ndarray:
    return np.ones(shape, np.float32)


NO_MATRICES = "it sums over no axis that both operands have, so it is no product of matrices"

LEFT_FLOAT = {
    "one operand": (lambda: einsum("ab->ba", fed(2, 3)), "it has one operand, only products of two are quantized"),
    "a diagonal": (lambda: einsum("aab,bc->ac", fed(2, 2, 3), ones(3, 4)), "it takes a diagonal, 'a' is there twice"),
    "a sum of one": (
        lambda: einsum("abc,bd->ad", fed(2, 3, 4), ones(3, 5)),
        "it sums over 'c', which only one operand has",
    ),
    "an outer product": (lambda: einsum("a,b->ab", fed(2), ones(3)), NO_MATRICES),
    "values by values": (lambda: einsum("ab,b->ab", fed(2, 3), ones(3)), NO_MATRICES),
    "unknown axes": (
        lambda: einsum("...a,ab->...b", v1.placeholder(tf.float32, None), ones(3, 4)),
        "the number of axes that '...' stands for in '...a,ab->...b' is not known",
    ),
    "constants": (lambda: einsum("ab,bc->ac", ones(2, 3), ones(3, 4)), "its input is constant"),
    "BatchMatMul of unknown axes": (
        lambda: batch_matmul(v1.placeholder(tf.float32, None), ones(3, 4), adj_x=True),
        "the number of axes of its inputs is not known",
    ),
    "MatMul of two tensors": (
        lambda: matmul(fed(3, 3), fed(3, 3, name="y"), transpose_b=True),
        "its weights 'y:0' are computed, not a constant or a variable",
    ),
    "bfloat16": (
        lambda: sparse_matmul(v1.placeholder(tf.bfloat16, (2, 3)), ones(3, 4)),
        "its type is bfloat16, only float32 and float16 are supported",
    ),
}


@pytest.mark.parametrize("case", LEFT_FLOAT)
def test_left_float(case):
    build, reason = LEFT_FLOAT[case]
    with tf.Graph().as_default() as graph:
        build()
    (found,) = find_layers(graph)
    assert found.reason == reason


def test_the_report(tmp_path, capsys):
    def build(net):
        y = einsum("abc,cd->abd", fed(None, 3, 6), net.parameter(net.random("w", (6, 4)), "w"), name="first")
        tf.nn.relu(einsum("abc,c->abc", y, net.parameter(net.random("v", (4,)), "v"), name="second"), name="out")

    Deployed(build, ["out"], tmp_path, feeds=[feed((4, 3, 6))])
    lines = capsys.readouterr().err
    assert "INFO - [AMCT]:[quantize_model]: Einsum first: quantized" in lines
    assert f"WARNING - [AMCT]:[quantize_model]: Einsum second: left float because {NO_MATRICES}" in lines
    assert "1 of 2 layers are quantized" in lines


def test_nothing_but_others(tmp_path):
    with tf.Graph().as_default() as graph:
        einsum("a,b->ab", fed(2), ones(3), name="outer")
    with pytest.raises(amct.AmctError, match=f"No layer support quantization .*outer.*{NO_MATRICES}"):
        amct.create_quant_config(str(tmp_path / "config.json"), graph)


def test_after_quantization_aware_training(tmp_path):
    """The scale of the weights is that of the training; the data come second, where the op has them."""

    def fake_quant(tensor, reach):
        return tf.quantization.fake_quant_with_min_max_vars(tensor, -reach, reach, narrow_range=True)

    def build(net):
        w = net.parameter(net.random("w", (5, 6)) / 2, "w")
        y = einsum("dc,abc->abd", fake_quant(w, 1.0), fake_quant(fed(None, 3, 6), 2.54))
        tf.identity(y + net.parameter(net.random("b", (5,)), "b"), name="out")

    graph, x = graph_of(build), feed((4, 3, 6))
    record = tmp_path / "record.txt"
    amct.convert_qat_model(graph, ["out"], str(tmp_path / "model"), str(record))
    assert read_record(str(record))["layer"].scale_w == pytest.approx((1 / 127,))
    converted = load(tmp_path / "model_quantized.pb")
    assert converted.get_operation_by_name("layer").type == "MatMul"
    np.testing.assert_allclose(run(converted, "out:0", x), run(graph, "out:0", x), atol=0.01)
