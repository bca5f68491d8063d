"""The job quantize_preprocess."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from amct_tensorflow.arguments import check_types
from amct_tensorflow.config import QuantConfig
from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.files import warn_if_exists
from amct_tensorflow.graph_passes.pipelines import perform_balance, plan_balance
from amct_tensorflow.graph_passes.workspace import Layer, Workspace
from amct_tensorflow.inventory import Inventory
from amct_tensorflow.log import LOGGER
from amct_tensorflow.ops import RecordBook
from amct_tensorflow.post_training.observe import (
    check_arguments,
    new_book,
    outputs_of,
    read_config_of,
    start_layers,
    write_book,
)
from amct_tensorflow.post_training.statistics import Statistics, taken_statistics, wanted_statistics

_MODULE = "quantize_preprocess"


@check_types(graph=tf.Graph, config_file=str, record_file=str)
def quantize_preprocess(graph: tf.Graph, config_file: str, record_file: str, outputs: list[Any] | None = None) -> None:
    """Adds ops to a float graph that find the balance factors of DMQ, in place.

    For layers whose entry in config_file has a dmq_balancer_param. Run the graph's outputs batch_num times
    afterwards, in a new session: record_file then holds a tensor_balance_factor of each. Call quantize_model next, on
    a new graph of the model, with the same two files. Output names and values do not change.

    Args:
        graph: the inference graph; weights may be constants or variables.
        config_file: what `create_quant_config` wrote, with dmq_balancer_param from 0.2 to 0.8 for some layers.
        record_file: path of the record to write; folders are made, an existing file is overwritten. Where the
            configuration has update_bn, the file beside it must hold what update_batch_norms found, which is kept.
        outputs: outputs that will be fetched besides the ops that nothing consumes: op names, operations or tensors.

    Raises:
        AmctTypeError, AmctValueError: an argument, the configuration or the weights cannot be used, or the
            configuration has no dmq_balancer_param.
        AmctRuntimeError: a file cannot be read or written, or the graph is finalized.
        In all cases the graph is as it was.
    """
    check_arguments(graph, config_file, record_file)
    inventory = Inventory.of(graph)
    config = read_config_of(inventory, config_file)
    strengths = _strengths(config, config_file)
    statistics = wanted_statistics(config, record_file)
    with taken_statistics(graph, statistics, record_file, _MODULE):
        workspace = Workspace(graph, _layers(inventory, config, strengths), outputs_of(graph, outputs, "outputs"))
        plan_balance(workspace)
        if not statistics:
            warn_if_exists(record_file, _MODULE)
        book = _open_record(record_file, workspace, config, statistics)
        perform_balance(workspace, book, config.batch_num, strengths)
    for layer in workspace.layers:
        LOGGER.push_info_message(f"{layer.op.type} {layer.name}: will be balanced", _MODULE)
    LOGGER.push_info_message(
        f"run the graph {config.batch_num} time(s) in a new session, then call quantize_model with {record_file} on a "
        "new graph of the model",
        _MODULE,
    )


def _strengths(config: QuantConfig, config_file: str) -> dict[str, float]:
    """Returns the migration strength of each layer to balance."""
    strengths = {
        name: layer.dmq_balancer_param
        for name, layer in config.layers.items()
        if layer.quant_enable and layer.dmq_balancer_param is not None
    }
    if not strengths:
        raise AmctValueError(
            f"{config_file} has a dmq_balancer_param for none of the layers that it enables, so there is nothing to "
            "balance: give them one from 0.2 to 0.8, or go on with quantize_model"
        )
    return strengths


def _layers(inventory: Inventory, config: QuantConfig, strengths: Mapping[str, float]) -> list[Layer]:
    return [layer for layer in start_layers(inventory, config, _MODULE) if layer.name in strengths]


def _open_record(record_file: str, workspace: Workspace, config: QuantConfig, statistics: Statistics) -> RecordBook:
    book = new_book(record_file, config.batch_num, statistics)
    for layer in workspace.layers:
        book.add_layer(
            layer.name,
            scale_w=None,
            wants_weights=False,
            wants_shift=False,
            skip_fusion=False,
            wants_activation=False,
            wants_balance=True,
        )
    write_book(book)
    return book
