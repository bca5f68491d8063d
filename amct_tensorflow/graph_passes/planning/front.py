"""Where the planning passes of fusions work: behind what the layers have absorbed so far."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from amct_tensorflow.graph.values import Value, joined, part
from amct_tensorflow.graph_passes.workspace import Layer, Trail


class Span(NamedTuple):
    """Where in a tensor the channels are: along axes with these sizes, mostly one, from `first` on."""

    first: int
    sizes: tuple[int, ...]


@dataclasses.dataclass
class Front:
    """Where what a layer has absorbed ends, and more may be absorbed.

    It may be behind ops that only move the layer's results, and stay: a Reshape, or a Concat that joins the results of
    several layers. What is absorbed there goes into the layers all the same.

    Attributes:
        layers: one, or those that are joined, in the order of their channels.
        tensor: the results, in the user's graph.
        span: where the channels are in it; None if they are not together, or nobody knows.
        passed: the ops between the ends of the layers and it, in order; empty as long as nothing that stays is between.
    """

    layers: list[Layer]
    tensor: tf.Tensor
    span: Span | None
    passed: list[tf.Operation] = dataclasses.field(default_factory=list)

    @classmethod
    def of(cls, layer: Layer) -> Front:
        """Starts right behind a layer."""
        product, rank = layer.row.product, layer.end.shape.rank
        if product is not None:
            first = product.column_axis()
            sizes = product.column_sizes(layer.row.weights(layer.op).shape.as_list())
            return cls([layer], layer.end, None if first is None else Span(first, sizes))
        return cls([layer], layer.end, None if rank is None else Span(layer.channel_axis % rank, (layer.channels,)))

    @property
    def axis(self) -> int | None:
        """The axis of the channels, counted from the start; None if there is not just one, or nobody knows."""
        return self.span.first if self.span is not None and len(self.span.sizes) == 1 else None

    @property
    def channels(self) -> int:
        """The number of channels."""
        return sum(layer.channels for layer in self.layers)

    @property
    def fusing(self) -> list[Layer]:
        """The layers into which a batch norm may be folded."""
        return [layer for layer in self.layers if layer.may_fuse]

    @property
    def bias(self) -> Value | None:
        """The bias of the layers, one value per channel, or None if none has one."""
        if all(layer.bias is None for layer in self.layers):
            return None
        return joined(
            [np.zeros(layer.channels, np.float32) if layer.bias is None else layer.bias for layer in self.layers]
        )

    def parts(self, value: Value) -> list[Value]:
        """Cuts a vector along the channels into those of the layers."""
        if len(self.layers) == 1:
            return [value]
        ends = np.cumsum([layer.channels for layer in self.layers])
        return [
            part(value, int(end) - layer.channels, layer.channels) for layer, end in zip(self.layers, ends, strict=True)
        ]

    def absorb(self, op: tf.Operation) -> None:
        """Takes the place of `op`, whose input `tensor` was, too."""
        self.tensor = op.outputs[0]
        if self.passed:
            self.passed.append(op)
        trail = Trail(tuple(self.passed), self.tensor) if self.passed else None
        for layer in self.layers:
            layer.absorbed.append(op.name)
            layer.trail = trail
            if trail is None:
                layer.end = self.tensor
            if len(self.layers) > 1:
                layer.joined = tuple(other.name for other in self.layers)

    def fold(self, op: tf.Operation) -> None:
        """Absorbs a batch norm or Mul that is in the weights now."""
        for layer in self.layers:
            layer.folded, layer.unfused_because = op.name, None
        self.absorb(op)

    def pass_by(self, op: tf.Operation, span: Span) -> None:
        """Goes on behind `op`, which stays, and has the channels in `span`."""
        self.tensor, self.span = op.outputs[0], span
        self.passed.append(op)
        for layer in self.layers:
            layer.unfused_because = None  # that was because `op` stood in the way

    def not_fused(self, reason: str) -> None:
        """Notes why nothing is folded into the layers that it might be folded into.

        Where something else is already, a record cannot tell: a model that is saved with the same outputs folds alike.
        """
        for layer in self.fusing:
            if layer.folded is None:
                layer.unfused_because = reason
