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


def pooled(of_layers: list[tuple[Moments, float]]) -> Moments:
    """Of several layers, each about its own mean, with the noise of their inputs, which is then that of `nonzero`."""
    count = sum(moments.count for moments, _ in of_layers)

    def mean(values: list[Doubles]) -> Doubles:
        return sum((m.count / count * value for (m, _), value in zip(of_layers, values, strict=True)), np.zeros(()))

    return Moments(
        count=count,
        mean=mean([m.mean for m, _ in of_layers]),
        covariance=mean([m.covariance for m, _ in of_layers]),
        power=mean([m.power for m, _ in of_layers]),
        nonzero=mean([m.nonzero * noise for m, noise in of_layers]),
        largest=np.max([m.largest for m, _ in of_layers], axis=0),
    )


@dataclass(frozen=True)
class Outcome:
    """What errors of weights do to the outputs, in units of their scales.

    Attributes:
        loss: e' M e of each output, of the errors e.
        mean_error: what they do to the mean of each output.
        taken: what the bias takes of that.
    """

    loss: Doubles
    mean_error: Doubles
    taken: Doubles

    @property
    def left(self) -> Doubles:
        """The square of what the bias does not take."""
        return np.square(self.mean_error - self.taken)


@dataclass(frozen=True)
class Rounded(Outcome):
    """Weights [inputs, outputs] in units of their scales that were rounded.

    Attributes:
        integers: what they became.
        bound: the most that the loss can be where no weight saturates.
    """

    integers: Doubles
    bound: float


def fixed_point(ratios: np.ndarray) -> Doubles:
    """Weights in units of their scales with 8 binary digits, which have the same nearest integers."""
    clipped = np.clip(ratios.astype(np.float64), -128, 128 - 1 / 256)
    nearest = 256 * round_half_away(clipped)
    near = np.clip(round_half_away(256 * clipped), nearest - 127, nearest + 127)
    return np.clip(near, -(2**15), 2**15 - 1) / 256


@dataclass(frozen=True)
class Factor:
    """M = R' R, with the inputs in the order of its diagonal; `blind` if they were all 0, and R is arbitrary."""

    order: npt.NDArray[np.int64]
    upper: Doubles
    blind: bool
    about_0: bool


def factor_of(moments: Moments, *, noise: float, about_0: bool) -> Factor:
    """`noise` is that of a quantized input that is not 0, and `about_0` is for moments about 0, not the mean."""
    matrix = moments.covariance + (np.outer(moments.mean, moments.mean) if about_0 else 0)
    of_mean = 0 if about_0 else (moments.power - np.diag(moments.covariance)) / moments.count
    diagonal = np.diag(matrix) + of_mean + noise * moments.nonzero
    blind = not diagonal.any()
    damping = 1.0 if blind else 4 / moments.count * diagonal.mean()
    order = np.argsort(diagonal, kind="stable")
    shrunk = matrix * (1 - chance_of(matrix, moments.count))
    np.fill_diagonal(shrunk, diagonal + damping)
    return Factor(order, np.linalg.cholesky(shrunk[np.ix_(order, order)]).T, blind, about_0)


def chance_of(matrix: Doubles, count: int) -> float:
    """Returns the share of the squares off the diagonal that `count` samples of normal inputs would give by chance."""
    off_diagonal = matrix - np.diag(np.diag(matrix))
    variance = (np.outer(np.diag(matrix), np.diag(matrix)) + np.square(matrix)) / count
    np.fill_diagonal(variance, 0)
    squares = np.square(off_diagonal).sum()
    return float(min(1.0, variance.sum() / squares)) if squares > 0 else 1.0


def outcome_of(errors: Doubles, moments: Moments, factor: Factor) -> Outcome:
    """A bias takes of the mean what is more than chance, all of it where the moments are about 0."""
    loss, mean_error = losses(errors, factor), moments.mean @ errors
    squares, chance = np.square(mean_error), loss / moments.count
    share = np.where(chance < squares, 1 - chance / np.where(squares > 0, squares, 1), 0)
    return Outcome(loss, mean_error, mean_error * (1 if factor.about_0 else share))


def losses(errors: Doubles, factor: Factor) -> Doubles:
    """Returns e' M e of each output."""
    return np.square(factor.upper @ errors[factor.order]).sum(axis=0) * (not factor.blind)


def round_weights(ratios: np.ndarray, moments: Moments, factor: Factor, *, compensate: bool = True) -> Rounded:
    """Rounds weights in units of their scales, [inputs, outputs]."""
    weights = fixed_point(ratios)
    errors, beyond = _errors(weights, factor, compensate=compensate)
    if compensate:
        nearest, _ = _errors(weights, factor, compensate=False)
        better = (beyond > 0.5) & (losses(nearest, factor) < losses(errors, factor))
        errors = np.where(better, nearest, errors)
    outcome = outcome_of(errors, moments, factor)
    return Rounded(
        loss=outcome.loss,
        mean_error=outcome.mean_error,
        taken=outcome.taken,
        integers=weights - errors,
        bound=float(np.square(np.diag(factor.upper)).sum() / 4),
    )


def _errors(weights: Doubles, factor: Factor, *, compensate: bool) -> tuple[Doubles, Doubles]:
    """Returns the errors of the weights, and by how much a weight of each output was to be beyond int8."""
    weights, upper = weights[factor.order], factor.upper
    errors, beyond = np.zeros_like(weights), np.zeros(weights.shape[1])
    follows = (np.abs(weights).max(axis=0) >= 0.5) & compensate
    for row in reversed(range(len(weights))):
        known = upper[row, row + 1 :] @ errors[row + 1 :]
        wanted = weights[row] + np.where(follows, known / upper[row, row], 0)
        possible = np.clip(wanted, -128, 127)
        beyond = np.maximum(beyond, np.abs(wanted - possible))
        errors[row] = weights[row] - round_half_away(possible)
    return errors[np.argsort(factor.order)], beyond
