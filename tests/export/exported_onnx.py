"""A small model that was exported to ONNX, and what onnxruntime makes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import Exported

import amct_tensorflow as amct

onnx = pytest.importorskip("onnx")
pytest.importorskip("tf2onnx")
onnxruntime = pytest.importorskip("onnxruntime")

# What onnxruntime makes of a layer that it computes in int8.
INTEGER_LAYERS = (
    *("QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat"),
    *("QLinearAveragePool", "QLinearGlobalAveragePool"),
)


class ExportedOnnx(Exported):
    """A model exported to ONNX.

    Attributes:
        model: the ONNX model.
        kernels: how many nodes of each type onnxruntime's optimizer leaves of it.
    """

    def __init__(self, build: Callable[[Any], Any], folder: Path, *, opset: int | None = None, **settings: Any) -> None:
        arguments = {} if opset is None else {"opset": opset}
        super().__init__(amct.export_onnx, build, folder, arguments, **settings)
        self.model = onnx.load(self.path)
        onnx.checker.check_model(self.model, full_check=True)
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(folder / "optimized.onnx")
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        self.kernels = Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)

    @property
    def in_int8(self) -> int:
        """How many layers onnxruntime really computes in int8."""
        return sum(self.kernels[name] for name in INTEGER_LAYERS)

    def of_type(self, op_type: str) -> list[Any]:
        """The nodes of a type, of the ONNX model."""
        return [node for node in self.model.graph.node if node.op_type == op_type]

    def constant(self, name: str) -> np.ndarray:
        """The value of an initializer."""
        [tensor] = [tensor for tensor in self.model.graph.initializer if tensor.name == name]
        return onnx.numpy_helper.to_array(tensor)

    def run(self, data: np.ndarray | Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Returns what onnxruntime computes."""
        feeds = data if isinstance(data, Mapping) else {"x": data}
        return self.session.run(list(self.report.outputs), dict(feeds))
