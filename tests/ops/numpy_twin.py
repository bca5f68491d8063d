"""The ops in plain NumPy: what the tests of this folder compare the C++ with.

Float32 arithmetic and C round() as in the vendor's original C++ ("cpp" in the specification); sums over many
values are float64. IFMR searches over all values, however many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
F32 = np.float32
FLT_EPSILON = np.finfo(np.float32).eps


def round_half_away(x: np.ndarray) -> np.ndarray:
    """C round(); the difference to the whole part is exact, so nothing is rounded on the way."""
    whole = np.trunc(x)
    fraction = x - whole
    return whole + np.trunc(fraction + fraction)


def process_scale(scale: np.float32) -> np.float32 | None:
    """Returns 1 for a scale below FLT_EPSILON, and None for one that is illegal."""
    if scale < FLT_EPSILON:
        return F32(1)
    if not np.isfinite(scale) or F32(1) / scale < FLT_EPSILON:
        return None
    return scale


# IFMR, specification section 1.


@dataclass(frozen=True)
class Candidate:
    """One clip range of the search, with the factors that it gives; illegal ones have no scale."""

    clip_min: np.float32
    clip_max: np.float32
    scale: np.float32 | None
    offset: int


def percentile_rank(total: int, percentile: float) -> int:
    """Returns the rank, counted from 1, of the value that the range starts from."""
    if percentile == 1:
        return 1
    return max(total - int(F32(percentile) * F32(total)), 1)


def ifmr_candidates(
    values: np.ndarray,
    *,
    with_offset: bool = True,
    num_bits: int = 8,
    search_range: Sequence[float] = (0.7, 1.3),
    search_step: float = 0.01,
    max_percentile: float = 0.999999,
    min_percentile: float = 0.999999,
) -> list[Candidate]:
    """Returns the clip ranges that IFMR compares, in order; 60 with the default options."""
    values = values.ravel()
    largest = values.size - percentile_rank(values.size, max_percentile)
    smallest = percentile_rank(values.size, min_percentile) - 1
    ordered = np.partition(values, sorted({smallest, largest}))
    high, low = max(F32(0), ordered[largest]), min(F32(0), ordered[smallest])

    start, end, step = F32(search_range[0]), F32(search_range[1]), F32(search_step)
    ratios = [start + F32(i) * step for i in range(int((end - start) / step + F32(1)))]
    if with_offset:
        return [_with_offset(low, ratio * high, num_bits) for ratio in ratios]
    # The larger end decides; one below zero can use the extra level there. A tie counts as below zero.
    positive = high > -low
    levels = 2 ** (num_bits - 1) - 1 if positive else 2 ** (num_bits - 1)
    return [_symmetric(ratio * (high if positive else -low), levels) for ratio in ratios]


def _with_offset(clip_min: np.float32, clip_max: np.float32, num_bits: int) -> Candidate:
    scale = process_scale((clip_max - clip_min) / F32(2**num_bits - 1))
    offset = 0 if scale is None else -int(round_half_away(clip_min / scale)) - 2 ** (num_bits - 1)
    return Candidate(clip_min, clip_max, scale, offset)


def _symmetric(clip_max: np.float32, levels: int) -> Candidate:
    return Candidate(-clip_max, clip_max, process_scale(clip_max / F32(levels)), 0)


def ifmr_losses(values: np.ndarray, candidates: Sequence[Candidate]) -> npt.NDArray[np.float64]:
    """Returns the mean squared error of each candidate over all values; infinite for an illegal one."""
    values = values.ravel()
    losses = np.zeros(len(candidates))
    for start in range(0, values.size, 1 << 14):  # a piece that stays in the cache
        piece = values[start : start + (1 << 14)]
        for i, candidate in enumerate(candidates):
            losses[i] += np.inf if candidate.scale is None else _squared_error(piece, candidate)
    return losses / values.size


def _squared_error(values: FloatArray, candidate: Candidate) -> float:
    scale = candidate.scale
    clipped = np.clip(values, candidate.clip_min, candidate.clip_max)
    difference = round_half_away(clipped / scale) * scale - values
    return float(np.sum(difference * difference, dtype=np.float64))


def ifmr(values: np.ndarray, **options: object) -> Candidate:
    """Returns the first candidate of least loss."""
    candidates = ifmr_candidates(values, **options)
    return candidates[int(np.argmin(ifmr_losses(values, candidates)))]


# HFMG, specification section 2, the "torch" column.


@dataclass(frozen=True)
class Histogram:
    """Counts of bins of equal width over [low, high]."""

    counts: npt.NDArray[np.int64]
    low: np.float32
    high: np.float32

    @property
    def width(self) -> float:
        return (float(self.high) - float(self.low)) / self.counts.size

    def edge(self, bin_: int) -> np.float32:
        return F32(float(self.low) + bin_ * self.width)


def count(values: FloatArray, bins: int, low: np.float32, high: np.float32) -> Histogram:
    """Returns the histogram of the values over [low, high]; that of a constant is in the middle."""
    empty = Histogram(np.zeros(bins, np.int64), low, high)
    if empty.width == 0:
        index = np.full(values.size, bins // 2)
    else:
        index = ((values.ravel().astype(np.float64) - low) * (1 / empty.width)).astype(np.int64)
    return Histogram(np.bincount(np.minimum(index, bins - 1), minlength=bins), low, high)


def merge(old: Histogram, values: FloatArray) -> Histogram:
    """Returns the histogram of both; an old bin that straddles two new ones is split as if evenly filled."""
    low, high = min(old.low, values.min()), max(old.high, values.max())
    new = count(values, old.counts.size, low, high)
    if (low, high) == (old.low, old.high):
        return Histogram(old.counts + new.counts, low, high)
    start, last = float(low), old.counts.size - 1
    for i in np.flatnonzero(old.counts):
        left, right = (float(old.low) + k * old.width for k in (i, i + 1))
        first, second = (min(int((x - start) / new.width), last) for x in (left, right))
        kept = old.counts[i]
        if first != second:
            kept = int((start + (first + 1) * new.width - left) / (right - left) * kept)
        new.counts[first] += kept
        new.counts[second] += old.counts[i] - kept
    return new


def hfmg_candidates(counts: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Returns the first and the last bin of the clip ranges that HFMG compares, in order."""
    step = max(-(-int(counts.sum()) // 100000), 1)
    left, right, candidates = 0, counts.size - 1, []
    counted = counts.tolist()  # Python's own integers are much quicker one by one
    while right - left > counts.size // 4:
        new_left, new_right, lost_left, lost_right = left, right, 0, 0
        while new_left < new_right and lost_left < step:
            lost_left += counted[new_left]
            new_left += 1
        while new_left < new_right and lost_right < step:
            lost_right += counted[new_right]
            new_right -= 1
        if right - new_right >= new_left - left:
            right = new_right
        else:
            left = new_left
        candidates.append((left, right))
    return candidates


def hfmg_loss(counts: npt.NDArray[np.int64], left: int, right: int, levels: int) -> float:
    """Returns the squared error of a clip range, in units of the bin width squared."""
    width = (right - left + 1) / levels
    begin = np.arange(counts.size, dtype=np.float64) - left
    end = begin + 1
    first, last = (np.clip(np.floor(x / width), 0, levels - 1) for x in (begin, end))
    from_first, from_last = begin - (first + 0.5) * width, end - (last + 0.5) * width
    before, behind = (
        from_first * from_first * from_first,
        from_last * from_last * from_last,
    )  # ** 3 takes ten times as long
    inside = (behind - before) / 3
    half = width / 2
    across = (half**3 - before) / 3 + (last - first - 1) * 2 * half**3 / 3 + (behind + half**3) / 3
    return float(np.sum(counts * np.where(first == last, inside, across)))


def hfmg(
    batches: Sequence[FloatArray], *, with_offset: bool = True, num_bits: int = 8, num_of_bins: int = 4096
) -> tuple[np.float32 | None, int]:
    """Returns the scale, None if it is illegal, and the offset."""
    histogram = count(batches[0], num_of_bins, batches[0].min(), batches[0].max())
    for batch in batches[1:]:
        histogram = merge(histogram, batch)
    low, high = histogram.low, histogram.high
    if low < high:
        candidates = hfmg_candidates(histogram.counts)
        losses = [hfmg_loss(histogram.counts, *candidate, 2**num_bits) for candidate in candidates]
        left, right = candidates[int(np.argmin(losses))]
        low, high = histogram.edge(left), histogram.edge(right + 1)
    return range_factors(low, high, with_offset, num_bits)


def range_factors(low: np.float32, high: np.float32, with_offset: bool, num_bits: int) -> tuple[np.float32 | None, int]:
    """Returns the scale and the offset of a clip range; one that is symmetric by chance is taken as positive."""
    if with_offset:
        best = _with_offset(min(low, F32(0)), max(high, F32(0)), num_bits)
    else:
        levels = 2 ** (num_bits - 1) if abs(high) < abs(low) else 2 ** (num_bits - 1) - 1
        best = _symmetric(max(abs(low), abs(high)), levels)
    return best.scale, best.offset


# DMQ, specification section 5.


def balance_factors(activations: FloatArray, weights: FloatArray, strength: float) -> FloatArray:
    """Returns the factor of each channel from its largest magnitudes."""
    a, b, s = activations.astype(np.float64), weights.astype(np.float64), float(F32(strength))
    no_a, no_b = a < FLT_EPSILON, b < FLT_EPSILON
    f = np.where(no_a | no_b, 1, np.where(no_a, 1, a) ** s / np.where(no_b, 1, b) ** (1 - s))
    rest = ~(no_a | no_b)
    if not rest.any() or np.max(a[rest] / f[rest]) < FLT_EPSILON or np.max(b[rest] * f[rest]) < FLT_EPSILON:
        return np.ones(a.size, np.float32)
    f = np.where(no_a & ~no_b, np.max(b[rest] * f[rest]) / np.where(no_b, 1, b), f)
    return np.where(no_b & ~no_a, a / np.max(a[rest] / f[rest]), f).astype(np.float32)


# ARQ, specification section 3.


def _channels_first(weights: np.ndarray, channel_axes: Sequence[int]) -> np.ndarray:
    """Returns the weights as [channels, rest]."""
    moved = np.moveaxis(weights, list(channel_axes), range(len(channel_axes)))
    channels = int(np.prod(moved.shape[: len(channel_axes)]))
    return moved.reshape(channels, -1)


def arq_scales(weights: FloatArray, channel_axes: Sequence[int], num_bits: int = 8) -> FloatArray:
    """Returns one scale per channel; one for all if there are no channel axes."""
    scales = []
    for channel in _channels_first(weights, channel_axes):
        high, low = channel.max(), channel.min()
        largest = high if abs(high) > abs(low) else low
        levels = 2 ** (num_bits - 1) - 1 if largest > 0 else -(2 ** (num_bits - 1))
        scales.append(process_scale(largest / F32(levels)))
    return np.array(scales, np.float32)


def quantize_weights(
    weights: FloatArray, scales: FloatArray, channel_axes: Sequence[int], num_bits: int = 8
) -> FloatArray:
    """Returns clip(round(w / scale)), integers held in floats."""
    ratio = weights / _along(scales, weights.shape, channel_axes)
    return np.clip(round_half_away(ratio), F32(-(2 ** (num_bits - 1))), F32(2 ** (num_bits - 1) - 1))


def fake_quantize_weights(
    weights: FloatArray, scales: FloatArray, channel_axes: Sequence[int], num_bits: int = 8
) -> FloatArray:
    """Returns clip(round(w / scale)) * scale."""
    integers = quantize_weights(weights, scales, channel_axes, num_bits)
    # asarray: NumPy 1 promotes numbers without a dimension.
    return np.asarray(integers, F32) * _along(scales, weights.shape, channel_axes)


def _along(scales: FloatArray, shape: Sequence[int], channel_axes: Sequence[int]) -> FloatArray:
    """Returns the scales in a shape that broadcasts against the weights."""
    return scales.reshape([size if axis in channel_axes else 1 for axis, size in enumerate(shape)])


# SearchN, the variant of bounded memory, specification section 4.


def search_n_errors(batches: Sequence[FloatArray], deq_scales: FloatArray) -> npt.NDArray[np.float64]:
    """Returns the error of the shifts 1..16: [channels, 16] for layer outputs with the channels last."""
    errors = np.zeros((deq_scales.size, 16))
    for batch in batches:
        columns = batch.reshape(-1, deq_scales.size)
        s32 = round_half_away(columns / deq_scales).astype(np.float64)
        for n in range(1, 17):
            shifted = np.clip(np.floor(s32 / 2**n), -32768, 32767) * 2.0**n
            errors[:, n - 1] += np.sum((shifted - s32) ** 2, axis=0)
    return errors


def search_n(batches: Sequence[FloatArray], deq_scales: FloatArray) -> list[int]:
    """Returns the first shift of least error per channel; one deq_scale stands for all channels."""
    return [1 + int(n) for n in np.argmin(search_n_errors(batches, deq_scales), axis=1)]


# The deployment ops, specification section J.1 of the interface.


def ascend_quant(x: FloatArray, *, scale: float, offset: float, quant_bits: int = 8) -> FloatArray:
    """Returns clip(round(x * scale) + offset) - offset."""
    integers = round_half_away(x * F32(scale)) + F32(offset)
    return np.clip(integers, F32(-(2 ** (quant_bits - 1))), F32(2 ** (quant_bits - 1) - 1)) - F32(offset)


def ascend_weight_quant(x: npt.NDArray[np.int8], offset_w: npt.NDArray[np.int8]) -> FloatArray:
    """Returns x - offset_w."""
    return x.astype(np.float32) - offset_w.astype(np.float32)


def deq_scale_words(
    scales: np.ndarray, shifts: np.ndarray | int = 0, offsets_w: np.ndarray | int = 0
) -> npt.NDArray[np.uint64]:
    """Returns bits 0-31: the float32 scale, 32-39: N, 40-47: offset_w."""
    bits = np.asarray(scales, np.float32).view(np.uint32).astype(np.uint64)
    shifts, offsets_w = np.asarray(shifts).astype(np.uint64), np.asarray(offsets_w).astype(np.uint8).astype(np.uint64)
    return bits | shifts << np.uint64(32) | offsets_w << np.uint64(40)


def ascend_dequant(
    x: FloatArray, deq_scale: npt.NDArray[np.uint64], *, ksize: Sequence[int] = (1, 1), data_format: str = "NHWC"
) -> FloatArray:
    """Returns clip(floor(x * area / 2^N)) * scale * 2^N / area; without floor and to int32 where N is 0."""
    if deq_scale.size > 1:
        channel_axis = 1 if data_format == "NCHW" and x.ndim > 2 else x.ndim - 1
        deq_scale = deq_scale.reshape([-1 if axis == channel_axis else 1 for axis in range(x.ndim)])
    else:
        deq_scale = deq_scale.reshape(())
    scale = (deq_scale & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.float32)
    power = np.exp2((deq_scale >> np.uint64(32) & np.uint64(0xFF)).astype(np.float32))
    area = F32(ksize[0] * ksize[1])
    shifted = np.clip(np.floor(x * area / power), F32(-(2**15)), F32(2**15 - 1))
    unshifted = np.clip(x * area, F32(-(2.0**31)), F32(2.0**31))
    return np.where(power > 1, shifted, unshifted) * scale * power / area


def ascend_anti_quant(x: FloatArray, *, scale: float) -> FloatArray:
    """Returns x * scale; AscendQuant has subtracted the offset."""
    return x * F32(scale)
