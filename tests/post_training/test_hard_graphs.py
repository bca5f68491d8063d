"""What becomes of graphs that are hard to quantize. The bounds say what is so today; whoever improves it moves them."""

from __future__ import annotations

import numpy as np
import pytest
from hard_graphs import HARD_GRAPHS
from small_graphs import int8_model, load, run, sqnr

from amct_tensorflow.analysis.inspect_model import inspect_model

PLAIN = "batch_num: 2"
BALANCED = PLAIN + " common_config { dmq_balancer { migration_strength: 0.5 } }"

# Name of the graph, configuration -> least and most dB.
TODAY = {
    ("ranges", "plain"): (-1, 3),
    ("ranges", "balanced"): (30, 45),
    ("heavy tail", "plain"): (6, 14),
    ("training mode", "plain"): (8, 16),
    ("training mode", "balanced"): (18, 30),
}


@pytest.mark.parametrize(("name", "way"), TODAY)
def test_int8_beside_float(tmp_path, name, way):
    hard = HARD_GRAPHS[name]
    path = int8_model(hard.build, hard.batch, tmp_path, BALANCED if way == "balanced" else PLAIN)
    unseen = hard.batch(9)
    int8 = load(path)
    least, most = TODAY[name, way]
    assert least < sqnr(run(hard.build(), unseen), run(int8, unseen)) < most
    types = [op.type for op in int8.get_operations()]
    assert types.count("AscendDequant") == hard.layers
    assert ("dmq_balance" in str(int8.as_graph_def())) == (way == "balanced")


@pytest.mark.parametrize("name", HARD_GRAPHS)
def test_generators_depend_on_nothing(name):
    hard = HARD_GRAPHS[name]
    first, second = (hard.build().as_graph_def().SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    np.testing.assert_array_equal(hard.batch(1), hard.batch(1))
    assert (hard.batch(1) != hard.batch(2)).any()


def test_what_makes_them_hard():
    ranges = HARD_GRAPHS["ranges"]
    largest = np.abs(run(ranges.build(), ranges.batch(9), "concat:0")).reshape(-1, 3, 8).max(axis=(0, 2))
    assert largest[1] / largest[0] > 5000 and largest[1] / largest[2] > 50
    tail = HARD_GRAPHS["heavy tail"].batch(9)
    assert tail.max() > 1000 * np.median(tail)
    layers = inspect_model(HARD_GRAPHS["training mode"].build()).layers
    reasons = [layer.unfused_because for layer in layers if layer.unfused_because]
    assert len(reasons) == 20 and all(reason.endswith("is not folded: it is in training mode") for reason in reasons)
