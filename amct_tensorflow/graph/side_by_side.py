"""Two models in one graph, fed with the same data, and the parts of one of them set on what the other computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Container, Mapping

import tensorflow as tf

from amct_tensorflow.graph.edit import at_root, clone_with
from amct_tensorflow.graph.large_constants import import_lean


def import_beside(graph: tf.Graph, other: tf.Graph, scope: str, inputs: Mapping[str, tf.Tensor]) -> None:
    """Imports another model into a graph.

    Args:
        graph: the graph.
        other: the other model.
        scope: the names of its ops get this in front of them, which is no scope of `graph`.
        inputs: what it reads in the place of its own tensors, by their names.
    """
    read = {tensor.name for op in other.get_operations() for tensor in op.inputs}
    with at_root(graph):
        used = {name: tensor for name, tensor in inputs.items() if name in read}
        import_lean(other.as_graph_def(), scope, used)


@dataclasses.dataclass(frozen=True)
class Part:
    """What computes a tensor of one model from tensors that the other model has, too.

    Attributes:
        end: the tensor.
        ops: the ops, an op behind those that it needs.
        reads: names of tensors that these read -> their counterparts in the other model.
    """

    end: tf.Tensor
    ops: tuple[tf.Operation, ...]
    reads: Mapping[str, tf.Tensor]

    def on_counterparts(self, scope: str) -> tf.Tensor:
        """Returns what the part computes of the counterparts, in copies of its ops."""
        made = dict(self.reads)
        for op in self.ops:
            copy = clone_with(op, f"{scope}/{op.name}", [made.get(tensor.name, tensor) for tensor in op.inputs])
            made |= {old.name: new for old, new in zip(op.outputs, copy.outputs, strict=True)}
        return made[self.end.name]


def part_before(
    end: tf.Tensor,
    counterpart: Callable[[tf.Tensor], tf.Tensor | None],
    fed: Container[str],
    order: Mapping[str, int],
) -> Part:
    """Returns the part that computes a tensor.

    Args:
        end: the tensor; its own counterpart does not count.
        counterpart: returns that of a tensor, or None.
        fed: names of the ops that depend on inputs; what does not stays as it is.
        order: numbers by which an op is behind those that it needs.
    """
    ops: dict[str, tf.Operation] = {}
    reads: dict[str, tf.Tensor] = {}
    stack = [end.op]
    while stack:
        op = stack.pop()
        if op.name in ops:
            continue
        ops[op.name] = op
        for tensor in op.inputs:
            other = counterpart(tensor)
            if other is not None:
                reads[tensor.name] = other
            elif tensor.op.name in fed:
                stack.append(tensor.op)
    return Part(end, tuple(sorted(ops.values(), key=lambda op: order[op.name])), reads)
