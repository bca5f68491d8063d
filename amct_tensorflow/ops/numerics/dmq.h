// DMQ: factors per input channel that move a part of the spread of the activations to the weights.
//
// f = a^s / b^(1-s) for the largest magnitudes a of the activations and b of the weights of a channel, and
// the migration strength s. Activations are then divided by f, weights multiplied. Source: the vendor's
// original C++ (specification, section 5).

#ifndef AMCT_TENSORFLOW_OPS_NUMERICS_DMQ_H_
#define AMCT_TENSORFLOW_OPS_NUMERICS_DMQ_H_

#include <algorithm>
#include <cstring>
#include <mutex>
#include <vector>

#include "arq.h"
#include "common.h"

namespace amct {

// The largest magnitude of each channel.
class ChannelMaxima {
 public:
    explicit ChannelMaxima(int64_t channels) : bits_(channels, 0) {}

    void Add(const float* values, const ChannelView& view, const ParallelFor& parallel_for) {
        std::mutex mutex;
        parallel_for(view.outer, view.channels * view.inner, [&](int64_t begin, int64_t end) {
            std::vector<int32_t> part(bits_.size(), 0);
            const float* row = values + begin * view.channels * view.inner;
            for (int64_t i = begin; i < end; ++i, row += view.channels * view.inner) {
                AddRow(row, view.channels, view.inner, part.data());
            }
            const std::lock_guard<std::mutex> lock(mutex);
            Merge(part);
        });
    }

    void Merge(const ChannelMaxima& other) { Merge(other.bits_); }

    int64_t channels() const { return static_cast<int64_t>(bits_.size()); }

    // Whether all values were finite.
    bool IsFinite() const {
        return std::all_of(bits_.begin(), bits_.end(), [](int32_t bits) { return bits < kInfinity; });
    }

    std::vector<float> Values() const {
        std::vector<float> values(bits_.size());
        std::memcpy(values.data(), bits_.data(), bits_.size() * sizeof(float));
        return values;
    }

    // Bytes kept between batches.
    size_t StateBytes() const { return sizeof(*this) + bits_.size() * sizeof(int32_t); }

 private:
    static constexpr int32_t kInfinity = 0x7f800000;

    // Magnitudes have the order of their bits, with infinity above all numbers and NaN above it.
    static int32_t MagnitudeBits(float value) {
        int32_t bits;
        std::memcpy(&bits, &value, sizeof(bits));
        return bits & 0x7fffffff;
    }

    AMCT_VECTORIZED static void AddRow(const float* row, int64_t channels, int64_t inner, int32_t* bits) {
        if (inner == 1) {  // channels last
            for (int64_t c = 0; c < channels; ++c) {
                bits[c] = std::max(bits[c], MagnitudeBits(row[c]));
            }
            return;
        }
        for (int64_t c = 0; c < channels; ++c, row += inner) {
            int32_t most = bits[c];
            for (int64_t i = 0; i < inner; ++i) {
                most = std::max(most, MagnitudeBits(row[i]));
            }
            bits[c] = most;
        }
    }

    void Merge(const std::vector<int32_t>& other) {
        for (size_t c = 0; c < bits_.size(); ++c) {
            bits_[c] = std::max(bits_[c], other[c]);
        }
    }

    std::vector<int32_t> bits_;
};

// Whether a factor can be recorded: strictly between FLT_EPSILON and 1 / FLT_EPSILON.
inline bool IsBalanceFactor(float factor) { return factor > kFloatEpsilon && factor < kMaxScale; }

// One factor a channel, of its largest magnitudes. A channel that is zero in either has no factor of its own:
// it gets the one that brings it to the largest magnitude of the others.
inline std::vector<float> BalanceFactors(const std::vector<float>& activations,
                                         const std::vector<float>& weights, float migration_strength) {
    const size_t channels = activations.size();
    std::vector<float> factors(channels, 1.0f);
    float most_activation = 0;  // after the balance
    float most_weight = 0;
    const auto is_zero = [](float magnitude) { return magnitude < kFloatEpsilon; };
    for (size_t c = 0; c < channels; ++c) {
        if (!is_zero(activations[c]) && !is_zero(weights[c])) {
            factors[c] =
                std::pow(activations[c], migration_strength) / std::pow(weights[c], 1 - migration_strength);
            most_activation = std::max(most_activation, activations[c] / factors[c]);
            most_weight = std::max(most_weight, weights[c] * factors[c]);
        }
    }
    if (is_zero(most_activation) || is_zero(most_weight)) {
        return std::vector<float>(channels, 1.0f);
    }
    for (size_t c = 0; c < channels; ++c) {
        if (is_zero(activations[c]) && !is_zero(weights[c])) {
            factors[c] = most_weight / weights[c];
        } else if (is_zero(weights[c]) && !is_zero(activations[c])) {
            factors[c] = activations[c] / most_activation;
        }
    }
    return factors;
}

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_NUMERICS_DMQ_H_
