// HFMG: the activation range whose quantization error over a histogram of all calibration data is least.
//
// The histogram has a fixed number of bins over [min, max] of the data so far. Where a batch widens that
// range, the old counts move to the new bins: an old bin that straddles two of them is split as if its values
// were spread evenly. The result therefore depends, a little, on the batches and their order. Clip ranges are
// whole bins; candidates shrink from the full range, step by step, on the side where few values take up more
// room. Source: the vendor's Python port ("torch" in the specification, section 2); its C++ lets clipping on
// the left go free. Unlike there, bins may be narrower than FLT_EPSILON, rounding is half away from zero, and
// scales are sanitized as IFMR's are.

#ifndef AMCT_TENSORFLOW_OPS_NUMERICS_HFMG_H_
#define AMCT_TENSORFLOW_OPS_NUMERICS_HFMG_H_

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "activation_estimator.h"
#include "common.h"
#include "histogram.h"

namespace amct {

struct HfmgOptions {
    int num_bits = 8;
    bool with_offset = true;
    int num_of_bins = 4096;  // 1024, 2048, 4096 or 8192
};

class HfmgHistogram {
 public:
    explicit HfmgHistogram(int bins) : bins_(bins), counts_(bins, 0) {}

    // Adds `size` finite values whose range is `range`.
    void Add(const float* values, int64_t size, const Range& range, const ParallelFor& parallel_for) {
        Widen(range);
        if (Width() == 0) {
            counts_[bins_ / 2] += size;
            return;
        }
        CountInPieces<uint32_t>(
            size, kTables * bins_, parallel_for,
            [&](int64_t begin, int64_t end, uint32_t* tables) { Count(values + begin, end - begin, tables); },
            [&](uint32_t* tables) { Spill(tables); });
    }

    const std::vector<int64_t>& counts() const { return counts_; }
    const Range& range() const { return range_; }
    // The lower edge of a bin; that of the bin behind the last one is the upper end.
    float Edge(int bin) const { return static_cast<float>(range_.min + bin * Width()); }

    // Bytes kept between batches.
    size_t StateBytes() const { return sizeof(*this) + counts_.size() * sizeof(int64_t); }

 private:
    // Equal values that follow each other are counted in turns: one counter would wait for itself.
    static constexpr int kTables = 4;

    // The width of a bin: double, because the range of floats may be beyond them.
    double Width() const { return (static_cast<double>(range_.max) - range_.min) / bins_; }

    void Widen(const Range& range) {
        const double old_min = range_.min;
        const double old_width = Width();
        Range wider = range_;
        wider.Merge(range);
        if (wider.min == range_.min && wider.max == range_.max) {
            return;
        }
        range_ = wider;
        const std::vector<int64_t> old_counts =
            std::exchange(counts_, std::vector<int64_t>(counts_.size(), 0));
        for (int bin = 0; bin < bins_; ++bin) {
            if (old_counts[bin] > 0) {
                Move(old_min + bin * old_width, old_min + (bin + 1) * old_width, old_counts[bin]);
            }
        }
    }

    // Adds what was counted in [low, high); no wider than a bin, that lies in one of them or in two.
    void Move(double low, double high, int64_t count) {
        const double width = Width();
        const auto bin_of = [&](double x) {
            return std::clamp(static_cast<int>((x - range_.min) / width), 0, bins_ - 1);
        };
        const int first = bin_of(low);
        const int second = bin_of(high);
        int64_t left = count;
        if (second != first) {
            const double edge = range_.min + (first + 1) * width;
            left = static_cast<int64_t>((edge - low) / (high - low) * static_cast<double>(count));
        }
        counts_[first] += left;
        counts_[second] += count - left;
    }

    AMCT_VECTORIZED static void ToBins(const float* values, int size, double min, double bins_per_unit,
                                       int last_bin, int32_t* bins) {
        for (int i = 0; i < size; ++i) {
            const int32_t bin = static_cast<int32_t>((values[i] - min) * bins_per_unit);
            bins[i] = bin < last_bin ? bin : last_bin;
        }
    }

    void Count(const float* values, int64_t size, uint32_t* tables) const {
        constexpr int kBlock = 1024;
        const double bins_per_unit = 1 / Width();
        int32_t bins[kBlock] = {};
        for (int64_t start = 0; start < size; start += kBlock) {
            const int block = static_cast<int>(std::min<int64_t>(kBlock, size - start));
            ToBins(values + start, block, range_.min, bins_per_unit, bins_ - 1, bins);
            for (int i = 0; i < block; ++i) {
                ++tables[kTables * bins[i] + i % kTables];
            }
        }
    }

    // Moves the counters to the state and clears them.
    void Spill(uint32_t* tables) {
        for (int i = 0; i < kTables * bins_; ++i) {
            counts_[i / kTables] += tables[i];
            tables[i] = 0;
        }
    }

    int bins_;
    Range range_;
    std::vector<int64_t> counts_;
};

// The clip range of bins first..last, both included.
struct BinRange {
    int first;
    int last;

    int size() const { return last - first + 1; }
};

// The candidates, from wide to narrow. The full range is none of them.
inline std::vector<BinRange> HfmgCandidates(const std::vector<int64_t>& counts) {
    constexpr int64_t kSteps = 100000;  // a step gives up one in so many values
    constexpr int kNarrowest = 4;       // of that share of the bins
    const int bins = static_cast<int>(counts.size());
    int64_t total = 0;
    for (const int64_t count : counts) {
        total += count;
    }
    const int64_t step = std::max<int64_t>((total + kSteps - 1) / kSteps, 1);
    std::vector<BinRange> candidates;
    BinRange range{0, bins - 1};
    while (range.last - range.first > bins / kNarrowest) {
        BinRange narrower = range;
        for (int64_t lost = 0; narrower.first < narrower.last && lost < step; ++narrower.first) {
            lost += counts[narrower.first];
        }
        for (int64_t lost = 0; narrower.first < narrower.last && lost < step; --narrower.last) {
            lost += counts[narrower.last];
        }
        if (range.last - narrower.last >= narrower.first - range.first) {
            range.last = narrower.last;
        } else {
            range.first = narrower.first;
        }
        candidates.push_back(range);
    }
    return candidates;
}

// The squared error of quantizing the histogram to `levels` steps of equal width over a range, in units of
// the bin width squared. Values are spread evenly within their bin, and become the centre of their step;
// those out of range the centre of the nearest.
//
// A bin's part is count * (F(end) - F(begin)), where F is the integral of the squared distance to the centre.
AMCT_VECTORIZED inline double HfmgError(const double* counts, int bins, BinRange range, int levels) {
    constexpr int kBlock = 256;  // divides the number of bins
    constexpr int kLanes = 8;
    const double width = static_cast<double>(range.size()) / levels;
    const double steps_per_bin = 1 / width;
    const double whole_step = width * width * width / 12;
    double integral[kBlock + 1];
    double sums[kLanes] = {};
    for (int start = 0; start < bins; start += kBlock) {
        for (int i = 0; i <= kBlock; ++i) {
            const int edge = start + i - range.first;
            int step = static_cast<int>(edge * steps_per_bin);
            step = step < 0 ? 0 : step;
            step = step > levels - 1 ? levels - 1 : step;
            const double distance = edge - (step + 0.5) * width;
            integral[i] = step * whole_step + distance * distance * distance / 3;
        }
        for (int i = 0; i < kBlock; i += kLanes) {
            for (int lane = 0; lane < kLanes; ++lane) {
                const int bin = i + lane;
                sums[lane] += counts[start + bin] * (integral[bin + 1] - integral[bin]);
            }
        }
    }
    double error = 0;
    for (const double sum : sums) {
        error += sum;
    }
    return error;
}

class HfmgEstimator : public ActivationEstimator {
 public:
    explicit HfmgEstimator(const HfmgOptions& options) : options_(options), histogram_(options.num_of_bins) {}

    Range Add(const float* values, int64_t size, const ParallelFor& parallel_for) override {
        const Range range = FindRange(values, size, parallel_for);
        if (range.IsFinite()) {
            histogram_.Add(values, size, range, parallel_for);
        }
        return range;
    }

    // Before the last batch they are those of the whole range. So they are for a constant, which has no
    // other.
    ActivationFactors Factors(bool last, const ParallelFor& parallel_for) const override {
        const Range& range = histogram_.range();
        if (!last || range.min == range.max) {
            return FactorsOf(range.min, range.max);
        }
        double error = 0;
        const BinRange best = Search(parallel_for, &error);
        ActivationFactors factors = FactorsOf(histogram_.Edge(best.first), histogram_.Edge(best.last + 1));
        factors.mean_square_error = error;
        return factors;
    }

    size_t StateBytes() const override {
        return sizeof(*this) - sizeof(histogram_) + histogram_.StateBytes();
    }

 private:
    // `error` receives the mean square error of the candidate.
    BinRange Search(const ParallelFor& parallel_for, double* error) const {
        const std::vector<BinRange> candidates = HfmgCandidates(histogram_.counts());
        const std::vector<double> counts(histogram_.counts().begin(), histogram_.counts().end());
        std::vector<double> errors(candidates.size());
        const int bins = options_.num_of_bins;
        const Range& range = histogram_.range();
        parallel_for(static_cast<int64_t>(errors.size()), 4 * bins, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                errors[i] = HfmgError(counts.data(), bins, candidates[i], 1 << options_.num_bits);
            }
        });
        const auto best = std::min_element(errors.begin(), errors.end());
        const double bin = (static_cast<double>(range.max) - range.min) / bins;
        *error = *best * bin * bin / std::accumulate(counts.begin(), counts.end(), 0.0);
        return candidates[best - errors.begin()];
    }

    ActivationFactors FactorsOf(float min, float max) const {
        const int64_t levels = int64_t{1} << options_.num_bits;
        if (options_.with_offset) {
            min = std::min(min, 0.0f);
            const float scale = (std::max(max, 0.0f) - min) / static_cast<float>(levels - 1);
            return MakeFactors(scale, min, options_.num_bits, true);
        }
        // The one more level below zero is used when the end there is the larger one. Ends of equal magnitude
        // count as above zero, unlike those of IFMR.
        const float scale = std::fabs(max) < std::fabs(min)
                                ? std::fabs(min) / static_cast<float>(levels / 2)
                                : std::fabs(max) / static_cast<float>(levels / 2 - 1);
        return MakeFactors(scale, min, options_.num_bits, false);
    }

    const HfmgOptions options_;
    HfmgHistogram histogram_;
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_NUMERICS_HFMG_H_
