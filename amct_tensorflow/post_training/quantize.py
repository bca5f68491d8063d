"""The job quantize_model."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np
import tensorflow as tf

from amct_tensorflow.arguments import check_types
from amct_tensorflow.config import QuantConfig
from amct_tensorflow.errors import AmctRuntimeError
from amct_tensorflow.files import warn_if_exists, write_file
from amct_tensorflow.graph_passes.pipelines import perform_calibration, plan_calibration
from amct_tensorflow.graph_passes.planning.plan_rounding import Rounding, RoundingPlan
from amct_tensorflow.graph_passes.workspace import Activation, Layer, Workspace
from amct_tensorflow.inventory import Inventory
from amct_tensorflow.log import LOGGER
from amct_tensorflow.ops import RecordBook, flush_record
from amct_tensorflow.post_training.observe import (
    check_arguments,
    needed_for,
    new_book,
    outputs_of,
    read_config_of,
    start_layers,
    write_book,
)
from amct_tensorflow.post_training.statistics import Statistics, taken_statistics, wanted_statistics
from amct_tensorflow.record import read_balance_factors

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
        record_file: path of the record to write; folders are made, an existing file is overwritten. Where layers have
            a dmq_balancer_param, it must hold what quantize_preprocess found for them, which is kept; and where the
            configuration has update_bn, the file beside it what update_batch_norms found.
        calib_outputs: outputs that will be fetched besides the ops that nothing consumes: op names, operations or
            tensors.

    Returns:
        An empty list: there are no new variables to leave out of a checkpoint.

    Raises:
        AmctTypeError, AmctValueError: an argument, the configuration or the weights cannot be used.
        AmctRuntimeError: a file cannot be read or written, or the graph is finalized.
        In all cases the graph is as it was.
    """
    check_arguments(graph, config_file, record_file)
    inventory = Inventory.of(graph)
    config = read_config_of(inventory, config_file)
    statistics = wanted_statistics(config, record_file)
    with taken_statistics(graph, statistics, record_file, _MODULE):
        workspace = Workspace(
            graph, start_layers(inventory, config, _MODULE), outputs_of(graph, calib_outputs, "calib_outputs")
        )
        workspace.alone = [
            Activation.alone(graph.get_operation_by_name(item.layer_name), item.input_index)
            for item in config.tensor_quantize
        ]
        if not (_take_balance_factors(workspace, config, record_file) or statistics):
            warn_if_exists(record_file, _MODULE)
        rounding = plan_calibration(workspace, config, needed_for(graph, calib_outputs))
        if config.joint_quant and not workspace.joint:
            LOGGER.push_warning_message(
                "joint_quant has no effect: no Add joins two branches of computed float32 tensors"
                + (", in a model that computes partly in float16" if inventory.around.has_halves else ""),
                _MODULE,
            )
        _dump(statistics, config.bn_update_config.bn_dump_dir)
        book = _open_record(record_file, workspace, config, rounding, statistics)
        perform_calibration(workspace, config, book, rounding)
    notes = {name: f"its weights are rounded to the nearest, because {why}" for name, why in rounding.reasons.items()}
    inventory.report(workspace, left_out(inventory, config), _MODULE, notes=notes)
    LOGGER.push_info_message(
        f"run the graph {config.batch_num} time(s) in a new session, then call save_model with {record_file}",
        _MODULE,
    )
    return []


def _take_balance_factors(workspace: Workspace, config: QuantConfig, record_file: str) -> bool:
    """Gives the layers that are to be balanced the factors of quantize_preprocess; tells whether there are any.

    Raises:
        AmctRuntimeError: a layer has no factors in the record, or those of another layer.
    """
    layers = [layer for layer in workspace.layers if config.layers[layer.name].dmq_balancer_param is not None]
    if not layers:
        return False
    flush_record(os.path.realpath(record_file))
    factors = read_balance_factors(record_file) if os.path.exists(record_file) else {}
    missing = [layer.name for layer in layers if layer.name not in factors]
    if missing:
        lacks = (
            f"has no tensor_balance_factor of layer {missing[0]}" if os.path.exists(record_file) else "does not exist"
        )
        raise AmctRuntimeError(
            f"config_file indicates dmq_balancer, but record_file {record_file} {lacks}: call quantize_preprocess with "
            "it and run its graph batch_num times before, or remove dmq_balancer_param"
        )
    for layer in layers:
        layer.balance = np.array(factors[layer.name], np.float32)
        channels = layer.row.input_channels(layer.op)
        if layer.balance.size != channels:
            raise AmctRuntimeError(
                f"{record_file} has {layer.balance.size} values of tensor_balance_factor for layer {layer.name} of "
                f"{channels} input channels: call quantize_preprocess on this model"
            )
    return True


def _factors(layer: Layer) -> int:
    return layer.channels if layer.channel_axes else 1


def left_out(inventory: Inventory, config: QuantConfig) -> dict[str, str]:
    """Returns why layers are not quantized that could be, if they are not, by name."""
    return {
        name: "its quant_enable is false" if name in config.layers else "the configuration has no entry for it"
        for name in inventory.layers
    }


def _dump(statistics: Statistics, folder: str | None) -> None:
    """Writes the statistics of batch norms where the user wants to look at them."""
    if statistics and folder:
        arrays: dict[str, Any] = {}
        for name, found in statistics.items():
            arrays |= {f"{name}/mean": found.mean, f"{name}/variance": found.variance}
        content = io.BytesIO()
        np.savez(content, **arrays)
        write_file(os.path.join(folder, "batch_norms.npz"), content.getvalue(), kind="bn_dump_dir")


def _open_record(
    record_file: str, workspace: Workspace, config: QuantConfig, rounding: Rounding, statistics: Statistics
) -> RecordBook:
    """Starts the record and writes what is known: the entries and the scales of constant weights."""
    book = new_book(record_file, config.batch_num, statistics)
    for layer in workspace.layers:
        book.add_layer(
            layer.name,
            scale_w=layer.scale_w if isinstance(layer.weights, np.ndarray) else None,
            wants_weights=layer.row.has_weights,
            wants_shift=layer.wants_shift and config.searches_shifts,
            # Other layers have shifts, so this one has, too: 0, which passes the whole int32 on.
            zero_shifts=_factors(layer) if config.searches_shifts and layer.row.shifts and not layer.wants_shift else 0,
            # save_model must not fold what was not folded here, for whatever reason.
            skip_fusion=layer.skips_fusion,
            balance_factors=layer.balance,
        )
    of_layers = {layer.name for layer in workspace.layers}
    for activation in workspace.activations():
        if activation.key not in of_layers:
            book.add_layer(activation.key, scale_w=None, wants_weights=False, wants_shift=False, skip_fusion=False)
    for plan in rounding.plans:
        _add_rounding(book, plan)
    write_book(book)
    return book


def _add_rounding(book: RecordBook, plan: RoundingPlan) -> None:
    layer = plan.layers[0]
    book.add_rounding(
        [sharing.name for sharing in plan.layers],
        moments=plan.moments,
        layout=plan.layout.numbers(),
        weights=layer.weights if isinstance(layer.weights, np.ndarray) else None,
        shape=layer.row.weight_shape(layer.op),
        scales=layer.scale_w,
        channel_axes=layer.channel_axes,
        compensate=plan.compensate,
        correct_bias=plan.correct_bias,
    )
