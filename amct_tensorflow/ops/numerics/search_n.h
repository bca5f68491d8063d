// SearchN: how many bits the int32 result of a layer is shifted right so that it passes through int16.
//
// For every channel the shift N in 1..16 with the least sum of (clip16(floor(s / 2^N)) * 2^N - s)^2 over all
// batches, s = round(y / deq_scale), the first of equals. Source: the vendor's original C++, the variant of
// bounded memory (specification, section 4). The state is 16 sums a channel.
//
// Once nothing is clipped at some N, a larger N only drops more bits: its error is at least as large for
// every value. So the last batch needs the errors up to that N only, which is 1 to 3 for most layers.

#ifndef AMCT_TENSORFLOW_OPS_NUMERICS_SEARCH_N_H_
#define AMCT_TENSORFLOW_OPS_NUMERICS_SEARCH_N_H_

#include <algorithm>
#include <mutex>
#include <vector>

#include "arq.h"
#include "common.h"

namespace amct {

// A dense block of rows; column c is divided by deq_scales[c].
struct Rows {
    const float* values;
    int64_t rows;
    int64_t width;
    const float* deq_scales;
};

// peaks[c] = max(peaks[c], |value|); returns whether all values are finite.
AMCT_VECTORIZED inline bool FindPeaks(const Rows& block, float* peaks) {
    int32_t bad = 0;
    for (int64_t row = 0; row < block.rows; ++row) {
        const float* values = block.values + row * block.width;
        for (int64_t c = 0; c < block.width; ++c) {
            const float magnitude = std::fabs(values[c]);
            bad |= magnitude <= std::numeric_limits<float>::max() ? 0 : 1;
            peaks[c] = magnitude > peaks[c] ? magnitude : peaks[c];
        }
    }
    return bad == 0;
}

// sums[c] += squared error of shifting by n.
AMCT_VECTORIZED inline void AddShiftErrors(const Rows& block, int n, float* sums) {
    const float unit = static_cast<float>(1 << n);
    const float inverse = 1.0f / unit;
    for (int64_t row = 0; row < block.rows; ++row) {
        const float* values = block.values + row * block.width;
        for (int64_t c = 0; c < block.width; ++c) {
            const float ratio = values[c] / block.deq_scales[c];
            const float s = std::trunc(ratio + std::copysign(0.49999997f, ratio));
            const float shifted = Clip(std::floor(s * inverse), -32768.0f, 32767.0f);
            const float difference = shifted * unit - s;
            sums[c] += difference * difference;
        }
    }
}

class SearchN {
 public:
    static constexpr int kMaxShift = 16;

    // One shift per channel.
    explicit SearchN(int64_t channels) : channels_(channels), errors_(channels * kMaxShift, 0.0) {}

    int64_t channels() const { return channels_; }

    // Adds a layer output viewed as [outer, channels, inner]. Returns false, adding nothing, when it holds a
    // value that is not finite. `last` allows to leave out the shifts that can no longer win.
    bool Add(const float* values, const ChannelView& view, const float* deq_scales, bool last,
             const ParallelFor& parallel_for) {
        std::vector<float> peaks(channels_, 0.0f);
        if (!Peaks(values, view, deq_scales, parallel_for, &peaks)) {
            return false;
        }
        for (int64_t c = 0; c < channels_; ++c) {
            largest_useful_ = std::max(largest_useful_, LeastShiftWithoutClipping(peaks[c] / deq_scales[c]));
        }
        const int shifts = last ? largest_useful_ : kMaxShift;
        if (shifts > 1) {
            Errors(values, view, deq_scales, shifts, parallel_for);
        }
        computed_ = shifts;
        return true;
    }

    std::vector<uint32_t> Shifts() const {
        std::vector<uint32_t> shifts(channels_);
        for (int64_t c = 0; c < channels_; ++c) {
            const double* errors = errors_.data() + c * kMaxShift;
            shifts[c] = 1 + static_cast<uint32_t>(std::min_element(errors, errors + computed_) - errors);
        }
        return shifts;
    }

    size_t StateBytes() const { return sizeof(*this) + errors_.size() * sizeof(double); }

 private:
    static constexpr int64_t kWidth = 64;      // columns of a run that has one channel
    static constexpr int64_t kBlockRows = 64;  // float sums stay short

    // |s| = round(peak) reaches 2^(15 + n) where the clipping at n starts.
    static int LeastShiftWithoutClipping(float peak) {
        int n = 1;
        while (n < kMaxShift && peak + 0.5f >= std::ldexp(1.0f, 15 + n)) {
            ++n;
        }
        return n;
    }

    // Cuts the tensor into blocks that fit the two loops above and calls fn(block, first_channel, stride):
    // column c of the block belongs to channel first_channel + c * stride.
    template <typename Function>
    void ForEachBlock(const float* values, const ChannelView& view, const float* deq_scales,
                      const ParallelFor& parallel_for, const Function& fn) const {
        if (view.inner == 1 && channels_ > 1) {
            parallel_for(view.outer, 16 * view.channels, [&](int64_t begin, int64_t end) {
                for (int64_t row = begin; row < end; row += kBlockRows) {
                    const int64_t rows = std::min(kBlockRows, end - row);
                    fn(Rows{values + row * channels_, rows, channels_, deq_scales}, 0, 1);
                }
            });
            return;
        }
        // Runs of one channel: the columns are so many neighbours, the remainder is one short row.
        const int64_t piece = kWidth * kBlockRows;
        const int64_t pieces = (view.inner + piece - 1) / piece;
        const int64_t runs = view.outer * view.channels;
        parallel_for(runs * pieces, 16 * piece, [&](int64_t begin, int64_t end) {
            std::vector<float> scales(kWidth);
            for (int64_t i = begin; i < end; ++i) {
                const int64_t channel = (i / pieces) % channels_;
                std::fill(scales.begin(), scales.end(), deq_scales[channel]);
                const int64_t start = (i % pieces) * piece;
                const int64_t size = std::min(piece, view.inner - start);
                const float* run = values + (i / pieces) * view.inner + start;
                const int64_t rows = size / kWidth;
                fn(Rows{run, rows, kWidth, scales.data()}, channel, 0);
                fn(Rows{run + rows * kWidth, 1, size % kWidth, scales.data()}, channel, 0);
            }
        });
    }

    bool Peaks(const float* values, const ChannelView& view, const float* deq_scales,
               const ParallelFor& parallel_for, std::vector<float>* peaks) const {
        std::mutex mutex;
        bool finite = true;
        const auto visit = [&](const Rows& block, int64_t first_channel, int64_t stride) {
            std::vector<float> found(block.width, 0.0f);
            const bool block_finite = FindPeaks(block, found.data());
            const std::lock_guard<std::mutex> lock(mutex);
            finite = finite && block_finite;
            for (int64_t c = 0; c < block.width; ++c) {
                float& peak = (*peaks)[first_channel + c * stride];
                peak = std::max(peak, found[c]);
            }
        };
        ForEachBlock(values, view, deq_scales, parallel_for, visit);
        return finite;
    }

    void Errors(const float* values, const ChannelView& view, const float* deq_scales, int shifts,
                const ParallelFor& parallel_for) {
        std::mutex mutex;
        const auto visit = [&](const Rows& block, int64_t first_channel, int64_t stride) {
            std::vector<float> sums(block.width * shifts, 0.0f);
            for (int n = 1; n <= shifts; ++n) {
                AddShiftErrors(block, n, sums.data() + (n - 1) * block.width);
            }
            const std::lock_guard<std::mutex> lock(mutex);
            for (int n = 1; n <= shifts; ++n) {
                for (int64_t c = 0; c < block.width; ++c) {
                    const int64_t channel = first_channel + c * stride;
                    errors_[channel * kMaxShift + n - 1] += sums[(n - 1) * block.width + c];
                }
            }
        };
        ForEachBlock(values, view, deq_scales, parallel_for, visit);
    }

    int64_t channels_;
    std::vector<double> errors_;  // [channels, kMaxShift]
    int largest_useful_ = 1;
    int computed_ = kMaxShift;
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_NUMERICS_SEARCH_N_H_
