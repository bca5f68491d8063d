#include "rounding_book.h"

#include <algorithm>
#include <atomic>
#include <set>

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

InputStatistics StatisticsOf(const SecondMoments& inputs) {
    InputStatistics statistics;
    statistics.mean = PerInput(inputs, &SecondMoments::Mean);
    statistics.power = PerInput(inputs, &SecondMoments::Power);
    statistics.nonzero = PerInput(inputs, &SecondMoments::Nonzero);
    statistics.largest = PerInput(inputs, &SecondMoments::Largest);
    for (int64_t tap = 0; tap < inputs.taps(); ++tap) {
        statistics.seen.push_back(static_cast<float>(inputs.Seen(tap)));
    }
    statistics.shape = {inputs.taps(), inputs.groups() * inputs.width()};
    return statistics;
}

// The cycles that it takes, but for a factor.
int64_t CostOf(const WeightLayout& layout) {
    const int64_t size = layout.width * layout.taps;
    return layout.groups * size * size * (size + layout.outputs);
}

void RoundWeights(RoundingPlan* plan) {
    std::vector<RoundingInput> inputs;
    std::vector<PlannedLayer*> layers;
    for (PlannedLayer& layer : plan->layers) {
        if (layer.inputs != nullptr) {
            inputs.push_back({layer.inputs.get(), layer.noise});
            layers.push_back(&layer);
            layer.statistics = StatisticsOf(*layer.inputs);
        }
    }
    RoundingResult result =
        CompensatedRounding(plan->weights, plan->layout, inputs, {plan->compensate, plan->correct_bias})
            .Run();
    plan->integers = std::move(result.integers);
    for (size_t i = 0; i < layers.size(); ++i) {
        layers[i]->result = std::move(result.layers[i]);
    }
    if (layers.size() == plan->layers.size()) {  // no other will want them again
        for (PlannedLayer& layer : plan->layers) {
            layer.inputs = nullptr;
        }
    }
}

void AddLayer(const RoundingPlan& plan, const PlannedLayer& layer, const InputFactors& factors,
              SafetensorsWriter* writer) {
    writer->AddText("layer " + layer.name, plan.key());
    const RoundedLayer& result = *layer.result;
    if (plan.correct_bias) {
        writer->Add(layer.name + "/bias", result.bias, {static_cast<int64_t>(result.bias.size())});
    }
    writer->Add(layer.name + "/errors", {result.signal, result.error, result.mean_error});
    writer->Add(layer.name + "/activation", {factors.scale, factors.offset, factors.mean_square_error});
    const InputStatistics& statistics = layer.statistics;
    writer->Add(layer.name + "/mean", statistics.mean, statistics.shape);
    writer->Add(layer.name + "/power", statistics.power, statistics.shape);
    writer->Add(layer.name + "/nonzero", statistics.nonzero, statistics.shape);
    writer->Add(layer.name + "/largest", statistics.largest, statistics.shape);
    writer->Add(layer.name + "/seen", statistics.seen, {statistics.shape[0]});
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
        if (plan.key() == layer && plan.weights.empty()) {
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
        plan.integers.clear();
        for (PlannedLayer& layer : plan.layers) {
            layer.inputs = nullptr;
            layer.result.reset();
        }
    }
}

void RoundingBook::Round(const FindFactors& factors_of, const ParallelFor& parallel_for) {
    MomentsByName taken;
    std::vector<std::pair<int64_t, std::function<void()>>> tasks;
    for (RoundingPlan& plan : plans_) {
        if (!plan.weights.empty() && TakeMoments(factors_of, &taken, &plan)) {
            tasks.emplace_back(CostOf(plan.layout), [&plan] { RoundWeights(&plan); });
        }
    }
    taken.clear();  // so that each goes when the last plan that wants it is done
    RunTasks(std::move(tasks), parallel_for);
}

// Whether a layer has come to its end that had not before. `taken` has the moments that were asked for: plans
// share them.
bool RoundingBook::TakeMoments(const FindFactors& factors_of, MomentsByName* taken, RoundingPlan* plan) {
    bool found = false;
    for (PlannedLayer& layer : plan->layers) {
        const std::optional<InputFactors> factors = factors_of(layer.name);
        if (layer.result.has_value() || !factors.has_value()) {
            continue;
        }
        if (taken->count(layer.moments) == 0) {
            (*taken)[layer.moments] = Moments(layer.moments)->Take();
        }
        const std::shared_ptr<const SecondMoments>& inputs = (*taken)[layer.moments];
        if (inputs != nullptr && Fits(*inputs, plan->layout)) {
            layer.inputs = inputs;
            layer.noise = factors->scale * factors->scale / 12;
            found = true;
        }
    }
    return found;
}

void RoundingBook::AddTo(const std::vector<std::string>& layers, const FindFactors& factors_of,
                         SafetensorsWriter* writer) const {
    std::set<std::string> planned;
    for (const RoundingPlan& plan : plans_) {
        for (const PlannedLayer& layer : plan.layers) {
            planned.insert(layer.name);
            const std::optional<InputFactors> factors = factors_of(layer.name);
            if (layer.result.has_value() && factors.has_value()) {
                AddLayer(plan, layer, *factors, writer);
            }
        }
        if (!plan.integers.empty()) {
            writer->Add(plan.key() + "/fingerprint", {plan.fingerprint.begin(), plan.fingerprint.end()});
            if (plan.compensate) {
                writer->Add(plan.key() + "/weights", plan.integers, plan.shape);
            }
        }
    }
    for (const std::string& layer : layers) {
        if (planned.count(layer) == 0) {
            writer->AddText("layer " + layer, "");
        }
    }
}

}  // namespace amct
