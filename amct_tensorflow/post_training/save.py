"""The job save_model."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence

from amct_tensorflow.arguments import check_types
from amct_tensorflow.errors import AmctRuntimeError
from amct_tensorflow.graph.sources import MODEL_TYPES, ModelSource
from amct_tensorflow.graph_passes.pipelines import perform_deployment, plan_deployment
from amct_tensorflow.graph_passes.planning.take_rounding import Taken
from amct_tensorflow.inventory import Inventory, Outcome
from amct_tensorflow.layers import split_tensor_key
from amct_tensorflow.log import LOGGER
from amct_tensorflow.ops import batches_seen, batches_wanted, flush_record
from amct_tensorflow.post_training.deploy import FloatModel, ResultFiles, report_saved, write_model
from amct_tensorflow.record import (
    DamagedRounding,
    LayerRecord,
    LayerRounding,
    read_record,
    read_rounding,
    rounding_path,
)

_MODULE = "save_model"
_MOST_SHOWN = 10  # layers in one message


@check_types(pb_model=MODEL_TYPES, record_file=str, save_path=str)
def save_model(pb_model: ModelSource, outputs: list[str], record_file: str, save_path: str) -> None:
    """Writes the int8 model, after the calibration graph ran batch_num times.

    Args:
        pb_model: the float model: a path, a Keras model or a graph, as `load_graph` takes them.
        outputs: names of its output ops, ``op``, or of their outputs, ``op:1``; they keep their names in the saved
            model.
        record_file: the record that the calibration filled.
        save_path: folder and prefix of the files to write: ``<save_path>_quantized.pb``, the model, and
            ``<save_path>_quant.json``, which maps its nodes to those of the float model. Folders are made, existing
            files overwritten. After a trailing slash the files have no prefix.

    Raises:
        AmctTypeError, AmctValueError: an argument or the model cannot be used.
        AmctRuntimeError: the calibration is not finished, the record is damaged or for another model, the outputs
            need none of its layers, a bias is beyond int32, or a file cannot be written. Nothing is written then.
    """
    save(pb_model, outputs, record_file, save_path)


@dataclasses.dataclass(frozen=True)
class Saved:
    """What `save` did.

    Attributes:
        outcomes: what became of each layer.
        records: the factors, by layer.
        taken: what became of the rounding of the weights.
    """

    outcomes: list[Outcome]
    records: dict[str, LayerRecord]
    taken: Taken


def save(
    pb_model: ModelSource,
    outputs: list[str],
    record_file: str,
    save_path: str,
    left: Mapping[str, str] | None = None,
) -> Saved:
    """Does what `save_model` does, and returns what it did; `left` says why layers have no factors, where known."""
    files = ResultFiles.of(save_path, pb_model)
    model = FloatModel.load(pb_model, outputs)
    model.take_statistics(record_file, _MODULE)
    inventory = Inventory.of(model.graph)
    records = _finished_records(record_file, model.needed)
    workspace = model.workspace(inventory, records, record_file)
    _check_shifts(inventory, records, model.needed, record_file)
    rounding = _rounding_of(record_file)
    taken = plan_deployment(workspace, records, rounding or {})
    perform_deployment(workspace, records)
    write_model(workspace, model.outputs, files, _MODULE)
    _warn_of_lost_entries(inventory, records, record_file)
    _report_rounding(taken, rounding, record_file)
    outcomes = model.report(inventory, workspace, _MODULE, left, notes=_notes(taken))
    _warn_of_losses(taken)
    report_saved(files, _MODULE)
    return Saved(outcomes, records, taken)


def _notes(taken: Taken) -> dict[str, str]:
    """Returns what the line of a layer says of its forecast."""
    hints = {name: f"; {hint}" for name, hint in taken.hints.items()}
    return {name: f"about {expected.sqnr:.1f} dB{hints.get(name, '')}" for name, expected in taken.forecasts.items()}


def _finished_records(record_file: str, needed: set[str]) -> dict[str, LayerRecord]:
    """Reads the record and checks that each layer that the outputs need was calibrated to the end."""
    path = os.path.realpath(record_file)
    flush_record(path)  # the ops write now and then only while layers are missing
    records = read_record(path)
    wanted = batches_wanted(path)
    waiting = {
        name: _progress(path, name)
        for name, record in records.items()
        if split_tensor_key(name)[0] in needed and (record.scale_d is None or 0 <= batches_seen(path, name) < wanted)
    }
    if waiting:
        shown = _listed([f"{name} ({progress})" for name, progress in waiting.items()])
        raise AmctRuntimeError(
            f"calibration is not finished for {len(waiting)} of {len(records)} layers in {record_file}: {shown}. "
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


def _rounding_of(record_file: str) -> dict[str, LayerRounding | None] | None:
    """Reads the rounding that belongs to the record; warns where there is none."""
    try:
        rounding = read_rounding(record_file)
        reason = "does not exist"
    except DamagedRounding as error:
        rounding, reason = None, str(error)
    if rounding is None:
        LOGGER.push_warning_message(
            f"{rounding_path(record_file)} {reason}, so weights are rounded to the nearest integers and biases stay as "
            "they are: keep it beside its record, or calibrate again",
            _MODULE,
        )
    return rounding


def _warn_of_losses(taken: Taken) -> None:
    for name, advice in taken.advice.items():
        LOGGER.push_warning_message(
            f"layer {name} keeps only about {taken.forecasts[name].sqnr:.1f} dB of its result in int8: {advice}",
            _MODULE,
        )


def _report_rounding(taken: Taken, rounding: Mapping[str, LayerRounding | None] | None, record_file: str) -> None:
    if rounding is not None and taken.reasons:
        shown = _listed([f"{name}: {reason}" for name, reason in taken.reasons.items()])
        LOGGER.push_warning_message(
            f"{len(taken.reasons)} layer(s) are rounded to the nearest integers, because {rounding_path(record_file)} "
            f"is not of them ({shown}): calibrate again",
            _MODULE,
        )


def _listed(items: Sequence[str]) -> str:
    """Returns the first of them, and how many more there are."""
    more = [f"and {len(items) - _MOST_SHOWN} more"] if len(items) > _MOST_SHOWN else []
    return "; ".join([*items[:_MOST_SHOWN], *more])


def _progress(path: str, layer: str) -> str:
    seen, wanted = batches_seen(path, layer), batches_wanted(path)
    if 0 <= seen < wanted:
        return f"{seen} of {wanted} batches seen"
    return "no scale_d in the record" if seen < 0 else "it shares its factors with an input that was not run"


def _check_shifts(inventory: Inventory, records: Mapping[str, LayerRecord], needed: set[str], record_file: str) -> None:
    """Raises if some of the layers that can have a shift have one and others not: their calibration was cut short."""
    able = [name for name, found in inventory.layers.items() if name in records and name in needed and found.row.shifts]
    without = [name for name in able if not records[name].shift_bit]
    if without and len(without) < len(able):
        raise AmctRuntimeError(
            f"cannot find shift_bit of layer {without[0]} in record_file {record_file}, although other layers have it: "
            "run the calibration graph again, to its original outputs"
        )


def _warn_of_lost_entries(inventory: Inventory, records: Mapping[str, LayerRecord], record_file: str) -> None:
    for name in inventory.traits.keys() - records.keys():
        if batches_seen(os.path.realpath(record_file), name) >= 0:
            LOGGER.push_warning_message(f"layer {name} was calibrated, but {record_file} has no entry for it", _MODULE)
