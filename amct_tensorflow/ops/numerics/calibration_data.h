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

    // Adds `size` finite values whose range is `range`.
    void Add(const float* values, int64_t size, const Range& range, const ParallelFor& parallel_for) {
        if (histogram_ == nullptr && total() + size <= kMostValues) {
            values_.reserve(total() + size);  // exactly: doubling would exceed the bound
            values_.insert(values_.end(), values, values + size);
        } else {
            MoveToHistogram(parallel_for);
            histogram_->Add(values, size, range, parallel_for);
        }
        range_.Merge(range);
    }

    int64_t total() const {
        return histogram_ == nullptr ? static_cast<int64_t>(values_.size()) : histogram_->total();
    }
    float min() const { return range_.min; }
    float max() const { return range_.max; }

    // The rank-th largest and smallest value, rank counted from 1. Of a histogram: exact for the first, else
    // the mean of a bin.
    float Largest(int64_t rank) const {
        return histogram_ == nullptr ? Ranked(rank, std::greater<float>()) : histogram_->Largest(rank);
    }
    float Smallest(int64_t rank) const {
        return histogram_ == nullptr ? Ranked(rank, std::less<float>()) : histogram_->Smallest(rank);
    }

    // Calls fn(value, count) for values that together stand for all.
    template <typename Function>
    void ForEach(const Function& fn) const {
        if (histogram_ != nullptr) {
            histogram_->ForEachBin(fn);
            return;
        }
        for (const float value : values_) {
            fn(value, int64_t{1});
        }
    }

    // Bytes kept between batches.
    size_t StateBytes() const {
        return sizeof(*this) + values_.capacity() * sizeof(float) +
               (histogram_ == nullptr ? 0 : histogram_->StateBytes());
    }

 private:
    void MoveToHistogram(const ParallelFor& parallel_for) {
        if (histogram_ != nullptr) {
            return;
        }
        histogram_ = std::make_unique<Histogram>();
        if (!values_.empty()) {
            const int64_t size = static_cast<int64_t>(values_.size());
            histogram_->Add(values_.data(), size, range_, parallel_for);
        }
        values_ = std::vector<float>();
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

    Range range_;
    std::vector<float> values_;
    std::unique_ptr<Histogram> histogram_;  // once there were more than kMostValues
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_NUMERICS_CALIBRATION_DATA_H_
