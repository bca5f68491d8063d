"""The job export_tensorflow."""

from __future__ import annotations

from amct_tensorflow.arguments import check_types
from amct_tensorflow.errors import AmctRuntimeError
from amct_tensorflow.export.checks import file_of
from amct_tensorflow.export.in_tensorflow import int8_graph
from amct_tensorflow.export.quantized_model import QuantizedModel
from amct_tensorflow.export.report import ExportReport, log_report
from amct_tensorflow.files import warn_if_exists, write_file
from amct_tensorflow.graph import int8_ops
from amct_tensorflow.graph.model_file import serialize
from amct_tensorflow.graph.sources import MODEL_TYPES, ModelSource
from amct_tensorflow.log import LOGGER

_MODULE = "export_tensorflow"
_SUFFIX = ".pb"


@check_types(quantized_pb=MODEL_TYPES, save_path=str)
def export_tensorflow(quantized_pb: ModelSource, save_path: str, outputs: list[str] | None = None) -> ExportReport:
    """Writes an int8 model as a .pb that TensorFlow alone computes in int8, with its ops of oneDNN, on x86 CPUs.

    The factors, integer weights and biases are those of the int8 model; activations are uint8 with zero point
    offset_d + 128. The shifts N of the chip are not there. What TensorFlow has no int8 op for computes in float.

    Args:
        quantized_pb: the int8 model that save_model or one of the convert jobs wrote.
        save_path: the file to write; ``.pb`` is added where it is missing.
        outputs: names of its output ops, ``op``, or of their outputs, ``op:1``; by default all that nothing consumes.

    Returns:
        The layers, and which of them are computed in int8.

    Raises:
        AmctTypeError, AmctValueError: an argument cannot be used, or the model is not an int8 model of this version.
        AmctRuntimeError: this TensorFlow has no int8 ops, or the file cannot be written. Nothing is written then.
    """
    if not int8_ops.are_there():
        raise AmctRuntimeError("this TensorFlow was built without the int8 ops of oneDNN: install that of PyPI for x86")
    path = file_of(save_path, _SUFFIX, quantized_pb)
    model = QuantizedModel.load(quantized_pb, outputs)
    graph_def, layers = int8_graph(model)
    content = serialize(graph_def, path)
    warn_if_exists(path, _MODULE)
    write_file(path, content, kind="model")
    inputs, outputs_in_file = (
        tuple(tensor.name.removesuffix(":0") for tensor in tensors) for tensors in (model.inputs, model.outputs)
    )
    report = ExportReport("TensorFlow", (path,), tuple(layers), inputs, outputs_in_file)
    log_report(report, _MODULE)
    LOGGER.push_info_message(f"The model is saved in <{path}>", _MODULE)
    return report
