// Feeds millions of values to what the calibration keeps of a tensor, and prints
// "<case> <most StateBytes()> <usable>".
//
// Compiled by test_state_size.py, without TensorFlow but for its Eigen, and with the sanitizer of undefined
// behaviour.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "../../amct_tensorflow/ops/numerics/compensated_rounding.h"
#include "../../amct_tensorflow/ops/numerics/deploy.h"
#include "../../amct_tensorflow/ops/numerics/dmq.h"
#include "../../amct_tensorflow/ops/numerics/hfmg.h"
#include "../../amct_tensorflow/ops/numerics/ifmr.h"
#include "../../amct_tensorflow/ops/numerics/moving_statistics.h"
#include "../../amct_tensorflow/ops/numerics/search_n.h"

namespace {

using amct::Serially;
using Batch = std::vector<float>;

// Values of a normal distribution, drawn once; each call goes on where the last one stopped.
Batch Normal(int64_t size, float gain) {
    static const Batch pool = [] {
        std::mt19937 generator(1);
        std::normal_distribution<float> normal(0.0f, 1.0f);
        Batch values((1 << 20) + 7);
        std::generate(values.begin(), values.end(), [&] { return normal(generator); });
        return values;
    }();
    static size_t next = 0;
    Batch batch(size);
    for (float& value : batch) {
        value = pool[next++ % pool.size()] * gain;
    }
    return batch;
}

// Feeds the batches, then searches, for the sake of the sanitizer; the factors must be usable.
void Estimate(const std::string& name, amct::ActivationEstimator* estimator, int batches,
              const std::function<Batch(int)>& batch) {
    size_t most = 0;
    for (int i = 0; i < batches; ++i) {
        const Batch values = batch(i);
        const int64_t size = static_cast<int64_t>(values.size());
        estimator->Add(values.data(), size, Serially);
        most = std::max(most, estimator->StateBytes());
    }
    const amct::ActivationFactors factors = estimator->Factors(true, Serially);
    const bool usable = factors.scale > 0 && factors.offset >= -128 && factors.offset <= 127;
    std::printf("%s %zu %s\n", name.c_str(), most, usable ? "usable" : "unusable");
}

void Activations(const std::string& name, int batches, const std::function<Batch(int)>& batch) {
    amct::IfmrOptions ifmr_options;
    ifmr_options.search_step = 0.1f;
    ifmr_options.max_percentile = ifmr_options.min_percentile = 0.999f;
    amct::IfmrEstimator ifmr(ifmr_options);
    Estimate("ifmr_" + name, &ifmr, batches, batch);
    amct::HfmgOptions hfmg_options;
    hfmg_options.num_of_bins = 8192;
    amct::HfmgEstimator hfmg(hfmg_options);
    Estimate("hfmg_" + name, &hfmg, batches, batch);
}

void Maxima(int64_t channels, int64_t inner) {
    amct::ChannelMaxima maxima(channels);
    const Batch values = Normal(50 * channels * inner, 1.0f);
    maxima.Add(values.data(), {50, channels, inner}, Serially);
    bool usable = maxima.IsFinite();
    for (const float factor :
         amct::BalanceFactors(maxima.Values(), std::vector<float>(channels, 0.5f), 0.5f)) {
        usable = usable && amct::IsBalanceFactor(factor);
    }
    std::printf("maxima_of_%d_channels %zu %s\n", static_cast<int>(channels), maxima.StateBytes(),
                usable ? "usable" : "unusable");
}

void Shifts(int64_t channels, int batches, int64_t rows) {
    amct::SearchN search(channels);
    const Batch deq_scales(channels, 1e-5f);
    size_t most = 0;
    for (int i = 0; i < batches; ++i) {
        const Batch values = Normal(rows * channels, 1.0f);
        search.Add(values.data(), {rows, channels, 1}, Serially);
        most = std::max(most, search.StateBytes());
    }
    bool usable = true;
    for (const uint32_t shift : search.Shifts(deq_scales.data(), false)) {
        usable = usable && shift >= 1 && shift <= 16;
    }
    std::printf("shifts_of_%d_channels %zu %s\n", static_cast<int>(channels), most,
                usable ? "usable" : "unusable");
}

// Gathers the moments of a layer's input, a row of `taps` positions an output, and rounds weights with them.
// One channel is 0, and another is nearly constant, far from 0.
void Moments(int64_t groups, int64_t width, int64_t taps) {
    constexpr int64_t kRows = 300, kOutputs = 3, kMostBlock = 1024;
    const int64_t channels = groups * width;
    amct::SecondMoments moments(groups, width, taps, kMostBlock);
    size_t most = 0;
    for (int batch = 0; batch < 3; ++batch) {
        Batch values = Normal((kRows + taps - 1) * channels, 1.0f);
        for (size_t i = 0; i < values.size(); i += channels) {
            values[i] = 0.0f;
            values[i + channels / 2] = 100.0f + 1e-4f * values[i + channels / 2];
        }
        amct::LayerInput input;
        input.values = values.data();
        input.size[2] = kRows + taps - 1;
        input.output[2] = kRows;
        input.groups = groups;
        input.width = width;
        input.size_step[2] = channels;
        input.group_step = width;
        amct::Window window;
        window.kernel[2] = taps;
        moments.Add(input, window, kRows, Serially);
        most = std::max(most, moments.StateBytes());
    }
    const amct::WeightLayout layout{groups,          width,    taps, kOutputs, kOutputs * width * taps,
                                    kOutputs * taps, kOutputs, 1};
    const Batch weights = Normal(layout.size(), 1.0f);
    const float scale = 0.05f;
    const amct::FixedPointWeights fixed(weights.data(), {1, 1, layout.size()}, &scale);
    const amct::RoundingResult result =
        amct::CompensatedRounding(fixed, layout, {{&moments, 1e-4}}, {true, true}).Run();
    const amct::RoundedLayer& layer = result.layers[0];
    const bool usable = std::isfinite(layer.signal) && layer.error >= 0 && layer.mean_error >= 0 &&
                        layer.error < 0.01 * layer.signal;
    std::printf("moments_%d_%d_%d %zu %s\n", static_cast<int>(groups), static_cast<int>(width),
                static_cast<int>(taps), most, usable ? "usable" : "unusable");
}

}  // namespace

int main() {
    constexpr int64_t kLimit = amct::CalibrationData::kMostValues;
    Activations("many_small_batches", 400, [](int) { return Normal(5000, 1.0f); });
    Activations("few_large_batches", 3, [](int) { return Normal(1000000, 1.0f); });
    Activations("exactly_the_limit", 2, [](int) { return Normal(kLimit / 2, 1.0f); });
    Activations("just_beyond_the_limit", kLimit / 4096 + 1, [](int) { return Normal(4096, 1.0f); });
    Activations("growing", 100, [](int i) { return Normal(20000, std::ldexp(1e-8f, i)); });
    Activations("shrinking", 60, [](int i) { return Normal(20000, std::ldexp(1e8f, -i)); });
    Activations("growing_from_tiny", 3, [](int i) { return Normal(600000, i == 0 ? 1e-15f : 1.0f); });
    Activations("tiny_negative_constant_first", 2,
                [](int i) { return i == 0 ? Batch(4000000, -1e-12f) : Normal(600000, 1.0f); });
    Activations("zeros_first", 2, [](int i) { return Normal(600000, i == 0 ? 0.0f : 1.0f); });
    Activations("subnormal", 2, [](int) { return Batch(600000, 1e-44f); });
    Activations("constant", 3, [](int) { return Batch(1000000, 3.0f); });
    Activations("negative_constant", 3, [](int) { return Batch(1000000, -3.0f); });
    Activations("almost_too_large", 2, [](int i) { return Batch(600000, i == 0 ? 1e9f : -1e9f); });
    Activations("the_largest_floats", 2, [](int i) { return Batch(600000, i == 0 ? 3.4e38f : -3.4e38f); });
    Shifts(1, 5, 100000);
    Shifts(64, 5, 2000);
    Shifts(4096, 3, 70);
    Maxima(1, 1000);
    Maxima(4096, 1);
    Moments(1, 8, 9);
    Moments(1, 1024, 1);
    Moments(1, 2048, 1);
    Moments(1, 300, 9);
    Moments(3, 16, 4);
    Moments(100, 1, 9);
    return 0;
}
