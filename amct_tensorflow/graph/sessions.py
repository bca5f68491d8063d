"""Sessions for a few runs of a graph, and the data to run it on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context

from amct_tensorflow.errors import AmctTypeError

_CHANNELS_FIRST = (b"NCHW", b"NCDHW")


def lean_session(graph: tf.Graph) -> tf.compat.v1.Session:
    """Returns a session without TensorFlow's graph optimizers: they take longer than a few runs gain by them.

    They also hold copies of all weights. Only models in NCHW need one of them on a CPU, which has no kernels for them:
    that transposes their data.
    """
    config = tf.compat.v1.ConfigProto()
    options = config.graph_options.rewrite_options
    if any(_is_channels_first(op) for op in graph.get_operations()):
        options.optimizers[:] = ["layout"]
        options.cpu_layout_conversion = options.NCHW_TO_NHWC
        options.meta_optimizer_iterations = options.ONE
        options.min_graph_nodes = -1  # small graphs, too
    else:
        options.disable_meta_optimizer = True
    return tf.compat.v1.Session(graph=graph, config=config)


def _is_channels_first(op: tf.Operation) -> bool:
    if op.type in ("Const", "Identity"):  # most ops
        return False
    try:
        return op.get_attr("data_format") in _CHANNELS_FIRST
    except ValueError:  # it has no such attribute
        return False


def iterate(batches: Iterable[Any]) -> Iterator[Any]:
    """Yields the batches; those of a tf.data.Dataset also where a graph is the default, in which it has no values.

    Raises:
        AmctTypeError: it is a dataset of a graph.
    """
    if not isinstance(batches, tf.data.Dataset):
        yield from batches
        return
    try:
        with context.eager_mode():
            iterator = iter(batches)
    except (RuntimeError, TypeError, ValueError) as error:
        raise AmctTypeError(
            "batches is a tf.data.Dataset that was made with eager mode off: pass a generator of arrays"
        ) from error
    end = object()
    while True:
        with context.eager_mode():
            batch = next(iterator, end)
        if batch is end:
            return
        yield batch
