// ARQ: symmetric weight factors per channel, and the int8 and fake-quantized weights they give.
//
// A tensor is viewed as [outer, channels, inner]: channels are the output channels, or 1 for one factor.
// Source: the vendor's original C++ (specification, section 3).

#ifndef AMCT_TENSORFLOW_OPS_NUMERICS_ARQ_H_
#define AMCT_TENSORFLOW_OPS_NUMERICS_ARQ_H_

#include <algorithm>
#include <vector>

#include "common.h"

namespace amct {

struct ChannelView {
    int64_t outer;
    int64_t channels;
    int64_t inner;

    int64_t size() const { return outer * channels * inner; }

    // Calls fn(channel, begin, end) for every contiguous run of one channel.
    template <typename Function>
    void ForEachRun(const Function& fn) const {
        for (int64_t run = 0; run < outer * channels; ++run) {
            fn(run % channels, run * inner, (run + 1) * inner);
        }
    }
};

// Calls fn(begin, size, scales, step) for rows that are as long as can be: the scale of value begin + i is
// scales[i * step], and step is 0 or 1.
template <typename Function>
void ForEachScaledRow(const ChannelView& view, const float* scales, const Function& fn) {
    if (view.inner == 1) {
        for (int64_t row = 0; row < view.outer; ++row) {
            fn(row * view.channels, view.channels, scales, int64_t{1});
        }
        return;
    }
    view.ForEachRun([&](int64_t channel, int64_t begin, int64_t end) {
        fn(begin, end - begin, scales + channel, int64_t{0});
    });
}

// scale = largest / 127 if the value of largest magnitude is positive, else largest / -128, for 8 bits.
inline float SymmetricScale(float min, float max, int num_bits) {
    const float largest = std::fabs(max) > std::fabs(min) ? max : min;
    const float levels = static_cast<float>(1 << (num_bits - 1));
    return largest > 0 ? largest / (levels - 1) : largest / -levels;
}

// Writes one scale per channel. Fails on NaN and on scales that are not finite or too large.
inline ScaleStatus ArqScales(const float* weights, const ChannelView& view, int num_bits, float* scales) {
    std::vector<float> low(view.channels, std::numeric_limits<float>::infinity());
    std::vector<float> high(view.channels, -std::numeric_limits<float>::infinity());
    bool has_nan = false;
    view.ForEachRun([&](int64_t channel, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            has_nan = has_nan || std::isnan(weights[i]);
            low[channel] = std::min(low[channel], weights[i]);
            high[channel] = std::max(high[channel], weights[i]);
        }
    });
    if (has_nan) {
        return ScaleStatus::kNotFinite;
    }
    for (int64_t channel = 0; channel < view.channels; ++channel) {
        scales[channel] = SymmetricScale(low[channel], high[channel], num_bits);
        const ScaleStatus status = SanitizeScale(&scales[channel]);
        if (status != ScaleStatus::kOk) {
            return status;
        }
    }
    return ScaleStatus::kOk;
}

// q = clip(round(w / scale)), handed to emit(index, q, scale).
template <typename Emit>
void QuantizeWeights(const float* weights, const ChannelView& view, const float* scales, int num_bits,
                     const Emit& emit) {
    const float levels = static_cast<float>(1 << (num_bits - 1));
    view.ForEachRun([&](int64_t channel, int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
            const float ratio = Clip(weights[i] / scales[channel], -levels, levels - 1);
            emit(i, RoundHalfAway(ratio), scales[channel]);
        }
    });
}

inline void FakeQuantizeWeights(const float* weights, const ChannelView& view, const float* scales,
                                int num_bits, float* output) {
    QuantizeWeights(weights, view, scales, num_bits,
                    [output](int64_t i, float q, float scale) { output[i] = q * scale; });
}

inline void QuantizeWeightsToInt8(const float* weights, const ChannelView& view, const float* scales,
                                  int num_bits, int8_t* output) {
    QuantizeWeights(weights, view, scales, num_bits,
                    [output](int64_t i, float q, float) { output[i] = static_cast<int8_t>(q); });
}

// Multiplies neighbouring values with one factor.
AMCT_VECTORIZED inline void ScaleRun(const int8_t* weights, int64_t size, float scale, float* output) {
    for (int64_t i = 0; i < size; ++i) {
        output[i] = static_cast<float>(weights[i]) * scale;
    }
}

// Multiplies rows of one value a channel with the factors of the channels.
AMCT_VECTORIZED inline void ScaleRows(const int8_t* weights, int64_t rows, int64_t width, const float* scales,
                                      float* output) {
    for (int64_t row = 0; row < rows; ++row) {
        for (int64_t c = 0; c < width; ++c) {
            output[row * width + c] = static_cast<float>(weights[row * width + c]) * scales[c];
        }
    }
}

// w = q * scale, the weights that the integers of QuantizeWeightsToInt8 stand for.
inline void DequantizeWeights(const int8_t* weights, const ChannelView& view, const float* scales,
                              const ParallelFor& parallel_for, float* output) {
    if (view.inner == 1) {
        parallel_for(view.outer, view.channels, [&](int64_t begin, int64_t end) {
            const int64_t at = begin * view.channels;
            ScaleRows(weights + at, end - begin, view.channels, scales, output + at);
        });
        return;
    }
    parallel_for(view.size(), 1, [&](int64_t begin, int64_t end) {
        while (begin < end) {
            const int64_t run = begin / view.inner;
            const int64_t size = std::min(end, (run + 1) * view.inner) - begin;
            ScaleRun(weights + begin, size, scales[run % view.channels], output + begin);
            begin += size;
        }
    });
}

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_NUMERICS_ARQ_H_
