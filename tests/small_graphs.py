"""Small graphs that tests of the jobs share, and the steps of a calibration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

import amct_tensorflow as amct
from amct_tensorflow.record import LayerRecord, record_text

tf1 = tf.compat.v1


def conv_net(weights: np.ndarray | None = None, bias: np.ndarray | None = None) -> tf.Graph:
    """x [?, 8, 8, 3] -> block/conv + bias -> relu -> head/pool -> head/fc (MatMul + bias) -> out (Softmax)."""
    random = np.random.default_rng(0)
    weights = random.standard_normal((3, 3, 3, 4)).astype(np.float32) if weights is None else weights
    bias = random.standard_normal(4).astype(np.float32) if bias is None else bias
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, 8, 8, 3], name="x")
        y = tf.nn.conv2d(x, tf.constant(weights, name="block/weights"), 1, "SAME", name="block/conv")
        y = tf.nn.relu(tf.nn.bias_add(y, bias, name="block/bias"), name="block/relu")
        y = tf1.nn.avg_pool(y, [1, 8, 8, 1], 1, "VALID", name="head/pool")
        dense = tf.constant(random.standard_normal((4, 5)).astype(np.float32), name="head/weights")
        y = tf.matmul(tf.reshape(y, [-1, 4]), dense, name="head/fc")
        tf.nn.softmax(tf.nn.bias_add(y, np.ones(5, np.float32), name="head/bias"), name="out")
    return graph


CONV_NET_LAYERS = ["block/conv", "head/pool", "head/fc"]


def batch(seed: int = 0, size: int = 4) -> np.ndarray:
    """A batch for `conv_net`."""
    return np.random.default_rng(seed).standard_normal((size, 8, 8, 3)).astype(np.float32)


def run(graph: tf.Graph, data: np.ndarray, output: str = "out:0") -> np.ndarray:
    """Runs the graph in a session of its own."""
    with tf1.Session(graph=graph) as session:
        return session.run(output, {"x:0": data})


def freeze(graph: tf.Graph, path: Path) -> str:
    """Writes a graph without variables as a .pb and returns the path."""
    path.write_bytes(graph.as_graph_def().SerializeToString())
    return str(path)


def load(path: Path | str) -> tf.Graph:
    """Reads a frozen graph."""
    graph_def = tf1.GraphDef()
    graph_def.ParseFromString(Path(path).read_bytes())
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
    return graph


def write_record(path: Path | str, records: dict[str, LayerRecord]) -> str:
    """Writes a record file and returns the path."""
    Path(path).write_bytes(record_text(records))
    return str(path)


def prepare(graph: tf.Graph, folder: Path, **options: object) -> str:
    """create_quant_config and quantize_model; returns the record's path."""
    amct.create_quant_config(str(folder / "config.json"), graph, **options)
    amct.quantize_model(graph, str(folder / "config.json"), str(folder / "record.txt"))
    return str(folder / "record.txt")
