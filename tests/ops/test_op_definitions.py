"""What the ops look like from outside: names, inputs, attributes and types are read by other programs."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.python.framework import op_def_registry

from amct_tensorflow import ops

FLOATS = [types_pb2.DT_HALF, types_pb2.DT_FLOAT, types_pb2.DT_DOUBLE]
REQUIRED = object()

# DESIGN.md, "The deployed graph": inputs, outputs, and attributes with their type and default.
DEPLOYMENT_OPS = {
    "AscendQuant": (
        {"x": "T"},
        {"y": "T"},
        {"quant_bits": ("int", 8), "scale": ("float", REQUIRED), "offset": ("float", REQUIRED)},
    ),
    "AscendWeightQuant": ({"x": types_pb2.DT_INT8, "offset_w": types_pb2.DT_INT8}, {"y": "T"}, {}),
    "AscendDequant": (
        {"x": "T", "deq_scale": types_pb2.DT_UINT64},
        {"y": "T"},
        {"ksize": ("list(int)", REQUIRED), "data_format": ("string", b"NHWC")},
    ),
    "AscendAntiQuant": ({"x": "T"}, {"y": "T"}, {"scale": ("float", REQUIRED), "offset": ("float", REQUIRED)}),
}


def op_def(name: str):
    ops.tensorflow_ops()
    return op_def_registry.get(name)


def arguments(args) -> dict[str, object]:
    return {arg.name: arg.type_attr or arg.type for arg in args}


def default(attr) -> object:
    if not attr.HasField("default_value"):
        return REQUIRED
    return getattr(attr.default_value, {"int": "i", "string": "s"}[attr.type])


@pytest.mark.parametrize("name", DEPLOYMENT_OPS)
def test_deployment_op(name):
    definition = op_def(name)
    inputs, outputs, attrs = DEPLOYMENT_OPS[name]
    assert arguments(definition.input_arg) == inputs
    assert arguments(definition.output_arg) == outputs
    assert {attr.name: (attr.type, default(attr)) for attr in definition.attr if attr.name != "T"} == attrs
    (t,) = [attr for attr in definition.attr if attr.name == "T"]
    assert t.type == "type"
    assert list(t.allowed_values.list.type) == FLOATS
    assert not t.HasField("default_value")


@pytest.mark.parametrize("name", sorted(ops.AMCT_OP_TYPES))
def test_is_stateful(name):
    """So that no optimizer folds the op of a constant, or drops a calibration."""
    assert op_def(name).is_stateful


@pytest.mark.parametrize("name", sorted(ops.AMCT_OP_TYPES))
def test_has_a_description(name):
    assert op_def(name) is not None
    wrapper = "".join(f"_{c.lower()}" if c.isupper() else c for c in name).strip("_")
    assert len(getattr(ops.tensorflow_ops(), wrapper).__doc__) > 100


def test_the_library_has_these_ops_only():
    wrappers = {
        name for name in dir(ops.tensorflow_ops()) if name[0].islower() and not name.endswith("_eager_fallback")
    }
    expected = {"quant_ifmr", "quant_hfmg", "quant_arq", "dequant_arq", "search_n", "dmq_balance"}
    expected |= {"batch_norm_statistics"}
    expected |= {"ascend_quant", "ascend_weight_quant", "ascend_dequant", "ascend_anti_quant"}
    assert {
        name for name in wrappers if name.split("_")[0] in {"quant", "dequant", "search", "dmq", "batch", "ascend"}
    } == expected


CALIBRATION = {"record_file": "/record.txt", "generation": 1, "batch_num": 1}
RUN = {
    "AscendQuant": lambda x: ops.tensorflow_ops().ascend_quant(x, scale=1.0, offset=0.0),
    "AscendAntiQuant": lambda x: ops.tensorflow_ops().ascend_anti_quant(x, scale=1.0, offset=0.0),
    "AscendWeightQuant": lambda x: ops.tensorflow_ops().ascend_weight_quant(
        tf.cast(x, tf.int8), np.zeros(1, np.int8), T=tf.float32
    ),
    "AscendDequant": lambda x: ops.tensorflow_ops().ascend_dequant(x, np.zeros(1, np.uint64), ksize=[1, 1]),
    "QuantIfmr": lambda x: ops.tensorflow_ops().quant_ifmr(x, layers=["layer"], **CALIBRATION).y,
    "QuantHfmg": lambda x: ops.tensorflow_ops().quant_hfmg(x, layers=["layer"], **CALIBRATION).y,
    "QuantArq": lambda x: (
        ops.tensorflow_ops().quant_arq(x, layers=["layer"], channel_axes=[0], record_file="/record.txt", generation=1).y
    ),
    "DequantArq": lambda x: ops.tensorflow_ops().dequant_arq(tf.cast(x, tf.int8), [1.0], T=x.dtype, channel_axes=[]),
    "SearchN": lambda x: ops.tensorflow_ops().search_n(x, 1.0, [1.0], layer="layer", **CALIBRATION),
    "DmqBalance": lambda x: ops.tensorflow_ops().dmq_balance(
        x, [1.0], layer="layer", migration_strength=0.5, channel_axis=-1, **CALIBRATION
    ),
    "BatchNormStatistics": lambda x: ops.tensorflow_ops().batch_norm_statistics(
        x, x, np.int64(2), batch_norm="bn", fraction=0.5, **CALIBRATION
    ),
}


@pytest.mark.parametrize("shape", [None, [], [None], [2, 3], [None, 28, 28, 3], [1, None, 3, None, 5]], ids=str)
@pytest.mark.parametrize("name", RUN)
def test_output_has_the_shape_of_the_input(name, shape):
    with tf.Graph().as_default():
        y = RUN[name](tf.compat.v1.placeholder(tf.float32, shape))
    assert y.op.type == name
    assert y.shape.rank == (None if shape is None else len(shape))
    assert shape is None or y.shape.as_list() == shape


def test_shapes_of_the_factors():
    with tf.Graph().as_default():
        x = tf.compat.v1.placeholder(tf.float32, [None, 4])
        ifmr = ops.tensorflow_ops().quant_ifmr(x, layers=["layer"], **CALIBRATION)
        hfmg = ops.tensorflow_ops().quant_hfmg(x, layers=["layer"], **CALIBRATION)
        arq = ops.tensorflow_ops().quant_arq(
            x, layers=["layer"], channel_axes=[1], record_file="/record.txt", generation=1
        )
    for factors in (ifmr, hfmg):
        assert factors.scale.shape.rank == factors.offset.shape.rank == 0
    assert arq.scale.shape.rank == 1


@pytest.mark.parametrize("dtype", [tf.float16, tf.float64], ids=["float16", "float64"])
@pytest.mark.parametrize("name", [name for name in RUN if name != "AscendWeightQuant"])
def test_graphs_of_other_float_types_can_be_loaded(name, dtype):
    with tf.Graph().as_default():
        assert RUN[name](tf.compat.v1.placeholder(dtype, [2])).dtype == dtype


def test_a_saved_graph_loads_with_the_defaults_left_out():
    """Writers may strip attributes that have their default."""
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32, [2], name="x")
        RUN["AscendDequant"](RUN["AscendQuant"](x))
    graph_def = graph.as_graph_def()
    for node in graph_def.node:
        for attr in ("quant_bits", "data_format"):
            node.attr.pop(attr, None)
    with tf.Graph().as_default() as loaded:
        tf.import_graph_def(graph_def, name="")
    types = [op.type for op in loaded.get_operations()]
    assert types.count("AscendQuant") == types.count("AscendDequant") == 1


def test_constants_are_not_folded():
    """Grappler would otherwise write quantized weights as floats, four times their size."""
    with tf.Graph().as_default() as graph:
        weights = tf.constant(np.arange(12, dtype=np.int8).reshape(3, 4))
        y = ops.tensorflow_ops().ascend_weight_quant(weights, np.zeros(1, np.int8), T=tf.float32, name="w")
        tf.identity(y, name="out")
    options = tf.compat.v1.RunOptions(output_partition_graphs=True)
    metadata = tf.compat.v1.RunMetadata()
    with tf.compat.v1.Session(graph=graph) as session:
        session.run("out:0", options=options, run_metadata=metadata)
    types = {node.op for partition in metadata.partition_graphs for node in partition.node}
    assert "AscendWeightQuant" in types
