"""Small TensorFlow graphs to quantize, and what it takes to quantize and run them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from small_graphs import create_config
from tensorflow.core.protobuf import rewriter_config_pb2

import amct_tensorflow as amct
from amct_tensorflow.record import read_record

v1 = tf.compat.v1

IMAGE = (None, 8, 8, 4)


# -- Parameters: what may stand behind a weight or a bias ---------------------------------------------------


def constant(value: Any, name: str) -> tf.Tensor:
    return tf.constant(np.asarray(value, np.float32), name=name)


def identities(value: Any, name: str) -> tf.Tensor:
    return tf.identity(tf.identity(constant(value, name)))


def variable(value: Any, name: str) -> tf.Tensor:
    """A resource variable as an op reads it."""
    start = np.asarray(value, np.float32)
    return tf.convert_to_tensor(v1.get_variable(name, initializer=start, use_resource=True))


def ref_variable(value: Any, name: str) -> tf.Tensor:
    """A variable of TensorFlow 1 as an op reads it."""
    start = np.asarray(value, np.float32)
    return tf.convert_to_tensor(v1.get_variable(name, initializer=start, use_resource=False))


PARAMETERS = {"constants": constant, "variables": variable, "identities": identities}


# -- Ops with random parameters ------------------------------------------------------------------------------


class Net:
    """Builds a graph with constants, or variables, that depend on nothing but their name and shape."""

    def __init__(self, parameter: Callable[[Any, str], tf.Tensor] = constant) -> None:
        self.parameter = parameter

    def random(self, name: str, shape: Sequence[int]) -> np.ndarray:
        seed = [*name.encode(), *shape]
        return np.random.default_rng(seed).normal(size=shape).astype(np.float32)

    def conv(
        self, x: tf.Tensor, name: str, channels: int = 6, size: int = 3, groups: int = 1, **attributes: Any
    ) -> tf.Tensor:
        attributes = {"strides": [1, 1, 1, 1], "padding": "SAME", "data_format": "NHWC", **attributes}
        inputs = x.shape.as_list()[1 if attributes["data_format"] == "NCHW" else 3] // groups
        weights = self.random(name, (size, size, inputs, channels)) / np.sqrt(size * size * inputs)
        return tf.raw_ops.Conv2D(input=x, filter=self.parameter(weights, f"{name}_w"), name=name, **attributes)

    def depthwise(self, x: tf.Tensor, name: str, multiplier: int = 1, **attributes: Any) -> tf.Tensor:
        attributes = {"strides": [1, 1, 1, 1], "padding": "SAME", "data_format": "NHWC", **attributes}
        inputs = x.shape.as_list()[1 if attributes["data_format"] == "NCHW" else 3]
        weights = self.random(name, (3, 3, inputs, multiplier)) / 3
        kernel = self.parameter(weights, f"{name}_w")
        return tf.raw_ops.DepthwiseConv2dNative(input=x, filter=kernel, name=name, **attributes)

    def matmul(self, x: tf.Tensor, name: str, channels: int = 6) -> tf.Tensor:
        inputs = x.shape.as_list()[1]
        weights = self.random(name, (inputs, channels)) / np.sqrt(inputs)
        return tf.raw_ops.MatMul(a=x, b=self.parameter(weights, f"{name}_w"), name=name)

    def bias(self, x: tf.Tensor, name: str, data_format: str = "NHWC") -> tf.Tensor:
        channels = x.shape.as_list()[1 if data_format == "NCHW" else -1]
        values = self.parameter(self.random(name, (channels,)), f"{name}_b")
        return tf.raw_ops.BiasAdd(value=x, bias=values, data_format=data_format, name=name)

    def add(self, x: tf.Tensor, name: str, shape: Sequence[int], *, swapped: bool = False) -> tf.Tensor:
        addend = self.parameter(self.random(name, shape), f"{name}_b")
        first, second = (addend, x) if swapped else (x, addend)
        return tf.raw_ops.AddV2(x=first, y=second, name=name)

    def batch_norm(self, x: tf.Tensor, name: str, version: str = "V3", **attributes: Any) -> tf.Tensor:
        return self.batch_norm_outputs(x, name, version, **attributes)[0]

    def batch_norm_outputs(self, x: tf.Tensor, name: str, version: str = "V3", **attributes: Any) -> Any:
        attributes = {"is_training": False, "epsilon": 1e-3, "data_format": "NHWC", **attributes}
        channels = x.shape.as_list()[1 if attributes["data_format"] == "NCHW" else 3]
        values = {key: self.random(name + key, (channels,)) for key in ("scale", "offset", "mean", "variance")}
        values["variance"] = np.abs(values["variance"]) + 0.1
        values.update({key: attributes.pop(key) for key in tuple(values) if key in attributes})
        given = {
            key: value if isinstance(value, tf.Tensor) else self.parameter(value, f"{name}_{key}")
            for key, value in values.items()
        }
        op = getattr(tf.raw_ops, f"FusedBatchNorm{version}")
        return op(x=x, name=name, **given, **attributes)


def image(name: str = "x", shape: Sequence[int | None] = IMAGE) -> tf.Tensor:
    return v1.placeholder(tf.float32, shape, name=name)


def flat(x: tf.Tensor, name: str = "flat") -> tf.Tensor:
    return tf.reshape(x, [-1, int(np.prod(x.shape.as_list()[1:]))], name=name)


def avg_pool(x: tf.Tensor, name: str, size: int = 2, **attributes: Any) -> tf.Tensor:
    attributes = {"ksize": [1, size, size, 1], "strides": [1, size, size, 1], "padding": "VALID", **attributes}
    return tf.raw_ops.AvgPool(value=x, name=name, **attributes)


def small_net(net: Net) -> None:
    """x -> a: conv, BN, ReLU6 -> b: depthwise, bias, ReLU -> pool -> fc: MatMul, Add -> out: Softmax."""
    y = tf.nn.relu6(net.batch_norm(net.conv(image(), "a/conv"), "a/bn"), name="a/relu")
    y = tf.nn.relu(net.bias(net.depthwise(y, "b/depthwise", multiplier=2), "b/bias"), name="b/relu")
    y = flat(avg_pool(y, "pool"))
    tf.nn.softmax(net.add(net.matmul(y, "fc/matmul", channels=5), "fc/add", [5]), name="out")


SMALL_NET_LAYERS = ["a/conv", "b/depthwise", "pool", "fc/matmul"]

# Layer -> its AscendQuant, AscendWeightQuant and AscendDequant.
SMALL_NET_NODES = {
    "a/conv": ("a/act_quant/AscendQuant", "a/weight_quant/AscendWeightQuant", "a/dequant/AscendDequant"),
    "b/depthwise": ("b/act_quant/AscendQuant", "b/weight_quant/AscendWeightQuant", "b/dequant/AscendDequant"),
    "fc/matmul": ("fc/act_quant/AscendQuant", "fc/weight_quant/AscendWeightQuant", "fc/dequant/AscendDequant"),
    "pool": ("act_quant/AscendQuant", None, "dequant/AscendDequant"),
}


def used_twice(net):
    y = net.conv(image(), "conv")
    tf.nn.relu(y + net.batch_norm(y, "bn"), name="out")


def used_before_the_bias(net):
    y = net.conv(image(), "conv")
    tf.nn.relu(y + net.batch_norm(net.bias(y, "bias"), "bn"), name="out")


def graph_of(build: Callable[[Net], Any], parameter: Callable[[Any, str], tf.Tensor] = constant) -> tf.Graph:
    """A graph that `build` fills."""
    graph = tf.Graph()
    with graph.as_default():
        build(Net(parameter))
    return graph


def batch(index: int = 0, shape: Sequence[int] = (4, 8, 8, 4)) -> np.ndarray:
    return np.random.default_rng(1000 + index).normal(size=shape).astype(np.float32)


@contextlib.contextmanager
def control_flow_of_tensorflow_1() -> Iterator[None]:
    """As in graphs that were frozen, or made by TensorFlow 1: Switch, Merge, Enter, Exit."""
    was_on = v1.control_flow_v2_enabled()
    v1.disable_control_flow_v2()
    try:
        yield
    finally:
        if was_on:
            v1.enable_control_flow_v2()


# -- Running -------------------------------------------------------------------------------------------------


def _config(remapping: bool) -> Any:
    config = v1.ConfigProto(intra_op_parallelism_threads=1, inter_op_parallelism_threads=1)
    # NCHW convolutions have no CPU kernel; this lets grappler run them in NHWC, if they are not fetched.
    options = config.graph_options.rewrite_options
    options.cpu_layout_conversion = rewriter_config_pb2.RewriterConfig.NCHW_TO_NHWC
    options.min_graph_nodes = -1
    if not remapping:
        options.remapping = rewriter_config_pb2.RewriterConfig.OFF
    return config


def run(graph: tf.Graph, fetches: Any, x: np.ndarray | Mapping[str, np.ndarray], *, remapping: bool = True) -> Any:
    """One run in a new session, variables at their initial values.

    remapping: whether grappler may fuse ops, as it does by default.
    """
    given = x if isinstance(x, Mapping) else {"x": x}
    feeds = {name if ":" in name else f"{name}:0": value for name, value in given.items()}
    with v1.Session(graph=graph, config=_config(remapping)) as session:
        variables = graph.get_collection(v1.GraphKeys.GLOBAL_VARIABLES)
        session.run([variable.initializer for variable in variables])
        return session.run(fetches, feeds)


def sqnr(reference: np.ndarray, actual: np.ndarray) -> float:
    """Signal to quantization noise, in dB."""
    noise = np.sum((np.asarray(reference, np.float64) - actual) ** 2)
    return float("inf") if noise == 0 else float(10 * np.log10(np.sum(np.asarray(reference, np.float64) ** 2) / noise))


def assert_close(actual: np.ndarray, expected: np.ndarray, relative: float = 1e-5) -> None:
    """Equal within `relative` of the largest value of the channel (the last axis)."""
    assert actual.shape == expected.shape
    assert np.isfinite(expected).all()
    difference = np.abs(actual - expected).reshape(-1, expected.shape[-1]).max(axis=0)
    largest = np.abs(expected).reshape(-1, expected.shape[-1]).max(axis=0)
    assert (difference <= relative * largest).all(), f"channels differ by {difference}, their largest are {largest}"


def ops_behind(graph: tf.Graph, name: str) -> list[tf.Operation]:
    """All ops that an op needs, itself included, in graph order."""
    found = set()
    stack = [graph.get_operation_by_name(name)]
    while stack:
        op = stack.pop()
        if op.name not in found:
            found.add(op.name)
            stack.extend([*(used.op for used in op.inputs), *op.control_inputs])
    return [op for op in graph.get_operations() if op.name in found]


def types_behind(graph: tf.Graph, name: str) -> list[str]:
    return [op.type for op in ops_behind(graph, name)]


# -- The jobs ------------------------------------------------------------------------------------------------


def quantize(graph: tf.Graph, folder: Path, *, calib_outputs: list[Any] | None = None, **settings: Any) -> str:
    """`create_config` with `settings`, then quantize_model; returns the record's path."""
    record = str(folder / "record.txt")
    amct.quantize_model(graph, create_config(graph, folder, **settings), record, calib_outputs)
    return record


def write_pb(graph: tf.Graph, path: Path) -> str:
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return str(path)


def read_pb(path: Any) -> Any:
    graph_def = v1.GraphDef()
    graph_def.ParseFromString(Path(path).read_bytes())
    return graph_def


def load(path: Any) -> tf.Graph:
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(read_pb(path), name="")
    return graph


def is_complete(record: str) -> bool:
    """Whether the file has all factors of all its layers; those without scale_w are AvgPool."""
    return all(
        entry.scale_d is not None and entry.offset_d is not None and bool(entry.scale_w) == bool(entry.shift_bit)
        for entry in read_record(record).values()
    )


class Deployed:
    """A frozen model that was calibrated and saved.

    Attributes:
        graph: the saved graph, imported.
        nodes: its nodes by name.
        records: what the calibration found.
        info: the ops of `_quant.json`, by name.
    """

    def __init__(
        self,
        build: Callable[[Net], Any],
        outputs: Sequence[str],
        folder: Path,
        *,
        feeds: Iterable[Any] = (),
        calib_outputs: list[Any] | None = None,
        save_outputs: Sequence[str] | None = None,
        imported: bool = False,
        **settings: Any,
    ) -> None:
        self.float_graph = graph_of(build)
        self.pb = write_pb(self.float_graph, folder / "float.pb")
        calibration = load(self.pb) if imported else graph_of(build)
        feeds = list(feeds) or [batch()]
        settings.setdefault("batch_num", len(feeds))
        self.record = quantize(calibration, folder, calib_outputs=calib_outputs, **settings)
        for feed in feeds:
            run(calibration, [f"{name}:0" for name in outputs], feed)
        self.folder = folder
        self.outputs = list(save_outputs or outputs)
        self.save("model")

    def save(self, prefix: str) -> None:
        amct.save_model(self.pb, self.outputs, self.record, str(self.folder / prefix))
        self.file = self.folder / f"{prefix}_quantized.pb"
        self.graph = load(self.file)
        self.nodes = {node.name: node for node in read_pb(self.file).node}
        self.records = read_record(self.record)
        self.json = json.loads((self.folder / f"{prefix}_quant.json").read_text())
        self.info = {op["name"]: op for op in self.json["graph"][0]["op"]}

    @property
    def quantized(self) -> list[str]:
        """The names of the layers that got int8."""
        return [name for name, entry in self.records.items() if entry.scale_d is not None]

    def inputs(self, name: str) -> list[str]:
        """The names of the nodes that feed a node, without those that only control it."""
        return [edge.partition(":")[0] for edge in self.nodes[name].input if not edge.startswith("^")]

    def users(self, name: str) -> list[str]:
        return [node.name for node in self.nodes.values() if name in self.inputs(node.name)]

    def of_type(self, op_type: str) -> list[Any]:
        return [node for node in self.nodes.values() if node.op == op_type]

    def constant(self, name: str) -> np.ndarray:
        return tf.make_ndarray(self.nodes[name.partition(":")[0]].attr["value"].tensor)

    def run(self, x: Any, output: str | None = None) -> np.ndarray:
        return run(self.graph, f"{output or self.outputs[0]}:0", x)

    def run_float(self, x: Any, output: str | None = None) -> np.ndarray:
        return run(self.float_graph, f"{output or self.outputs[0]}:0", x)

    def sqnr(self, x: Any, output: str | None = None) -> float:
        return sqnr(self.run_float(x, output), self.run(x, output))
