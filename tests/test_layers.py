from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from amct_tensorflow.layers import TABLE, find_layers, quantizable_types

v1 = tf.compat.v1

ROWS = {
    "Conv2D": {"weight_input": 1, "channel_axes": (3,), "channel_wise": True, "takes_batch_norm": True, "shifts": True},
    "DepthwiseConv2dNative": {
        "weight_input": 1,
        "channel_axes": (2, 3),
        "channel_wise": True,
        "takes_batch_norm": True,
        "shifts": True,
    },
    "Conv3D": {
        "weight_input": 1,
        "channel_axes": (4,),
        "channel_wise": True,
        "takes_batch_norm": True,
        "shifts": False,
    },
    "Conv2DBackpropInput": {
        "data_input": 2,
        "weight_input": 1,
        "channel_axes": (2,),
        "channel_wise": True,
        "takes_batch_norm": True,
        "shifts": True,
    },
    **{
        name: {
            "weight_input": 1,
            "channel_axes": (1,),
            "channel_wise": False,
            "takes_batch_norm": True,
            "shifts": True,
        }
        for name in ("MatMul", "SparseMatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum")
    },
    "AvgPool": {
        "weight_input": None,
        "channel_axes": (),
        "channel_wise": False,
        "takes_batch_norm": False,
        "shifts": False,
    },
}


def _values(shape, dtype=np.float32):
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def _image(channels=4, dtype=tf.float32):
    return v1.placeholder(dtype, [None, 6, 6, channels], name="x")


def _conv(x, weights, name="conv", **attributes):
    attributes = {"strides": [1, 1, 1, 1], "padding": "SAME", **attributes}
    return tf.raw_ops.Conv2D(input=x, filter=weights, name=name, **attributes)


def _conv_3d(**attributes):
    x = v1.placeholder(tf.float32, [None, 4, 6, 6, 4])
    attributes = {"strides": [1] * 5, "padding": "SAME", **attributes}
    return tf.raw_ops.Conv3D(input=x, filter=_values((3, 3, 3, 4, 5)), **attributes)


def _conv_transpose(**attributes):
    attributes = {"strides": [1, 1, 1, 1], "padding": "SAME", **attributes}
    return tf.raw_ops.Conv2DBackpropInput(
        input_sizes=[2, 6, 6, 5],
        filter=_values((3, 3, 5, 4)),
        out_backprop=v1.placeholder(tf.float32, [2, 6, 6, 4]),
        **attributes,
    )


def _avg_pool(x, ksize, data_format="NHWC", name="pool"):
    return tf.raw_ops.AvgPool(
        value=x, ksize=ksize, strides=[1, 1, 1, 1], padding="SAME", data_format=data_format, name=name
    )


def _find(build):
    """The layers of a graph that `build` fills."""
    graph = tf.Graph()
    with graph.as_default():
        build()
    return list(find_layers(graph))


def _only(build):
    (found,) = _find(build)
    return found


# -- The table -----------------------------------------------------------------------------------------------


def test_the_table_has_these_types():
    assert list(quantizable_types()) == list(TABLE) == list(ROWS)


@pytest.mark.parametrize("op_type", ROWS)
def test_row(op_type):
    row = TABLE[op_type]
    assert (row.name, row.data_input) == (op_type, ROWS[op_type].get("data_input", 0))
    assert {field: getattr(row, field) for field in ROWS[op_type]} == ROWS[op_type]
    assert row.has_weights == (row.weight_input is not None)


@pytest.mark.parametrize(
    ("build", "channels"),
    [
        (lambda: _conv(_image(), _values((3, 2, 4, 5))), 5),
        (
            lambda: tf.raw_ops.DepthwiseConv2dNative(
                input=_image(), filter=_values((3, 2, 4, 2)), strides=[1, 1, 1, 1], padding="SAME"
            ),
            8,
        ),
        (lambda: _conv_3d(), 5),
        (lambda: _conv_transpose(), 5),
        (lambda: tf.raw_ops.MatMul(a=v1.placeholder(tf.float32, [None, 4]), b=_values((4, 7))), 7),
    ],
    ids=["Conv2D", "DepthwiseConv2dNative", "Conv3D", "Conv2DBackpropInput", "MatMul"],
)
def test_channels_are_those_of_the_output(build, channels):
    found = _only(build)
    assert found.reason is None
    assert found.row.channels(found.op) == channels == found.op.outputs[0].shape[-1]
    assert found.row.weights(found.op) is found.op.inputs[1]
    assert found.row.window(found.op) == [1, 1]


@pytest.mark.parametrize(
    ("ksize", "data_format"), [([1, 2, 3, 1], "NHWC"), ([1, 1, 2, 3], "NCHW")], ids=["NHWC", "NCHW"]
)
def test_window_of_a_pool_is_height_and_width(ksize, data_format):
    found = _only(lambda: _avg_pool(_image(), ksize, data_format))
    assert found.reason is None
    assert found.row.window(found.op) == [2, 3]


# -- Which ops are found -------------------------------------------------------------------------------------


def test_layers_come_in_graph_order_and_other_ops_do_not():
    def build():
        x = _image()
        pooled = _avg_pool(x, [1, 2, 2, 1], name="b/pool")
        convolved = _conv(tf.nn.relu(pooled), _values((3, 3, 4, 4)), name="c/conv")
        _avg_pool(tf.nn.max_pool2d(convolved, 2, 2, "SAME"), [1, 2, 2, 1], name="a/pool")

    assert [found.op.name for found in _find(build)] == ["b/pool", "c/conv", "a/pool"]


def test_a_graph_without_layers_has_none():
    assert _find(lambda: tf.nn.relu(_image())) == []


def _resource_variable(shape=(3, 3, 4, 5)):
    return v1.get_variable("w", initializer=_values(shape), use_resource=True)


def _ref_variable(shape=(3, 3, 4, 5)):
    return v1.get_variable("w", initializer=_values(shape), use_resource=False)


PARAMETERS = {
    "constant": lambda: tf.constant(_values((3, 3, 4, 5))),
    "Identity": lambda: tf.identity(_values((3, 3, 4, 5))),
    "Identity of Identity": lambda: tf.identity(tf.identity(_values((3, 3, 4, 5)))),
    "StopGradient": lambda: tf.stop_gradient(tf.constant(_values((3, 3, 4, 5)))),
    "Reshape of a constant": lambda: tf.reshape(tf.constant(_values((36, 5))), [3, 3, 4, 5]),
    "Reshape of an Identity": lambda: tf.reshape(tf.identity(_values((36, 5))), [3, 3, 4, 5]),
    "Identity of a Reshape": lambda: tf.identity(tf.reshape(tf.constant(_values((36, 5))), [3, 3, 4, 5])),
    "computed from a constant": lambda: tf.exp(tf.constant(_values((3, 3, 4, 5)))),
    "computed from a variable": lambda: tf.exp(_resource_variable()),
    "resource variable": lambda: tf.convert_to_tensor(_resource_variable()),
    "Identity of a resource variable": lambda: tf.identity(_resource_variable()),
    "Reshape of a resource variable": lambda: tf.reshape(_resource_variable((36, 5)), [3, 3, 4, 5]),
    "ref variable": lambda: _ref_variable()._ref(),
    "ref variable, read": lambda: tf.convert_to_tensor(_ref_variable()),
    "ref variable, Identity": lambda: tf.identity(_ref_variable()),
}


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_weights_may_come_through(parameter):
    found = _only(lambda: _conv(_image(), PARAMETERS[parameter]()))
    assert found.reason is None
    assert found.row.channels(found.op) == 5


def _matrix(name):
    return v1.placeholder(tf.float32, [5, 5], name=name)


def _conv_of_type(dtype):
    return _conv(_image(dtype=dtype), tf.constant(_values((3, 3, 4, 5)), dtype))


def _unshaped_variable():
    handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=tf.TensorShape(None), shared_name="w")
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)


def _partly_shaped_variable():
    handle = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[3, 3, 4, None], shared_name="w")
    return tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.float32)


REFUSED = {
    "dilation in depth": (
        lambda: _conv_3d(dilations=[1, 2, 1, 1, 1]),
        "its dilation in depth is 2, only 1 is supported",
    ),
    "dilated transpose": (
        lambda: _conv_transpose(dilations=[1, 2, 2, 1]),
        "its dilations are [1, 2, 2, 1], only 1 is supported",
    ),
    "product of two placeholders": (
        lambda: tf.matmul(_matrix("x"), _matrix("y"), transpose_a=True),
        "its weights 'y:0' are computed, not a constant or a variable",
    ),
    "weights that are too large": (
        lambda: _conv(_image(), tf.fill([3, 3, 4, 10**7], 1.0, name="computed")),
        "its weights 'computed:0' cannot be computed from their constants: Fill computed makes 1.3 GB of them, the "
        "limit is 1 GB",
    ),
    "random weights": (
        lambda: _conv(_image(), tf.raw_ops.RandomUniform(shape=[3, 3, 4, 5], dtype=tf.float32, name="computed")),
        "its weights 'computed:0' are computed, not a constant or a variable",
    ),
    "placeholder weights": (
        lambda: _conv(_image(), v1.placeholder(tf.float32, [3, 3, 4, 5], name="weights")),
        "its weights 'weights:0' are computed, not a constant or a variable",
    ),
    "placeholder weights behind Identity": (
        lambda: _conv(_image(), tf.identity(v1.placeholder(tf.float32, [3, 3, 4, 5]), name="weights")),
        "its weights 'weights:0' are computed, not a constant or a variable",
    ),
    "weights with a default": (
        lambda: _conv(_image(), v1.placeholder_with_default(_values((3, 3, 4, 5)), [3, 3, 4, 5], name="weights")),
        "its weights 'weights:0' are computed, not a constant or a variable",
    ),
    "weights reshaped to a computed shape": (
        lambda: _conv(
            _image(), tf.reshape(_values((36, 5)), tf.stack([3, 3, 4, v1.placeholder(tf.int32, [])]), name="weights")
        ),
        "its weights 'weights:0' are computed, not a constant or a variable",
    ),
    "float16 AvgPool": (
        lambda: _avg_pool(_image(dtype=tf.float16), [1, 2, 2, 1]),
        "its type is float16, only float32 is supported",
    ),
    "bfloat16": (lambda: _conv_of_type(tf.bfloat16), "its type is bfloat16, only float32 and float16 are supported"),
    "float64": (lambda: _conv_of_type(tf.float64), "its type is float64, only float32 and float16 are supported"),
    "float64 AvgPool": (
        lambda: _avg_pool(_image(dtype=tf.float64), [1, 2, 2, 1]),
        "its type is float64, only float32 is supported",
    ),
    "constant input": (
        lambda: _conv(tf.constant(_values((1, 6, 6, 4))), _values((3, 3, 4, 5))),
        "its input is constant",
    ),
    "constant input behind Identity": (
        lambda: _avg_pool(tf.identity(_values((1, 6, 6, 4))), [1, 2, 2, 1]),
        "its input is constant",
    ),
    "two constants": (lambda: tf.matmul(_values((5, 5)), _values((5, 5))), "its input is constant"),
    "AvgPool over channels": (
        lambda: _avg_pool(_image(), [1, 1, 1, 2]),
        "its window [1, 1, 1, 2] also spans the batch or the channels",
    ),
    "AvgPool over channels, NCHW": (
        lambda: _avg_pool(v1.placeholder(tf.float32, [None, 4, 6, 6]), [1, 2, 2, 2], "NCHW"),
        "its window [1, 2, 2, 2] also spans the batch or the channels",
    ),
    "AvgPool over the batch": (
        lambda: _avg_pool(_image(), [2, 2, 2, 1]),
        "its window [2, 2, 2, 1] also spans the batch or the channels",
    ),
    "weights of unknown rank": (lambda: _conv(_image(), _unshaped_variable()), "its weights have the shape <unknown>"),
    "weights of unknown size": (
        lambda: _conv(_image(), _partly_shaped_variable()),
        "its weights have the shape (3, 3, 4, None)",
    ),
    "empty weights": (lambda: _conv(_image(), _values((3, 3, 4, 0))), "its weights have the shape (3, 3, 4, 0)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_reason(case):
    build, reason = REFUSED[case]
    assert _only(build).reason == reason


# -- One scale for the layer that feeds Softmax --------------------------------------------------------------


def _add(swapped, addend):
    def behind(y):
        return tf.raw_ops.AddV2(x=addend(), y=y) if swapped else tf.raw_ops.AddV2(x=y, y=addend())

    return behind


def _addend_variable():
    return tf.convert_to_tensor(v1.get_variable("b", initializer=_values(5), use_resource=True))


def _branch():
    return tf.nn.relu(v1.placeholder(tf.float32, [None, 1, 1, 5], name="branch"))


SOFTMAX = {
    "nothing between": (lambda y: y, True),
    "BiasAdd": (lambda y: tf.nn.bias_add(y, _values(5)), True),
    "Reshape": (lambda y: tf.reshape(y, [-1, 5]), True),
    "Reshape to a computed shape": (lambda y: tf.reshape(y, tf.stack([tf.shape(y)[0], 5])), True),
    "Squeeze": (lambda y: tf.squeeze(y, [1, 2]), True),
    "Squeeze and BiasAdd": (lambda y: tf.nn.bias_add(tf.squeeze(y, [1, 2]), _values(5)), True),
    "Identity": (tf.identity, True),
    "Add of a constant": (_add(False, lambda: tf.constant(_values(5))), True),
    "Add of a constant, swapped": (_add(True, lambda: tf.constant(_values(5))), True),
    "Add of a constant behind Identity, swapped": (_add(True, lambda: tf.identity(_values(5))), True),
    "Add of a variable": (_add(False, _addend_variable), True),
    "Add of a variable, swapped": (_add(True, _addend_variable), True),
    "Add of TensorFlow 1": (lambda y: tf.raw_ops.Add(x=y, y=tf.constant(_values(5))), True),
    "BiasAdd, Reshape and Identity": (
        lambda y: tf.identity(tf.reshape(tf.nn.bias_add(y, _values(5)), [-1, 5])),
        True,
    ),
    "Relu": (tf.nn.relu, False),
    "BiasAdd and Relu": (lambda y: tf.nn.relu(tf.nn.bias_add(y, _values(5))), False),
    "residual Add": (_add(False, _branch), False),
    "residual Add, swapped": (_add(True, _branch), False),
    "mean": (lambda y: tf.reduce_mean(y, [1, 2]), False),
    "Concat": (lambda y: tf.concat([y, _branch()], axis=3), False),
}


@pytest.mark.parametrize("case", SOFTMAX)
def test_feeds_softmax_through(case):
    behind, expected = SOFTMAX[case]
    found = _only(lambda: tf.nn.softmax(behind(_conv(_image(), _values((6, 6, 4, 5)), padding="VALID"))))
    assert found.channel_wise == (not expected)


def test_log_softmax_counts_too():
    assert not _only(lambda: tf.nn.log_softmax(_conv(_image(), _values((3, 3, 4, 5))))).channel_wise


def test_one_of_two_consumers_feeds_softmax():
    def build():
        y = _conv(_image(), _values((3, 3, 4, 5)))
        tf.nn.relu(y)
        tf.nn.softmax(tf.reshape(y, [-1, 5]))

    assert not _only(build).channel_wise


def test_only_the_last_layer_feeds_softmax():
    def build():
        y = _conv(_image(), _values((3, 3, 4, 4)), name="first")
        tf.nn.softmax(_conv(y, _values((3, 3, 4, 5)), name="last"))

    assert {found.op.name: found.channel_wise for found in _find(build)} == {"first": True, "last": False}


@pytest.mark.parametrize("multiply", ["MatMul", "BatchMatMulV2"])
def test_only_a_convolution_that_feeds_softmax_must_have_one_scale(multiply):
    def build():
        y = tf.reshape(_conv(_image(), _values((6, 6, 4, 5)), padding="VALID", name="conv"), [-1, 5])
        tf.nn.softmax(y)
        operands = {"MatMul": "ab", "BatchMatMulV2": "xy"}[multiply]
        arguments = dict(zip(operands, (tf.nn.relu(y), _values((5, 3))), strict=True))
        tf.nn.softmax(getattr(tf.raw_ops, multiply)(**arguments, name="product"))

    assert {found.op.name: found.one_scale for found in _find(build)} == {"conv": True, "product": False}


def test_matmul_and_pool_are_not_channel_wise_by_themselves():
    def build():
        x = _avg_pool(_image(), [1, 2, 2, 1])
        tf.raw_ops.MatMul(a=tf.reshape(x, [-1, 4]), b=_values((4, 3)))

    assert [found.channel_wise for found in _find(build)] == [False, False]
