"""Performing: batch norms are run on the statistics of their batches, which are gathered, or are given other ones.

All batch norms of a graph run on the statistics of the batch at once, as in training: what each sees is what those
before it make of the data by then. Of the batches, moving statistics are kept, see ops/numerics/moving_statistics.h.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from amct_tensorflow.config import BnUpdateConfig
from amct_tensorflow.graph.edit import at_root, replace_uses, scope_of, unique_scope
from amct_tensorflow.graph.large_constants import read_constant, set_constant
from amct_tensorflow.graph_passes.planning.find_batch_norms import BatchNorm
from amct_tensorflow.ops import RecordBook, tensorflow_ops
from amct_tensorflow.record import BatchNormStatistics


def gather_statistics(batch_norms: Sequence[BatchNorm], book: RecordBook, settings: BnUpdateConfig) -> None:
    """Puts the statistics of the batch in the place of the constants, and has them gathered."""
    for batch_norm in batch_norms:
        start = (read_constant(constant).reshape(-1) for constant in (batch_norm.mean, batch_norm.variance))
        book.add_batch_norm(batch_norm.name, *start, is_final=False)
    for batch_norm in batch_norms:
        graph = batch_norm.data.graph
        with at_root(graph):
            scope = unique_scope(graph, scope_of(batch_norm.name) + "batch_norm_statistics") + "/"
            data = tf.cast(batch_norm.data, tf.float32, name=scope + "data")
            mean, variance = tf.nn.moments(data, batch_norm.axes, name=scope + "moments")
            mean = tensorflow_ops().batch_norm_statistics(
                mean,
                variance,
                tf.math.floordiv(tf.size(data, tf.int64, name=scope + "size"), batch_norm.channels, scope + "count"),
                record_file=book.path,
                generation=book.generation,
                batch_norm=batch_norm.name,
                batch_num=settings.bn_update_iterations,
                fraction=settings.bn_moving_average_fraction,
                name=scope + "BatchNormStatistics",
            )
            for constant, statistics in ((batch_norm.mean, mean), (batch_norm.variance, variance)):
                stored = constant.outputs[0]
                reshaped = tf.reshape(statistics, stored.shape, name=scope + "Reshape")
                replace_uses(stored, tf.cast(reshaped, stored.dtype, name=scope + "Cast"))


@contextlib.contextmanager
def replaced_statistics(
    batch_norms: Sequence[BatchNorm], statistics: Mapping[str, BatchNormStatistics]
) -> Iterator[None]:
    """Gives batch norms the statistics that are known by name; after an error they have the old ones again."""
    new: list[tuple[tf.Operation, np.ndarray]] = []
    for batch_norm in batch_norms:
        if batch_norm.name in statistics:
            found = statistics[batch_norm.name]
            new += [(batch_norm.mean, found.mean), (batch_norm.variance, found.variance)]
    old = [(constant, read_constant(constant)) for constant, _ in new]
    _store(new)
    try:
        yield
    except BaseException:
        _store(old)
        raise


def _store(values: Sequence[tuple[tf.Operation, np.ndarray]]) -> None:
    for constant, value in values:
        stored = constant.outputs[0]
        set_constant(constant, value.reshape(stored.shape).astype(stored.dtype.as_numpy_dtype))
