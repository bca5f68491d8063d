"""What the jobs that write an int8 model share: the float model they start from, and the files at the end."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Container, Mapping

import tensorflow as tf

from amct_tensorflow.arguments import output_names
from amct_tensorflow.errors import AmctRuntimeError, AmctValueError, did_you_mean
from amct_tensorflow.files import is_same_file, warn_if_exists, write_files
from amct_tensorflow.fusion_info import fusion_info
from amct_tensorflow.graph.edit import upstream
from amct_tensorflow.graph.ends import find_outputs
from amct_tensorflow.graph.model_file import GraphDef, extract, serialize
from amct_tensorflow.graph.sources import ModelSource, name_of, read_model
from amct_tensorflow.graph_passes.performing.add_grouped_biases import has_grouped_bias
from amct_tensorflow.graph_passes.workspace import Activation, Layer, Workspace
from amct_tensorflow.inventory import Inventory, Outcome
from amct_tensorflow.layers import FoundLayer, split_tensor_key
from amct_tensorflow.log import LOGGER
from amct_tensorflow.post_training.statistics import found_statistics, taken_statistics
from amct_tensorflow.record import LayerRecord, check_activation, check_layer

_LONGEST_PREFIX = 241  # with the longest ending still a legal file name


@dataclasses.dataclass(frozen=True)
class ResultFiles:
    """The files of one save_path.

    Attributes:
        prefix: the part of save_path behind the last slash, the model's name.
        model: path of the int8 model.
        mapping: path of the JSON file that maps its nodes to those of the float model.
    """

    prefix: str
    model: str
    mapping: str

    @classmethod
    def of(cls, save_path: str, pb_model: ModelSource) -> ResultFiles:
        """Returns the paths.

        Raises:
            AmctValueError: save_path is empty or too long, or its files would overwrite `pb_model`.
        """
        prefix = os.path.basename(save_path)
        if not save_path:
            raise AmctValueError("save_path is empty: give a folder and a prefix for the files to write")
        if len(prefix) > _LONGEST_PREFIX:
            raise AmctValueError(
                f"save_path has a prefix of {len(prefix)} characters: at most {_LONGEST_PREFIX} are allowed"
            )
        start = os.path.join(os.path.dirname(save_path), f"{prefix}_" if prefix else "")
        files = cls(prefix, start + "quantized.pb", start + "quant.json")
        if isinstance(pb_model, str) and is_same_file(pb_model, files.model):
            raise AmctValueError(f"save_path {save_path} would overwrite the model {pb_model}: choose another prefix")
        return files


@dataclasses.dataclass(frozen=True)
class FloatModel:
    """A model in a graph of its own that a job may edit.

    Attributes:
        name: how messages call it: its path, if it has one.
        graph: its graph.
        outputs: its outputs as the user named them, ``op`` or ``op:0``.
        output_ops: names of their ops.
        needed: names of the ops that the outputs need.
    """

    name: str
    graph: tf.Graph
    outputs: list[str]
    output_ops: frozenset[str]
    needed: set[str]

    @classmethod
    def load(cls, pb_model: ModelSource, outputs: list[str]) -> FloatModel:
        """Loads the model.

        Raises:
            AmctTypeError, AmctValueError: the model or the outputs cannot be used.
        """
        names = output_names(outputs, argument="outputs")
        graph, where = read_model(pb_model), name_of(pb_model)
        ops = find_outputs(graph, names, where)
        return cls(where, graph, names, frozenset(op.name for op in ops), upstream(ops))

    def take_statistics(self, record_file: str, module: str) -> None:
        """Gives its batch norms the statistics that the calibration of a record has found, if it has.

        Raises:
            AmctRuntimeError: they cannot be read, or are those of another model.
        """
        with taken_statistics(self.graph, found_statistics(record_file), record_file, module):
            pass

    def workspace(self, inventory: Inventory, records: Mapping[str, LayerRecord], record_file: str) -> Workspace:
        """Starts the plans of the layers that have factors and that the outputs need.

        Raises:
            AmctRuntimeError: the record has an entry for something that is no quantizable layer, or whose factors
                are not those of such a layer, or the outputs need none of its layers.
            AmctValueError: a factor is out of range.
        """
        of_layers = {key for name, found in inventory.layers.items() for key, _ in found.row.activations(name)}
        for key in records:
            name, index = split_tensor_key(key)
            if key not in of_layers or index is None:
                self._check_known(inventory, key, record_file)
            elif name not in records:
                raise AmctRuntimeError(
                    f"{record_file} has {key}, the factors of the second input of {name}, but none of the first: add "
                    f"an entry {name}, or delete {key}"
                )
        layers = [
            self._layer(found, records)
            for name, found in inventory.layers.items()
            if name in records and name in self.needed
        ]
        alone = [
            self._alone(key, record)
            for key, record in records.items()
            if key not in of_layers and split_tensor_key(key)[0] in self.needed
        ]
        if not layers:
            raise AmctRuntimeError(
                f"the outputs {', '.join(self.outputs)} of {self.name} need none of the {len(records)} layers that "
                f"{record_file} has factors for, so nothing would be quantized: name the outputs of the whole model"
            )
        return Workspace(self.graph, layers, self.output_ops, alone)

    def _layer(self, found: FoundLayer, records: Mapping[str, LayerRecord]) -> Layer:
        """Starts the plan of a layer after checking its factors."""
        row, record = found.row, records[found.op.name]
        check_layer(
            found.op.name,
            record,
            op_type=found.op.type,
            has_weights=row.has_weights,
            channels=row.channels(found.op) if row.has_weights else 1,
            input_channels=row.input_channels(found.op) if row.has_weights else 0,
            supports_shift=row.shifts,
        )
        for key, _ in row.activations(found.op.name):
            check_activation(key, records.get(key, LayerRecord()), symmetric=row.symmetric, op_type=found.op.type)
            if key != found.op.name:
                self._check_alone(key, records[key], found.op)
        return Layer.of(found, fuse=not record.skip_fusion, channel_wise=len(record.scale_w) > 1)

    def _alone(self, key: str, record: LayerRecord) -> Activation:
        """Returns an input that is quantized alone after checking its factors."""
        name, index = split_tensor_key(key)
        op = self.graph.get_operation_by_name(name)
        assert index is not None
        self._check_alone(key, record, op)
        return Activation.alone(op, index)

    def _check_alone(self, key: str, record: LayerRecord, op: tf.Operation) -> None:
        check_layer(key, record, op_type=op.type, has_weights=False, channels=1, input_channels=0, supports_shift=False)

    def _check_known(self, inventory: Inventory, key: str, record_file: str) -> None:
        name, index = split_tensor_key(key)
        if name not in inventory.all_ops:
            rest = name.partition("/")[2]  # the default prefix is import/
            hint = did_you_mean(name, inventory.layers)
            if rest in inventory.layers:
                hint = f", where it is '{rest}': import the graph with tf.import_graph_def(graph_def, name='')"
            raise AmctRuntimeError(
                f"find {name} failure in {self.name}. Please match {self.name} and {record_file}{hint}"
            )
        if index is not None:
            reason = inventory.reason_against_tensor(name, index)
            if name in inventory.traits:
                reason = f"the entries of this layer are {' and '.join(inventory.keys(name))}"
            if reason is not None:
                raise AmctRuntimeError(
                    f"input {index} of {name} cannot be quantized, {reason}: remove the entry {key} from {record_file}"
                )
        elif name not in inventory.traits:
            reason = inventory.reasons.get(name, "its op type is not quantizable")
            raise AmctRuntimeError(f"layer {name} cannot be quantized, {reason}: remove its entry from {record_file}")

    def report(
        self,
        inventory: Inventory,
        workspace: Workspace,
        module: str,
        reasons: Mapping[str, str] | None = None,
        failed: Container[str] = (),
        notes: Mapping[str, str] | None = None,
    ) -> list[Outcome]:
        """Logs one line per layer and returns what became of each.

        `reasons` and `failed` are of layers that were left out for other reasons than a record without factors,
        `notes` of layers that are quantized.
        """
        left = {**dict.fromkeys(inventory.layers, "the record has no factors for it"), **(reasons or {})}
        unneeded = inventory.layers.keys() - self.needed
        return inventory.report(workspace, left, module, failed=failed, unneeded=unneeded, notes=notes)


def write_model(
    workspace: Workspace, outputs: list[str], files: ResultFiles, module: str, more: Mapping[str, bytes] | None = None
) -> None:
    """Writes the deployed graph, the mapping of its nodes and `more` files, by path: all of them or none.

    Raises:
        AmctRuntimeError: a file cannot be written, or the graph is beyond 2 GB.
    """
    saved = _extract(workspace, outputs)
    contents = {
        files.model: serialize(saved, files.model),
        files.mapping: fusion_info(saved, workspace, files.prefix),
        **(more or {}),
    }
    for path in contents:
        warn_if_exists(path, module)
    write_files(contents, kind="result file")
    grouped = [layer.name for layer in workspace.layers if has_grouped_bias(layer)]
    if grouped:
        LOGGER.push_warning_message(
            f"{', '.join(grouped)}: without oneDNN, TensorFlow's CPU optimizer refuses a grouped convolution with a "
            "BiasAdd; run the saved model there in a session with rewrite_options.remapping off",
            module,
        )


def report_saved(files: ResultFiles, module: str) -> None:
    """Logs where the model is, the last line of a job."""
    LOGGER.push_info_message(f"The model is saved in <{files.model}>", module)


def _extract(workspace: Workspace, outputs: list[str]) -> GraphDef:
    clones = {original: made for layer in workspace.layers for original, made in layer.clones.items()}
    return extract(workspace.graph, outputs, workspace.moved, {**workspace.clones, **clones})
