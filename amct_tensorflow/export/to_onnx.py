"""The job export_onnx."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from amct_tensorflow.arguments import check_types
from amct_tensorflow.errors import AmctRuntimeError, AmctValueError, reason_of
from amct_tensorflow.export.checks import file_of, require
from amct_tensorflow.export.quantized_model import QuantizedModel
from amct_tensorflow.export.report import ExportReport, log_report
from amct_tensorflow.files import warn_if_exists, write_files
from amct_tensorflow.graph.sources import MODEL_TYPES, ModelSource
from amct_tensorflow.log import LOGGER

if TYPE_CHECKING:
    import onnx_ir as ir

_MODULE = "export_onnx"
_OLDEST_OPSET, _DEFAULT_OPSET = 13, 17  # scales of channels came with 13
_SUFFIX = ".onnx"
_LARGEST_FILE = 2**31 - 2**20  # what a protobuf message can hold, but for the nodes


@check_types(quantized_pb=MODEL_TYPES, save_path=str, opset=int)
def export_onnx(
    quantized_pb: ModelSource, save_path: str, outputs: list[str] | None = None, opset: int = _DEFAULT_OPSET
) -> ExportReport:
    """Writes an int8 model as ONNX, with QuantizeLinear and DequantizeLinear nodes, for onnxruntime and its like.

    The factors, integer weights and biases are those of the .pb; activations are uint8 with zero point offset_d + 128.
    The shifts N of the chip are not there. What the runtime has no int8 kernel for computes in float.

    Args:
        quantized_pb: the int8 model that save_model or one of the convert jobs wrote.
        save_path: the file to write; ``.onnx`` is added where it is missing. Weights that do not fit into a file of
            2 GB go to ``<save_path>.data``.
        outputs: names of its output ops, ``op``, or of their outputs, ``op:1``; by default all that nothing consumes.
            In the file, inputs and outputs are called like their ops, ``op``, those behind the first ``op:1``.
        opset: the version of ONNX's operators, 13 to what the installed onnx knows.

    Returns:
        The layers, and which of them onnxruntime computes in int8.

    Raises:
        AmctTypeError, AmctValueError: an argument cannot be used, the model is not an int8 model of this version, or
            ONNX cannot express it.
        AmctRuntimeError: the extra ``onnx`` is not installed, or the file cannot be written. Nothing is written then.
    """
    require("onnx", "onnx", "onnx_ir", "tf2onnx")
    from amct_tensorflow.export.onnx.conversion import NEWEST_OPSET
    from amct_tensorflow.export.onnx.pipeline import onnx_model

    if not _OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise AmctValueError(
            f"opset is {opset}, but must be {_OLDEST_OPSET} to {NEWEST_OPSET}, the newest that the installed onnx knows"
        )
    path = file_of(save_path, _SUFFIX, quantized_pb)
    model = QuantizedModel.load(quantized_pb, outputs)
    exported, layers = onnx_model(model, opset)
    files = _write(exported, path)
    inputs, outputs_in_file = (
        tuple(str(value.name) for value in values) for values in (exported.graph.inputs, exported.graph.outputs)
    )
    report = ExportReport("onnxruntime", tuple(files), tuple(layers), inputs, outputs_in_file)
    log_report(report, _MODULE)
    LOGGER.push_info_message(f"The model is saved in <{path}>", _MODULE)
    return report


def _write(model: ir.Model, path: str) -> list[str]:
    """Writes the model, in two files where one cannot hold it, and returns their paths."""
    import onnx_ir as ir

    size = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    paths = [path] if size < _LARGEST_FILE else [path, f"{path}.data"]
    with tempfile.TemporaryDirectory() as folder:
        made = [os.path.join(folder, os.path.basename(name)) for name in paths]
        ir.save(model, made[0], external_data=os.path.basename(made[1]) if len(made) > 1 else None)
        _check(made[0])
        for name in paths:
            warn_if_exists(name, _MODULE)
        contents = {name: Path(file).read_bytes() for name, file in zip(paths, made, strict=True)}
    write_files(contents, kind="ONNX model")
    return paths


def _check(path: str) -> None:
    """Raises `AmctRuntimeError` for a model that is not as ONNX wants it."""
    import onnx

    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise AmctRuntimeError(
            f"the ONNX model that tf2onnx makes is not valid ({reason_of(error)}): try another opset, or name outputs "
            "in front of what is named here"
        ) from error
