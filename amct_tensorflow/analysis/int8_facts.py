"""What an int8 model says of its quantized layers: factors, and the ranges that they stand for."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.graph_passes.planning.find_deployed import DeployedLayer, layer_before, offset_of, scale_of

_LEAST, _MOST = -128, 127


@dataclasses.dataclass(frozen=True)
class Int8Input:
    """An input that is quantized.

    Attributes:
        scale: scale_d, what a step of its integers is.
        offset: offset_d, the integer that means 0.
        lowest, highest: the least and the largest number that it can be.
    """

    scale: float
    offset: int
    lowest: float
    highest: float

    @classmethod
    def of(cls, quant: tf.Operation) -> Int8Input:
        """Returns what an AscendQuant says."""
        scale, offset = float(scale_of(quant)), offset_of(quant)
        return cls(scale, offset, (_LEAST - offset) * scale, (_MOST - offset) * scale)

    @property
    def is_suspicious(self) -> bool:
        """Whether the scale is 1, as of pixels of 0 to 255, and of inputs that were 0 throughout."""
        return self.scale == 1.0


@dataclasses.dataclass(frozen=True)
class Int8Facts:
    """The factors of a quantized layer.

    Attributes:
        inputs: its quantized inputs.
        scale_w: scales of its weights, one or one per channel; empty without weights.
        lowest_weight, highest_weight: the least and the largest of its weights; None without.
        shift_bit: N, one or one per channel; zeros without shifts.
    """

    inputs: tuple[Int8Input, ...]
    scale_w: tuple[float, ...]
    lowest_weight: float | None
    highest_weight: float | None
    shift_bit: tuple[int, ...]

    @classmethod
    def of(cls, layer: DeployedLayer) -> Int8Facts:
        """Returns what the nodes of a layer say.

        Raises:
            AmctValueError: its weights are not in the form that this package writes.
        """
        inputs, shifts = tuple(map(Int8Input.of, layer.quants)), tuple(map(int, layer.shifts.reshape(-1)))
        if layer.weight_input is None:
            return cls(inputs, (), None, None, shifts)
        weights = layer.integers()
        reals = weights.in_reals()
        scales = tuple(map(float, np.reshape(weights.scale, -1)))
        return cls(inputs, scales, float(reals.min()), float(reals.max()), shifts)


def int8_facts(graph: tf.Graph) -> dict[str, Int8Facts]:
    """Returns the facts of the layers whose form is known, by name."""
    return dict(_found(graph))


def _found(graph: tf.Graph) -> Iterator[tuple[str, Int8Facts]]:
    for op in graph.get_operations():
        if op.type == "AscendDequant":
            with contextlib.suppress(AmctValueError):  # another tool may write another form
                layer = layer_before(op)
                yield layer.name, Int8Facts.of(layer)


def inputs_alone(graph: tf.Graph) -> list[tuple[str, str, Int8Input]]:
    """Returns the name and type of the ops that read what is quantized and made reals again, and the factors."""
    found = []
    for op in graph.get_operations():
        if op.type == "AscendAntiQuant" and op.inputs[0].op.type == "AscendQuant":
            factors = Int8Input.of(op.inputs[0].op)
            found += [(user.name, user.type, factors) for user in op.outputs[0].consumers()]
    return found
