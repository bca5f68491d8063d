// A mergeable histogram of bounded size, filled while the calibration data stream through.
//
// Bins are [i*w, (i+1)*w) with w a power of two, so that doubling w merges neighbours exactly. w is the
// smallest for which all values seen, and zero, fall into kBins bins; more than half of the bins are
// therefore in use and, for 8-bit factors, a quantization step spans at least 32 of them. A bin keeps its
// count and the sum of the positions of its values in units of w / 2^kFractionBits: a value that occurs many
// times (0, the 6 of ReLU6, pixels) is then known to w / 4096 and not only to w. All sums are integers: the
// result does not depend on the number of threads.
//
// A batch is looked at once: its range is guessed from some of its values, and all are counted in bins of
// that width, in a table with room on both sides. Where a value is beyond the table, which the true range
// then tells, the batch is counted anew.

#ifndef AMCT_TENSORFLOW_OPS_NUMERICS_HISTOGRAM_H_
#define AMCT_TENSORFLOW_OPS_NUMERICS_HISTOGRAM_H_

#include <algorithm>
#include <atomic>
#include <mutex>
#include <utility>
#include <vector>

#include "common.h"

namespace amct {

struct Range {
    float min = std::numeric_limits<float>::infinity();
    float max = -std::numeric_limits<float>::infinity();
    bool has_nan = false;

    void Merge(const Range& other) {
        min = std::min(min, other.min);
        max = std::max(max, other.max);
        has_nan = has_nan || other.has_nan;
    }
    bool IsFinite() const { return !has_nan && std::isfinite(min) && std::isfinite(max); }
};

AMCT_VECTORIZED inline Range FindRangeSerially(const float* values, int64_t size) {
    // Independent lanes let the compiler use vector minima: the order of a float reduction is not its to
    // change.
    constexpr int kLanes = 32;
    Range range;
    float low[kLanes];
    float high[kLanes];
    int32_t nan[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
        low[lane] = range.min;
        high[lane] = range.max;
        nan[lane] = 0;
    }
    int64_t i = 0;
    for (; i + kLanes <= size; i += kLanes) {
        for (int lane = 0; lane < kLanes; ++lane) {
            const float x = values[i + lane];
            low[lane] = x < low[lane] ? x : low[lane];
            high[lane] = x > high[lane] ? x : high[lane];
            nan[lane] |= x != x ? 1 : 0;
        }
    }
    for (int lane = 0; lane < kLanes; ++lane) {
        range.Merge({low[lane], high[lane], nan[lane] != 0});
    }
    for (; i < size; ++i) {
        range.Merge({values[i], values[i], std::isnan(values[i])});
    }
    return range;
}

inline Range FindRange(const float* values, int64_t size, const ParallelFor& parallel_for) {
    Range range;
    std::mutex mutex;
    parallel_for(size, 1, [&](int64_t begin, int64_t end) {
        const Range part = FindRangeSerially(values + begin, end - begin);
        const std::lock_guard<std::mutex> lock(mutex);
        range.Merge(part);
    });
    return range;
}

// Counts `size` values, in pieces that may run at the same time: count(begin, end, table) into a table of the
// piece, which starts with zeros, and spill(table), one at a time, to move it to the result and clear it.
// Between two spills a piece counts at most 2^23 values. Tables cost something, so there are not too many.
template <typename Cell, typename Count, typename Spill>
void CountInPieces(int64_t size, int table_size, const ParallelFor& parallel_for, const Count& count,
                   const Spill& spill) {
    constexpr int64_t kLeastPiece = 1 << 17;
    constexpr int64_t kMostPieces = 16;
    constexpr int64_t kSpill = 1 << 23;
    const int64_t pieces = std::clamp<int64_t>(size / kLeastPiece, 1, kMostPieces);
    std::mutex mutex;
    parallel_for(pieces, 8 * size / pieces, [&](int64_t first, int64_t last) {
        const int64_t end = size * last / pieces;
        std::vector<Cell> table(table_size, 0);
        for (int64_t i = size * first / pieces; i < end; i += kSpill) {
            count(i, std::min(i + kSpill, end), table.data());
            const std::lock_guard<std::mutex> lock(mutex);
            spill(table.data());
        }
    });
}

class Histogram {
 public:
    static constexpr int kBins = 1 << 14;

    // Adds values, at least one, and returns their range. Adds nothing when that is not finite.
    Range Add(const float* values, int64_t size, const ParallelFor& parallel_for) {
        const Range guess = SampleRange(values, size);
        if (!guess.IsFinite()) {
            return guess;
        }
        Histogram batch;
        batch.Cover(range_, guess);
        Range range;
        if (!batch.Count(values, size, parallel_for, &range) && range.IsFinite()) {
            batch = Histogram();
            batch.Cover(range_, range);
            batch.Count(values, size, parallel_for, &range);
        }
        if (range.IsFinite()) {
            batch.range_ = range;
            Merge(std::move(batch));
        }
        return range;
    }

    int64_t total() const { return total_; }
    double BinWidth() const { return std::ldexp(1.0, exponent_); }
    // The rank-th largest value, rank counted from 1: exact for the first, else the mean of its bin.
    float Largest(int64_t rank) const {
        if (rank <= 1) {
            return range_.max;
        }
        for (int bin = static_cast<int>(counts_.size()) - 1; bin >= 0; --bin) {
            rank -= counts_[bin];
            if (rank <= 0) {
                return Mean(bin, BinWidth());
            }
        }
        return range_.min;
    }

    // The rank-th smallest value, likewise.
    float Smallest(int64_t rank) const { return rank <= 1 ? range_.min : Largest(total_ - rank + 1); }

    // Calls fn(mean, count) for every bin that holds values, in rising order.
    template <typename Function>
    void ForEach(const Function& fn) const {
        const double width = BinWidth();
        for (size_t bin = 0; bin < counts_.size(); ++bin) {
            if (counts_[bin] > 0) {
                fn(Mean(bin, width), counts_[bin]);
            }
        }
    }

    // Bytes kept between batches.
    size_t StateBytes() const {
        return sizeof(*this) + (counts_.size() + positions_.size()) * sizeof(int64_t);
    }

 private:
    static constexpr int kFractionBits = 12;
    static constexpr int kCountShift = 40;    // < 2^24 counts, < 2^(24 + kFractionBits) positions a spill
    static constexpr int kMinExponent = -60;  // far below any range whose scale is not replaced by 1
    static constexpr int kTable =
        2 * kBins;                     // while a batch is counted: room for half of kBins on both sides
    static constexpr int kLanes = 16;  // cells behind the table, in which zeros are counted in turns

    // The range of some values, spread over all.
    static Range SampleRange(const float* values, int64_t size) {
        constexpr int64_t kSamples = 16 * 1024;
        const int64_t stride = size / kSamples | 1;  // odd: not the same channels again and again
        Range range;
        for (int64_t i = 0; i < size; i += stride) {
            range.Merge({values[i], values[i], std::isnan(values[i])});
        }
        return range;
    }

    float Mean(size_t bin, double width) const {
        const double position = static_cast<double>(positions_[bin]) / counts_[bin];
        const double edge = static_cast<double>(first_bin_) + static_cast<double>(bin);
        const double mean = (edge + position / (1 << kFractionBits)) * width;
        return Clip(static_cast<float>(mean), range_.min, range_.max);
    }

    // Chooses bins for two ranges, in an empty histogram.
    void Cover(Range range, const Range& other) {
        range.Merge(other);
        range_ = range;
        Fit();
    }

    // Chooses the bin width for range_ and moves the counts there.
    void Fit() {
        const double low = std::min(range_.min, 0.0f);
        const double high = std::max(range_.max, 0.0f);
        int exponent = counts_.empty() ? kMinExponent : exponent_;
        const double least_width = (high - low) / kBins;
        if (least_width > std::ldexp(1.0, exponent)) {
            exponent = std::ilogb(least_width);
        }
        const auto bin_of = [&](double x) {
            return static_cast<int64_t>(std::floor(std::ldexp(x, -exponent)));
        };
        while (bin_of(high) - bin_of(low) >= kBins) {
            ++exponent;
        }
        MoveTo(exponent, bin_of(low));
    }

    void MoveTo(int exponent, int64_t first_bin) {
        if (!counts_.empty() && exponent == exponent_ && first_bin == first_bin_) {
            return;
        }
        std::vector<int64_t> counts(kBins, 0);
        std::vector<int64_t> positions(kBins, 0);
        const int merged = exponent - exponent_;  // each new bin holds 2^merged old ones
        const double ratio = std::ldexp(1.0, merged);
        for (size_t bin = 0; bin < counts_.size(); ++bin) {
            if (counts_[bin] == 0) {
                continue;
            }
            const int64_t old_bin = first_bin_ + static_cast<int64_t>(bin);
            const int64_t new_bin = old_bin >> std::min(merged, 62);
            // Within the new bin, in units of the old one: a double, since merged has no small bound.
            const double offset = static_cast<double>(old_bin) - static_cast<double>(new_bin) * ratio;
            const double position = offset * (1 << kFractionBits) * static_cast<double>(counts_[bin]) +
                                    static_cast<double>(positions_[bin]);
            counts[new_bin - first_bin] += counts_[bin];
            positions[new_bin - first_bin] += static_cast<int64_t>(position / ratio);
        }
        counts_ = std::move(counts);
        positions_ = std::move(positions);
        exponent_ = exponent;
        first_bin_ = first_bin;
    }

    // Adds a histogram whose bins are no wider than those of both ranges together.
    void Merge(Histogram other) {
        if (total_ == 0) {
            other.Fit();
            *this = std::move(other);
            return;
        }
        range_.Merge(other.range_);
        Fit();
        other.MoveTo(exponent_, first_bin_);
        total_ += other.total_;
        for (int bin = 0; bin < kBins; ++bin) {
            counts_[bin] += other.counts_[bin];
            positions_[bin] += other.positions_[bin];
        }
    }

    // Counts all values in the bins of an empty histogram, which get kTable of them, and finds their range.
    // Returns whether all were in the table; if not, the counts are of no use.
    bool Count(const float* values, int64_t size, const ParallelFor& parallel_for, Range* range) {
        first_bin_ -= (kTable - kBins) / 2;
        counts_.assign(kTable, 0);
        positions_.assign(kTable, 0);
        total_ = size;
        *range = Range();
        std::mutex mutex;
        std::atomic<bool> covered{true};
        CountInPieces<uint64_t>(
            size, kTable + kLanes, parallel_for,
            [&](int64_t begin, int64_t end, uint64_t* packed) {
                Range part;
                if (!CountPart(values + begin, end - begin, covered, &part, packed)) {
                    covered = false;
                }
                const std::lock_guard<std::mutex> lock(mutex);
                range->Merge(part);
            },
            [&](uint64_t* packed) {
                if (covered) {
                    Spill(*range, packed);
                }
            });
        return covered;
    }

    // x -> its position in fixed point, counted from the first bin; zeros go to the cells behind the table.
    // Truncation instead of floor moves a negative value by less than w / 4096.
    AMCT_VECTORIZED static void ToFixedPoint(const float* values, int size, float factor, int32_t origin,
                                             uint32_t* fixed) {
        for (int i = 0; i < size; ++i) {
            const uint32_t position =
                static_cast<uint32_t>(static_cast<int32_t>(values[i] * factor) - origin);
            const uint32_t turn = static_cast<uint32_t>(kTable + i % kLanes) << kFractionBits;
            fixed[i] = values[i] == 0.0f ? turn : position;
        }
    }

    // Counts values while all are in the table, and finds the range of all. Returns whether all were.
    bool CountPart(const float* values, int64_t size, bool covered, Range* range, uint64_t* packed) const {
        constexpr int kBlock = 4096;
        constexpr uint32_t kFractionMask = (1u << kFractionBits) - 1;
        const float factor = std::ldexp(1.0f, kFractionBits - exponent_);
        const int32_t origin = static_cast<int32_t>(first_bin_) * (1 << kFractionBits);
        const double low = static_cast<double>(first_bin_) * BinWidth();
        const double high = static_cast<double>(first_bin_ + kTable - 1) * BinWidth();
        uint32_t fixed[kBlock];
        for (int64_t start = 0; start < size; start += kBlock) {
            const int block = static_cast<int>(std::min<int64_t>(kBlock, size - start));
            const Range part = FindRangeSerially(values + start, block);
            range->Merge(part);
            covered = covered && part.IsFinite() && part.min >= low && part.max <= high;
            if (!covered) {
                continue;
            }
            ToFixedPoint(values + start, block, factor, origin, fixed);
            for (int i = 0; i < block; ++i) {
                packed[fixed[i] >> kFractionBits] +=
                    (uint64_t{1} << kCountShift) | (fixed[i] & kFractionMask);
            }
        }
        return covered;
    }

    // Moves the packed counters of values in `range` to the state and clears them.
    void Spill(const Range& range, uint64_t* packed) {
        constexpr uint64_t kPositionMask = (uint64_t{1} << kCountShift) - 1;
        const auto bin_of = [&](float x) {
            return static_cast<int64_t>(std::floor(std::ldexp(static_cast<double>(x), -exponent_))) -
                   first_bin_;
        };
        const int64_t last = std::min<int64_t>(bin_of(range.max) + 1, kTable - 1);
        for (int64_t bin = std::max<int64_t>(bin_of(range.min) - 1, 0); bin <= last; ++bin) {
            counts_[bin] += static_cast<int64_t>(packed[bin] >> kCountShift);
            positions_[bin] += static_cast<int64_t>(packed[bin] & kPositionMask);
            packed[bin] = 0;
        }
        for (int lane = 0; lane < kLanes; ++lane) {
            counts_[-first_bin_] += static_cast<int64_t>(packed[kTable + lane] >> kCountShift);
            packed[kTable + lane] = 0;
        }
    }

    Range range_;
    int64_t total_ = 0;
    int exponent_ = kMinExponent;  // w = 2^exponent_
    int64_t first_bin_ = 0;        // the bin of counts_[0]
    std::vector<int64_t> counts_;
    std::vector<int64_t> positions_;  // sums within the bin, units of w / 2^kFractionBits
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_NUMERICS_HISTOGRAM_H_
