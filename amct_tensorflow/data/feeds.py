"""Batches of data as placeholders take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from amct_tensorflow.errors import AmctTypeError, AmctValueError, reason_of
from amct_tensorflow.graph.ends import find_placeholder

Batch: TypeAlias = Mapping[Any, Any] | np.ndarray


def feed_of(graph: tf.Graph, inputs: Sequence[tf.Tensor], batch: Batch, where: str) -> dict[tf.Tensor, np.ndarray]:
    """Returns the data of each placeholder.

    Args:
        graph: the graph.
        inputs: the placeholders that are needed.
        batch: a dictionary by names of placeholders, ``input`` or ``input:0``, or by tensors; or an array, where one
            placeholder is needed.
        where: how messages call the graph.

    Raises:
        AmctTypeError, AmctValueError: the batch is of another kind, has no data for an input, or data that it cannot
            take.
    """
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
    feed = {placeholder_of(graph, key, where): value for key, value in batch.items()}
    fed = {tensor.name for tensor in feed}
    missing = [tensor.op.name for tensor in needed if tensor.name not in fed]
    if missing:
        raise AmctValueError(f"a batch has no data for the input '{missing[0]}': add an array under this name")
    return {tensor: _as_array(tensor, value) for tensor, value in feed.items()}


def placeholder_of(graph: tf.Graph, key: Any, where: str) -> tf.Tensor:
    """Returns the placeholder that a key of a batch means.

    Raises:
        AmctTypeError, AmctValueError: it is no name or tensor, or there is no such placeholder.
    """
    name = getattr(key, "name", key)
    if not isinstance(name, str):
        raise AmctTypeError(f"the keys of a batch must be names of inputs or tensors, not {type(key).__name__}")
    return find_placeholder(graph, name, where)


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
