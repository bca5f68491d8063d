"""The job calibrate."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any

import numpy as np
import tensorflow as tf

from amct_tensorflow.arguments import check_types, output_names
from amct_tensorflow.data.feeds import Batch, feed_of
from amct_tensorflow.errors import AmctRuntimeError, AmctTypeError, AmctValueError, sentence_of
from amct_tensorflow.graph.ends import INPUT_TYPES, needed_inputs, resolve_outputs
from amct_tensorflow.graph.sessions import iterate, lean_session
from amct_tensorflow.graph.values import needed_variables
from amct_tensorflow.ops import OBSERVER_OP_TYPES, batches_wanted, flush_record, restart_calibration
from amct_tensorflow.progress import counted

_WHERE = "the calibration graph"


@check_types(graph=tf.Graph)
def calibrate(graph: tf.Graph, outputs: Sequence[Any], batches: Iterable[Batch]) -> None:
    """Runs a calibration graph on batches of data, in a session of its own that starts fast.

    What a loop of ``session.run(outputs, feed_dict)`` does, too; there is no need for this function. Batches that the
    graph was run on before do not count: every call starts the calibration anew.

    Args:
        graph: what `quantize_model`, `quantize_preprocess` or `update_batch_norms` made of a frozen graph.
        outputs: the outputs of the model: names of ops or tensors, operations or tensors.
        batches: data as for inference: a list, an iterator or a `tf.data.Dataset`. A batch is a dictionary, by the
            names of placeholders (``input`` or ``input:0``) or by tensors; or an array, where the outputs need one
            placeholder. Only batch_num of them are taken.

    Raises:
        AmctTypeError, AmctValueError: an argument or a batch cannot be used, or there are too few batches.
        AmctRuntimeError: it is no calibration graph of this process, or the data cannot be calibrated with: NaN, empty.
    """
    tensors = resolve_outputs(graph, output_names(outputs, argument="outputs"), _WHERE)
    record_file, wanted = _calibration_of(graph)
    variables = needed_variables(graph, tensors)
    if variables:
        raise AmctValueError(
            f"{_WHERE} has variables such as '{variables[0]}', whose values only a session of yours has: run the "
            "outputs there, or quantize a frozen graph (load_graph)"
        )
    _check_batches(batches, wanted)
    seen = 0
    inputs = needed_inputs(graph, tensors)
    # Not as the default session: its graph would be the default one, in which the batches would be made.
    with contextlib.closing(lean_session(graph)) as session:
        for batch in iterate(batches):
            feed = feed_of(graph, inputs, batch, _WHERE)
            if seen == 0:
                restart_calibration(record_file)
            _run(session, tensors, feed)
            seen += 1
            if seen == wanted:
                break
    if seen < wanted:
        raise _too_few(seen, wanted)
    flush_record(record_file)


def _check_batches(batches: Any, wanted: int) -> None:
    if isinstance(batches, Mapping | str | np.ndarray) or tf.is_tensor(batches) or not isinstance(batches, Iterable):
        raise AmctTypeError(
            f"batches must be a list or an iterator of batches, not {type(batches).__name__}: write [batch] for one"
        )
    try:
        known = len(batches) if isinstance(batches, Sized) else wanted
    except TypeError:  # so says a dataset of unknown length
        return
    if known < wanted:
        raise _too_few(known, wanted)


def _calibration_of(graph: tf.Graph) -> tuple[str, int]:
    """Returns the record that the ops of the graph fill, and how many batches are wanted for it."""
    newest_first = reversed(graph.get_operations())
    op = next((op for op in newest_first if op.type in OBSERVER_OP_TYPES), None)
    if op is None:
        raise AmctRuntimeError("the graph has no calibration ops: call quantize_model on it first")
    record_file = op.get_attr("record_file").decode()
    wanted = batches_wanted(record_file)
    if wanted < 0:
        raise AmctRuntimeError(
            f"the calibration of {record_file} was not started in this process: call quantize_model on the float graph"
        )
    return record_file, wanted


def _too_few(found: int, wanted: int) -> AmctValueError:
    return AmctValueError(
        f"batches has {counted(found, 'batch', 'batches')}, but batch_num is {wanted}: give more of them, or lower "
        "batch_num"
    )


def _run(session: tf.compat.v1.Session, tensors: Sequence[tf.Tensor], feed: Mapping[tf.Tensor, np.ndarray]) -> None:
    # What ops compute is of no use here, so that it is not fetched; what is fed cannot be run.
    fetches = [tensor if tensor.op.type in INPUT_TYPES else tensor.op for tensor in tensors]
    try:
        session.run(fetches, feed)
    except tf.errors.OpError as error:
        raise AmctRuntimeError(sentence_of(error)) from error
