// What InputMoments remembers of the input of layers from batch to batch.

#ifndef AMCT_TENSORFLOW_OPS_CALIBRATION_MOMENTS_STATE_H_
#define AMCT_TENSORFLOW_OPS_CALIBRATION_MOMENTS_STATE_H_

#include <algorithm>
#include <memory>
#include <mutex>

#include "../numerics/second_moments.h"
#include "batches.h"

namespace amct {

class MomentsState {
 public:
    // Adds one batch. All batches together are sampled at about SecondMoments::kPositions positions.
    BatchStatus Add(const LayerInput& input, const Window& window, int64_t most_block, int64_t batch_num,
                    const ParallelFor& parallel_for) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (batches_ >= batch_num) {
            return BatchStatus::kIgnored;
        }
        if (input.positions() == 0) {
            return BatchStatus::kEmpty;
        }
        if (moments_ == nullptr) {
            moments_ = std::make_shared<SecondMoments>(input.groups, input.width, window.taps(), most_block);
        }
        if (moments_->groups() != input.groups || moments_->width() != input.width) {
            return BatchStatus::kOtherChannels;
        }
        moments_->Add(input, window, (SecondMoments::kPositions + batch_num - 1) / batch_num, parallel_for);
        ++batches_;
        return batches_ < batch_num ? BatchStatus::kAdded : BatchStatus::kCompleted;
    }

    // Those of the batches so far, null before the first one; this state then starts with none.
    std::shared_ptr<const SecondMoments> Take() {
        const std::lock_guard<std::mutex> lock(mutex_);
        return std::move(moments_);
    }

 private:
    std::mutex mutex_;
    std::shared_ptr<SecondMoments> moments_;
    int64_t batches_ = 0;
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_CALIBRATION_MOMENTS_STATE_H_
