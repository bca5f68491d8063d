"""Small graphs that tests of the jobs share, and the steps of a calibration."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


# Settings with which save_model makes of a record what convert_model makes of it: the nearest integers.
NEAREST = {"weight_rounding": "nearest", "bias_correction": False}

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


def configure(graph: tf.Graph, folder: Path, text: str = "") -> str:
    """create_quant_config with a simplified configuration; returns the config's path."""
    (folder / "a.cfg").write_text(text)
    amct.create_quant_config(str(folder / "config.json"), graph, config_defination=str(folder / "a.cfg"))
    return str(folder / "config.json")


def int8_model(
    make: Callable[[], tf.Graph], feed: Callable[[int], np.ndarray], folder: Path, text: str, batches: int = 2
) -> Path:
    """All jobs with a simplified configuration, quantize_preprocess too if it has a dmq_balancer.

    Args:
        make: makes the float graph, x -> out.
        feed: makes the batch of a number.
        folder: where all files are written.
        text: the simplified configuration, with a batch_num of `batches`.
        batches: how many batches the graph sees.

    Returns:
        The path of the int8 model.
    """
    config, record = configure(make(), folder, text), str(folder / "record.txt")
    for job in (amct.quantize_preprocess, amct.quantize_model) if "dmq" in text else (amct.quantize_model,):
        graph = make()
        job(graph, config, record)
        for seed in range(batches):
            run(graph, feed(seed))
    amct.save_model(freeze(make(), folder / "model.pb"), ["out"], record, str(folder / "int8"))
    return folder / "int8_quantized.pb"


def sqnr(reference: np.ndarray, other: np.ndarray) -> float:
    """Signal to quantization noise, in dB."""
    reference = np.asarray(reference, np.float64)
    return float(10 * np.log10(np.sum(reference**2) / np.sum((reference - other) ** 2)))


def create_config(graph: tf.Graph, folder: Path, **settings: Any) -> str:
    """create_quant_config; returns the config's path. Settings that it does not take are written into the config."""
    arguments = {key: settings.pop(key) for key in ("batch_num", "skip_layers") if key in settings}
    path = folder / "config.json"
    amct.create_quant_config(str(path), graph, **arguments)
    if settings:
        path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return str(path)


def prepare(graph: tf.Graph, folder: Path, **settings: Any) -> str:
    """`create_config` and quantize_model; returns the record's path."""
    amct.quantize_model(graph, create_config(graph, folder, **settings), str(folder / "record.txt"))
    return str(folder / "record.txt")
