"""The job quantize_model."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import tensorflow as tf

from amct_tensorflow.arguments import check_file_path, check_graph, check_types, output_names
from amct_tensorflow.config import LayerConfig, QuantConfig, read_config
from amct_tensorflow.errors import AmctRuntimeError, AmctValueError
from amct_tensorflow.files import warn_if_exists
from amct_tensorflow.graph.model_file import find_outputs
from amct_tensorflow.graph_passes.pipelines import perform_calibration, plan_calibration
from amct_tensorflow.graph_passes.workspace import Layer, Workspace
from amct_tensorflow.inventory import Inventory
from amct_tensorflow.log import LOGGER
from amct_tensorflow.ops import RecordBook

_MODULE = "quantize_model"


@check_types(graph=tf.Graph, config_file=str, record_file=str)
def quantize_model(
    graph: tf.Graph, config_file: str, record_file: str, calib_outputs: list[Any] | None = None
) -> list[tf.Variable]:
    """Turns a float graph into its calibration graph, in place.

    The layers that config_file enables get fake-quantized weights, with batch norms folded in, and ops that observe
    their inputs and outputs. Run the graph's outputs batch_num times afterwards, in a new session: the ops then
    have written the factors to record_file. Output names do not change, and no variable is added.

    Args:
        graph: the inference graph; weights may be constants or variables.
        config_file: what `create_quant_config` wrote.
        record_file: path of the record to write; folders are made, an existing file is overwritten.
        calib_outputs: outputs that will be fetched besides the ops that nothing consumes: op names, operations or
            tensors.

    Returns:
        An empty list: there are no new variables to leave out of a checkpoint.

    Raises:
        AmctTypeError, AmctValueError: an argument, the configuration or the weights cannot be used.
        AmctRuntimeError: a file cannot be read or written, or the graph is finalized.
        In all cases the graph is as it was.
    """
    check_file_path(record_file, "record_file")
    if os.path.realpath(record_file) == os.path.realpath(config_file):
        raise AmctValueError(f"record_file and config_file are both {config_file}: the record would overwrite it")
    check_graph(graph)
    inventory = Inventory.of(graph)
    config = read_config(config_file, inventory.traits, all_ops=inventory.all_ops, reasons=inventory.reasons)
    workspace = Workspace(graph, _layers(inventory, config), _outputs(graph, calib_outputs))
    plan_calibration(workspace)
    book = _open_record(record_file, workspace, config)
    perform_calibration(workspace, config, book)
    inventory.report(workspace.layers, _left_out(inventory, config), _MODULE)
    LOGGER.push_info_message(
        f"run the graph {config.batch_num} time(s) in a new session, then call save_model with {record_file}",
        _MODULE,
    )
    return []


def _layers(inventory: Inventory, config: QuantConfig) -> list[Layer]:
    layers = []
    for name, settings in config.layers.items():
        if settings.quant_enable:
            fuse = config.do_fusion and name not in config.skip_fusion_layers
            layers.append(
                Layer.of(inventory.layers[name], fuse=fuse, channel_wise=_channel_wise(inventory, name, settings))
            )
    return layers


def _channel_wise(inventory: Inventory, name: str, settings: LayerConfig) -> bool:
    wanted = settings.weights is not None and settings.weights.channel_wise
    if wanted and not inventory.traits[name].channel_wise:
        LOGGER.push_warning_message(
            f"layer {name} feeds Softmax, so its weights get one scale although its channel_wise is true", _MODULE
        )
        return False
    return wanted


def _factors(layer: Layer) -> int:
    return layer.channels if layer.channel_axes else 1


def _outputs(graph: tf.Graph, calib_outputs: list[Any] | None) -> frozenset[str]:
    named = [] if calib_outputs is None else output_names(calib_outputs, argument="calib_outputs")
    ends = [op for op in graph.get_operations() if not any(output.consumers() for output in op.outputs)]
    return frozenset(op.name for op in [*ends, *find_outputs(graph, named, "the graph")])


def _left_out(inventory: Inventory, config: QuantConfig) -> dict[str, str]:
    return {
        name: "its quant_enable is false" if name in config.layers else "the configuration has no entry for it"
        for name in inventory.layers
    }


def _open_record(record_file: str, workspace: Workspace, config: QuantConfig) -> RecordBook:
    """Starts the record and writes what is known: the entries and the scales of constant weights."""
    path = os.path.realpath(record_file)
    warn_if_exists(record_file, _MODULE)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    except OSError as error:
        raise AmctRuntimeError(
            f"record_file {path} cannot be written ({error.strerror}): give a path in a writable folder"
        ) from error
    book = RecordBook(path, batch_num=config.batch_num)
    for layer in workspace.layers:
        book.add_layer(
            layer.name,
            scale_w=layer.scale_w if isinstance(layer.weights, np.ndarray) else None,
            wants_weights=layer.row.has_weights,
            wants_shift=layer.wants_shift and config.shift_n,
            # Other layers have shifts, so this one has, too: 0, which passes the whole int32 on.
            zero_shifts=_factors(layer) if config.shift_n and layer.row.shifts and not layer.wants_shift else 0,
            # save_model must not fold what was not folded here, for whatever reason.
            skip_fusion=layer.row.takes_batch_norm and not (layer.fuse and layer.unfused_because is None),
        )
    try:
        book.write()
    except AmctRuntimeError:
        book.close()
        raise
    return book
