"""Batch norms on the statistics of the batch, and with others, by equivalence with TensorFlow's training mode."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from amct_tensorflow import ops
from amct_tensorflow.config import BnUpdateConfig
from amct_tensorflow.graph_passes.batch_norm_statistics import gather_statistics, replaced_statistics
from amct_tensorflow.graph_passes.planning.find_batch_norms import find_batch_norms
from amct_tensorflow.record import BatchNormStatistics, read_batch_norms

tf1 = tf.compat.v1
EPSILON = 1e-3


def parameters(seed: int, channels: int) -> list[np.ndarray]:
    """gamma, beta, mean and variance."""
    random = np.random.default_rng(seed)
    return [np.float32(random.uniform(0.5, 2, channels)) for _ in range(4)]


def fused(x, name, seed, *, training=False):
    gamma, beta, mean, variance = parameters(seed, x.shape[-1])
    mean, variance = ([], []) if training else (mean, variance)
    return tf.raw_ops.FusedBatchNormV3(
        x=x, scale=gamma, offset=beta, mean=mean, variance=variance, is_training=training, epsilon=EPSILON, name=name
    ).y


def small_ops(x, name, seed, *, training=False):
    gamma, beta, mean, variance = map(tf.constant, parameters(seed, x.shape[-1]))
    if training:
        mean, variance = tf.nn.moments(x, list(range(x.shape.rank - 1)))
    return tf.nn.batch_normalization(x, mean, variance, beta, gamma, EPSILON, name=name)


def halves(x, name, seed, *, training=False):
    return tf.cast(fused(tf.cast(x, tf.float16), name, seed, training=training), tf.float32)


def network(batch_norm, *, training: bool = False) -> tf.Graph:
    """Three batch norms behind one another, and one beside."""
    random = np.random.default_rng(0)
    with tf.Graph().as_default() as graph:
        y = x = tf1.placeholder(tf.float32, [None, 6, 6, 3], name="x")
        for at in range(3):
            weights = np.float32(random.standard_normal((3, 3, y.shape[-1], 4)))
            y = tf.nn.relu(batch_norm(tf.nn.conv2d(y, weights, 1, "SAME"), f"bn{at}", at, training=training))
        tf.concat([y, batch_norm(x, "beside", 3, training=training)], axis=-1, name="out")
    return graph


def batch(seed: int) -> np.ndarray:
    return np.float32(np.random.default_rng(seed).normal(1, 2, (5, 6, 6, 3)))


def run(graph: tf.Graph, *seeds: int) -> list[np.ndarray]:
    with tf1.Session(graph=graph) as session:
        return [session.run("out:0", {"x:0": batch(seed)}) for seed in seeds]


def gather(graph: tf.Graph, path: str, *seeds: int, fraction: float = 0.5) -> list[np.ndarray]:
    """Gathers the statistics of batches and returns what the graph puts out meanwhile."""
    batch_norms, _ = find_batch_norms(graph)
    book = ops.RecordBook(path, batch_num=len(seeds))
    gather_statistics(batch_norms, book, BnUpdateConfig(len(seeds), fraction))
    return run(graph, *seeds)


KINDS = {"fused": fused, "small ops": small_ops}


@pytest.mark.parametrize("kind", [*KINDS.values(), halves], ids=[*KINDS, "float16"])
def test_the_graph_computes_what_training_mode_computes(kind, tmp_path):
    expected = run(network(kind, training=True), 0, 1)
    tolerance = 2e-2 if kind is halves else 1e-4
    for actual, wanted in zip(gather(network(kind), str(tmp_path / "r.txt"), 0, 1), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_with_the_statistics_of_a_batch_the_graph_computes_it_as_in_training(kind, tmp_path):
    path = str(tmp_path / "record.txt")
    (expected,) = gather(network(kind), path, 0, fraction=1e-7)  # the old ones have next to no weight
    found, graph = read_batch_norms(path), network(kind)
    batch_norms, _ = find_batch_norms(graph)
    assert set(found) == {batch_norm.name for batch_norm in batch_norms} and len(found) == 4
    biased = {name: BatchNormStatistics(one.mean, one.variance * 179 / 180) for name, one in found.items()}
    with replaced_statistics(batch_norms, biased):
        pass
    np.testing.assert_allclose(run(graph, 0)[0], expected, rtol=1e-3, atol=1e-3)


def test_statistics_are_those_behind_what_the_batch_norms_before_make_of_the_batch(tmp_path):
    path = str(tmp_path / "record.txt")
    gather(network(fused), path, 0, 1)
    graph = network(fused, training=True)
    fetches = {name: graph.get_operation_by_name(name).outputs[1:3] for name in ("bn0", "bn1", "bn2", "beside")}
    with tf1.Session(graph=graph) as session:
        first, second = (session.run(fetches, {"x:0": batch(seed)}) for seed in (0, 1))
    for name, found in read_batch_norms(path).items():
        seed = 3 if name == "beside" else int(name[-1])
        start = parameters(seed, found.mean.size)[2:]
        for at, actual in enumerate((found.mean, found.variance)):  # TensorFlow's variance is unbiased
            expected = (0.25 * start[at] + 0.5 * first[name][at] + second[name][at]) / 1.75
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_after_an_error_the_graph_is_as_it_was():
    graph = network(small_ops)
    before = graph.as_graph_def()
    batch_norms, _ = find_batch_norms(graph)
    new = {bn.name: BatchNormStatistics(*np.ones((2, bn.channels), np.float32)) for bn in batch_norms}
    with pytest.raises(ZeroDivisionError), replaced_statistics(batch_norms, new):
        assert graph.as_graph_def() != before
        _ = 1 / 0
    assert graph.as_graph_def() == before


def test_only_those_that_are_known_are_replaced():
    graph = network(fused)
    batch_norms, _ = find_batch_norms(graph)
    with replaced_statistics(batch_norms, {"bn1": BatchNormStatistics(*np.full((2, 4), 7, np.float32))}):
        pass
    means = {bn.name: tf.make_ndarray(bn.mean.get_attr("value")) for bn in batch_norms}
    changed = {name for name, mean in means.items() if np.all(mean == 7)}
    assert changed == {"bn1"}
