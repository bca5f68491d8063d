"""How far a tensor is from its reference: sums that a graph computes, and what follows from them."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt
import tensorflow as tf

_COUNT, _REFERENCE, _OTHER, _SQUARES, _ABSOLUTE, _LARGEST = range(6)


def sums_of(reference: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
    """Returns what `Difference` needs of two tensors of as many values, float64 [6], in the default graph.

    Only two temporary tensors of their size are needed for it: memory is what it is careful of.
    """
    r, x = (tf.cast(tf.reshape(tensor, [-1]), tf.float32) for tensor in (reference, other))
    apart = x - r
    size = tf.abs(apart)
    squares = [tf.cast(tf.nn.l2_loss(values), tf.float64) * 2 for values in (r, x, apart)]
    largest = tf.maximum(tf.reduce_max(size), 0)  # of no values it is -inf
    others = [tf.cast(value, tf.float64) for value in (tf.size(r, out_type=tf.int64), tf.reduce_sum(size), largest)]
    return tf.stack([others[0], *squares, *others[1:]])


def add_sums(sums: npt.NDArray[np.float64], more: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns the sums over the values of both, [..., 6]."""
    total = sums + more
    total[..., _LARGEST] = np.maximum(sums[..., _LARGEST], more[..., _LARGEST])
    return total


@dataclasses.dataclass(frozen=True)
class Difference:
    """How far values are from their reference.

    Attributes:
        cosine: of the angle between both, as vectors of all values; 1 for the same direction.
        sqnr: the squares of the reference over those of the differences, in dB; inf where there are none.
        largest: the largest absolute difference, in the unit of the values.
        mean: the mean absolute difference.
    """

    cosine: float
    sqnr: float
    largest: float
    mean: float

    @classmethod
    def of(cls, sums: npt.NDArray[np.float64]) -> Difference:
        """Returns it from the sums of `sums_of`."""
        if sums[_SQUARES] == 0:
            return cls(1.0, math.inf, 0.0, 0.0)
        cosine = _cosine(sums) if sums[_REFERENCE] and sums[_OTHER] else 0.0
        with np.errstate(divide="ignore"):  # a reference of zeros has -inf dB
            sqnr = float(10 * np.log10(sums[_REFERENCE] / sums[_SQUARES]))
        return cls(cosine, sqnr, float(sums[_LARGEST]), float(sums[_ABSOLUTE] / max(sums[_COUNT], 1)))


def similarity(sums: npt.NDArray[np.float64]) -> float:
    """Returns the vendor's similarity of a tensor to its reference: (1 + cosine) / 2.

    It is 1 where the reference is 0 throughout, and 0 where only the other one is (spec T.12).
    """
    if sums[_REFERENCE] == 0:
        return 1.0
    if sums[_OTHER] == 0:
        return 0.0
    return 0.5 + 0.5 * _cosine(sums)


def _cosine(sums: npt.NDArray[np.float64]) -> float:
    product = (sums[_REFERENCE] + sums[_OTHER] - sums[_SQUARES]) / 2  # as (x - r)^2 = x^2 + r^2 - 2 x r
    return float(product / np.sqrt(sums[_REFERENCE] * sums[_OTHER]))
