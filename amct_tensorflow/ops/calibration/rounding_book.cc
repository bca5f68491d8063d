#include "rounding_book.h"

#include <algorithm>
#include <atomic>

#include "safetensors.h"

namespace amct {

namespace {

// Adds to the sums of a fingerprint, which are kept in lanes. The factors are a hash of the index, and one of
// that.
AMCT_VECTORIZED void AddToFingerprint(const float* weights, int64_t first, int64_t size, const float* scales,
                                      int64_t step, double* sums) {
    constexpr int kLanes = 8;
    double lanes[3][kLanes] = {};
    for (int64_t start = 0; start < size; start += kLanes) {
        const int count = static_cast<int>(std::min<int64_t>(kLanes, size - start));
        for (int lane = 0; lane < count; ++lane) {
            const int64_t i = start + lane;
            uint32_t hash = static_cast<uint32_t>(first + i) * 2654435761u;
            hash = (hash ^ (hash >> 15)) * 2246822519u;
            const uint32_t other = (hash ^ (hash >> 13)) * 3266489917u;
            const double ratio = weights[i] / scales[i * step];
            lanes[0][lane] += ratio * static_cast<int32_t>(hash);
            lanes[1][lane] += ratio * static_cast<int32_t>(other);
            lanes[2][lane] += ratio * ratio;
        }
    }
    for (int sum = 0; sum < 3; ++sum) {
        for (const double lane : lanes[sum]) {
            sums[sum] += lane;
        }
    }
}

// Runs tasks that differ in size, the largest first, on all threads.
void RunTasks(std::vector<std::pair<int64_t, std::function<void()>>> tasks, const ParallelFor& parallel_for) {
    std::stable_sort(tasks.begin(), tasks.end(),
                     [](const auto& left, const auto& right) { return left.first > right.first; });
    std::atomic<size_t> next{0};
    constexpr int64_t kOneThread = 100'000'000;
    parallel_for(static_cast<int64_t>(tasks.size()), kOneThread, [&](int64_t, int64_t) {
        for (size_t task = next++; task < tasks.size(); task = next++) {
            tasks[task].second();
        }
    });
}

// Whether the inputs are those of weights: a batch that the layer then refused was seen before it did.
bool Fits(const SecondMoments& inputs, const WeightLayout& layout) {
    return inputs.groups() == layout.groups && inputs.width() == layout.width && inputs.taps() == layout.taps;
}

std::vector<float> PerInput(const SecondMoments& inputs, double (SecondMoments::*value)(int64_t) const) {
    std::vector<float> values(inputs.taps() * inputs.groups() * inputs.width());
    for (size_t index = 0; index < values.size(); ++index) {
        values[index] = static_cast<float>((inputs.*value)(static_cast<int64_t>(index)));
    }
    return values;
}

void AddMoments(const std::string& key, const SecondMoments& inputs, SafetensorsWriter* writer) {
    const std::vector<int64_t> shape{inputs.taps(), inputs.groups() * inputs.width()};
    writer->Add(key + "/mean", PerInput(inputs, &SecondMoments::Mean), shape);
    writer->Add(key + "/power", PerInput(inputs, &SecondMoments::Power), shape);
    writer->Add(key + "/nonzero", PerInput(inputs, &SecondMoments::Nonzero), shape);
    writer->Add(key + "/largest", PerInput(inputs, &SecondMoments::Largest), shape);
}

}  // namespace

WeightFingerprint FingerprintOf(const float* weights, const ChannelView& view, const float* scales) {
    WeightFingerprint sums{};
    ForEachScaledRow(view, scales, [&](int64_t begin, int64_t size, const float* row_scales, int64_t step) {
        AddToFingerprint(weights + begin, begin, size, row_scales, step, sums.data());
    });
    constexpr double kLargest = 2147483648.0;  // of a hash
    return {sums[0] / kLargest, sums[1] / kLargest, sums[2]};
}

void RoundingBook::SetWeights(const std::string& layer, const float* weights, const ChannelView& view,
                              const float* scales) {
    for (RoundingPlan& plan : plans_) {
        if (plan.layers[0] == layer && plan.weights.empty()) {
            plan.SetWeights(weights, view, scales);
        }
    }
}

std::shared_ptr<MomentsState> RoundingBook::Moments(const std::string& name) {
    std::shared_ptr<MomentsState>& state = moments_[name];
    if (state == nullptr) {
        state = std::make_shared<MomentsState>();
    }
    return state;
}

void RoundingBook::Restart() {
    moments_.clear();
    for (RoundingPlan& plan : plans_) {
        plan.inputs = nullptr;
        plan.result.reset();
    }
}

void RoundingBook::Round(const FindFactors& factors_of, const ParallelFor& parallel_for) {
    std::map<std::string, std::shared_ptr<const SecondMoments>> taken;
    std::vector<std::pair<int64_t, std::function<void()>>> tasks;
    for (RoundingPlan& plan : plans_) {
        const std::optional<InputFactors> factors = factors_of(plan.layers[0]);
        if (plan.result.has_value() || plan.weights.empty() || !factors.has_value()) {
            continue;
        }
        if (taken.count(plan.moments) == 0) {
            taken[plan.moments] = Moments(plan.moments)->Take();
        }
        plan.inputs = taken[plan.moments];
        if (plan.inputs == nullptr || !Fits(*plan.inputs, plan.layout)) {
            continue;
        }
        const double noise = factors->scale * factors->scale / 12;
        const int64_t size = plan.layout.width * plan.layout.taps;
        tasks.emplace_back(plan.layout.groups * size * size * (size + plan.layout.outputs), [&plan, noise] {
            plan.result = CompensatedRounding(plan.weights, plan.layout, *plan.inputs,
                                              {plan.compensate, plan.correct_bias, noise})
                              .Run();
            plan.result->bias.resize(plan.correct_bias ? plan.result->bias.size() : 0);
        });
    }
    RunTasks(std::move(tasks), parallel_for);
}

std::string RoundingBook::Content(const std::vector<std::string>& layers,
                                  const FindFactors& factors_of) const {
    SafetensorsWriter writer;
    writer.AddText("format", "amct_tensorflow weight rounding 1");
    std::map<std::string, std::string> keys;
    for (const RoundingPlan& plan : plans_) {
        for (const std::string& layer : plan.layers) {
            keys[layer] = plan.layers[0];
        }
        if (!plan.result.has_value()) {
            continue;
        }
        const std::string& key = plan.layers[0];
        const RoundingResult& result = *plan.result;
        if (plan.compensate) {
            writer.Add(key + "/weights", result.integers, plan.shape);
        }
        if (plan.correct_bias) {
            writer.Add(key + "/bias", result.bias, {static_cast<int64_t>(result.bias.size())});
        }
        writer.Add(key + "/fingerprint", {plan.fingerprint.begin(), plan.fingerprint.end()});
        writer.Add(key + "/errors", {result.signal, result.error, result.mean_error});
        AddMoments(key, *plan.inputs, &writer);
    }
    for (const std::string& layer : layers) {
        writer.AddText("layer " + layer, keys[layer]);
        const std::optional<InputFactors> factors = factors_of(layer);
        if (factors.has_value() && !keys[layer].empty()) {
            writer.Add(layer + "/activation",
                       std::vector<double>{factors->scale, factors->offset, factors->mean_square_error});
        }
    }
    return writer.Content();
}

}  // namespace amct
