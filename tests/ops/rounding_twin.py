"""The moments of a layer's input and the compensated rounding of its weights, in plain NumPy and float64."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy_twin import round_half_away

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Of rows [positions, inputs]."""

    count: int
    mean: Doubles
    covariance: Doubles
    power: Doubles
    nonzero: Doubles
    largest: Doubles


def moments_of(rows: np.ndarray) -> Moments:
    rows = rows.astype(np.float64)
    mean = rows.mean(axis=0)
    return Moments(
        count=len(rows),
        mean=mean,
        covariance=(rows - mean).T @ (rows - mean) / len(rows),
        power=np.square(rows).mean(axis=0),
        nonzero=(rows != 0).mean(axis=0),
        largest=np.abs(rows).max(axis=0),
    )


@dataclass(frozen=True)
class Rounded:
    """Weights [inputs, outputs] in units of their scales that were rounded.

    Attributes:
        integers: what they became.
        loss: e' M e of each output, of the errors e.
        mean_error: what the errors do to the mean of each output.
        bound: the most that the loss can be where no weight saturates.
    """

    integers: Doubles
    loss: Doubles
    mean_error: Doubles
    bound: float


def fixed_point(ratios: np.ndarray) -> Doubles:
    """Weights in units of their scales with 8 binary digits, which have the same nearest integers."""
    clipped = np.clip(ratios.astype(np.float64), -128, 127)
    nearest = 256 * round_half_away(clipped)
    return np.clip(round_half_away(256 * clipped), nearest - 127, nearest + 127) / 256


@dataclass(frozen=True)
class Factor:
    """M = R' R, with the inputs in the order of its diagonal."""

    order: npt.NDArray[np.int64]
    upper: Doubles


def factor_of(moments: Moments, *, noise: float, about_0: bool) -> Factor:
    """`noise` is that of a quantized input that is not 0, and `about_0` is for moments about 0, not the mean."""
    matrix = moments.covariance + (np.outer(moments.mean, moments.mean) if about_0 else 0)
    diagonal = np.diag(matrix) + noise * moments.nonzero
    damping = 1e-3 * diagonal.mean() or 1.0
    order = np.argsort(diagonal, kind="stable")
    shrunk = matrix * moments.count / (moments.count + len(matrix) / 4)
    np.fill_diagonal(shrunk, diagonal + damping)
    return Factor(order, np.linalg.cholesky(shrunk[np.ix_(order, order)]).T)


def losses(errors: Doubles, factor: Factor) -> Doubles:
    """Returns e' M e of each output."""
    return np.square(factor.upper @ errors[factor.order]).sum(axis=0)


def round_weights(ratios: np.ndarray, moments: Moments, factor: Factor, *, compensate: bool = True) -> Rounded:
    """Rounds weights in units of their scales, [inputs, outputs]."""
    weights = fixed_point(ratios)[factor.order]
    upper, errors, integers = factor.upper, np.zeros_like(weights), np.zeros_like(weights)
    follows = (np.abs(weights).max(axis=0) >= 0.5) & compensate
    for row in reversed(range(len(weights))):
        known = upper[row, row + 1 :] @ errors[row + 1 :]
        wanted = weights[row] + np.where(follows, known / upper[row, row], 0)
        integers[row] = round_half_away(np.clip(wanted, -128, 127))
        errors[row] = weights[row] - integers[row]
    back = np.argsort(factor.order)
    return Rounded(
        integers=integers[back],
        loss=losses(errors[back], factor),
        mean_error=moments.mean @ errors[back],
        bound=float(np.square(np.diag(upper)).sum() / 4),
    )
