// What DmqBalance remembers of one layer input from batch to batch.

#ifndef AMCT_TENSORFLOW_OPS_CALIBRATION_BALANCE_STATE_H_
#define AMCT_TENSORFLOW_OPS_CALIBRATION_BALANCE_STATE_H_

#include <algorithm>
#include <memory>
#include <mutex>
#include <vector>

#include "../numerics/dmq.h"
#include "batches.h"

namespace amct {

class BalanceState {
 public:
    // Adds one batch viewed as [outer, channels, inner]. `factors` receives the result when this was the last
    // batch, also with kBadScale: then one of them cannot be recorded, and the state starts again with none.
    BatchStatus Add(const float* values, const ChannelView& view, const std::vector<float>& weights,
                    int64_t batch_num, float migration_strength, const ParallelFor& parallel_for,
                    std::vector<float>* factors) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (batches_ >= batch_num) {
            return BatchStatus::kIgnored;
        }
        if (view.size() == 0) {
            return BatchStatus::kEmpty;
        }
        if (maxima_ != nullptr && maxima_->channels() != view.channels) {
            return BatchStatus::kOtherChannels;
        }
        ChannelMaxima batch(view.channels);
        batch.Add(values, view, parallel_for);
        if (!batch.IsFinite()) {
            return BatchStatus::kNotFinite;
        }
        if (maxima_ == nullptr) {
            maxima_ = std::make_unique<ChannelMaxima>(view.channels);
        }
        maxima_->Merge(batch);
        if (batch_num > 1) {
            comparison_.Add(values, view.size());
        }
        ++batches_;
        return batches_ < batch_num ? BatchStatus::kAdded : Complete(weights, migration_strength, factors);
    }

    int64_t batches() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        return batches_;
    }
    // All values were zero, or as good as.
    bool negligible() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        return negligible_;
    }
    // More than one batch was seen, and each was the same.
    bool batches_identical() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        return comparison_.identical();
    }

 private:
    BatchStatus Complete(const std::vector<float>& weights, float migration_strength,
                         std::vector<float>* factors) {
        const std::vector<float> activations = maxima_->Values();
        maxima_.reset();
        *factors = BalanceFactors(activations, weights, migration_strength);
        if (!std::all_of(factors->begin(), factors->end(), IsBalanceFactor)) {
            batches_ = 0;
            comparison_ = BatchComparison();
            return BatchStatus::kBadScale;
        }
        negligible_ = *std::max_element(activations.begin(), activations.end()) < kFloatEpsilon;
        return BatchStatus::kCompleted;
    }

    mutable std::mutex mutex_;
    std::unique_ptr<ChannelMaxima> maxima_;  // only while batches are wanted
    int64_t batches_ = 0;
    BatchComparison comparison_;
    bool negligible_ = false;
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_CALIBRATION_BALANCE_STATE_H_
