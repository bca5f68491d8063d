"""The job quantize: all steps of a post-training quantization."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from amct_tensorflow import progress
from amct_tensorflow.arguments import check_types
from amct_tensorflow.config import QuantConfig, default_config, fields, write_config
from amct_tensorflow.config.schema import check_object
from amct_tensorflow.data.given import Data
from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.files import warn_if_exists
from amct_tensorflow.graph.edit import upstream
from amct_tensorflow.graph.ends import needed_inputs
from amct_tensorflow.graph.sources import MODEL_TYPES, ModelSource, name_of
from amct_tensorflow.inventory import Inventory
from amct_tensorflow.log import LOGGER
from amct_tensorflow.model import Model
from amct_tensorflow.post_training.create_config import simplified_config_of
from amct_tensorflow.post_training.deploy import ResultFiles
from amct_tensorflow.post_training.feeders import Evaluator, Feeder, feeder_of
from amct_tensorflow.post_training.observe import check_beside, read_config_of
from amct_tensorflow.post_training.preprocess import quantize_preprocess
from amct_tensorflow.post_training.quantize import left_out, quantize_model
from amct_tensorflow.post_training.save import Saved, save
from amct_tensorflow.post_training.update_batch_norms import update_batch_norms
from amct_tensorflow.progress import counted
from amct_tensorflow.record import LayerRecord, rounding_path
from amct_tensorflow.staging import check_writable, staged

_MODULE = "quantize"


@dataclasses.dataclass(frozen=True)
class QuantizedLayer:
    """What became of a layer.

    Attributes:
        name: the op's name, or ``<function>/<node>`` inside a function.
        op_type: its type.
        reason: why it computes in float, in words; None if it is quantized.
        factors: its factors; None if it is not quantized.
        expected_sqnr: about how many dB are between its result and what int8 makes of it; None where that is not known.
    """

    name: str
    op_type: str
    reason: str | None
    factors: LayerRecord | None
    expected_sqnr: float | None


@dataclasses.dataclass(frozen=True)
class QuantizationResult:
    """What `quantize` made.

    Attributes:
        float_model: the model that it started from: its path, or a graph.
        model: path of the int8 model, ``<save_path>_quantized.pb``.
        mapping: path of ``<save_path>_quant.json``, which maps its nodes to those of the float model.
        config_file: path of ``<save_path>_config.json``: what was quantized and how.
        record_file: path of ``<save_path>_record.txt``: the factors.
        rounding_file: path of ``<save_path>_record.txt.safetensors``: how the weights are rounded.
        inputs, outputs: names of tensors of the model, ``op:0``.
        layers: every op of a quantizable type, in graph order.
        data: what it was calibrated with, in words: ``32 images``.
        notes: what should be known of the data, sentences.
    """

    float_model: ModelSource
    model: str
    mapping: str
    config_file: str
    record_file: str
    rounding_file: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layers: tuple[QuantizedLayer, ...]
    data: str
    notes: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """The paths of all files that were written."""
        return self.model, self.mapping, self.config_file, self.record_file, self.rounding_file

    @property
    def in_float(self) -> tuple[QuantizedLayer, ...]:
        """The layers that are not quantized."""
        return tuple(layer for layer in self.layers if layer.reason is not None)


@check_types(model=MODEL_TYPES, save_path=str, batch_num=int, config=str, target=str, signature=str)
def quantize(
    model: ModelSource,
    data: Data | Evaluator,
    save_path: str,
    *,
    outputs: Sequence[Any] | None = None,
    batch_num: int | None = None,
    config: str | None = None,
    target: str | None = None,
    signature: str | None = None,
) -> QuantizationResult:
    """Calibrates a float model on data and writes the int8 model.

    What create_quant_config, quantize_model, a loop over the data and save_model do, with balancing by
    quantize_preprocess and new statistics by update_batch_norms where the configuration asks for them. After an error
    the files of an earlier run are as they were.

    Args:
        model: the float model, as `load_graph` takes it.
        data: preprocessed as for inference: an array of samples [N, ...], or a dictionary of such by the names of the
            inputs; a `tf.data.Dataset`, a list or an iterator of batches, each an array or such a dictionary; a folder
            or file of data, a list of them, one for each input, or `DataFiles`; or an object whose method
            ``calibration(graph, outputs)`` runs the graph on data of its own.
        save_path: folder and prefix of the files to write. Folders are made, existing files overwritten.
        outputs: the model's outputs: names of ops or tensors, operations or tensors. May be left out if there is only
            one op that nothing consumes.
        batch_num: how many batches of data are taken; that of `config` by default, or 1. Batches of samples have the
            size of the model, or up to 32.
        config: path of a configuration: a config.json, as `create_quant_config` writes it, or a simplified one (.cfg).
        target: what will run the int8 model: ``ascend``, or ``onnxruntime``; that of `config` by default, or ascend.
        signature: for a SavedModel, which; serving_default by default.

    Raises:
        AmctTypeError, AmctValueError: an argument, the model or the data cannot be used, or there are too few data.
        AmctRuntimeError: the data cannot be calibrated with (NaN, empty), or a file cannot be written.
    """
    results = ResultFiles.of(save_path, model)
    start = results.model.removesuffix("quantized.pb")
    record_file = f"{start}record.txt"
    files = [f"{start}config.json", record_file, rounding_path(record_file)]
    for path in files:
        check_writable(path)
    check_beside(record_file, "save_path")
    with progress.status(f"reading {name_of(model)}"):
        loaded = _load(model, outputs, signature)
        feeder = feeder_of(data, loaded)
    inventory = Inventory.of(loaded.graph)
    plan = _plan(inventory, config, {"batch_num": batch_num, "target": target})
    feeder.prepare(plan.batch_num)  # too few data are found before anything is written
    left = left_out(inventory, plan)
    with staged(files) as (config_file, staged_record, _):
        write_config(config_file, plan)
        _calibrate(loaded, feeder, plan, config_file, staged_record)
        with progress.status("saving"):
            saved = save(loaded.source, loaded.output_names, staged_record, save_path, left)
        for path in files:
            warn_if_exists(path, _MODULE)
    notes = tuple(feeder.hints())
    for note in notes:
        LOGGER.push_info_message(note, _MODULE)
    return QuantizationResult(
        float_model=loaded.source,
        model=results.model,
        mapping=results.mapping,
        config_file=files[0],
        record_file=files[1],
        rounding_file=files[2],
        inputs=tuple(tensor.name for tensor in needed_inputs(loaded.graph, loaded.outputs)),
        outputs=tuple(loaded.output_names),
        layers=tuple(_layers(saved)),
        data=feeder.used(),
        notes=notes,
    )


def _load(model: ModelSource, outputs: Sequence[Any] | None, signature: str | None) -> Model:
    loaded = Model.load(model, outputs, signature)
    if loaded.kind == "fake-quantized":
        raise AmctValueError(
            f"{loaded.name} was trained with fake-quant ops, whose ranges give its scales: call convert_qat_model"
        )
    return loaded


def _plan(inventory: Inventory, path: str | None, given: dict[str, Any]) -> QuantConfig:
    """Returns the configuration; what is given takes precedence over its file."""
    if path is None:
        config = default_config(inventory.traits, all_ops=inventory.all_ops, reasons=inventory.reasons)
    elif os.path.splitext(path)[1] == ".json":
        config = read_config_of(inventory, path)
    else:
        config = simplified_config_of(inventory, path)
    changed = {name: value for name, value in given.items() if value is not None}
    check_object(fields.GLOBAL, changed, where=_MODULE)
    return dataclasses.replace(config, **changed)


def _calibrate(model: Model, feeder: Feeder, config: QuantConfig, config_file: str, record_file: str) -> None:
    """Fills the record."""
    if config.update_bn:
        with progress.status("inserting ops for batch norms"):
            before = model.again()
            update_batch_norms(before.graph, config_file, record_file)
        feeder.run(before, "updating batch norms", config.bn_update_config.bn_update_iterations)
    balanced = sum(layer.dmq_balancer_param is not None for layer in config.layers.values())
    if balanced:
        with progress.status("inserting balance ops"):
            before = model.again()
            quantize_preprocess(before.graph, config_file, record_file, before.output_names)
        feeder.run(before, f"balancing {counted(balanced, 'layer')}")
    with progress.status("inserting calibration ops"):
        needed = upstream(tensor.op for tensor in model.outputs)
        quantize_model(model.graph, config_file, record_file, model.output_names)
    layers = sum(layer.quant_enable and name in needed for name, layer in config.layers.items())
    feeder.run(model, f"calibrating {counted(layers, 'layer')}")


def _layers(saved: Saved) -> list[QuantizedLayer]:
    expected = {name: forecast.sqnr for name, forecast in saved.taken.forecasts.items()}
    return [
        QuantizedLayer(
            name=outcome.name,
            op_type=outcome.op_type,
            reason=outcome.reason,
            factors=saved.records[outcome.name] if outcome.reason is None else None,
            expected_sqnr=expected.get(outcome.name) if outcome.reason is None else None,
        )
        for outcome in saved.outcomes
    ]
