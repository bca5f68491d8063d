// What the four deployment ops compute, as the SoC does, in floats that hold integers.
//
// Source: the open TF adapter of the vendor (specification, section J.1).

#ifndef AMCT_TENSORFLOW_OPS_NUMERICS_DEPLOY_H_
#define AMCT_TENSORFLOW_OPS_NUMERICS_DEPLOY_H_

#include <cstring>
#include <vector>

#include "common.h"

namespace amct {

// y = clip(round(x * scale) + offset, -2^(b-1), 2^(b-1) - 1) - offset. The offset is an integer, so the clip
// may come first, with the bounds moved by it.
AMCT_VECTORIZED inline void AscendQuantize(const float* x, int64_t size, float scale, float offset,
                                           int num_bits, float* y) {
    const float levels = static_cast<float>(1 << (num_bits - 1));
    const float low = -levels - offset;
    const float high = levels - 1 - offset;
    for (int64_t i = 0; i < size; ++i) {
        y[i] = RoundHalfAway(Clip(x[i] * scale, low, high));
    }
}

// The parts of a deq_scale word: float32 bits of scale_d * scale_w, the shift N, and the weight offset.
struct DeqScale {
    float scale;
    int shift;

    static DeqScale Unpack(uint64_t word) {
        const uint32_t bits = static_cast<uint32_t>(word);
        DeqScale deq;
        std::memcpy(&deq.scale, &bits, sizeof(bits));
        deq.shift = static_cast<int>((word >> 32) & 0xff);
        return deq;
    }
};

// The same in the form the loops need: y = clip(floor(x * shift_factor)) * output_factor / area. For N = 0
// there is no floor and the clip is to int32.
struct DequantChannel {
    float shift_factor;   // area / 2^N
    float output_factor;  // scale * 2^N
    float area;
    bool shifts;

    DequantChannel(const DeqScale& deq, float area)
        : shift_factor(std::ldexp(area, -deq.shift)),
          output_factor(std::ldexp(deq.scale, deq.shift)),
          area(area),
          shifts(deq.shift > 0) {}
};

inline float ClipInt16(float x) { return Clip(x, -32768.0f, 32767.0f); }
inline float ClipInt32(float x) { return Clip(x, -2147483648.0f, 2147483648.0f); }

// A run of one channel. x may be y.
AMCT_VECTORIZED inline void DequantizeRun(const float* x, int64_t size, const DequantChannel& channel,
                                          float* y) {
    const DequantChannel c = channel;  // a copy: y might alias the original for all the compiler knows
    if (c.shifts) {
        for (int64_t i = 0; i < size; ++i) {
            y[i] = ClipInt16(std::floor(x[i] * c.shift_factor)) * c.output_factor / c.area;
        }
    } else {
        for (int64_t i = 0; i < size; ++i) {
            y[i] = ClipInt32(x[i] * c.shift_factor) * c.output_factor / c.area;
        }
    }
}

// Rows whose columns are the channels.
class DequantColumns {
 public:
    explicit DequantColumns(const std::vector<DequantChannel>& channels) {
        for (const DequantChannel& channel : channels) {
            shift_factors_.push_back(channel.shift_factor);
            output_factors_.push_back(channel.output_factor / channel.area);
            shifts_ = shifts_ || channel.shifts;
            mixed_ = mixed_ || channel.shifts != channels[0].shifts;
        }
        channels_ = channels;
    }

    // x may be y.
    void Dequantize(const float* x, int64_t rows, float* y) const {
        const int64_t width = static_cast<int64_t>(channels_.size());
        if (mixed_) {
            for (int64_t i = 0; i < rows * width; ++i) {
                DequantizeRun(x + i, 1, channels_[i % width], y + i);
            }
        } else if (shifts_) {
            Shifted(x, rows, width, shift_factors_.data(), output_factors_.data(), y);
        } else {
            Plain(x, rows, width, shift_factors_.data(), output_factors_.data(), y);
        }
    }

 private:
    AMCT_VECTORIZED static void Plain(const float* x, int64_t rows, int64_t width, const float* shift_factors,
                                      const float* output_factors, float* y) {
        for (int64_t row = 0; row < rows; ++row) {
            const float* in = x + row * width;
            float* out = y + row * width;
            for (int64_t c = 0; c < width; ++c) {
                out[c] = ClipInt32(in[c] * shift_factors[c]) * output_factors[c];
            }
        }
    }

    AMCT_VECTORIZED static void Shifted(const float* x, int64_t rows, int64_t width,
                                        const float* shift_factors, const float* output_factors, float* y) {
        for (int64_t row = 0; row < rows; ++row) {
            const float* in = x + row * width;
            float* out = y + row * width;
            for (int64_t c = 0; c < width; ++c) {
                out[c] = ClipInt16(std::floor(in[c] * shift_factors[c])) * output_factors[c];
            }
        }
    }

    std::vector<DequantChannel> channels_;
    std::vector<float> shift_factors_;
    std::vector<float> output_factors_;
    bool shifts_ = false;
    bool mixed_ = false;
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_NUMERICS_DEPLOY_H_
