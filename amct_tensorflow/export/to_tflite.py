"""The job export_tflite."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from amct_tensorflow.arguments import check_types
from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.export.kernels import ExportedLayer, ExportReport, log_layers
from amct_tensorflow.export.lite_edit import drop_unused
from amct_tensorflow.export.lite_ends import make_ends_integer, name_ends, names_of_ends, order_ends, remove_fences
from amct_tensorflow.export.lite_kernels import find_operator, reason_against_int8
from amct_tensorflow.export.lite_weights import name_of_weights, put_weights
from amct_tensorflow.export.narrow_weights import NarrowWeights, narrow
from amct_tensorflow.export.quantized_model import QuantizedModel
from amct_tensorflow.files import warn_if_exists, write_file
from amct_tensorflow.graph.halves import widen_halves
from amct_tensorflow.graph.lite import serialize_lite, to_lite, unknown_ops
from amct_tensorflow.graph.model_file import extract
from amct_tensorflow.graph.sources import MODEL_TYPES, ModelSource
from amct_tensorflow.graph_passes.performing.fake_quantize import FENCE, fake_quantize, fake_quantized_weights
from amct_tensorflow.graph_passes.performing.restore_reals import restore_reals
from amct_tensorflow.graph_passes.planning.find_deployed import DeployedLayer
from amct_tensorflow.layers import channel_axes_of
from amct_tensorflow.log import LOGGER

_MODULE = "export_tflite"
_SUFFIX = ".tflite"
_MOST_SHOWN = 5


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
    if os.path.basename(save_path) in ("", _SUFFIX):
        raise AmctValueError(f"save_path '{save_path}' has no file name: give the path of the file to write")
    path = save_path if save_path.endswith(_SUFFIX) else save_path + _SUFFIX
    model = QuantizedModel.load(quantized_pb, outputs)
    weights = {
        layer.name: narrow(layer.integers(), channel_axes_of(layer.op))
        for layer in model.layers
        if layer.weight_input is not None
    }
    exported, layers = _convert(model, weights)
    reasons = make_ends_integer(exported) if integer_io else []
    name_ends(exported)
    drop_unused(exported)
    content = serialize_lite(exported)
    warn_if_exists(path, _MODULE)
    write_file(path, content, kind="TFLite model")
    log_layers(layers, "TFLite", _MODULE)
    _log_narrow({layer.name: weights[layer.name] for layer in layers if layer.reason is None and layer.name in weights})
    for reason in reasons:
        LOGGER.push_info_message(reason, _MODULE)
    LOGGER.push_info_message(f"The model is saved in <{path}>", _MODULE)
    return ExportReport((path,), tuple(layers), *names_of_ends(exported))


def _convert(model: QuantizedModel, weights: Mapping[str, NarrowWeights]) -> tuple[Any, list[ExportedLayer]]:
    """Returns the TFLite model and what becomes of the layers."""

    def make_weights(layer: DeployedLayer) -> tf.Tensor:
        return fake_quantized_weights(weights[layer.name].weights, name_of_weights(layer.name))

    moved = restore_reals(model.graph, model.layers, make_weights)
    ends = fake_quantize(model.graph, model.layers, model.outputs, moved)
    inputs = {tensor.op.name: tensor.op.name for tensor in model.inputs}
    outputs = {end.name: output.name.removesuffix(":0") for end, output in zip(ends, model.outputs, strict=True)}
    graph_def = extract(model.graph, outputs, {}, {})
    widen_halves(graph_def)
    exported = to_lite(graph_def, list(inputs), list(outputs))
    _refuse_unknown(exported)
    order_ends(exported, inputs, outputs)
    remove_fences(exported, FENCE)
    operators = put_weights(exported, weights)
    layers = []
    for layer in model.layers:
        operator = operators.get(layer.name) or find_operator(exported, _names_of_results(layer))
        layers.append(ExportedLayer(layer.name, layer.op.type, reason_against_int8(exported, operator)))
    return exported, layers


def _names_of_results(layer: DeployedLayer) -> list[str]:
    """Returns names that the result of a layer may have, where its weights have gone into those of another one."""
    return [layer.name, f"{layer.name}/Mean", *([] if layer.bias_add is None else [layer.bias_add.name])]


def _refuse_unknown(model: Any) -> None:
    """Raises `AmctValueError` for TensorFlow ops that the converter does not know."""
    unknown = unknown_ops(model, FENCE)
    if unknown:
        more = f" and {len(unknown) - _MOST_SHOWN} more" if len(unknown) > _MOST_SHOWN else ""
        raise AmctValueError(
            f"TFLite cannot express {', '.join(unknown[:_MOST_SHOWN])}{more}: name outputs in front of it, and compute "
            "the rest outside of the model"
        )


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
