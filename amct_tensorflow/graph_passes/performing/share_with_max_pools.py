"""Performing: a MaxPool beside an AscendQuant reads the same int8 values, through an AscendAntiQuant.

The tensor then leaves the chip's compute unit as int8 only, not in float beside it. The largest of the quantized values
is the quantized largest value, so a layer behind the MaxPool loses nothing that its own AscendQuant would keep.

Cases, for a float32 tensor that is not fetched, in a model that has no float16:

1. All that reads it, of what the outputs need, is one AscendQuant and MaxPools: these are fed the AscendAntiQuant.
2. Anything else, such as AscendQuants of different factors: left alone.
"""

from __future__ import annotations

import tensorflow as tf

from amct_tensorflow.graph.edit import scope_of
from amct_tensorflow.graph_passes.performing.deploy_activations import AscendQuants
from amct_tensorflow.graph_passes.workspace import Activation, Workspace
from amct_tensorflow.layers import Surroundings, reason_against_tensor

_POOL = "MaxPool"


def share_with_max_pools(workspace: Workspace, quants: AscendQuants) -> None:
    """Runs the pass, when every AscendQuant is in its place."""
    ops = workspace.graph.get_operations()
    if not any(op.type == _POOL for op in ops):
        return
    live, around = workspace.live(), Surroundings.of(workspace.graph)
    for op in ops:
        if op.type == "AscendQuant" and op.name in live and not workspace.is_fetched(op.inputs[0]):
            others = [user for user in op.inputs[0].consumers() if user.name in live and user.name != op.name]
            if others and all(_may_share(other, around) for other in others):
                restored = quants.restored(op.outputs[0], scope_of(others[0].name))
                for other in others:
                    Activation.alone(other, 0).replace(restored)


def _may_share(op: tf.Operation, around: Surroundings) -> bool:
    return op.type == _POOL and reason_against_tensor(op, 0, around) is None
