"""The job convert_qat_model."""

from __future__ import annotations

import dataclasses

from amct_tensorflow.arguments import check_file_path, check_types
from amct_tensorflow.errors import AmctRuntimeError, AmctValueError
from amct_tensorflow.files import is_same_file
from amct_tensorflow.graph.sources import MODEL_TYPES, ModelSource
from amct_tensorflow.graph_passes.pipelines import perform_deployment, plan_qat_conversion
from amct_tensorflow.graph_passes.preparing.take_out_fake_quants import TakenOut, take_out_fake_quants
from amct_tensorflow.graph_passes.workspace import Workspace
from amct_tensorflow.inventory import Inventory, refuse_quantized
from amct_tensorflow.log import LOGGER
from amct_tensorflow.post_training.deploy import FloatModel, ResultFiles, report_saved, write_model
from amct_tensorflow.record import LayerRecord, record_text

_MODULE = "convert_qat_model"


@check_types(pb_model=MODEL_TYPES, save_path=str, record_file=str)
def convert_qat_model(
    pb_model: ModelSource, outputs: list[str], save_path: str, record_file: str | None = None
) -> None:
    """Writes the int8 model of a graph that was trained with TensorFlow's fake-quant ops.

    FakeQuantWithMinMaxVars, …PerChannel, …Args and QuantizeAndDequantizeV2, V3, V4 of 8 bits give the factors. A layer
    is quantized if one of them leads to its input and, where it has weights, one to these. Where they lead to something
    else, the pair of AscendQuant and AscendAntiQuant computes the same in their place: the log names these.

    Args:
        pb_model: the trained model: a path, a Keras model or a graph, as `load_graph` takes them.
        outputs: names of its output ops, ``op``, or of their outputs, ``op:1``; they keep their names in the saved
            model.
        save_path: folder and prefix of the files to write, as in save_model.
        record_file: path of a record file to write with the factors; None for none.

    Raises:
        AmctTypeError, AmctValueError: an argument or the model cannot be used, or has no fake-quant ops.
        AmctRuntimeError: no layer has all the factors it needs, a bias is beyond int32, or a file cannot be written.
            Nothing is written then.
    """
    files = ResultFiles.of(save_path, pb_model)
    if record_file is not None:
        _check_record_file(record_file, pb_model, files)
    model = FloatModel.load(pb_model, outputs)
    refuse_quantized(model.graph)
    taken = take_out_fake_quants(model.graph, model.output_ops)
    inventory = Inventory.of(model.graph)
    _check_found(taken, inventory, model.name)
    workspace = model.workspace(inventory, taken.records, f"the fake-quant ops of {model.name}")
    plan_qat_conversion(workspace, taken.records)
    perform_deployment(workspace, taken.records, taken.remaining.values())
    more = {} if record_file is None else {record_file: record_text(_final(workspace, taken.records))}
    write_model(workspace, model.outputs, files, _MODULE, more)
    _report_fake_quants(taken)
    model.report(inventory, workspace, _MODULE, taken.reasons, taken.failed)
    report_saved(files, _MODULE)


def _check_record_file(record_file: str, pb_model: ModelSource, files: ResultFiles) -> None:
    check_file_path(record_file, "record_file")
    for other in (pb_model, files.model, files.mapping):
        if isinstance(other, str) and is_same_file(record_file, other):
            raise AmctValueError(f"record_file {record_file} would overwrite {other}: choose another name")


def _check_found(taken: TakenOut, inventory: Inventory, where: str) -> None:
    """Raises `AmctValueError` without fake-quant ops, `AmctRuntimeError` without a layer to quantize."""
    if taken.nothing_found:
        raise AmctValueError(
            f"{where} has no fake-quant ops: it is no model of quantization-aware training; calibrate it with "
            "quantize_model, or pass its factors to convert_model"
        )
    if not taken.records:
        reasons = {**taken.reasons, **inventory.reasons}
        shown = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:3])
        raise AmctRuntimeError(
            f"no layer of {where} can be quantized ({shown or 'it has none'}): train it with fake-quant ops at the "
            "inputs and weights of its layers"
        )


def _final(workspace: Workspace, records: dict[str, LayerRecord]) -> dict[str, LayerRecord]:
    """Returns the records with the scales of the weights as they are deployed."""
    final = {}
    for layer in workspace.layers:
        scale_w = () if layer.scale_w is None or not layer.row.has_weights else tuple(map(float, layer.scale_w))
        final[layer.name] = dataclasses.replace(
            records[layer.name],
            scale_w=scale_w,
            offset_w=(0,) * len(scale_w),
            skip_fusion=layer.skips_fusion,
        )
    return final


def _report_fake_quants(taken: TakenOut) -> None:
    for name, reason in taken.requantized.items():
        if name in taken.records:
            LOGGER.push_warning_message(f"the weights of layer {name} are quantized anew: {reason}", _MODULE)
    for name, reason in taken.unusable.items():
        LOGGER.push_warning_message(f"fake-quant op {name} stays in the model as it is: {reason}", _MODULE)
    for name in taken.remaining:
        LOGGER.push_info_message(
            f"fake-quant op {name} leads to something that is not quantized: there it is kept, as AscendQuant and "
            "AscendAntiQuant",
            _MODULE,
        )
