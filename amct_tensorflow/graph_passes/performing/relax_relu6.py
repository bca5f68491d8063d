"""Performing: a Relu6 that only AscendQuants read becomes a Relu, where their int8 range clips as early.

The chip's compiler fuses AscendDequant, Relu and AscendQuant into one step.

    clip(round(min(max(x, 0), 6) / s) + o) = clip(round(max(x, 0) / s) + o),   if round(6 / s) + o >= 127

Cases:

1. All that reads it, of what the outputs need, is AscendQuants with such factors, and it is not fetched: replaced.
2. Anything else: left alone.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from amct_tensorflow.graph.edit import at_root, replace_uses
from amct_tensorflow.graph_passes.workspace import Workspace

_LARGEST_INT8 = 127


def relax_relu6(workspace: Workspace) -> None:
    """Runs the pass, when every AscendQuant is in its place."""
    live = workspace.live()
    for op in workspace.graph.get_operations():
        if op.type == "Relu6" and op.name in live and op.name not in workspace.outputs:
            users = [user for user in op.outputs[0].consumers() if user.name in live]
            if users and all(map(_clips_at_six, users)):
                _relax(workspace, op)


def _clips_at_six(op: tf.Operation) -> bool:
    if op.type != "AscendQuant":
        return False
    scaled = float(np.float32(6.0) * np.float32(op.get_attr("scale")))  # as the op computes it
    return bool(math.floor(scaled + 0.5) + op.get_attr("offset") >= _LARGEST_INT8)


def _relax(workspace: Workspace, op: tf.Operation) -> None:
    with at_root(workspace.graph):
        relu = tf.raw_ops.Relu(features=op.inputs[0], name=f"{op.name}/relu")
    workspace.clones[op.name] = relu.op.name
    replace_uses(op.outputs[0], relu)
