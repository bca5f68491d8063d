// A layer's input as its weights see it: each output position sees, at each kernel tap, the channels of one
// input position, or zeros beside the input.
//
// Channels form groups, which have weights of their own: one for most layers, one a channel for depthwise
// convolutions. Products of matrices have one tap; where their weights are a batch of matrices, the parts of
// the batch are the groups.

#ifndef AMCT_TENSORFLOW_OPS_NUMERICS_LAYER_INPUT_H_
#define AMCT_TENSORFLOW_OPS_NUMERICS_LAYER_INPUT_H_

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace amct {

// Depth, height and width; those that a layer lacks are 1.
using Space = std::array<int64_t, 3>;

inline int64_t Product(const Space& sizes) { return sizes[0] * sizes[1] * sizes[2]; }

// How a kernel goes over the input.
struct Window {
    Space kernel{1, 1, 1};
    Space stride{1, 1, 1};
    Space dilation{1, 1, 1};
    Space before{0, 0, 0};    // padding in front
    bool transposed = false;  // the stride is that of the input in the output

    int64_t taps() const { return Product(kernel); }

    // The input position along an axis that an output position sees at a tap; below 0 where it sees none.
    int64_t Source(int axis, int64_t output, int64_t tap) const {
        if (!transposed) {
            return output * stride[axis] - before[axis] + tap * dilation[axis];
        }
        const int64_t behind = output + before[axis] - tap * dilation[axis];
        return behind >= 0 && behind % stride[axis] == 0 ? behind / stride[axis] : -1;
    }
};

// The values, and how many elements it is from one position or channel to the next.
struct LayerInput {
    const float* values = nullptr;
    int64_t batch = 1;
    Space size{1, 1, 1};
    int64_t groups = 1;
    int64_t width = 1;  // channels of a group
    int64_t batch_step = 0;
    Space size_step{0, 0, 0};
    int64_t group_step = 0;
    int64_t channel_step = 1;
    Space output{1, 1, 1};  // positions of the result

    int64_t positions() const { return batch * Product(output); }
};

// `count` of `total` positions, spread evenly, but not in step with the rows of an image; all if there are no
// more. A function of the two numbers alone.
inline std::vector<int64_t> ChoosePositions(int64_t total, int64_t count) {
    constexpr double kGoldenRatio = 0.6180339887498949;
    std::vector<int64_t> chosen(std::min(total, count));
    for (size_t i = 0; i < chosen.size(); ++i) {
        const double at = static_cast<double>(i);
        const double within = at * kGoldenRatio - std::floor(at * kGoldenRatio);
        const auto position =
            static_cast<int64_t>((at + within) * static_cast<double>(total) / static_cast<double>(count));
        chosen[i] = total <= count ? static_cast<int64_t>(i) : std::min(position, total - 1);
    }
    return chosen;
}

// Some channels of one group, from the first of the group on.
struct ChannelRange {
    int64_t group;
    int64_t first;
    int64_t count;
};

// An output position: the part of the batch that it is of, and where it is in the result.
struct OutputPosition {
    int64_t part;
    Space at;

    OutputPosition(const LayerInput& input, int64_t position) : part(position / Product(input.output)) {
        int64_t rest = position % Product(input.output);
        for (int axis = 2; axis >= 0; --axis) {
            at[axis] = rest % input.output[axis];
            rest /= input.output[axis];
        }
    }
};

// Finds the input position that an output position sees at a tap: how many elements behind the first. False
// if it sees none.
inline bool FindSource(const LayerInput& input, const Window& window, const OutputPosition& position,
                       int64_t tap, int64_t* offset) {
    *offset = position.part * input.batch_step;
    for (int axis = 2; axis >= 0; --axis) {
        const int64_t seen = window.Source(axis, position.at[axis], tap % window.kernel[axis]);
        tap /= window.kernel[axis];
        if (seen < 0 || seen >= input.size[axis]) {
            return false;
        }
        *offset += seen * input.size_step[axis];
    }
    return true;
}

// Copies what one position sees of these channels, tap by tap: [taps, channels]. Channels of several groups
// follow each other where a group has one.
inline void GatherRow(const LayerInput& input, const Window& window, int64_t position,
                      const ChannelRange& range, float* row) {
    const int64_t step = input.width == 1 ? input.group_step : input.channel_step;
    const int64_t first = input.width == 1 ? range.group : range.first;
    const float* start =
        input.values + first * step + (input.width == 1 ? 0 : range.group * input.group_step);
    const OutputPosition at(input, position);
    for (int64_t tap = 0; tap < window.taps(); ++tap, row += range.count) {
        int64_t offset;
        if (!FindSource(input, window, at, tap, &offset)) {
            std::fill_n(row, range.count, 0.0f);
        } else if (step == 1) {
            std::memcpy(row, start + offset, range.count * sizeof(float));
        } else {
            for (int64_t c = 0; c < range.count; ++c) {
                row[c] = start[offset + c * step];
            }
        }
    }
}

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_NUMERICS_LAYER_INPUT_H_
