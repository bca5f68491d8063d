"""The job calibrate."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from amct_tensorflow.arguments import check_types, output_names
from amct_tensorflow.errors import AmctRuntimeError, AmctTypeError, AmctValueError, reason_of, sentence_of
from amct_tensorflow.graph.ends import INPUT_TYPES, find_placeholder, needed_inputs, resolve_outputs
from amct_tensorflow.graph.sessions import iterate, lean_session
from amct_tensorflow.graph.values import needed_variables
from amct_tensorflow.ops import OBSERVER_OP_TYPES, batches_wanted, flush_record, restart_calibration
from amct_tensorflow.progress import counted

Batch: TypeAlias = Mapping[Any, Any] | np.ndarray

_WHERE = "the calibration graph"


@check_types(graph=tf.Graph)
def calibrate(graph: tf.Graph, outputs: Sequence[Any], batches: Iterable[Batch]) -> None:
    """Runs a calibration graph on batches of data, in a session of its own that starts fast.

    What a loop of ``session.run(outputs, feed_dict)`` does, too; there is no need for this function. Batches that the
    graph was run on before do not count: every call starts the calibration anew.

    Args:
        graph: what `quantize_model` or `quantize_preprocess` made of a frozen graph.
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
            feed = _feed(graph, inputs, batch)
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


def _feed(graph: tf.Graph, inputs: Sequence[tf.Tensor], batch: Batch) -> dict[tf.Tensor, Any]:
    """Returns the data of each placeholder."""
    needed = [tensor for tensor in inputs if tensor.op.type != "PlaceholderWithDefault"]
    if isinstance(batch, tuple):
        raise AmctTypeError(
            "a batch is a tuple, as of images and labels: leave the labels out, and give several inputs as a dictionary"
        )
    if not isinstance(batch, Mapping):
        candidates = needed or inputs
        if len(candidates) != 1:
            names = ", ".join(tensor.op.name for tensor in candidates) or "none"
            raise AmctTypeError(
                f"a batch must be a dictionary of arrays by the names of the inputs, which are {names}, not "
                f"{type(batch).__name__}"
            )
        batch = {candidates[0]: batch}
    feed = {_placeholder(graph, key): value for key, value in batch.items()}
    fed = {tensor.name for tensor in feed}
    missing = [tensor.op.name for tensor in needed if tensor.name not in fed]
    if missing:
        raise AmctValueError(f"a batch has no data for the input '{missing[0]}': add an array under this name")
    return {tensor: _as_array(tensor, value) for tensor, value in feed.items()}


def _placeholder(graph: tf.Graph, key: Any) -> tf.Tensor:
    name = getattr(key, "name", key)
    if not isinstance(name, str):
        raise AmctTypeError(f"the keys of a batch must be names of inputs or tensors, not {type(key).__name__}")
    return find_placeholder(graph, name, _WHERE)


def _as_array(tensor: tf.Tensor, value: Any) -> np.ndarray:
    """Returns the data in the type of the placeholder; raises where they, or their shape, cannot be that."""
    try:
        given = np.asarray(value)
        with np.errstate(invalid="ignore"):  # checked below
            array = np.asarray(given, tensor.dtype.as_numpy_dtype)
    except (TypeError, ValueError, OverflowError, NotImplementedError) as error:
        raise AmctValueError(
            f"the data for the input '{tensor.op.name}' cannot become an array of {tensor.dtype.name} "
            f"({reason_of(error)}): feed numbers in a regular shape"
        ) from error
    whole = tensor.dtype.is_integer or tensor.dtype.is_bool
    if given.dtype.kind == "c" or (whole and not np.array_equal(given, array)):
        raise AmctValueError(
            f"the data for the input '{tensor.op.name}' are {given.dtype.name} and would change as "
            f"{tensor.dtype.name}: feed what inference feeds"
        )
    if not tensor.shape.is_compatible_with(array.shape):
        raise AmctValueError(
            f"the data for the input '{tensor.op.name}' has the shape {list(array.shape)}, but it takes "
            f"{tensor.shape}: feed batches as for inference"
        )
    return array


def _run(session: tf.compat.v1.Session, tensors: Sequence[tf.Tensor], feed: Mapping[tf.Tensor, np.ndarray]) -> None:
    # What ops compute is of no use here, so that it is not fetched; what is fed cannot be run.
    fetches = [tensor if tensor.op.type in INPUT_TYPES else tensor.op for tensor in tensors]
    try:
        session.run(fetches, feed)
    except tf.errors.OpError as error:
        raise AmctRuntimeError(sentence_of(error)) from error
