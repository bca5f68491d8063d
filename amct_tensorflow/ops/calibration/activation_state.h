// What QuantIfmr remembers of one tensor from batch to batch.

#ifndef AMCT_TENSORFLOW_OPS_CALIBRATION_ACTIVATION_STATE_H_
#define AMCT_TENSORFLOW_OPS_CALIBRATION_ACTIVATION_STATE_H_

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

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
    // Adds one batch; `factors` receives the factors of all batches so far. An error adds nothing; kBadScale,
    // which is found after the last batch, starts again with none.
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
        if (batch_num > 1) {
            CompareWithLastBatch(Fingerprint(values, size, parallel_for));
        }
        ++batches_;
        factors_ = IfmrSearch(*data_, options).Run(parallel_for);
        *factors = factors_;
        if (batches_ < batch_num) {
            return BatchStatus::kAdded;
        }
        // SanitizeScale has put 1 in the place of a scale that is next to nothing.
        negligible_ = factors_.scale == 1.0f && std::max(-data_->min(), data_->max()) < kNegligible;
        data_.reset();
        if (factors_.status != ScaleStatus::kOk) {
            batches_ = 0;  // whichever batch it was: the data are no good together
            factors_ = ActivationFactors();
            return BatchStatus::kBadScale;
        }
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
        return batches_ > 1 && identical_;
    }

 private:
    static constexpr float kNegligible = 0.01f;  // far below what a scale of 1 is right for

    // A hash of all values, in order. Pieces are of fixed size: the threads do not matter.
    static uint64_t Fingerprint(const float* values, int64_t size, const ParallelFor& parallel_for) {
        constexpr int64_t kPiece = 1 << 18;
        std::vector<uint32_t> hashes((size + kPiece - 1) / kPiece);
        parallel_for(static_cast<int64_t>(hashes.size()), kPiece, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                hashes[i] = HashPiece(values + i * kPiece, std::min(kPiece, size - i * kPiece));
            }
        });
        uint64_t hash = static_cast<uint64_t>(size);
        for (const uint32_t piece : hashes) {
            hash = (hash ^ piece) * 1099511628211ull;
        }
        return hash;
    }

    // FNV-1a in independent lanes, which vectorize.
    AMCT_VECTORIZED static uint32_t HashPiece(const float* values, int64_t size) {
        constexpr int kLanes = 32;
        constexpr uint32_t kPrime = 16777619u;
        uint32_t lanes[kLanes];
        std::fill(lanes, lanes + kLanes, 2166136261u);
        uint32_t bits[kLanes] = {};
        for (int64_t i = 0; i < size; i += kLanes) {
            const int64_t count = std::min<int64_t>(kLanes, size - i);
            std::memcpy(bits, values + i, static_cast<size_t>(count) * sizeof(float));
            for (int lane = 0; lane < kLanes; ++lane) {
                lanes[lane] = (lanes[lane] ^ bits[lane]) * kPrime;
            }
        }
        uint32_t hash = 0;
        for (const uint32_t lane : lanes) {
            hash = (hash ^ lane) * kPrime;
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
    bool negligible_ = false;
    ActivationFactors factors_;
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_CALIBRATION_ACTIVATION_STATE_H_
