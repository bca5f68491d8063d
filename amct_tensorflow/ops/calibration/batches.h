// What the states of a calibration share: what became of a batch, and whether all were the same.

#ifndef AMCT_TENSORFLOW_OPS_CALIBRATION_BATCHES_H_
#define AMCT_TENSORFLOW_OPS_CALIBRATION_BATCHES_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../numerics/common.h"

namespace amct {

enum class BatchStatus {
    kIgnored,    // calibration of this tensor was complete before
    kAdded,      // more batches are wanted
    kCompleted,  // this was the last one: the factors are final
    kEmpty,
    kOtherChannels,  // not as many as in the batches before
    kNotFinite,
    kNoVariance,  // one value per channel
    kBadScale,
};

// Remembers whether the batches seen so far were all the same.
class BatchComparison {
 public:
    void Add(const float* values, int64_t size) {
        const uint64_t fingerprint = Fingerprint(values, size);
        identical_ = identical_ && (batches_ == 0 || fingerprint == fingerprint_);
        fingerprint_ = fingerprint;
        ++batches_;
    }

    // More than one batch was seen, and each was the same.
    bool identical() const { return batches_ > 1 && identical_; }

 private:
    // A hash (FNV-1a) of the size and of values spread over the batch: all, if they are few. Activations that
    // differ do so in most places.
    static uint64_t Fingerprint(const float* values, int64_t size) {
        constexpr int64_t kSamples = 64 * 1024;
        constexpr uint64_t kPrime = 1099511628211ull;
        const int64_t stride = size <= kSamples ? 1 : (size / kSamples) | 1;  // odd: not always one channel
        uint64_t hash = (14695981039346656037ull ^ static_cast<uint64_t>(size)) * kPrime;
        for (int64_t i = 0; i < size; i += stride) {
            uint32_t bits;
            std::memcpy(&bits, values + i, sizeof(bits));
            hash = (hash ^ bits) * kPrime;
        }
        return hash;
    }

    uint64_t fingerprint_ = 0;
    int64_t batches_ = 0;
    bool identical_ = true;
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_CALIBRATION_BATCHES_H_
