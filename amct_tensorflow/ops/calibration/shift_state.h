// What SearchN remembers of one layer output from batch to batch.

#ifndef AMCT_TENSORFLOW_OPS_CALIBRATION_SHIFT_STATE_H_
#define AMCT_TENSORFLOW_OPS_CALIBRATION_SHIFT_STATE_H_

#include <memory>
#include <mutex>
#include <vector>

#include "../numerics/search_n.h"
#include "batches.h"

namespace amct {

class ShiftState {
 public:
    // Adds one batch viewed as [outer, channels, inner]. `shifts` receives the result when this was the last
    // batch, of which the `deq_scales` are, one a channel; `share_range` is that of SearchN::Shifts.
    BatchStatus Add(const float* values, const ChannelView& view, const float* deq_scales, bool share_range,
                    int64_t batch_num, const ParallelFor& parallel_for, std::vector<uint32_t>* shifts) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (batches_ >= batch_num) {
            return BatchStatus::kIgnored;
        }
        if (view.size() == 0) {
            return BatchStatus::kEmpty;
        }
        if (search_ == nullptr) {
            search_ = std::make_unique<SearchN>(view.channels);
        }
        if (search_->channels() != view.channels) {
            return BatchStatus::kOtherChannels;
        }
        if (!search_->Add(values, view, parallel_for)) {
            return BatchStatus::kNotFinite;
        }
        if (++batches_ < batch_num) {
            return BatchStatus::kAdded;
        }
        *shifts = search_->Shifts(deq_scales, share_range);
        search_.reset();
        return BatchStatus::kCompleted;
    }

    int64_t batches() const {
        const std::lock_guard<std::mutex> lock(mutex_);
        return batches_;
    }

 private:
    mutable std::mutex mutex_;
    std::unique_ptr<SearchN> search_;  // only while batches are wanted
    int64_t batches_ = 0;
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_CALIBRATION_SHIFT_STATE_H_
