// What BatchNormStatistics remembers of one batch norm from batch to batch.

#ifndef AMCT_TENSORFLOW_OPS_CALIBRATION_BATCH_NORM_STATE_H_
#define AMCT_TENSORFLOW_OPS_CALIBRATION_BATCH_NORM_STATE_H_

#include <algorithm>
#include <cmath>
#include <mutex>

#include "../numerics/moving_statistics.h"
#include "batches.h"

namespace amct {

class BatchNormState {
 public:
    // With `is_final`, the statistics are those of an earlier run, and no batch is wanted.
    BatchNormState(const MovingStatistics& start, bool is_final)
        : start_(start), statistics_(start), is_final_(is_final), is_complete_(is_final) {}

    // Adds the statistics of one batch, `count` values per channel.
    BatchStatus Add(const float* mean, const float* variance, int64_t channels, int64_t count,
                    int64_t batch_num, double fraction) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (is_complete_) {
            return BatchStatus::kIgnored;
        }
        if (channels != statistics_.channels()) {
            return BatchStatus::kOtherChannels;
        }
        if (count == 0) {
            return BatchStatus::kEmpty;
        }
        const auto is_finite = [](float value) { return std::isfinite(value); };
        if (!std::all_of(mean, mean + channels, is_finite) ||
            !std::all_of(variance, variance + channels, is_finite)) {
            return BatchStatus::kNotFinite;
        }
        if (count == 1) {
            return BatchStatus::kNoVariance;
        }
        statistics_.Add(mean, variance, count, fraction);
        is_complete_ = ++batches_ >= batch_num;
        return is_complete_ ? BatchStatus::kCompleted : BatchStatus::kAdded;
    }

    // Forgets all batches.
    void Restart() {
        const std::lock_guard<std::mutex> lock(mutex_);
        statistics_ = start_;
        batches_ = 0;
        is_complete_ = is_final_;
    }

    bool is_complete() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        return is_complete_;
    }
    int64_t batches() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        return batches_;
    }
    MovingStatistics statistics() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        return statistics_;
    }

 private:
    mutable std::mutex mutex_;
    const MovingStatistics start_;
    MovingStatistics statistics_;
    const bool is_final_;
    bool is_complete_;
    int64_t batches_ = 0;
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_CALIBRATION_BATCH_NORM_STATE_H_
