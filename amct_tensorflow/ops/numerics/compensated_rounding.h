// Rounding of weights in which the later ones make up for the errors of the earlier, and what the layer's
// result still loses by it.
//
// The error of a layer's result is e' M e for the error e = w - q of the weights of an output, in units of
// their scale, and the second moments M of the input. With M = R' R it is |R e|^2. The weights of an output
// are rounded one after the other, from the last row of the triangle R up: each to the integer next to what
// makes its own row of R e least, given the errors of those before. That is the method of Frantar et al.
// (OPTQ / GPTQ, 2022), which pushes errors on through the Cholesky factor of M^-1: the inverse of R, in
// reverse order. Inputs of the greatest power come first, as there is most left to make up for them then.
//
// M is that of the samples, and they are few: off the diagonal it is shrunk to n / (n + K / 4) of what n
// samples of K inputs say, in the manner of Ledoit and Wolf (2004). A quarter makes |R e|^2 a fair forecast
// for other data; for the rounding itself, a tenth to one do equally well. Quantization adds its noise on the
// diagonal.

#ifndef AMCT_TENSORFLOW_OPS_NUMERICS_COMPENSATED_ROUNDING_H_
#define AMCT_TENSORFLOW_OPS_NUMERICS_COMPENSATED_ROUNDING_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "arq.h"
#include "common.h"
#include "dense.h"
#include "second_moments.h"

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
// nearest integers are those of the floats.
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

    AMCT_VECTORIZED static void ToFixedPoint(const float* weights, int64_t size, const float* scales,
                                             int64_t step, int16_t* values) {
        for (int64_t i = 0; i < size; ++i) {
            const float ratio = Clip(weights[i] / scales[i * step], -128.0f, 127.0f);
            const float nearest = RoundHalfAway(ratio) * kOne;
            // No tie that was none: the nearest integer stays the same.
            const float value =
                Clip(RoundHalfAway(ratio * kOne), nearest - kOne / 2 + 1, nearest + kOne / 2 - 1);
            values[i] = static_cast<int16_t>(static_cast<int32_t>(value));
        }
    }

    std::vector<int16_t> values_;
    std::vector<float> scales_;
};

struct RoundingOptions {
    bool compensate;     // else to the nearest
    bool correct_bias;   // what the mean of the input makes of the errors is taken by the bias
    double input_noise;  // of a quantized input that is not 0: its scale squared, by 12
};

struct RoundingResult {
    std::vector<int8_t> integers;  // where the weights are in their tensor
    std::vector<float> bias;       // to add to each output, [groups * outputs]
    // Mean squares, summed over the outputs: of the layer's result without its bias, and of what the errors
    // of the weights do to it. The last is what the bias can take, and takes if it may.
    double signal = 0;
    double error = 0;
    double mean_error = 0;
};

class CompensatedRounding {
 public:
    CompensatedRounding(const FixedPointWeights& weights, const WeightLayout& layout,
                        const SecondMoments& moments, const RoundingOptions& options)
        : weights_(weights), layout_(layout), moments_(moments), options_(options) {}

    RoundingResult Run() {
        result_.integers.resize(layout_.size());
        result_.bias.resize(layout_.groups * layout_.outputs);
        for (size_t block = 0; block < moments_.blocks().size();) {
            const int64_t group = moments_.blocks()[block].group;
            means_.assign(layout_.outputs, 0.0);
            mean_errors_.assign(layout_.outputs, 0.0);
            for (; block < moments_.blocks().size() && moments_.blocks()[block].group == group; ++block) {
                RoundBlock(static_cast<int64_t>(block));
            }
            for (int64_t output = 0; output < layout_.outputs; ++output) {
                const int64_t at = group * layout_.outputs + output;
                const double scale = weights_.Scale(at);
                result_.signal += scale * scale * means_[output] * means_[output];
                result_.mean_error += scale * scale * mean_errors_[output] * mean_errors_[output];
                result_.bias[at] = static_cast<float>(scale * mean_errors_[output]);
            }
        }
        return std::move(result_);
    }

 private:
    static constexpr int64_t kOutputs = 64;  // that are rounded together
    static constexpr int64_t kRows = 64;     // whose errors are made up for by one product
    static constexpr double kDamping = 1e-3;
    static constexpr double kShrinkage = 0.25;

    void RoundBlock(int64_t block) {
        range_ = moments_.blocks()[block];
        size_ = range_.count * layout_.taps;
        covariance_.resize(size_ * size_);
        moments_.Covariance(block, covariance_.data());
        mean_.resize(size_);
        for (int64_t row = 0; row < size_; ++row) {
            mean_[row] = static_cast<float>(moments_.Mean(moments_.Index(range_, row)));
        }
        for (int64_t first = 0; first < layout_.outputs; first += kOutputs) {
            AddSignal(first, std::min(kOutputs, layout_.outputs - first));
        }
        const bool can_compensate = MakeFactor() && options_.compensate;
        for (int64_t first = 0; first < layout_.outputs; first += kOutputs) {
            RoundOutputs(first, std::min(kOutputs, layout_.outputs - first), can_compensate);
        }
    }

    double ScaleOf(int64_t output) const { return weights_.Scale(range_.group * layout_.outputs + output); }

    // Reads the weights of some outputs, [size_, count], rows in the order of `rows`.
    template <typename RowAt>
    void ReadWeights(int64_t first, int64_t count, const RowAt& row_at) {
        read_.resize(size_ * count);
        for (int64_t row = 0; row < size_; ++row) {
            for (int64_t output = 0; output < count; ++output) {
                read_[row * count + output] = weights_[layout_.Index(range_, row_at(row), first + output)];
            }
        }
    }

    void AddSignal(int64_t first, int64_t count) {
        ReadWeights(first, count, [](int64_t row) { return row; });
        const auto weights = View(read_.data(), size_, count, count);
        product_.resize(size_ * count);
        auto product = View(product_.data(), size_, count, count);
        product.noalias() = View(covariance_.data(), size_, size_, size_) * weights;
        for (int64_t output = 0; output < count; ++output) {
            double power = 0;
            double mean = 0;
            for (int64_t row = 0; row < size_; ++row) {
                power += static_cast<double>(weights(row, output)) * product(row, output);
                mean += static_cast<double>(weights(row, output)) * mean_[row];
            }
            const double scale = ScaleOf(first + output);
            result_.signal += scale * scale * std::max(power, 0.0);
            means_[first + output] += mean;
        }
    }

    // Makes R of M, in the place of the covariances, and the order of the rows; false if it cannot be made.
    bool MakeFactor() {
        const auto samples = static_cast<double>(moments_.rows());
        const double share = samples / (samples + kShrinkage * static_cast<double>(size_));
        const auto shrunk = static_cast<float>(share);
        std::vector<double> diagonal(size_);
        double damping = 0;
        for (int64_t i = 0; i < size_; ++i) {
            const int64_t index = moments_.Index(range_, i);
            const double covariance = std::max(0.0f, covariance_[i * size_ + i]);
            const double moment = covariance + (options_.correct_bias ? 0 : mean_[i] * mean_[i]);
            diagonal[i] = moment + options_.input_noise * moments_.Nonzero(index);
            damping += kDamping * diagonal[i] / static_cast<double>(size_);
        }
        if (!(damping > 0)) {
            damping = 1;  // all inputs were 0: whatever they will be, the nearest is best
        }
        order_.resize(size_);
        std::iota(order_.begin(), order_.end(), 0);
        std::stable_sort(order_.begin(), order_.end(),
                         [&](int64_t i, int64_t j) { return diagonal[i] < diagonal[j]; });
        factor_.resize(size_ * size_);
        for (int64_t i = 0; i < size_; ++i) {
            const int64_t from = order_[i];
            for (int64_t j = i; j < size_; ++j) {
                const int64_t to = order_[j];
                const float mean = options_.correct_bias ? 0.0f : mean_[from] * mean_[to];
                factor_[i * size_ + j] = shrunk * (covariance_[from * size_ + to] + mean);
            }
            factor_[i * size_ + i] = static_cast<float>(diagonal[from] + damping);
        }
        if (Factorize(factor_.data(), size_)) {
            return true;
        }
        std::fill(factor_.begin(), factor_.end(), 0.0f);
        for (int64_t i = 0; i < size_; ++i) {
            factor_[i * size_ + i] = std::sqrt(static_cast<float>(diagonal[order_[i]] + damping));
        }
        return false;
    }

    void RoundOutputs(int64_t first, int64_t count, bool compensate) {
        ReadWeights(first, count, [this](int64_t row) { return order_[row]; });
        std::vector<float> follows(count);  // whether an output's weights follow the errors: 1 or 0
        for (int64_t output = 0; output < count; ++output) {
            follows[output] = compensate && IsAlive(output, count) ? 1.0f : 0.0f;
        }
        errors_.assign(size_ * count, 0.0f);
        std::vector<float> integers(count);
        std::vector<double> lost(count, 0.0);
        for (int64_t end = size_; end > 0; end -= kRows) {
            const int64_t begin = std::max<int64_t>(end - kRows, 0);
            product_.resize((end - begin) * count);
            View(product_.data(), end - begin, count, count).noalias() =
                View(factor_.data() + begin * size_ + end, end - begin, size_ - end, size_) *
                View(errors_.data() + end * count, size_ - end, count, count);
            for (int64_t row = end - 1; row >= begin; --row) {
                float* known = product_.data() + (row - begin) * count;
                for (int64_t later = row + 1; later < end; ++later) {
                    AddScaled(errors_.data() + later * count, factor_[row * size_ + later], count, known);
                }
                RoundRow(read_.data() + row * count, factor_[row * size_ + row], follows.data(), count, known,
                         integers.data(), errors_.data() + row * count);
                for (int64_t output = 0; output < count; ++output) {
                    lost[output] += static_cast<double>(known[output]) * known[output];
                    mean_errors_[first + output] +=
                        static_cast<double>(mean_[order_[row]]) * errors_[row * count + output];
                    result_.integers[layout_.Index(range_, order_[row], first + output)] =
                        static_cast<int8_t>(integers[output]);
                }
            }
        }
        for (int64_t output = 0; output < count; ++output) {
            result_.error += ScaleOf(first + output) * ScaleOf(first + output) * lost[output];
        }
    }

    // Whether an output has a weight that is not next to 0. If not, its scale is not one of its weights.
    bool IsAlive(int64_t output, int64_t count) const {
        for (int64_t row = 0; row < size_; ++row) {
            if (std::fabs(read_[row * count + output]) >= 0.5f) {
                return true;
            }
        }
        return false;
    }

    AMCT_VECTORIZED static void AddScaled(const float* errors, float factor, int64_t count, float* sums) {
        for (int64_t i = 0; i < count; ++i) {
            sums[i] += factor * errors[i];
        }
    }

    // Rounds one weight of each output. `known` is the row of R e without its own error, and then with it.
    AMCT_VECTORIZED static void RoundRow(const float* weights, float diagonal, const float* follows,
                                         int64_t count, float* known, float* integers, float* errors) {
        for (int64_t i = 0; i < count; ++i) {
            const float wanted = weights[i] + follows[i] * (known[i] / diagonal);
            integers[i] = RoundHalfAway(Clip(wanted, -128.0f, 127.0f));
            errors[i] = weights[i] - integers[i];
            known[i] += diagonal * errors[i];
        }
    }

    const FixedPointWeights& weights_;
    const WeightLayout& layout_;
    const SecondMoments& moments_;
    const RoundingOptions options_;
    RoundingResult result_;
    std::vector<double> means_;        // of the outputs of a group
    std::vector<double> mean_errors_;  // likewise
    ChannelRange range_{};             // the block that is worked on, and its rows
    int64_t size_ = 0;
    std::vector<float> covariance_;
    std::vector<float> factor_;
    std::vector<float> mean_;
    std::vector<int64_t> order_;
    std::vector<float> read_;
    std::vector<float> errors_;
    std::vector<float> product_;
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_NUMERICS_COMPENSATED_ROUNDING_H_
