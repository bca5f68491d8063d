"""The job update_batch_norms."""

from __future__ import annotations

import tensorflow as tf

from amct_tensorflow.arguments import check_types
from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.files import warn_if_exists
from amct_tensorflow.graph_passes.batch_norm_statistics import gather_statistics
from amct_tensorflow.graph_passes.planning.find_batch_norms import find_batch_norms
from amct_tensorflow.inventory import Inventory
from amct_tensorflow.log import LOGGER
from amct_tensorflow.post_training.observe import check_arguments, new_book, read_config_of, write_book
from amct_tensorflow.progress import counted

_MODULE = "update_batch_norms"


@check_types(graph=tf.Graph, config_file=str, record_file=str)
def update_batch_norms(graph: tf.Graph, config_file: str, record_file: str) -> None:
    """Makes a float graph find new means and variances of its batch norms, in place.

    For a configuration with update_bn. The batch norms run on the statistics of their batches, as in training. Run
    the graph's outputs bn_update_iterations times afterwards, in a new session: the file beside record_file then holds
    the statistics. Call quantize_preprocess, where it is needed, and quantize_model next, each on a new graph of the
    model, with the same two files: they take the statistics before they fold anything, and so does save_model.

    Args:
        graph: the inference graph, frozen.
        config_file: what `create_quant_config` wrote, with update_bn true, and perhaps a bn_update_config.
        record_file: path of the record to write; folders are made, an existing file is overwritten.

    Raises:
        AmctTypeError, AmctValueError: an argument or the configuration cannot be used, it has no update_bn, or the
            graph no batch norm whose statistics can be replaced.
        AmctRuntimeError: a file cannot be read or written, or the graph is finalized.
        In all cases the graph is as it was.
    """
    check_arguments(graph, config_file, record_file)
    config = read_config_of(Inventory.of(graph), config_file)
    if not config.update_bn:
        raise AmctValueError(
            f"update_bn of {config_file} is not true, so batch norms keep their statistics: set it to true, or go on "
            "with quantize_model"
        )
    batch_norms, reasons = find_batch_norms(graph)
    if not batch_norms:
        listed = "".join(f"; {name}: {reason}" for name, reason in reasons.items())
        raise AmctValueError(
            f"update_bn is true, but the graph has no batch norm that can get new statistics{listed}: set update_bn to "
            "false"
        )
    warn_if_exists(record_file, _MODULE)
    settings = config.bn_update_config
    book = new_book(record_file, settings.bn_update_iterations)
    write_book(book)
    gather_statistics(batch_norms, book, settings)
    for name, reason in reasons.items():
        LOGGER.push_warning_message(f"batch norm {name} keeps its statistics, because {reason}", _MODULE)
    LOGGER.push_info_message(f"{counted(len(batch_norms), 'batch norm')} will get new statistics", _MODULE)
    LOGGER.push_info_message(
        f"run the graph {settings.bn_update_iterations} time(s) in a new session, then call quantize_model with "
        f"{record_file} on a new graph of the model",
        _MODULE,
    )
