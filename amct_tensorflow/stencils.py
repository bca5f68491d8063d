"""How weights meet the input of a layer: the stencil of a convolution, and where its weights are in their tensor."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Stencil:
    """How a kernel goes over height and width, or depth, height and width.

    Attributes:
        strides: steps along these axes.
        dilations: distances of neighbouring taps.
        padding: ``SAME``, ``VALID`` or ``EXPLICIT``.
        explicit_paddings: if it is explicit, how much stands before and behind each of these axes.
        transposed: whether the strides are those of the result, as in a transposed convolution.
    """

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: str
    explicit_paddings: tuple[int, ...]
    transposed: bool

    @classmethod
    def of(cls, op: tf.Operation, *, transposed: bool = False) -> Stencil:
        """Returns that of a convolution."""
        format_ = op.get_attr("data_format").decode()
        axes = [axis for axis, name in enumerate(format_) if name not in "NC"]
        padding = op.get_attr("padding").decode()
        paddings = list(op.get_attr("explicit_paddings")) if padding == "EXPLICIT" else []
        return cls(
            strides=tuple(op.get_attr("strides")[axis] for axis in axes),
            dilations=tuple(op.get_attr("dilations")[axis] for axis in axes),
            padding=padding,
            explicit_paddings=tuple(paddings[2 * axis + side] for axis in axes for side in (0, 1) if paddings),
            transposed=transposed,
        )


@dataclasses.dataclass(frozen=True)
class WeightLayout:
    """Where the weights of a layer are in their tensor, which has the input channels in groups.

    The weight of output o of group g at tap t and channel c is the element
    g * group_step + c * channel_step + t * tap_step + o * output_step.

    Attributes:
        groups: how many groups of channels have weights of their own.
        width: the input channels of a group.
        taps: the positions that a kernel covers.
        outputs: the output channels of a group.
        kernel: the sizes of the kernel; empty for products of matrices.
        batched: whether the groups are those of a batch of matrices, which share their output channels.
    """

    groups: int
    width: int
    taps: int
    outputs: int
    group_step: int
    channel_step: int
    tap_step: int
    output_step: int
    kernel: tuple[int, ...]
    batched: bool

    @property
    def inputs(self) -> int:
        """How many values of its input one output of the layer sees."""
        return self.width * self.taps

    def numbers(self) -> list[int]:
        """Returns what the ops want to know, in their order."""
        counts = [self.groups, self.width, self.taps, self.outputs]
        return [*counts, self.group_step, self.channel_step, self.tap_step, self.output_step]


def layout_of(
    shape: Sequence[int], channel_axes: Sequence[int], input_axis: int, groups: int, *, is_kernel: bool
) -> WeightLayout:
    """Returns the layout of weights.

    Args:
        shape: of the weights.
        channel_axes: the axes that make up the output channels, in order.
        input_axis: the axis along the input channels of a group; one of the former if each of these is a group.
        groups: how many groups there are otherwise.
        is_kernel: whether the other axes are those of a kernel; else they are those of a batch.
    """
    steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    others = [axis for axis in range(len(shape)) if axis not in channel_axes and axis != input_axis]
    around = math.prod(shape[axis] for axis in others)
    around_step = steps[others[-1]] if others else 0
    output_axis = channel_axes[-1]
    width, outputs = shape[input_axis], shape[output_axis] // groups
    group_step, channel_step = outputs * steps[output_axis], steps[input_axis]
    if input_axis in channel_axes:
        groups, width, group_step = shape[input_axis], 1, steps[input_axis]
    elif not is_kernel and around > 1:
        groups, group_step = around, around_step
    return WeightLayout(
        groups=groups,
        width=width,
        taps=around if is_kernel else 1,
        outputs=outputs,
        group_step=group_step,
        channel_step=channel_step,
        tap_step=around_step if is_kernel else 0,
        output_step=steps[output_axis],
        kernel=tuple(shape[axis] for axis in others) if is_kernel else (),
        batched=not is_kernel and around > 1,
    )
