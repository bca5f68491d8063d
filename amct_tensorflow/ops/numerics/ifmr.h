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

// Sum of count * (x - quantized(x))^2 for one candidate; the zero point is not rounded here.
AMCT_VECTORIZED inline double QuantizationError(const float* values, const float* counts, int64_t size,
                                                float clip_min, float clip_max, float scale) {
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
                sums[lane] += difference * difference * counts[i + lane];
            }
        }
        for (; i < end; ++i) {
            const float x = values[i];
            const float difference = RoundHalfAway(Clip(x, clip_min, clip_max) / scale) * scale - x;
            sums[0] += difference * difference * counts[i];
        }
        for (const float sum : sums) {
            error += sum;
        }
    }
    return error;
}

class IfmrSearch {
 public:
    IfmrSearch(const CalibrationData& data, const IfmrOptions& options) : options_(options) {
        const int64_t total = data.total();
        max_ = std::max(0.0f, data.Largest(PercentileRank(total, options.max_percentile)));
        min_ = std::min(0.0f, data.Smallest(PercentileRank(total, options.min_percentile)));
        data.ForEach([&](float value, int64_t count) {
            values_.push_back(value);
            // Relative counts: float sums keep their precision however many values there were.
            counts_.push_back(static_cast<float>(static_cast<double>(count) / total));
        });
    }

    ActivationFactors Run(const ParallelFor& parallel_for) const {
        const float span = (options_.search_end - options_.search_start) / options_.search_step;
        const int64_t candidates = static_cast<int64_t>(span + 1.0f);
        std::vector<double> errors(candidates);
        const int64_t cost = 2 * static_cast<int64_t>(values_.size());
        parallel_for(candidates, cost, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                errors[i] = Error(i);
            }
        });
        const int64_t best = std::min_element(errors.begin(), errors.end()) - errors.begin();
        return Factors(best);
    }

 private:
    struct Clipping {
        float min;
        float max;
        float scale;
    };

    // The clip range and raw scale of a candidate.
    Clipping Candidate(int64_t index) const {
        const float ratio = options_.search_start + static_cast<float>(index) * options_.search_step;
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

    double Error(int64_t index) const {
        Clipping clipping = Candidate(index);
        if (SanitizeScale(&clipping.scale) != ScaleStatus::kOk) {
            return std::numeric_limits<double>::infinity();
        }
        return QuantizationError(values_.data(), counts_.data(), static_cast<int64_t>(values_.size()),
                                 clipping.min, clipping.max, clipping.scale);
    }

    ActivationFactors Factors(int64_t index) const {
        const Clipping clipping = Candidate(index);
        return MakeFactors(clipping.scale, clipping.min, options_.num_bits, options_.with_offset);
    }

    IfmrOptions options_;
    float max_;
    float min_;
    std::vector<float> values_;
    std::vector<float> counts_;
};

class IfmrEstimator : public ActivationEstimator {
 public:
    explicit IfmrEstimator(const IfmrOptions& options) : options_(options) {}

    void Add(const float* values, int64_t size, const Range& range,
             const ParallelFor& parallel_for) override {
        data_.Add(values, size, range, parallel_for);
    }
    ActivationFactors Factors(bool /*last*/, const ParallelFor& parallel_for) const override {
        return IfmrSearch(data_, options_).Run(parallel_for);
    }
    size_t StateBytes() const override { return sizeof(*this) - sizeof(data_) + data_.StateBytes(); }

 private:
    const IfmrOptions options_;
    CalibrationData data_;
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_NUMERICS_IFMR_H_
