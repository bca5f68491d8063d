"""The job export_tflite."""

from __future__ import annotations

from collections.abc import Mapping

from amct_tensorflow.arguments import check_types
from amct_tensorflow.export.checks import file_of
from amct_tensorflow.export.lite.narrow_weights import NarrowWeights, narrow
from amct_tensorflow.export.quantized_model import QuantizedModel
from amct_tensorflow.export.report import ExportReport, log_report
from amct_tensorflow.files import warn_if_exists, write_file
from amct_tensorflow.graph.sources import MODEL_TYPES, ModelSource
from amct_tensorflow.layers import channel_axes_of
from amct_tensorflow.log import LOGGER

_MODULE = "export_tflite"
_SUFFIX = ".tflite"


@check_types(quantized_pb=MODEL_TYPES, save_path=str, integer_io=bool)
def export_tflite(
    quantized_pb: ModelSource, save_path: str, outputs: list[str] | None = None, integer_io: bool = False
) -> ExportReport:
    """Writes an int8 model as .tflite, for LiteRT (TensorFlow Lite) and its int8 kernels.

    The factors, integer weights and biases are those of the .pb, but for channels with a weight of -128, which TFLite
    does not take: they are rounded anew, and a line says what is left of them. The shifts N of the chip are not there.
    What the runtime has no int8 kernel for, or what has no factors of its result, computes in float.

    Args:
        quantized_pb: the int8 model that save_model or one of the convert jobs wrote.
        save_path: the file to write; ``.tflite`` is added where it is missing.
        outputs: names of its output ops, ``op``, or of their outputs, ``op:1``; by default all that nothing consumes.
            In the file, inputs and outputs are called like their ops, ``op``, those behind the first ``op:1``.
        integer_io: whether inputs and outputs that have factors are int8 in the file, with these factors.

    Returns:
        The layers, and which of them the runtime computes in int8.

    Raises:
        AmctTypeError, AmctValueError: an argument cannot be used, the model is not an int8 model of this version, or
            TFLite cannot express it.
        AmctRuntimeError: the file cannot be written. Nothing is written then.
    """
    # Private modules of TensorFlow are behind these: importing this package must not depend on them.
    from amct_tensorflow.export.lite.edit import drop_unused
    from amct_tensorflow.export.lite.ends import make_ends_integer, name_ends, names_of_ends
    from amct_tensorflow.export.lite.pipeline import lite_model
    from amct_tensorflow.graph.lite import serialize_lite

    path = file_of(save_path, _SUFFIX, quantized_pb)
    model = QuantizedModel.load(quantized_pb, outputs)
    weights = {
        layer.name: narrow(layer.integers(), channel_axes_of(layer.op))
        for layer in model.layers
        if layer.weight_input is not None
    }
    exported, layers = lite_model(model, weights)
    reasons = make_ends_integer(exported) if integer_io else []
    name_ends(exported)
    drop_unused(exported)
    content = serialize_lite(exported)
    warn_if_exists(path, _MODULE)
    write_file(path, content, kind="TFLite model")
    report = ExportReport("LiteRT", (path,), tuple(layers), *names_of_ends(exported))
    log_report(report, _MODULE)
    _log_narrow({layer.name: weights[layer.name] for layer in layers if layer.reason is None and layer.name in weights})
    for reason in reasons:
        LOGGER.push_info_message(reason, _MODULE)
    LOGGER.push_info_message(f"The model is saved in <{path}>", _MODULE)
    return report


def _log_narrow(weights: Mapping[str, NarrowWeights]) -> None:
    changed = {name: narrowed for name, narrowed in weights.items() if narrowed.channels}
    if changed:
        worst = min(changed, key=lambda name: changed[name].sqnr)
        count = sum(narrowed.channels for narrowed in changed.values())
        LOGGER.push_info_message(
            f"{count} channels of {len(changed)} layers have a weight of -128, which TFLite does not take, and are "
            f"rounded anew: their weights keep an SQNR of {changed[worst].sqnr:.1f} dB or more, the least in {worst}",
            _MODULE,
        )
