"""Performing: nothing waits for constants and placeholders by control edges, which order nothing.

TF2's freezing leaves a NoOp that waits for all weights, and outputs that wait for it: every run of the calibration
graph would hold the weights of the original layers, too.
"""

from __future__ import annotations

import tensorflow as tf

from amct_tensorflow.graph.edit import set_control_inputs
from amct_tensorflow.graph.waits import waits_that_order


def drop_idle_waits(graph: tf.Graph) -> None:
    """Runs the pass."""
    ops = graph.get_operations()
    kept = waits_that_order(ops)
    for op in ops:
        if len(kept[op.name]) < len(op.control_inputs):
            set_control_inputs(op, [graph.get_operation_by_name(name) for name in kept[op.name]])
