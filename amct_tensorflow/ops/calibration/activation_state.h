// What QuantIfmr remembers of one tensor from batch to batch.

#ifndef AMCT_TENSORFLOW_OPS_CALIBRATION_ACTIVATION_STATE_H_
#define AMCT_TENSORFLOW_OPS_CALIBRATION_ACTIVATION_STATE_H_

#include <cstring>
#include <memory>
#include <mutex>

#include "../numerics/ifmr.h"

namespace amct {

enum class BatchStatus {
    kIgnored,    // calibration of this tensor was complete before
    kAdded,      // more batches are wanted
    kCompleted,  // this was the last one: the factors are final
    kEmpty,
    kNotFinite,
    kBadScale,
};

class ActivationState {
 public:
    // Adds one batch; `factors` receives the factors of all batches so far. An error adds nothing, except
    // that kBadScale is found only after the last batch.
    BatchStatus Add(const float* values, int64_t size, int64_t batch_num, const IfmrOptions& options,
                    const ParallelFor& parallel_for, ActivationFactors* factors) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (complete_) {
            *factors = factors_;
            return BatchStatus::kIgnored;
        }
        if (size == 0) {
            return BatchStatus::kEmpty;
        }
        const Range range = FindRange(values, size, parallel_for);
        if (!range.IsFinite()) {
            return BatchStatus::kNotFinite;
        }
        if (data_ == nullptr) {
            data_ = std::make_unique<CalibrationData>();
        }
        data_->Add(values, size, range, parallel_for);
        CompareWithLastBatch(Fingerprint(values, size, range));
        ++batches_;
        factors_ = IfmrSearch(*data_, options).Run(parallel_for);
        *factors = factors_;
        if (batches_ < batch_num) {
            return BatchStatus::kAdded;
        }
        if (factors_.status != ScaleStatus::kOk) {
            --batches_;
            return BatchStatus::kBadScale;
        }
        complete_ = true;
        always_zero_ = data_->min() == 0 && data_->max() == 0;
        data_.reset();
        return BatchStatus::kCompleted;
    }

    int64_t batches() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        return batches_;
    }
    bool always_zero() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        return always_zero_;
    }
    // More than one batch was seen, and each was the same.
    bool batches_identical() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        return batches_ > 1 && identical_;
    }

 private:
    // A hash of a few thousand values spread over the batch.
    static uint64_t Fingerprint(const float* values, int64_t size, const Range& range) {
        constexpr int64_t kSamples = 4096;
        uint64_t hash = 1469598103934665603ull;
        const auto mix = [&hash](float value) {
            uint32_t bits;
            std::memcpy(&bits, &value, sizeof(bits));
            hash = (hash ^ bits) * 1099511628211ull;
        };
        mix(range.min);
        mix(range.max);
        mix(static_cast<float>(size));
        for (int64_t i = 0; i < size; i += std::max<int64_t>(size / kSamples, 1)) {
            mix(values[i]);
        }
        return hash;
    }

    void CompareWithLastBatch(uint64_t fingerprint) {
        identical_ = identical_ && (batches_ == 0 || fingerprint == fingerprint_);
        fingerprint_ = fingerprint;
    }

    mutable std::mutex mutex_;
    std::unique_ptr<CalibrationData> data_;  // only while batches are wanted
    int64_t batches_ = 0;
    uint64_t fingerprint_ = 0;
    bool identical_ = true;
    bool complete_ = false;
    bool always_zero_ = false;
    ActivationFactors factors_;
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_CALIBRATION_ACTIVATION_STATE_H_
