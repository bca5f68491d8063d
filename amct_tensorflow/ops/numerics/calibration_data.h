// All calibration data of one tensor, in bounded memory: the values themselves while they are few, then a
// histogram of them.

#ifndef AMCT_TENSORFLOW_OPS_NUMERICS_CALIBRATION_DATA_H_
#define AMCT_TENSORFLOW_OPS_NUMERICS_CALIBRATION_DATA_H_

#include <algorithm>
#include <functional>
#include <memory>
#include <vector>

#include "common.h"
#include "histogram.h"

namespace amct {

class CalibrationData {
 public:
    // Up to this many values (1.9 MB) a search over them is the exact one.
    static constexpr int64_t kMostValues = 480 * 1024;

    // Adds `size` values, at least one, and returns their range. Adds nothing when that is not finite.
    Range Add(const float* values, int64_t size, const ParallelFor& parallel_for) {
        const bool keeps = histogram_ == nullptr && total() + size <= kMostValues;
        const Range range = keeps ? FindRange(values, size, parallel_for) : Count(values, size, parallel_for);
        if (keeps && range.IsFinite()) {
            values_.reserve(total() + size);  // exactly: doubling would exceed the bound
            values_.insert(values_.end(), values, values + size);
        }
        return range;
    }

    int64_t total() const {
        return histogram_ == nullptr ? static_cast<int64_t>(values_.size()) : histogram_->total();
    }
    // The rank-th largest and smallest value, rank counted from 1. Of a histogram: exact for the first, else
    // the mean of a bin.
    float Largest(int64_t rank) const {
        return histogram_ == nullptr ? Ranked(rank, std::greater<float>()) : histogram_->Largest(rank);
    }
    float Smallest(int64_t rank) const {
        return histogram_ == nullptr ? Ranked(rank, std::less<float>()) : histogram_->Smallest(rank);
    }

    // The values themselves, or else the histogram that stands for them.
    const std::vector<float>& values() const { return values_; }
    const Histogram* histogram() const { return histogram_.get(); }

    // Bytes kept between batches.
    size_t StateBytes() const {
        return sizeof(*this) + values_.capacity() * sizeof(float) +
               (histogram_ == nullptr ? 0 : histogram_->StateBytes());
    }

 private:
    Range Count(const float* values, int64_t size, const ParallelFor& parallel_for) {
        auto histogram = histogram_ != nullptr ? std::move(histogram_) : std::make_unique<Histogram>();
        const Range range = histogram->Add(values, size, parallel_for);
        if (histogram->total() == 0) {
            return range;  // nothing was added, and what is kept stays
        }
        if (!values_.empty() && range.IsFinite()) {
            histogram->Add(values_.data(), total(), parallel_for);
            values_ = std::vector<float>();
        }
        histogram_ = std::move(histogram);
        return range;
    }

    template <typename Order>
    float Ranked(int64_t rank, Order order) const {
        if (rank == 1) {  // the default percentiles, at this many values: no copy
            return *std::min_element(values_.begin(), values_.end(), order);
        }
        std::vector<float> values = values_;
        const auto nth = values.begin() + (rank - 1);
        std::nth_element(values.begin(), nth, values.end(), order);
        return *nth;
    }

    std::vector<float> values_;
    std::unique_ptr<Histogram> histogram_;  // once there were more than kMostValues
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_NUMERICS_CALIBRATION_DATA_H_
