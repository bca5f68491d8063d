// Rounding of weights in which the later ones make up for the errors of the earlier, and what the layer's
// result still loses by it.
//
// The error of a layer's result is e' M e for the error e = w - q of the weights of an output, in units of
// their scale, and the second moments M of the input. Inputs of the greatest power are rounded first, as
// there is most left to make up for them then (rounding_panel.h). Where that lets weights saturate, an
// output's weights become the nearest integers if they lose less.
//
// M is that of n samples, and they may be few. Off the diagonal it is shrunk by the share of its squares that
// is their chance, after Ledoit and Wolf (2004), with the variance (m_ii m_jj + m_ij^2) / n that m_ij has for
// normal inputs: what inputs that depend on each other have in common is kept, and independent ones get the
// nearest integers. The diagonal gets 1 / n of the squared mean, which is as uncertain as that, and some
// pseudo-samples of the mean diagonal: an input may only not have been seen yet. Quantization adds its noise
// there. A correction of the bias is taken as far as it is more than chance, in the manner of James and
// Stein. Layers that share their weights share M, the mean of theirs by their samples; each has a bias, and a
// mean, of its own.

#ifndef AMCT_TENSORFLOW_OPS_NUMERICS_COMPENSATED_ROUNDING_H_
#define AMCT_TENSORFLOW_OPS_NUMERICS_COMPENSATED_ROUNDING_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

#include "common.h"
#include "dense.h"
#include "fixed_point_weights.h"
#include "rounding_panel.h"
#include "second_moments.h"

namespace amct {

struct RoundingOptions {
    bool compensate;    // else to the nearest
    bool correct_bias;  // what the mean of the input makes of the errors is taken by the bias
};

// What a layer with the weights sees.
struct RoundingInput {
    const SecondMoments* moments;
    double noise;  // of a quantized value that is not 0: the scale squared, by 12
};

// What becomes of such a layer.
struct RoundedLayer {
    std::vector<float> bias;  // to add to each output, [groups * outputs]
    // Mean squares, summed over the outputs: of the layer's result without its bias, and of what the errors
    // of the weights do to it. The last is what the bias can take, and takes if it may. Of layers that share
    // their weights, the errors are taken to be to each other as the results are.
    double signal = 0;
    double error = 0;
    double mean_error = 0;
};

struct RoundingResult {
    std::vector<int8_t> integers;  // where the weights are in their tensor
    std::vector<RoundedLayer> layers;
};

class CompensatedRounding {
 public:
    // All inputs are of the layout, and have the same blocks.
    CompensatedRounding(const FixedPointWeights& weights, const WeightLayout& layout,
                        const std::vector<RoundingInput>& inputs, const RoundingOptions& options)
        : weights_(weights), layout_(layout), inputs_(inputs), options_(options) {
        for (const RoundingInput& input : inputs) {
            samples_ += static_cast<double>(input.moments->rows());
        }
    }

    RoundingResult Run() {
        const std::vector<ChannelRange>& blocks = inputs_[0].moments->blocks();
        result_.integers.resize(layout_.size());
        result_.layers.resize(inputs_.size());
        sums_.resize(inputs_.size());
        for (RoundedLayer& layer : result_.layers) {
            layer.bias.resize(layout_.groups * layout_.outputs);
        }
        for (size_t block = 0; block < blocks.size();) {
            const int64_t group = blocks[block].group;
            for (GroupSums& sums : sums_) {
                sums.means.assign(layout_.outputs, 0.0);
                sums.mean_errors.assign(layout_.outputs, 0.0);
            }
            lost_.assign(layout_.outputs, 0.0);
            for (; block < blocks.size() && blocks[block].group == group; ++block) {
                RoundBlock(static_cast<int64_t>(block));
            }
            EndGroup(group);
        }
        ShareError();
        return std::move(result_);
    }

 private:
    static constexpr int64_t kOutputs = 64;  // that are rounded together
    static constexpr double kPseudoSamples = 4;

    // Of a layer, for each output of a group.
    struct GroupSums {
        std::vector<double> means;
        std::vector<double> mean_errors;
    };

    void EndGroup(int64_t group) {
        for (size_t layer = 0; layer < inputs_.size(); ++layer) {
            RoundedLayer& result = result_.layers[layer];
            for (int64_t output = 0; output < layout_.outputs; ++output) {
                const int64_t at = group * layout_.outputs + output;
                const double mean = weights_.Scale(at) * sums_[layer].means[output];
                const double mean_error = weights_.Scale(at) * sums_[layer].mean_errors[output];
                const double taken = mean_error * Certainty(inputs_[layer], output, sums_[layer]);
                const double left = mean_error - taken;
                result.signal += mean * mean;
                result.mean_error += mean_error * mean_error - left * left;
                result.error += left * left;
                result.bias[at] = static_cast<float>(taken);
            }
        }
    }

    // The part of what the errors of an output's weights do to its mean that is more than chance.
    double Certainty(const RoundingInput& input, int64_t output, const GroupSums& sums) const {
        if (!options_.correct_bias) {
            return 1;
        }
        const double square = sums.mean_errors[output] * sums.mean_errors[output];
        const double chance = lost_[output] / static_cast<double>(input.moments->rows());
        return chance < square ? 1 - chance / square : 0;
    }

    void ShareError() {
        double signal = 0;
        for (size_t layer = 0; layer < inputs_.size(); ++layer) {
            signal += ShareOf(inputs_[layer]) * result_.layers[layer].signal;
        }
        for (RoundedLayer& layer : result_.layers) {
            layer.error += signal > 0 ? error_ * (layer.signal / signal) : error_;
        }
    }

    double ShareOf(const RoundingInput& input) const {
        return static_cast<double>(input.moments->rows()) / samples_;
    }

    void RoundBlock(int64_t block) {
        range_ = inputs_[0].moments->blocks()[block];
        size_ = range_.count * layout_.taps;
        ReadMoments(block);
        const bool can_compensate = MakeFactor() && options_.compensate;
        for (int64_t first = 0; first < layout_.outputs; first += kOutputs) {
            std::vector<int64_t> outputs(std::min(kOutputs, layout_.outputs - first));
            std::iota(outputs.begin(), outputs.end(), first);
            RoundOutputs(std::move(outputs), can_compensate);
        }
    }

    // Sets M, before it is shrunk: `second_` off its diagonal, and `diagonal_`, with the noise.
    void ReadMoments(int64_t block) {
        second_.resize(size_ * size_);
        diagonal_.assign(size_, 0.0);
        means_.resize(inputs_.size());
        std::vector<float> own;
        for (size_t layer = 0; layer < inputs_.size(); ++layer) {
            const SecondMoments& moments = *inputs_[layer].moments;
            const double share = ShareOf(inputs_[layer]);
            std::vector<float>& covariance = layer == 0 ? second_ : own;
            covariance.resize(size_ * size_);
            moments.Covariance(block, covariance.data());
            std::vector<float>& mean = means_[layer];
            mean.resize(size_);
            for (int64_t row = 0; row < size_; ++row) {
                const int64_t index = moments.Index(range_, row);
                mean[row] = static_cast<float>(moments.Mean(index));
                const double of_mean = static_cast<double>(mean[row]) * mean[row];
                const double moment = std::max(0.0f, covariance[row * size_ + row]) +
                                      (options_.correct_bias ? of_mean / samples_ : of_mean);
                diagonal_[row] += share * (moment + inputs_[layer].noise * moments.Nonzero(index));
            }
            AddSignal(covariance, mean, &sums_[layer], &result_.layers[layer]);
            if (inputs_.size() == 1 && options_.correct_bias) {
                return;
            }
            for (int64_t row = 0; row < size_; ++row) {
                for (int64_t column = 0; column < size_; ++column) {
                    const int64_t at = row * size_ + column;
                    const double before = layer == 0 ? 0 : second_[at];
                    second_[at] = static_cast<float>(
                        before + share * (covariance[at] + Uncorrected(mean, row, column)));
                }
            }
        }
    }

    // What second moments about 0 have in addition to those about the mean, if no bias takes it.
    double Uncorrected(const std::vector<float>& mean, int64_t row, int64_t column) const {
        return options_.correct_bias ? 0 : static_cast<double>(mean[row]) * mean[column];
    }

    double ScaleOf(int64_t output) const { return weights_.Scale(range_.group * layout_.outputs + output); }

    // Reads the weights of some outputs, [size_, outputs], rows in the order of `row_at`.
    template <typename RowAt>
    std::vector<float> ReadWeights(const std::vector<int64_t>& outputs, const RowAt& row_at) const {
        std::vector<float> weights(size_ * outputs.size());
        float* next = weights.data();
        for (int64_t row = 0; row < size_; ++row) {
            const int64_t at = layout_.Index(range_, row_at(row), 0);
            for (const int64_t output : outputs) {
                *next++ = weights_[at + output * layout_.output_step];
            }
        }
        return weights;
    }

    // Adds the mean square of the result. What inputs have to do with each other is computed for some
    // outputs, and taken to add as much to the others.
    void AddSignal(const std::vector<float>& covariance, const std::vector<float>& mean, GroupSums* sums,
                   RoundedLayer* result) {
        std::vector<int64_t> all(layout_.outputs);
        std::iota(all.begin(), all.end(), 0);
        const std::vector<float> weights = ReadWeights(all, [](int64_t row) { return row; });
        std::vector<double> alone(layout_.outputs, 0.0);
        for (int64_t row = 0; row < size_; ++row) {
            AddAlone(weights.data() + row * layout_.outputs, covariance[row * size_ + row], mean[row],
                     layout_.outputs, alone.data(), sums->means.data());
        }
        const std::vector<int64_t> chosen = ChoosePositions(layout_.outputs, kOutputs);
        const std::vector<double> powers = Powers(covariance, chosen);
        double alone_chosen = 0;
        double power = 0;
        for (size_t i = 0; i < chosen.size(); ++i) {
            const double scale = ScaleOf(chosen[i]);
            power += scale * scale * powers[i];
            alone_chosen += scale * scale * alone[chosen[i]];
        }
        double alone_all = 0;
        for (int64_t output = 0; output < layout_.outputs; ++output) {
            alone_all += ScaleOf(output) * ScaleOf(output) * alone[output];
        }
        result->signal += alone_chosen > 0 ? alone_all * (power / alone_chosen) : alone_all;
    }

    AMCT_VECTORIZED static void AddAlone(const float* weights, double variance, double mean, int64_t count,
                                         double* alone, double* means) {
        for (int64_t i = 0; i < count; ++i) {
            const double weight = weights[i];
            alone[i] += variance * weight * weight;
            means[i] += mean * weight;
        }
    }

    // Returns w' C w for each of some outputs.
    std::vector<double> Powers(const std::vector<float>& covariance,
                               const std::vector<int64_t>& outputs) const {
        const auto count = static_cast<int64_t>(outputs.size());
        const std::vector<float> weights = ReadWeights(outputs, [](int64_t row) { return row; });
        std::vector<float> product(size_ * count);
        Multiply({covariance.data(), size_, size_, size_}, {weights.data(), size_, count, count},
                 product.data());
        std::vector<double> powers(count, 0.0);
        for (int64_t row = 0; row < size_; ++row) {
            for (int64_t i = 0; i < count; ++i) {
                powers[i] += static_cast<double>(weights[row * count + i]) * product[row * count + i];
            }
        }
        for (double& power : powers) {
            power = std::max(power, 0.0);
        }
        return powers;
    }

    // Makes R of M; false if it cannot be made, and then R is diagonal.
    bool MakeFactor() {
        const auto shrunk = static_cast<float>(1 - Chance());
        double damping = kPseudoSamples / samples_ *
                         std::accumulate(diagonal_.begin(), diagonal_.end(), 0.0) /
                         static_cast<double>(size_);
        blind_ = !(damping > 0);
        if (blind_) {
            damping = 1;  // all inputs were 0: whatever they will be, the nearest is best
        }
        std::vector<int64_t>& order = factor_.order;
        order.resize(size_);
        std::iota(order.begin(), order.end(), 0);
        std::stable_sort(order.begin(), order.end(),
                         [&](int64_t i, int64_t j) { return diagonal_[i] < diagonal_[j]; });
        factor_.upper.resize(size_ * size_);
        for (int64_t i = 0; i < size_; ++i) {
            const float* row = second_.data() + order[i] * size_;
            for (int64_t j = i; j < size_; ++j) {
                factor_.upper[i * size_ + j] = shrunk * row[order[j]];
            }
            factor_.upper[i * size_ + i] = static_cast<float>(diagonal_[order[i]] + damping);
        }
        if (Factorize(factor_.upper.data(), size_)) {
            return true;
        }
        std::fill(factor_.upper.begin(), factor_.upper.end(), 0.0f);
        for (int64_t i = 0; i < size_; ++i) {
            factor_.upper[i * size_ + i] = std::sqrt(static_cast<float>(diagonal_[order[i]] + damping));
        }
        return false;
    }

    // The share of the squares off the diagonal of M that is the chance of the samples.
    double Chance() const {
        double trace = 0;
        double on_diagonal = 0;
        double off_diagonal = 0;
        for (int64_t i = 0; i < size_; ++i) {
            const double moment = std::max(0.0f, second_[i * size_ + i]);
            trace += moment;
            on_diagonal += moment * moment;
            off_diagonal += 2 * SquareSum(&second_[i * size_ + i + 1], size_ - i - 1);
        }
        const double chance = (trace * trace - on_diagonal + off_diagonal) / samples_;
        return chance < off_diagonal ? chance / off_diagonal : 1;
    }

    AMCT_VECTORIZED static double SquareSum(const float* values, int64_t size) {
        constexpr int kLanes = 8;
        double lanes[kLanes] = {};
        for (int64_t start = 0; start < size; start += kLanes) {
            const int count = static_cast<int>(std::min<int64_t>(kLanes, size - start));
            for (int lane = 0; lane < count; ++lane) {
                const double value = values[start + lane];
                lanes[lane] += value * value;
            }
        }
        return std::accumulate(lanes, lanes + kLanes, 0.0);
    }

    RoundedPanel RoundPanel(std::vector<int64_t> outputs, bool compensate) const {
        std::vector<float> weights = ReadWeights(outputs, [this](int64_t row) { return factor_.order[row]; });
        return RoundedPanel(factor_, std::move(outputs), std::move(weights), compensate);
    }

    void RoundOutputs(std::vector<int64_t> outputs, bool compensate) {
        RoundedPanel panel = RoundPanel(std::move(outputs), compensate);
        if (compensate) {
            std::vector<int64_t> doubtful = panel.Saturated();
            if (!doubtful.empty()) {
                panel.TakeBetter(RoundPanel(std::move(doubtful), false));
            }
        }
        for (int64_t row = 0; row < size_; ++row) {
            const int64_t input = factor_.order[row];
            const int64_t at = layout_.Index(range_, input, 0);
            for (int64_t i = 0; i < panel.count(); ++i) {
                result_.integers[at + panel.outputs()[i] * layout_.output_step] = panel.Integer(row, i);
            }
            for (size_t layer = 0; layer < inputs_.size(); ++layer) {
                const double mean = means_[layer][input];
                for (int64_t i = 0; i < panel.count(); ++i) {
                    sums_[layer].mean_errors[panel.outputs()[i]] += mean * panel.Error(row, i);
                }
            }
        }
        for (int64_t i = 0; i < panel.count() && !blind_; ++i) {
            const double scale = ScaleOf(panel.outputs()[i]);
            error_ += scale * scale * panel.Lost(i);
            lost_[panel.outputs()[i]] += panel.Lost(i);
        }
    }

    const FixedPointWeights& weights_;
    const WeightLayout& layout_;
    const std::vector<RoundingInput> inputs_;
    const RoundingOptions options_;
    double samples_ = 0;
    RoundingResult result_;
    double error_ = 0;  // in the mean over the layers
    std::vector<GroupSums> sums_;
    std::vector<double> lost_;  // e' M e of each output of a group
    ChannelRange range_{};      // the block that is worked on, and its rows
    int64_t size_ = 0;
    bool blind_ = false;  // whether it saw nothing but 0, so that no error of its weights counts
    std::vector<std::vector<float>> means_;  // of each layer
    std::vector<float> second_;
    std::vector<double> diagonal_;
    MomentFactor factor_;
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_NUMERICS_COMPENSATED_ROUNDING_H_
