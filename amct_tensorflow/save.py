"""The job save_model."""

from __future__ import annotations

import os
from collections.abc import Mapping

from amct_tensorflow.arguments import check_types, output_names
from amct_tensorflow.errors import AmctRuntimeError, AmctValueError, did_you_mean
from amct_tensorflow.files import warn_if_exists, write_files
from amct_tensorflow.fusion_info import fusion_info
from amct_tensorflow.graph.edit import upstream
from amct_tensorflow.graph.model_file import (
    GraphDef,
    extract,
    find_outputs,
    import_graph,
    read_graph_def,
    serialize,
)
from amct_tensorflow.graph_passes.pipelines import perform_deployment, plan_deployment
from amct_tensorflow.graph_passes.workspace import Layer, Workspace
from amct_tensorflow.inventory import Inventory
from amct_tensorflow.log import LOGGER
from amct_tensorflow.ops import batches_seen, batches_wanted, flush_record
from amct_tensorflow.record import LayerRecord, check_layer, read_record

_MODULE = "save_model"
_MOST_SHOWN = 10  # layers in one error message


@check_types(pb_model=str, record_file=str, save_path=str)
def save_model(pb_model: str, outputs: list[str], record_file: str, save_path: str) -> None:
    """Writes the int8 model, after the calibration graph ran batch_num times.

    Args:
        pb_model: the float model, a frozen .pb.
        outputs: names of its output ops; they keep their names in the saved model.
        record_file: the record that the calibration filled.
        save_path: folder and prefix of the files to write: ``<save_path>_quantized.pb``, the model, and
            ``<save_path>_quant.json``, which maps its nodes to those of the float model. Folders are made, existing
            files overwritten. After a trailing slash the files have no prefix.

    Raises:
        AmctTypeError, AmctValueError: an argument or the model cannot be used.
        AmctRuntimeError: the calibration is not finished, the record is damaged or for another model, a bias is
            beyond int32, or a file cannot be written. Nothing is written then.
    """
    names = output_names(outputs, argument="outputs")
    model_file, json_file = _result_files(save_path)
    if os.path.realpath(pb_model) == os.path.realpath(model_file):
        raise AmctValueError(f"save_path {save_path} would overwrite the model {pb_model}: choose another prefix")
    graph_def = read_graph_def(pb_model)
    graph = import_graph(graph_def, pb_model)
    needed = upstream(find_outputs(graph, names, pb_model))
    inventory = Inventory.of(graph)
    records = _finished_records(record_file, needed)
    for name in records:
        _check_known(inventory, name, pb_model, record_file)
    layers = _layers(inventory, records, needed, record_file)
    workspace = Workspace(graph, layers, frozenset(names))
    plan_deployment(workspace, records)
    perform_deployment(workspace, records)
    saved = _extract(workspace, names)
    for path in (model_file, json_file):
        warn_if_exists(path, _MODULE)
    mapping = fusion_info(saved, workspace.layers, _prefix(save_path))
    write_files({model_file: serialize(saved, model_file), json_file: mapping}, kind="result file")
    inventory.report(workspace.layers, _left_out(inventory, records, needed, record_file), _MODULE)
    LOGGER.push_info_message(f"The model is saved in <{model_file}>", _MODULE)


def _prefix(save_path: str) -> str:
    return os.path.basename(save_path)


def _result_files(save_path: str) -> tuple[str, str]:
    """Returns the paths of the model and of the JSON file."""
    prefix = _prefix(save_path)
    if not save_path:
        raise AmctValueError("save_path is empty: give a folder and a prefix for the files to write")
    if len(prefix) > 241:
        raise AmctValueError(f"save_path has a prefix of {len(prefix)} characters: at most 241 are allowed")
    start = os.path.join(os.path.dirname(save_path), f"{prefix}_" if prefix else "")
    return start + "quantized.pb", start + "quant.json"


def _finished_records(record_file: str, needed: set[str]) -> dict[str, LayerRecord]:
    """Reads the record and checks that each layer that the outputs need was calibrated to the end."""
    path = os.path.realpath(record_file)
    flush_record(path)  # the ops write now and then only while layers are missing
    records = read_record(path)
    waiting = {
        name: _progress(path, name)
        for name, record in records.items()
        if name in needed and (record.scale_d is None or 0 <= batches_seen(path, name) < batches_wanted(path))
    }
    if waiting:
        shown = "; ".join(f"{name} ({progress})" for name, progress in list(waiting.items())[:_MOST_SHOWN])
        more = f"; and {len(waiting) - _MOST_SHOWN} more" if len(waiting) > _MOST_SHOWN else ""
        raise AmctRuntimeError(
            f"calibration is not finished for {len(waiting)} of {len(records)} layers in {record_file}: {shown}{more}. "
            "Open a session after quantize_model and run all outputs of its graph batch_num times, then call save_model"
        )
    for name, record in records.items():
        if record.scale_d == 1.0 and batches_seen(path, name) < 0:  # else the calibration has said it
            LOGGER.push_warning_message(
                f"scale_d of layer {name} is 1.0, which is right for pixels of 0 to 255; else its input was always "
                "zero, or it was never calibrated",
                _MODULE,
            )
    return records


def _progress(path: str, layer: str) -> str:
    seen, wanted = batches_seen(path, layer), batches_wanted(path)
    return f"{seen} of {wanted} batches seen" if 0 <= seen < wanted else "no scale_d in the record"


def _left_out(
    inventory: Inventory, records: Mapping[str, LayerRecord], needed: set[str], record_file: str
) -> dict[str, str]:
    """Returns why layers stay float; warns of those that were calibrated and then lost."""
    for name in inventory.traits.keys() - records.keys():
        if batches_seen(os.path.realpath(record_file), name) >= 0:
            LOGGER.push_warning_message(f"layer {name} was calibrated, but {record_file} has no entry for it", _MODULE)
    return {
        name: "the record has no factors for it" if name in needed else "the outputs do not need it"
        for name in inventory.layers
    }


def _layers(
    inventory: Inventory, records: Mapping[str, LayerRecord], needed: set[str], record_file: str
) -> list[Layer]:
    """Starts the plans of the layers that have factors and that the outputs need."""
    with_shift = any(record.shift_bit for record in records.values())
    layers = []
    for name, found in inventory.layers.items():
        if name in records and name in needed:
            record, row = records[name], found.row
            if with_shift and row.shifts and not record.shift_bit:
                raise AmctRuntimeError(
                    f"cannot find shift_bit of layer {name} in record_file {record_file}, although other layers "
                    "have it: run the calibration graph again, to its original outputs"
                )
            channels = row.channels(found.op) if row.channel_wise else 1
            check_layer(
                name,
                record,
                op_type=found.op.type,
                has_weights=row.has_weights,
                channels=channels,
                input_channels=row.input_channels(found.op) if row.has_weights else 0,
                supports_shift=row.shifts,
            )
            layers.append(Layer.of(found, fuse=not record.skip_fusion, channel_wise=len(record.scale_w) > 1))
    return layers


def _check_known(inventory: Inventory, name: str, pb_model: str, record_file: str) -> None:
    if name not in inventory.all_ops:
        hint = did_you_mean(name, inventory.layers)
        raise AmctRuntimeError(f"find {name} failure in {pb_model}. Please match {pb_model} and {record_file}{hint}.")
    if name not in inventory.traits:
        reason = inventory.reasons.get(name, "its op type is not quantizable")
        raise AmctRuntimeError(f"layer {name} cannot be quantized, {reason}: remove its entry from {record_file}")


def _extract(workspace: Workspace, names: list[str]) -> GraphDef:
    moved = {layer.end.op.name: layer.output() for layer in workspace.layers if workspace.is_output(layer.end)}
    clones = {original: made for layer in workspace.layers for original, made in layer.clones.items()}
    return extract(workspace.graph, names, moved, clones)
