"""Performing: Transpose and Reshape make matrices of the operands of a product, and its result of that of the matrices.

Where at most one size is not known before running, the Reshape gets a constant shape.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from amct_tensorflow.graph.edit import at_root
from amct_tensorflow.products import Product

_Axis: TypeAlias = tuple[tf.Tensor, int]  # of a tensor that has the size


def data_matrix(product: Product, data: tf.Tensor, scope: str) -> tf.Tensor:
    """Returns the data as [batch, rows, summed]; adds ops in a scope of this name, if any are needed."""
    return _matrix(data, product.data_order, product.batch, product.rows, scope)


def second_matrix(product: Product, second: tf.Tensor, scope: str) -> tf.Tensor:
    """Returns a second operand that is no weights as [batch, summed, columns]; likewise."""
    return _matrix(second, product.other_order, product.batch, product.summed, scope)


def result_of(product: Product, matrix: tf.Tensor, data: tf.Tensor, other: tf.Tensor, scope: str) -> tf.Tensor:
    """Returns the result of the product, given that of its matrices; likewise.

    Args:
        product: the product.
        matrix: [batch, rows, columns].
        data: the data as the op has them.
        other: its other operand.
        scope: name of the scope.
    """
    with at_root(matrix.graph), matrix.graph.name_scope(scope):
        if (product.rows, product.columns) != (1, 1):
            batch, end = product.batch, product.batch + product.summed
            rows = [(data, axis) for axis in product.data_order[batch : batch + product.rows]]
            columns = [(other, axis) for axis in product.other_order[end:]]
            axes = [*((matrix, axis) for axis in range(batch)), *rows, *columns]
            matrix = _reshaped(matrix, [[axis] for axis in axes])
        return _transposed(matrix, product.result_order)


def _matrix(tensor: tf.Tensor, order: Sequence[int], batch: int, rows: int, scope: str) -> tf.Tensor:
    with at_root(tensor.graph), tensor.graph.name_scope(scope):
        ordered = _transposed(tensor, order)
        if (rows, len(order) - batch - rows) == (1, 1):
            return ordered
        axes = [(tensor, axis) for axis in order]
        return _reshaped(
            ordered, [*([axis] for axis in axes[:batch]), axes[batch : batch + rows], axes[batch + rows :]]
        )


def _transposed(tensor: tf.Tensor, order: Sequence[int]) -> tf.Tensor:
    return tensor if list(order) == sorted(order) else tf.transpose(tensor, order)


def _reshaped(tensor: tf.Tensor, axes: Sequence[Sequence[_Axis]]) -> tf.Tensor:
    """Returns the tensor with each axis as long as several others together."""
    sizes = [_product([_known_size(*axis) for axis in merged]) for merged in axes]
    if sizes.count(None) == 1:
        sizes[sizes.index(None)] = -1
    if None in sizes:
        sizes = [
            _product([tf.shape(source)[axis] for source, axis in merged]) if size is None else size
            for size, merged in zip(sizes, axes, strict=True)
        ]
    return tf.reshape(tensor, sizes)


def _known_size(tensor: tf.Tensor, axis: int) -> int | None:
    return None if tensor.shape.rank is None else tensor.shape.as_list()[axis]


def _product(sizes: Sequence[Any]) -> Any:
    """Returns the product of numbers or scalars, None if one is not known."""
    return None if any(size is None for size in sizes) else functools.reduce(operator.mul, sizes, 1)
