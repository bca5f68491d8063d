// Weights that are to be rounded, and where they are in their tensor.

#ifndef AMCT_TENSORFLOW_OPS_NUMERICS_FIXED_POINT_WEIGHTS_H_
#define AMCT_TENSORFLOW_OPS_NUMERICS_FIXED_POINT_WEIGHTS_H_

#include <cstdint>
#include <vector>

#include "arq.h"
#include "common.h"
#include "layer_input.h"

namespace amct {

// Where the weights of a layer are in their tensor: steps in elements, of which `outputs` are a group's.
struct WeightLayout {
    int64_t groups;
    int64_t width;
    int64_t taps;
    int64_t outputs;
    int64_t group_step;
    int64_t channel_step;
    int64_t tap_step;
    int64_t output_step;

    int64_t size() const { return groups * width * taps * outputs; }
    int64_t Index(const ChannelRange& block, int64_t row, int64_t output) const {
        return block.group * group_step + (block.first + row % block.count) * channel_step +
               row / block.count * tap_step + output * output_step;
    }
};

// Weights in units of their scales, with 8 binary digits behind the point: half the memory of floats. Their
// nearest integers are those of the floats. A weight of 128 units, as the scale of a larger negative one
// gives it, is kept as 128 - 1 / 256, so that it is seen to lose what int8 cannot hold.
class FixedPointWeights {
 public:
    FixedPointWeights() = default;
    FixedPointWeights(const float* weights, const ChannelView& view, const float* scales)
        : values_(view.size()), scales_(scales, scales + view.channels) {
        ForEachScaledRow(view, scales,
                         [&](int64_t begin, int64_t size, const float* row_scales, int64_t step) {
                             ToFixedPoint(weights + begin, size, row_scales, step, values_.data() + begin);
                         });
    }

    bool empty() const { return values_.empty(); }
    float operator[](int64_t index) const { return static_cast<float>(values_[index]) / kOne; }
    // The scale of an output, counted over all groups: there is one in all, one for each, or as many as a
    // group of a batch of matrices has.
    float Scale(int64_t output) const { return scales_[output % static_cast<int64_t>(scales_.size())]; }

 private:
    static constexpr float kOne = 256.0f;
    static constexpr float kLargest = 128.0f - 1.0f / kOne;

    AMCT_VECTORIZED static void ToFixedPoint(const float* weights, int64_t size, const float* scales,
                                             int64_t step, int16_t* values) {
        for (int64_t i = 0; i < size; ++i) {
            const float ratio = Clip(weights[i] / scales[i * step], -128.0f, kLargest);
            const float nearest = RoundHalfAway(ratio) * kOne;
            // No tie that was none: the nearest integer stays the same.
            const float value =
                Clip(RoundHalfAway(ratio * kOne), nearest - kOne / 2 + 1, nearest + kOne / 2 - 1);
            values[i] =
                static_cast<int16_t>(static_cast<int32_t>(Clip(value, -128.0f * kOne, kLargest * kOne)));
        }
    }

    std::vector<int16_t> values_;
    std::vector<float> scales_;
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_NUMERICS_FIXED_POINT_WEIGHTS_H_
