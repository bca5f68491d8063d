"""A Keras model, frozen, quantized, saved and loaded again, and what became of it."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import amct_tensorflow as amct
from amct_tensorflow.analysis.inspect_model import inspect_model

v1 = tf.compat.v1

OF_THE_TABLE = (
    *("Conv2D", "DepthwiseConv2dNative", "Conv3D", "Conv2DBackpropInput", "AvgPool"),
    *("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"),
)
_LINE = re.compile(r"\[save_model\]: (\w+) (\S+): (quantized|left float because (.+))", re.MULTILINE)


def load(graph_def: Any) -> tf.Graph:
    graph = tf.Graph()
    with graph.as_default():
        tf.import_graph_def(graph_def, name="")
    return graph


def run(graph: tf.Graph, output: str, x: np.ndarray) -> np.ndarray:
    [fed] = [op for op in graph.get_operations() if op.type == "Placeholder"]
    with v1.Session(graph=graph) as session:
        return session.run(f"{output}:0", {fed.outputs[0]: x})


@dataclasses.dataclass
class Quantized:
    """What is left of a network: numbers and the saved file, no graphs.

    Attributes:
        actual: what the int8 model makes of inputs that the calibration has not seen.
        expected: what the float model makes of them.
        layers: the ops of the table in the float model, name -> type.
        said: what the log of save_model says of each, name -> "" for quantized, or the reason.
        types: the op types that the log gives.
        saved: the nodes of the saved model, by name.
        float_bytes, int8_bytes: the sizes of the two files.
    """

    actual: np.ndarray
    layers: dict[str, str]
    said: dict[str, str]
    types: dict[str, str]
    saved: Mapping[str, Any]
    float_bytes: int
    int8_bytes: int
    expected: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))

    @property
    def quantized(self) -> list[str]:
        return [name for name, reason in self.said.items() if not reason]


def quantize(graph_def: Any, batches: list[np.ndarray], unseen: np.ndarray, folder: Path) -> Quantized:
    """Takes a frozen network through the four calls; writes into `folder`."""
    pb = folder / "float.pb"
    pb.write_bytes(graph_def.SerializeToString())
    graph = load(graph_def)
    layers = {op.name: op.type for op in graph.get_operations() if op.type in OF_THE_TABLE}
    config, record, prefix = (str(folder / name) for name in ("config.json", "record.txt", "int8"))
    amct.create_quant_config(config, graph, batch_num=len(batches))
    amct.quantize_model(graph, config, record)
    [output] = inspect_model(str(pb)).outputs
    output = output.removesuffix(":0")
    for batch in batches:
        run(graph, output, batch)
    with contextlib.redirect_stderr(io.StringIO()) as log:
        amct.save_model(str(pb), [output], record, prefix)
    saved = v1.GraphDef()
    saved.ParseFromString((folder / "int8_quantized.pb").read_bytes())
    lines = _LINE.findall(log.getvalue())
    return Quantized(
        actual=run(load(saved), output, unseen),
        layers=layers,
        said={name: reason for _, name, _, reason in lines},
        types={name: op_type for op_type, name, _, _ in lines},
        saved={node.name: node for node in saved.node},
        float_bytes=pb.stat().st_size,
        int8_bytes=(folder / "int8_quantized.pb").stat().st_size,
    )
