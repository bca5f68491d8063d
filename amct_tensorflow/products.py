"""Products of two tensors as products of matrices: what Einsum, MatMul and BatchMatMul have in common.

    result[batch, row, column] = sum over k of data[batch, row, k] * other[batch, k, column]

Each axis of the three has a label. Labels of all three make the batch, those of both operands only are summed over,
those of the data and the result are the rows, those of the other operand and the result the columns. With the axes in
this order, and those of one kind merged, any product of two tensors is one of matrices.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import tensorflow as tf

from amct_tensorflow.graph.constants import is_parameter

if TYPE_CHECKING:
    from amct_tensorflow.layers import OpType

Labels = Sequence[str]
_MORE = "..."


@dataclasses.dataclass(frozen=True)
class Product:
    """How the operands of a product become matrices, and the matrix of the result the result.

    Attributes:
        data_order: the axes of the data: batch, rows, summed.
        other_order: those of the other operand: batch, summed, columns.
        result_order: where each axis of the result is among batch, rows, columns.
        batch: how many axes make the batch.
        summed: how many are summed over, at least one.
    """

    data_order: tuple[int, ...]
    other_order: tuple[int, ...]
    result_order: tuple[int, ...]
    batch: int
    summed: int

    @property
    def rows(self) -> int:
        """How many axes make the rows."""
        return len(self.data_order) - self.batch - self.summed

    @property
    def columns(self) -> int:
        """How many axes make the columns."""
        return len(self.other_order) - self.batch - self.summed

    def column_axis(self) -> int | None:
        """Returns the axis of the result from which on the columns are, in order; None if they are not together."""
        first = self.batch + self.rows
        axes = [axis for axis, source in enumerate(self.result_order) if source >= first]
        return axes[0] if axes and axes[-1] - axes[0] == len(axes) - 1 else None

    def column_sizes(self, other: Sequence[int]) -> tuple[int, ...]:
        """Returns the sizes of the axes that make the columns; `other` is the shape of the other operand."""
        return tuple(other[axis] for axis in self.other_order[self.batch + self.summed :])

    def other_matrix(self, other: Sequence[int]) -> list[int]:
        """Returns the shape of the other operand as matrices: batch, summed, columns."""
        sizes = [other[axis] for axis in self.other_order]
        end = self.batch + self.summed
        return [*sizes[: self.batch], math.prod(sizes[self.batch : end]), math.prod(sizes[end:])]


def product_of(data: Labels, other: Labels, result: Labels) -> Product | str:
    """Returns the product of operands whose axes have these labels, or why it is none of matrices, in words."""
    for labels in (data, other, result):
        repeated = next((label for label in labels if list(labels).count(label) > 1), None)
        if repeated is not None:
            return f"it takes a diagonal, '{repeated}' is there twice"
    both = [label for label in data if label in other]
    alone = next((label for label in (*data, *other) if label not in both and label not in result), None)
    if alone is not None:
        return f"it sums over '{alone}', which only one operand has"
    summed = [label for label in both if label not in result]
    if not summed:
        return "it sums over no axis that both operands have, so it is no product of matrices"
    batch = [label for label in result if label in both]
    rows, columns = ([label for label in result if label in side and label not in both] for side in (data, other))
    order = [*batch, *rows, *columns]
    return Product(
        _places(data, [*batch, *rows, *summed]),
        _places(other, [*batch, *summed, *columns]),
        _places(order, result),
        len(batch),
        len(summed),
    )


@dataclasses.dataclass(frozen=True)
class Multiplication:
    """How ops of a type multiply two tensors: the `adapt` of a row.

    Attributes:
        transposes: the attributes that transpose an operand; None where an equation says it all.
        rank: the number of axes of both operands; None if it may be any.
        goes_on: values of `transposes` with which the op itself multiplies the quantized operands. With others, and
            where weights come first, a MatMul or BatchMatMulV2 does.
        of_two_tensors: whether both operands may be activations.
    """

    transposes: tuple[str, str] | None = None
    rank: int | None = None
    goes_on: tuple[tuple[bool, bool], ...] = ()
    of_two_tensors: bool = False

    def __call__(self, row: OpType, op: tf.Operation) -> OpType:
        """Returns the row as it is for one op: which operand is the data, and which the weights or a second tensor."""
        if len(op.inputs) != 2:
            return _refused(row, "it has one operand, only products of two are quantized")
        parameters = [is_parameter(operand) for operand in op.inputs]
        swapped = parameters == [True, False]
        if swapped:
            row = dataclasses.replace(row, data_input=1, weight_input=0)
        elif self.of_two_tensors and not any(parameters):
            row = _of_two_tensors(row)
        if not swapped and self.transposes is not None and self._flags(op) in self.goes_on:
            return row if row.second_input is not None else self.of_matrices(row, op)
        labels = _labels_of_equation(op) if self.transposes is None else self._labels_of_matrices(op)
        if isinstance(labels, str):
            return _refused(row, labels)
        first, second, result = labels
        product = product_of(second, first, result) if swapped else product_of(first, second, result)
        if isinstance(product, str):
            return _refused(row, product)
        if row.second_input is None:
            row = dataclasses.replace(row, channel_axes=(product.batch + 1,), input_axis=product.batch)
        return dataclasses.replace(row, product=product)

    def _flags(self, op: tf.Operation) -> tuple[bool, bool]:
        assert self.transposes is not None
        first, second = (bool(op.get_attr(name)) for name in self.transposes)
        return first, second

    def of_matrices(self, row: OpType, op: tf.Operation) -> OpType:
        """Returns the row of an op whose second operand is a matrix, or one for each part of a batch."""
        rank = op.inputs[1].shape.rank or 2  # where it is not known, the weights are refused
        column, summed = (rank - 2, rank - 1) if self._flags(op)[1] else (rank - 1, rank - 2)
        return dataclasses.replace(row, channel_axes=(column,), input_axis=summed)

    def _labels_of_matrices(self, op: tf.Operation) -> list[Labels] | str:
        ranks = [self.rank or operand.shape.rank for operand in op.inputs]
        known = [rank for rank in ranks if rank is not None]
        if len(known) < 2:
            return "the number of axes of its inputs is not known"
        operands = [
            [*_more(rank - 2), *(matrix[::-1] if flag else matrix)]
            for rank, matrix, flag in zip(known, ("mk", "kn"), self._flags(op), strict=True)
        ]
        return [*operands, [*_more(max(known) - 2), "m", "n"]]


def _refused(row: OpType, reason: str) -> OpType:
    return dataclasses.replace(row, weight_input=None, channel_axes=(), constraint=lambda op: reason)


def _of_two_tensors(row: OpType) -> OpType:
    return dataclasses.replace(
        row,
        weight_input=None,
        channel_axes=(),
        takes_batch_norm=False,
        second_input=1,
        symmetric=True,
        with_halves=False,
    )


def _labels_of_equation(op: tf.Operation) -> list[Labels] | str:
    """Returns the labels of the axes of both operands and of the result, or why they are not known, in words."""
    equation = op.get_attr("equation").decode().replace(" ", "")
    inputs, result = equation.split("->")
    terms = inputs.split(",")
    more = [0, 0]
    for at, (term, operand) in enumerate(zip(terms, op.inputs, strict=True)):
        if _MORE in term:
            if operand.shape.rank is None:
                return f"the number of axes that '...' stands for in '{equation}' is not known"
            more[at] = operand.shape.rank - len(term.replace(_MORE, ""))
    return [_expanded(term, axes) for term, axes in zip((*terms, result), (*more, max(more)), strict=True)]


def _expanded(term: str, axes: int) -> Labels:
    before, dots, behind = term.partition(_MORE)
    return [*before, *(_more(axes) if dots else ()), *behind]


def _more(axes: int) -> list[str]:
    """Returns labels of axes that broadcast, as NumPy does: from the last one on."""
    return [f"{_MORE}{at}" for at in reversed(range(axes))]


def _places(labels: Labels, wanted: Iterable[str]) -> tuple[int, ...]:
    return tuple(list(labels).index(label) for label in wanted)
