"""Planning: layers whose results a Concat joins along their channels absorb together what stands behind it.

So are the groups of a grouped convolution computed that TensorFlow 1 could not do: Split, a convolution for each group,
Concat. Each layer then takes its part of a batch norm or bias.

Cases:

1. All inputs of the Concat are results of layers that are planned here, each once, they go nowhere else and are not
   fetched themselves, and the axis is that of the channels of each: joined.
2. Anything else: left alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf

from amct_tensorflow.graph.constants import constant_value
from amct_tensorflow.graph.edit import sole_consumer
from amct_tensorflow.graph_passes.planning.front import Front, Span
from amct_tensorflow.graph_passes.workspace import Workspace

CONCATS = ("Concat", "ConcatV2")


def join_layers(workspace: Workspace, fronts: dict[str, Front], advanced: Iterable[Front]) -> list[Front]:
    """Runs the pass.

    Args:
        workspace: the graph.
        fronts: all fronts by the name of their tensor; those that are joined are replaced.
        advanced: those that have not been looked at where they are now.

    Returns:
        The new fronts.
    """
    made = []
    for concat in dict.fromkeys(filter(None, (_concat_behind(workspace, front) for front in advanced))):
        front = _joined(workspace, fronts, concat)
        if front is not None:
            for data in _data(concat):
                del fronts[data.name]
            fronts[front.tensor.name] = front
            made.append(front)
    return made


def _concat_behind(workspace: Workspace, front: Front) -> tf.Operation | None:
    use = None if workspace.is_output(front.tensor) else sole_consumer(front.tensor)
    return use[0] if use is not None and use[0].type in CONCATS else None


def _joined(workspace: Workspace, fronts: dict[str, Front], concat: tf.Operation) -> Front | None:
    parts = [fronts.get(data.name) for data in _data(concat)]
    axis = constant_value(concat.inputs[0] if concat.type == "Concat" else concat.inputs[-1])
    rank = concat.outputs[0].shape.rank
    if axis is None or rank is None:
        return None
    found = [front for front in parts if front is not None and front.axis == int(axis) % rank]
    if len(found) < len(parts) or not all(_concat_behind(workspace, front) for front in found):
        return None
    layers = [layer for front in found for layer in front.layers]
    span = Span(int(axis) % rank, (sum(layer.channels for layer in layers),))
    joined = Front(layers, concat.outputs[0], span, [op for front in found for op in front.passed])
    joined.pass_by(concat, span)
    return joined


def _data(concat: tf.Operation) -> list[tf.Tensor]:
    return list(concat.inputs)[1:] if concat.type == "Concat" else list(concat.inputs)[:-1]
