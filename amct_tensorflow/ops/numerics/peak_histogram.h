// For each channel of a tensor: its largest magnitude, and a histogram of the magnitudes next to it.
//
// Where 2^(e - 1) <= peak < 2^e, a channel's bins have the width 2^(e - 6) and reach from 0.84 * 2^(e - 1) to
// 2^e. When its peak grows beyond 2^e, neighbours merge, or fall below the new bins. A bin keeps its count
// and the sum of the positions of its magnitudes in units that represent each of them exactly, so that
// neither the order of values nor the number of threads matters. Only what is above kComplete times the peak
// is all there: what was counted below depends on how the peak grew.

#ifndef AMCT_TENSORFLOW_OPS_NUMERICS_PEAK_HISTOGRAM_H_
#define AMCT_TENSORFLOW_OPS_NUMERICS_PEAK_HISTOGRAM_H_

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <vector>

#include "arq.h"
#include "common.h"

namespace amct {

class PeakHistograms {
 public:
    // Magnitudes from this share of the peak on are counted, and from that share on all bins are complete.
    static constexpr float kCounted = 0.85f;
    static constexpr float kComplete = kCounted + 1.0f / 32;

    explicit PeakHistograms(int64_t channels)
        : peaks_(channels, 0.0f), exponents_(channels, 0), bins_(channels * kBins, 0) {}

    int64_t channels() const { return static_cast<int64_t>(peaks_.size()); }
    float peak(int64_t channel) const { return peaks_[channel]; }
    float least_counted(int64_t channel) const { return kCounted * peaks_[channel]; }

    void RaisePeak(int64_t channel, float magnitude) {
        if (magnitude > peaks_[channel]) {
            peaks_[channel] = magnitude;
            RaiseExponent(channel, ExponentOf(magnitude));
        }
    }

    // Counts a magnitude that is at most the channel's peak.
    void Count(int64_t channel, float magnitude) {
        const int16_t exponent = ExponentOf(magnitude);
        if (magnitude < least_counted(channel) || exponent == 0) {
            return;
        }
        const uint32_t significand = (BitsOf(magnitude) & 0x7fffff) | 0x800000;
        const uint32_t units = significand << (exponent == exponents_[channel] ? 1 : 0);
        AddSaturated(1, units & kUnitMask, &bins_[channel * kBins + (units >> kUnitBits) - kFirstBin]);
    }

    // Adds what was counted of other values of the same channels.
    void Merge(const PeakHistograms& other) {
        for (int64_t c = 0; c < channels(); ++c) {
            RaisePeak(c, other.peaks_[c]);
            other.MoveBins(c, exponents_[c] - other.exponents_[c], &bins_[c * kBins]);
        }
    }

    // Calls fn(count, mean, spread) for each bin of the channel that holds values: as even spread as the bin
    // allows, they are in mean - spread .. mean + spread. A single one is where it is.
    template <typename Function>
    void ForEachBin(int64_t channel, const Function& fn) const {
        const double width = std::ldexp(1.0, exponents_[channel] - 127 - kBinBits);
        for (int bin = kFirstBin; bin < kEndBin; ++bin) {
            const uint64_t cell = bins_[channel * kBins + bin - kFirstBin];
            const double count = static_cast<double>(cell >> kPositionBits);
            if (count > 0) {
                const double within = std::ldexp((cell & kPositionMask) / count, -kUnitBits);
                const double spread = count == 1 ? 0 : std::min(within, 1 - within);
                fn(count, (bin + within) * width, spread * width);
            }
        }
    }

    size_t StateBytes() const {
        return sizeof(*this) + channels() * (sizeof(float) + sizeof(int16_t) + kBins * sizeof(uint64_t));
    }

 private:
    static constexpr int kBinBits = 5;  // 2^5 bins between 2^(e - 1) and 2^e
    static constexpr int kFirstBin = 27;
    static constexpr int kEndBin = 2 << kBinBits;
    static constexpr int kBins = kEndBin - kFirstBin;
    // A unit is 2^(e - 25): a float of 24 bits in [2^(e - 2), 2^e) is a whole number of them.
    static constexpr int kUnitBits = 19;
    static constexpr uint32_t kUnitMask = (1 << kUnitBits) - 1;
    // A cell holds a count in 22 bits above the sum of the positions. Four million values are enough.
    static constexpr int kPositionBits = 42;
    static constexpr uint64_t kPositionMask = (uint64_t{1} << kPositionBits) - 1;
    static constexpr uint64_t kMostCount = (uint64_t{1} << (64 - kPositionBits)) - 1;

    static uint32_t BitsOf(float magnitude) {
        uint32_t bits;
        std::memcpy(&bits, &magnitude, sizeof(bits));
        return bits;
    }

    // e + 126; 0 for zero and for what is subnormal, which never clips.
    static int16_t ExponentOf(float magnitude) { return static_cast<int16_t>(BitsOf(magnitude) >> 23); }

    static void AddSaturated(uint64_t count, uint64_t position, uint64_t* cell) {
        if ((*cell >> kPositionBits) + count <= kMostCount) {
            *cell += (count << kPositionBits) + position;
        }
    }

    void RaiseExponent(int64_t channel, int16_t exponent) {
        if (exponent <= exponents_[channel]) {
            return;
        }
        uint64_t moved[kBins] = {};
        MoveBins(channel, exponent - exponents_[channel], moved);
        std::copy(moved, moved + kBins, &bins_[channel * kBins]);
        exponents_[channel] = exponent;
    }

    // Adds the bins of a channel to those of an exponent that is larger by `growth`. Positions are even where
    // they move: what is kept then was in [2^(e - 1), 2^e).
    void MoveBins(int64_t channel, int growth, uint64_t* target) const {
        if (growth > 1) {
            return;  // all of it is below the bins
        }
        for (int bin = kFirstBin; bin < kEndBin; ++bin) {
            const uint64_t cell = bins_[channel * kBins + bin - kFirstBin];
            if (cell == 0 || (bin >> growth) < kFirstBin) {
                continue;
            }
            const uint64_t count = cell >> kPositionBits;
            uint64_t position = cell & kPositionMask;
            if (growth == 1) {
                position = (position + (bin % 2 == 1 ? count << kUnitBits : 0)) / 2;
            }
            AddSaturated(count, position, &target[(bin >> growth) - kFirstBin]);
        }
    }

    std::vector<float> peaks_;
    std::vector<int16_t> exponents_;  // e + 126
    std::vector<uint64_t> bins_;      // [channels, kBins]
};

// Writes the columns of a row whose magnitude reaches their threshold; returns how many they are.
AMCT_VECTORIZED inline int FindLarge(const float* values, const float* thresholds, int width, int* columns) {
    constexpr int kLanes = 32;
    int found = 0;
    int start = 0;
    for (; start + kLanes <= width; start += kLanes) {
        int32_t any = 0;
        for (int lane = 0; lane < kLanes; ++lane) {
            any |= std::fabs(values[start + lane]) >= thresholds[start + lane] ? 1 : 0;
        }
        for (int c = start; any != 0 && c < start + kLanes; ++c) {
            if (std::fabs(values[c]) >= thresholds[c]) {
                columns[found++] = c;
            }
        }
    }
    for (; start < width; ++start) {
        if (std::fabs(values[start]) >= thresholds[start]) {
            columns[found++] = start;
        }
    }
    return found;
}

// peaks[c] = max(peaks[c], |value|) for rows of `width` columns; returns whether all values are finite.
AMCT_VECTORIZED inline bool FindPeaks(const float* values, int64_t rows, int width, float* peaks) {
    int32_t bad = 0;
    for (int64_t row = 0; row < rows; ++row) {
        for (int c = 0; c < width; ++c) {
            const float magnitude = std::fabs(values[row * width + c]);
            bad |= magnitude <= std::numeric_limits<float>::max() ? 0 : 1;
            peaks[c] = magnitude > peaks[c] ? magnitude : peaks[c];
        }
    }
    return bad == 0;
}

// Adds blocks of values to histograms.
class PeakCounter {
 public:
    explicit PeakCounter(PeakHistograms* histograms) : histograms_(histograms) {}

    // A block is seen as rows of `width` values, of which channels[column] tells whose they are. Returns
    // whether all are finite. The second look at them is while they are in the cache.
    bool Add(const float* values, int64_t rows, int64_t width, const std::vector<int>& channels) {
        peaks_.assign(width, 0.0f);
        if (!FindPeaks(values, rows, static_cast<int>(width), peaks_.data())) {
            return false;
        }
        for (int column = 0; column < width; ++column) {
            histograms_->RaisePeak(channels[column], peaks_[column]);
        }
        thresholds_.resize(width);
        for (int column = 0; column < width; ++column) {
            thresholds_[column] = histograms_->least_counted(channels[column]);
        }
        found_.resize(width);
        for (int64_t row = 0; row < rows; ++row) {
            const float* of_row = values + row * width;
            const int found = FindLarge(of_row, thresholds_.data(), static_cast<int>(width), found_.data());
            for (int i = 0; i < found; ++i) {
                histograms_->Count(channels[found_[i]], std::fabs(of_row[found_[i]]));
            }
        }
        return true;
    }

 private:
    PeakHistograms* const histograms_;
    std::vector<float> peaks_;
    std::vector<float> thresholds_;
    std::vector<int> found_;
};

// Adds a tensor to histograms, viewed as [outer, channels, inner]. Returns whether all its values are finite;
// if not, what was counted is of no use.
inline bool CountPeaks(const float* values, const ChannelView& view, const ParallelFor& parallel_for,
                       PeakHistograms* histograms) {
    constexpr int64_t kBlock = 16 * 1024;  // values that stay in the cache
    constexpr int64_t kWidth = 256;        // values that are worth a call
    // Blocks are of whole rows of all channels, short ones side by side, or else of one channel.
    const bool mixed = view.inner == 1;
    const int64_t width = mixed ? view.channels * std::max<int64_t>(kWidth / view.channels, 1) : kWidth;
    const int64_t block = width * std::max<int64_t>(kBlock / width, 1);
    const int64_t run = mixed ? view.size() : view.inner;  // what blocks are cut from
    const int64_t blocks = (run + block - 1) / block;
    std::mutex mutex;
    std::atomic<bool> finite{true};
    parallel_for(view.size() / run * blocks, std::min(block, run), [&](int64_t begin, int64_t end) {
        PeakHistograms found(view.channels);
        PeakCounter counter(&found);
        std::vector<int> channels(width);
        for (int64_t column = 0; column < width; ++column) {
            channels[column] = static_cast<int>(column % view.channels);
        }
        for (int64_t i = begin; i < end; ++i) {
            const int64_t start = i % blocks * block;
            const int64_t size = std::min(block, run - start);
            const float* first = values + i / blocks * run + start;
            if (!mixed) {
                std::fill(channels.begin(), channels.end(), static_cast<int>(i / blocks % view.channels));
            }
            finite = finite && counter.Add(first, size / width, width, channels) &&
                     counter.Add(first + size / width * width, 1, size % width, channels);
        }
        const std::lock_guard<std::mutex> lock(mutex);
        histograms->Merge(found);
    });
    return finite;
}

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_NUMERICS_PEAK_HISTOGRAM_H_
