// SearchN: how many bits the int32 result of a layer is shifted right so that it passes through int16.
//
// For every channel the shift N in 1..16 with the least sum of (clip16(floor(s / 2^N)) * 2^N - s)^2 over all
// batches, s = round(y / deq_scale), the first of equals. Source: the vendor's original C++, the variant of
// bounded memory (specification, section 4). Let U be the least shift that clips nothing: a larger one only
// drops more bits, so U is the largest candidate, and for most channels it is 1.
//
// The scale is known after the last batch, so what is kept until then does not depend on it: the values
// themselves while they are few, and the search over them is the exact one; then the histograms of the
// largest magnitudes. Let U be the least shift that clips nothing. A larger one only drops more bits. With a
// smaller one, clipping the peak alone costs more than the bits that U drops, unless the peak is barely
// beyond what passes: by sqrt(n) / 2^14 of it for n values, 4 % for 400,000. So U - 1 is the only other
// candidate, for few channels, and the histograms tell what it clips. The bits that a shift drops are taken
// for random, which is off by 1 / sqrt(n).

#ifndef AMCT_TENSORFLOW_OPS_NUMERICS_SEARCH_N_H_
#define AMCT_TENSORFLOW_OPS_NUMERICS_SEARCH_N_H_

#include <algorithm>
#include <memory>
#include <vector>

#include "arq.h"
#include "common.h"
#include "peak_histogram.h"

namespace amct {

// Adds the squared errors of shifting one result, before it is rounded to s, by 1 to `count`.
inline void AddShiftErrors(float ratio, int count, double* errors) {
    const float most = std::ldexp(1.0f, 62);  // far beyond what can be told apart
    const int64_t s = static_cast<int64_t>(Clip(ratio + std::copysign(0.49999997f, ratio), -most, most));
    for (int n = 1; n <= count; ++n) {
        const int64_t shifted = std::clamp<int64_t>(s >> n, -32768, 32767);
        const double difference = static_cast<double>(shifted * (int64_t{1} << n) - s);
        errors[n - 1] += difference * difference;
    }
}

class SearchN {
 public:
    static constexpr int kMaxShift = 16;
    // Up to this many values the search over them is the exact one.
    static constexpr int64_t kMostValues = 64 * 1024;

    // One shift per channel.
    explicit SearchN(int64_t channels) : channels_(channels) {}

    int64_t channels() const { return channels_; }

    // Adds a layer output viewed as [outer, channels, inner]. Returns false, adding nothing, when it holds a
    // value that is not finite.
    bool Add(const float* values, const ChannelView& view, const ParallelFor& parallel_for) {
        if (histograms_ == nullptr && total_ + view.size() <= kMostValues) {
            if (!std::all_of(values, values + view.size(),
                             [](float value) { return std::isfinite(value); })) {
                return false;
            }
            kept_.push_back({view, std::vector<float>(values, values + view.size())});
        } else {
            PeakHistograms found(channels_);
            if (!CountPeaks(values, view, parallel_for, &found)) {
                return false;
            }
            MoveToHistograms(parallel_for);
            histograms_->Merge(found);
        }
        total_ += view.size();
        return true;
    }

    // The shifts for what was added, under one scale per channel. With `share_range`, each lets pass as much
    // as any channel has reached.
    std::vector<uint32_t> Shifts(const float* deq_scales, bool share_range) const {
        const std::vector<float> peaks = Peaks();
        std::vector<uint32_t> shifts =
            histograms_ == nullptr ? ExactShifts(deq_scales, peaks) : LikelyShifts(deq_scales);
        if (share_range) {
            const float largest = *std::max_element(peaks.begin(), peaks.end());
            for (int64_t c = 0; c < channels_; ++c) {
                shifts[c] = std::max<uint32_t>(shifts[c], LeastUnclipped(largest / deq_scales[c]));
            }
        }
        return shifts;
    }

    // Bytes kept between batches.
    size_t StateBytes() const {
        size_t bytes = sizeof(*this) + (histograms_ == nullptr ? 0 : histograms_->StateBytes());
        for (const Kept& batch : kept_) {
            bytes += sizeof(batch) + batch.values.size() * sizeof(float);
        }
        return bytes;
    }

 private:
    struct Kept {
        ChannelView view;
        std::vector<float> values;
    };

    // The least shift that clips nothing: |s| = round(peak) reaches 2^(15 + n) where the clipping at n
    // starts.
    static int LeastUnclipped(float peak) {
        int n = 1;
        while (n < kMaxShift && peak + 0.5f >= std::ldexp(1.0f, 15 + n)) {
            ++n;
        }
        return n;
    }

    // The largest magnitude of each channel.
    std::vector<float> Peaks() const {
        std::vector<float> peaks(channels_, 0.0f);
        for (int64_t c = 0; histograms_ != nullptr && c < channels_; ++c) {
            peaks[c] = histograms_->peak(c);
        }
        ForEachRun([&](int64_t channel, const float* values, int64_t size) {
            for (int64_t i = 0; i < size; ++i) {
                peaks[channel] = std::max(peaks[channel], std::fabs(values[i]));
            }
        });
        return peaks;
    }

    std::vector<uint32_t> ExactShifts(const float* deq_scales, const std::vector<float>& peaks) const {
        std::vector<int> unclipped(channels_);
        for (int64_t c = 0; c < channels_; ++c) {
            unclipped[c] = LeastUnclipped(peaks[c] / deq_scales[c]);
        }
        std::vector<double> errors(channels_ * kMaxShift, 0.0);
        ForEachRun([&](int64_t channel, const float* values, int64_t size) {
            const int candidates = unclipped[channel] > 1 ? unclipped[channel] : 0;
            for (int64_t i = 0; candidates > 0 && i < size; ++i) {
                AddShiftErrors(values[i] / deq_scales[channel], candidates, &errors[channel * kMaxShift]);
            }
        });
        std::vector<uint32_t> shifts(channels_);
        for (int64_t c = 0; c < channels_; ++c) {
            const double* first = &errors[c * kMaxShift];
            shifts[c] = static_cast<uint32_t>(1 + (std::min_element(first, first + unclipped[c]) - first));
        }
        return shifts;
    }

    std::vector<uint32_t> LikelyShifts(const float* deq_scales) const {
        std::vector<uint32_t> shifts(channels_);
        for (int64_t c = 0; c < channels_; ++c) {
            const int unclipped = LeastUnclipped(histograms_->peak(c) / deq_scales[c]);
            shifts[c] = unclipped > 1 && ClipsLittle(c, deq_scales[c], unclipped) ? unclipped - 1 : unclipped;
        }
        return shifts;
    }

    // Calls fn(channel, values, size) for the contiguous runs of all values that are kept.
    template <typename Function>
    void ForEachRun(const Function& fn) const {
        for (const Kept& batch : kept_) {
            batch.view.ForEachRun([&](int64_t channel, int64_t begin, int64_t end) {
                fn(channel, batch.values.data() + begin, end - begin);
            });
        }
    }

    // Whether a channel loses no more by what the shift below `unclipped` clips than by the bits that
    // `unclipped` drops more.
    bool ClipsLittle(int64_t channel, float deq_scale, int unclipped) const {
        // What passes at most, as s: between the limits of positive and of negative values.
        const double limit = std::ldexp(32767.5, unclipped - 1);
        if (limit * deq_scale < PeakHistograms::kComplete * histograms_->peak(channel)) {
            return false;
        }
        double clipped = 0;
        double error = 0;
        histograms_->ForEachBin(channel, [&](double count, double mean, double spread) {
            // The values of a bin are taken for evenly spread around their mean.
            const double half = std::max(spread / deq_scale, 1e-3);
            const double most = mean / deq_scale + half - limit;
            const double least = std::max(most - 2 * half, 0.0);
            if (most > 0) {
                clipped += count * (most - least) / (2 * half);
                error += count * (most * most * most - least * least * least) / (6 * half);
            }
        });
        const double values = static_cast<double>(total_) / static_cast<double>(channels_);
        return (values - clipped) * DroppedBits(unclipped - 1) + error <= values * DroppedBits(unclipped);
    }

    // The mean of (s mod 2^n)^2 over all s.
    static double DroppedBits(int n) {
        const double levels = std::ldexp(1.0, n);
        return (levels - 1) * (2 * levels - 1) / 6;
    }

    void MoveToHistograms(const ParallelFor& parallel_for) {
        if (histograms_ != nullptr) {
            return;
        }
        histograms_ = std::make_unique<PeakHistograms>(channels_);
        for (const Kept& batch : kept_) {
            CountPeaks(batch.values.data(), batch.view, parallel_for, histograms_.get());
        }
        kept_ = std::vector<Kept>();
    }

    const int64_t channels_;
    int64_t total_ = 0;
    std::vector<Kept> kept_;                      // while there are at most kMostValues
    std::unique_ptr<PeakHistograms> histograms_;  // once there were more
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_NUMERICS_SEARCH_N_H_
