// IFMR: the activation range whose quantization error over all calibration data is least.
//
// Only the upper end is searched (both, when symmetric): candidates (start + i * step) * max, the first of
// those with the least mean squared error wins. Source: the vendor's original C++ (specification, section 1).
// Unlike there, a candidate whose scale is illegal never wins, and beyond some number of values the error is
// summed over the bins of a histogram, each standing for its values by their mean (see CalibrationData). For
// up to 8 bits that costs less than 0.1 % of the error; against steps of more bits the bins are not narrow.

#ifndef AMCT_TENSORFLOW_OPS_NUMERICS_IFMR_H_
#define AMCT_TENSORFLOW_OPS_NUMERICS_IFMR_H_

#include <vector>

#include "activation_estimator.h"
#include "calibration_data.h"
#include "common.h"

namespace amct {

struct IfmrOptions {
    int num_bits = 8;
    bool with_offset = true;
    float search_start = 0.7f;
    float search_end = 1.3f;
    float search_step = 0.01f;
    float max_percentile = 0.999999f;
    float min_percentile = 0.999999f;
};

// The rank, counted from 1, of the value that leaves a share of 1 - percentile beyond it.
inline int64_t PercentileRank(int64_t total, float percentile) {
    if (percentile >= 1.0f) {
        return 1;
    }
    const int64_t kept = static_cast<int64_t>(percentile * static_cast<float>(total));
    return std::max<int64_t>(total - kept, 1);
}

// The sum of weight * (x - quantized(x))^2 for one candidate; the zero point is not rounded here.
template <typename Weight>
inline double QuantizationError(const float* values, int64_t size, float clip_min, float clip_max,
                                float scale, const Weight& weight) {
    constexpr int kLanes = 16;
    constexpr int64_t kBlock = 1024;  // float sums stay short
    double error = 0;
    for (int64_t start = 0; start < size; start += kBlock) {
        const int64_t end = std::min(start + kBlock, size);
        float sums[kLanes] = {};
        int64_t i = start;
        for (; i + kLanes <= end; i += kLanes) {
            for (int lane = 0; lane < kLanes; ++lane) {
                const float x = values[i + lane];
                const float difference = RoundHalfAway(Clip(x, clip_min, clip_max) / scale) * scale - x;
                sums[lane] += difference * difference * weight(i + lane);
            }
        }
        for (; i < end; ++i) {
            const float x = values[i];
            const float difference = RoundHalfAway(Clip(x, clip_min, clip_max) / scale) * scale - x;
            sums[0] += difference * difference * weight(i);
        }
        for (const float sum : sums) {
            error += sum;
        }
    }
    return error;
}

// Values that together stand for calibration data.
struct WeightedValues {
    const float* values;
    const float* weights;  // null: all weigh the same
    int64_t size;

    AMCT_VECTORIZED double Error(float clip_min, float clip_max, float scale) const {
        if (weights == nullptr) {
            return QuantizationError(values, size, clip_min, clip_max, scale, [](int64_t) { return 1.0f; });
        }
        const float* of_values = weights;
        return QuantizationError(values, size, clip_min, clip_max, scale,
                                 [of_values](int64_t i) { return of_values[i]; });
    }
};

// The means of the bins of a histogram, weighted by their share of all values.
class BinMeans {
 public:
    explicit BinMeans(const Histogram& histogram) {
        const double total = static_cast<double>(histogram.total());
        histogram.ForEach([&](float mean, int64_t count) {
            means_.push_back(mean);
            // Shares: float sums keep their precision however many values there were.
            shares_.push_back(static_cast<float>(static_cast<double>(count) / total));
        });
    }

    WeightedValues view() const {
        return {means_.data(), shares_.data(), static_cast<int64_t>(means_.size())};
    }

 private:
    std::vector<float> means_;
    std::vector<float> shares_;
};

class IfmrSearch {
 public:
    IfmrSearch(const CalibrationData& data, const IfmrOptions& options) : data_(data), options_(options) {
        max_ = std::max(0.0f, data.Largest(PercentileRank(data.total(), options.max_percentile)));
        min_ = std::min(0.0f, data.Smallest(PercentileRank(data.total(), options.min_percentile)));
    }

    // The factors of the candidate with the least error.
    ActivationFactors Run(const ParallelFor& parallel_for) const {
        const float span = (options_.search_end - options_.search_start) / options_.search_step;
        std::vector<Clipping> candidates;
        for (int64_t i = 0; i < static_cast<int64_t>(span + 1.0f); ++i) {
            candidates.push_back(
                Candidate(options_.search_start + static_cast<float>(i) * options_.search_step));
        }
        const std::vector<float>& values = data_.values();
        if (values.size() > kMostToSearch) {
            candidates = Shortlist(candidates, parallel_for);
        }
        const std::vector<double> errors =
            data_.histogram() != nullptr
                ? Errors(candidates, BinMeans(*data_.histogram()).view(), parallel_for)
                : Errors(candidates, {values.data(), nullptr, data_.total()}, parallel_for);
        const auto best = std::min_element(errors.begin(), errors.end());
        ActivationFactors factors = FactorsOf(candidates[best - errors.begin()]);
        factors.mean_square_error =
            data_.histogram() != nullptr ? *best : *best / static_cast<double>(data_.total());
        return factors;
    }

    // The factors of the whole range.
    ActivationFactors Unsearched() const { return FactorsOf(Candidate(1.0f)); }

 private:
    static constexpr size_t kMostToSearch = 32 * 1024;

    struct Clipping {
        float min;
        float max;
        float scale;  // raw
    };

    Clipping Candidate(float ratio) const {
        const int64_t levels = int64_t{1} << options_.num_bits;
        if (options_.with_offset) {
            const float high = ratio * max_;
            return {min_, high, (high - min_) / static_cast<float>(levels - 1)};
        }
        // The int8 range has one more level below zero: it is used when the larger end is the negative one.
        const bool positive = max_ > -min_;
        const float high = ratio * (positive ? max_ : -min_);
        const int64_t steps = positive ? levels / 2 - 1 : levels / 2;
        return {-high, high, high / static_cast<float>(steps)};
    }

    static std::vector<double> Errors(const std::vector<Clipping>& candidates, const WeightedValues& values,
                                      const ParallelFor& parallel_for) {
        std::vector<double> errors(candidates.size());
        parallel_for(static_cast<int64_t>(errors.size()), 2 * values.size, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                Clipping clipping = candidates[i];
                errors[i] = SanitizeScale(&clipping.scale) == ScaleStatus::kOk
                                ? values.Error(clipping.min, clipping.max, clipping.scale)
                                : std::numeric_limits<double>::infinity();
            }
        });
        return errors;
    }

    // The candidates that the best one is among, as a histogram of the values tells, in their order. It is
    // off by less than the margin: values differ from the mean of their bin by less than its width.
    std::vector<Clipping> Shortlist(const std::vector<Clipping>& candidates,
                                    const ParallelFor& parallel_for) const {
        Histogram summary;
        summary.Add(data_.values().data(), data_.total(), parallel_for);
        const std::vector<double> errors = Errors(candidates, BinMeans(summary).view(), parallel_for);
        const double least = *std::min_element(errors.begin(), errors.end());
        const double most = 1.01 * least + summary.BinWidth() * summary.BinWidth();
        std::vector<Clipping> kept;
        for (size_t i = 0; i < candidates.size(); ++i) {
            if (errors[i] <= most) {
                kept.push_back(candidates[i]);
            }
        }
        return kept;
    }

    ActivationFactors FactorsOf(const Clipping& clipping) const {
        return MakeFactors(clipping.scale, clipping.min, options_.num_bits, options_.with_offset);
    }

    const CalibrationData& data_;
    const IfmrOptions options_;
    float max_;
    float min_;
};

class IfmrEstimator : public ActivationEstimator {
 public:
    explicit IfmrEstimator(const IfmrOptions& options) : options_(options) {}

    Range Add(const float* values, int64_t size, const ParallelFor& parallel_for) override {
        return data_.Add(values, size, parallel_for);
    }
    // Before the last batch they are those of the whole range.
    ActivationFactors Factors(bool last, const ParallelFor& parallel_for) const override {
        const IfmrSearch search(data_, options_);
        return last ? search.Run(parallel_for) : search.Unsearched();
    }
    size_t StateBytes() const override { return sizeof(*this) - sizeof(data_) + data_.StateBytes(); }

 private:
    const IfmrOptions options_;
    CalibrationData data_;
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_NUMERICS_IFMR_H_
