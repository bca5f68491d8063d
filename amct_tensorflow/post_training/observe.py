"""What the jobs share that make a graph observe its data: the plans of its layers, its outputs, its record."""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf

from amct_tensorflow.arguments import check_file_path, check_graph, output_names
from amct_tensorflow.config import LayerConfig, QuantConfig, read_config
from amct_tensorflow.errors import AmctRuntimeError, AmctValueError
from amct_tensorflow.files import not_writable
from amct_tensorflow.graph.edit import upstream
from amct_tensorflow.graph.ends import find_outputs
from amct_tensorflow.graph_passes.workspace import Layer
from amct_tensorflow.inventory import Inventory
from amct_tensorflow.log import LOGGER
from amct_tensorflow.ops import RecordBook
from amct_tensorflow.post_training.statistics import Statistics
from amct_tensorflow.record import is_foreign, rounding_path

_LONGEST_NAME = 232  # bytes; with .safetensors, and for a moment .tmp and a process id, still a legal file name


def check_arguments(graph: tf.Graph, config_file: str, record_file: str) -> None:
    """Raises an `AmctError` for paths that cannot be meant, or a graph that cannot be edited."""
    check_file_path(record_file, "record_file")
    check_beside(record_file, "record_file")
    if os.path.realpath(record_file) == os.path.realpath(config_file):
        raise AmctValueError(f"record_file and config_file are both {config_file}: the record would overwrite it")
    check_graph(graph)


def check_beside(record_file: str, argument: str) -> None:
    """Raises `AmctValueError` if a calibration cannot write its file beside a record, or may not: another is there."""
    beside = rounding_path(record_file)
    length = len(os.fsencode(os.path.basename(os.path.realpath(record_file))))
    if length > _LONGEST_NAME:
        raise AmctValueError(
            f"the name of {record_file} has {length} bytes, but at most {_LONGEST_NAME} leave room for the ending of "
            f"the file that belongs beside it: choose a shorter {argument}"
        )
    if is_foreign(beside):
        raise AmctValueError(
            f"{beside} is in the place of the file that belongs beside {record_file}, but no calibration has written "
            f"it: move it, or choose another {argument}"
        )


def read_config_of(inventory: Inventory, config_file: str) -> QuantConfig:
    """Reads the configuration of the graph behind the inventory."""
    return read_config(
        config_file,
        inventory.traits,
        all_ops=inventory.all_ops,
        reasons=inventory.reasons,
        tensor_reason=inventory.reason_against_tensor,
    )


def start_layers(inventory: Inventory, config: QuantConfig, module: str) -> list[Layer]:
    """Starts the plans of the layers that the configuration enables."""
    layers = []
    for name, settings in config.layers.items():
        if settings.quant_enable:
            fuse = config.do_fusion and name not in config.skip_fusion_layers
            layers.append(
                Layer.of(
                    inventory.layers[name], fuse=fuse, channel_wise=_channel_wise(inventory, name, settings, module)
                )
            )
    return layers


def _channel_wise(inventory: Inventory, name: str, settings: LayerConfig, module: str) -> bool:
    wanted = settings.weights is not None and settings.weights.channel_wise
    if wanted and inventory.traits[name].one_scale:
        LOGGER.push_warning_message(
            f"layer {name} feeds Softmax, so its weights get one scale although its channel_wise is true", module
        )
        return False
    return wanted


def outputs_of(graph: tf.Graph, named: list[Any] | None, argument: str) -> frozenset[str]:
    """Returns the names of the ops that nothing consumes, and of those that the user names in `argument`."""
    names = [] if named is None else output_names(named, argument=argument)
    ends = [op for op in graph.get_operations() if not any(output.consumers() for output in op.outputs)]
    return frozenset(op.name for op in [*ends, *find_outputs(graph, names, "the graph")])


def needed_for(graph: tf.Graph, named: list[Any] | None) -> set[str] | None:
    """Returns the names of the ops that the outputs which the user names need, None if none are named."""
    return None if named is None else upstream(find_outputs(graph, output_names(named, argument=""), "the graph"))


def new_book(record_file: str, batch_num: int, statistics: Statistics | None = None) -> RecordBook:
    """Starts the record of a calibration; makes its folder, leaves the file as it is.

    `statistics` are those of batch norms that the graph has been given, which it keeps.

    Raises:
        AmctRuntimeError: the folder cannot be made.
    """
    path = os.path.realpath(record_file)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
    except OSError as error:
        raise not_writable(f"record_file {path}", path, error) from error
    book = RecordBook(path, batch_num=batch_num)
    for name, found in (statistics or {}).items():
        book.add_batch_norm(name, found.mean, found.variance, is_final=True)
    return book


def write_book(book: RecordBook) -> None:
    """Writes the record with what is known by now.

    Raises:
        AmctRuntimeError: it cannot be written; the calibration is then forgotten.
    """
    try:
        book.write()
    except AmctRuntimeError:
        book.close()
        raise
