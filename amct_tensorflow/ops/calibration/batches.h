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
    kBadScale,
};

// Remembers whether the batches seen so far were all the same.
class BatchComparison {
 public:
    void Add(const float* values, int64_t size, const ParallelFor& parallel_for) {
        const uint64_t fingerprint = Fingerprint(values, size, parallel_for);
        identical_ = identical_ && (batches_ == 0 || fingerprint == fingerprint_);
        fingerprint_ = fingerprint;
        ++batches_;
    }

    // More than one batch was seen, and each was the same.
    bool identical() const { return batches_ > 1 && identical_; }

 private:
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

    uint64_t fingerprint_ = 0;
    int64_t batches_ = 0;
    bool identical_ = true;
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_CALIBRATION_BATCHES_H_
