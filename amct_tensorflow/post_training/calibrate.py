"""The job calibrate."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence, Sized
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from amct_tensorflow.arguments import check_types, output_names
from amct_tensorflow.errors import AmctRuntimeError, AmctTypeError, AmctValueError, sentence_of
from amct_tensorflow.graph.ends import find_placeholder, needed_inputs, resolve_outputs
from amct_tensorflow.graph.sessions import lean_session
from amct_tensorflow.graph.values import needed_variables
from amct_tensorflow.ops import OBSERVER_OP_TYPES, batches_wanted, flush_record
from amct_tensorflow.progress import counted

Batch: TypeAlias = Mapping[Any, Any] | np.ndarray

_WHERE = "the calibration graph"


@check_types(graph=tf.Graph)
def calibrate(graph: tf.Graph, outputs: Sequence[Any], batches: Iterable[Batch]) -> None:
    """Runs a calibration graph on batches of data, in a session of its own that starts fast.

    What a loop of ``session.run(outputs, feed_dict)`` does, too; there is no need for this function.

    Args:
        graph: what `quantize_model` or `quantize_preprocess` made of a frozen graph.
        outputs: the outputs of the model: names of ops or tensors, operations or tensors.
        batches: data as for inference. A batch is a dictionary, by the names of placeholders (``input`` or ``input:0``)
            or by tensors; or an array, where the outputs need one placeholder. Only batch_num of them are taken.

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
    if isinstance(batches, Mapping | str | np.ndarray) or not isinstance(batches, Iterable):
        raise AmctTypeError(f"batches must be a list or an iterator of batches, not {type(batches).__name__}")
    if isinstance(batches, Sized) and len(batches) < wanted:
        raise _too_few(len(batches), wanted)
    seen = 0
    inputs = needed_inputs(graph, tensors)
    # Not as the default session: its graph would be the default one, in which no tf.data.Dataset can be iterated.
    with contextlib.closing(lean_session(graph)) as session:
        for batch in batches:
            _run(session, tensors, _feed(graph, inputs, batch))
            seen += 1
            if seen == wanted:
                break
    if seen < wanted:
        raise _too_few(seen, wanted)
    flush_record(record_file)


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
    open_inputs = [tensor for tensor in inputs if tensor.op.type != "PlaceholderWithDefault"]
    if not isinstance(batch, Mapping):
        if len(open_inputs) != 1:
            names = ", ".join(tensor.op.name for tensor in open_inputs) or "none"
            raise AmctTypeError(
                f"a batch must be a dictionary of arrays by the names of the inputs, which are {names}, not "
                f"{type(batch).__name__}"
            )
        batch = {open_inputs[0]: batch}
    feed = {_placeholder(graph, key): value for key, value in batch.items()}
    fed = {tensor.name for tensor in feed}
    missing = [tensor.op.name for tensor in open_inputs if tensor.name not in fed]
    if missing:
        raise AmctValueError(f"a batch has no data for the input '{missing[0]}': add an array under this name")
    return {tensor: _as_array(tensor, value) for tensor, value in feed.items()}


def _placeholder(graph: tf.Graph, key: Any) -> tf.Tensor:
    name = getattr(key, "name", key)
    if not isinstance(name, str):
        raise AmctTypeError(f"the keys of a batch must be names of inputs or tensors, not {type(key).__name__}")
    return find_placeholder(graph, name, _WHERE)


def _as_array(tensor: tf.Tensor, value: Any) -> np.ndarray:
    """Returns the data in the type of the placeholder; raises where the shape cannot be that."""
    try:
        array = np.asarray(value, tensor.dtype.as_numpy_dtype)
    except (TypeError, ValueError) as error:
        raise AmctValueError(
            f"the data for the input '{tensor.op.name}' cannot become an array of {tensor.dtype.name} ({error}): feed "
            "numbers in a regular shape"
        ) from error
    if not tensor.shape.is_compatible_with(array.shape):
        raise AmctValueError(
            f"the data for the input '{tensor.op.name}' has the shape {list(array.shape)}, but it takes "
            f"{tensor.shape}: feed batches as for inference"
        )
    return array


def _run(session: tf.compat.v1.Session, tensors: Sequence[tf.Tensor], feed: Mapping[tf.Tensor, np.ndarray]) -> None:
    try:
        session.run([tensor.op for tensor in tensors], feed)  # what they compute is of no use here
    except tf.errors.OpError as error:
        raise AmctRuntimeError(sentence_of(error)) from error
