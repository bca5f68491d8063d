// What QuantIfmr and QuantHfmg remember of one tensor from batch to batch.

#ifndef AMCT_TENSORFLOW_OPS_CALIBRATION_ACTIVATION_STATE_H_
#define AMCT_TENSORFLOW_OPS_CALIBRATION_ACTIVATION_STATE_H_

#include <algorithm>
#include <functional>
#include <memory>
#include <mutex>

#include "../numerics/activation_estimator.h"
#include "batches.h"

namespace amct {

using MakeEstimator = std::function<std::unique_ptr<ActivationEstimator>()>;

class ActivationState {
 public:
    // Adds one batch; `factors` receives the factors of all batches so far. An error adds nothing; kBadScale,
    // which is found after the last batch, starts again with none.
    BatchStatus Add(const float* values, int64_t size, int64_t batch_num, const MakeEstimator& make_estimator,
                    const ParallelFor& parallel_for, ActivationFactors* factors) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (complete_) {
            *factors = factors_;
            return BatchStatus::kIgnored;
        }
        if (size == 0) {
            return BatchStatus::kEmpty;
        }
        if (estimator_ == nullptr) {
            estimator_ = make_estimator();
        }
        const Range range = estimator_->Add(values, size, parallel_for);
        if (!range.IsFinite()) {
            return BatchStatus::kNotFinite;
        }
        range_.Merge(range);
        if (batch_num > 1) {
            comparison_.Add(values, size);
        }
        ++batches_;
        const bool last = batches_ >= batch_num;
        factors_ = estimator_->Factors(last, parallel_for);
        *factors = factors_;
        if (!last) {
            return BatchStatus::kAdded;
        }
        estimator_.reset();
        if (factors_.status != ScaleStatus::kOk) {
            StartAgain();  // whichever batch it was: the data are no good together
            return BatchStatus::kBadScale;
        }
        // SanitizeScale has put 1 in the place of a scale that is next to nothing.
        negligible_ = factors_.scale == 1.0f && std::max(-range_.min, range_.max) < kNegligible;
        complete_ = true;
        return BatchStatus::kCompleted;
    }

    int64_t batches() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        return batches_;
    }
    // All values were zero, or too small for a scale of their own.
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
    static constexpr float kNegligible = 0.01f;  // far below what a scale of 1 is right for

    void StartAgain() {
        batches_ = 0;
        range_ = Range();
        comparison_ = BatchComparison();
        factors_ = ActivationFactors();
    }

    mutable std::mutex mutex_;
    std::unique_ptr<ActivationEstimator> estimator_;  // only while batches are wanted
    int64_t batches_ = 0;
    Range range_;
    BatchComparison comparison_;
    bool complete_ = false;
    bool negligible_ = false;
    ActivationFactors factors_;
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_CALIBRATION_ACTIVATION_STATE_H_
