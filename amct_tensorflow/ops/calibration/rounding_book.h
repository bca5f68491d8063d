// The rounding of the weights of a calibration: what is to be rounded, the moments of the inputs, the
// results, and the file beside the record that they go to.

#ifndef AMCT_TENSORFLOW_OPS_CALIBRATION_ROUNDING_BOOK_H_
#define AMCT_TENSORFLOW_OPS_CALIBRATION_ROUNDING_BOOK_H_

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "../numerics/compensated_rounding.h"
#include "moments_state.h"
#include "safetensors.h"

namespace amct {

// Numbers by which weights, in units of their scales, are known again although they are computed anew, and a
// little differently: two sums of them with pseudo-random factors, and that of their squares.
using WeightFingerprint = std::array<double, 3>;
WeightFingerprint FingerprintOf(const float* weights, const ChannelView& view, const float* scales);

// A statistic of the input of a layer, [taps, groups * width] each.
struct InputStatistics {
    std::vector<float> mean;
    std::vector<float> power;
    std::vector<float> nonzero;
    std::vector<float> largest;
    std::vector<float> seen;  // [taps]
    std::vector<int64_t> shape;
};

// One of the layers that a plan is for.
struct PlannedLayer {
    std::string name;
    std::string moments;  // the name of those of its input
    // From here on: once it was calibrated.
    std::shared_ptr<const SecondMoments> inputs;
    InputStatistics statistics;
    double noise = 0;
    std::optional<RoundedLayer> result;
};

// Weights, of one layer or of several that share them.
struct RoundingPlan {
    std::vector<PlannedLayer> layers;
    std::vector<int64_t> shape;
    WeightLayout layout;
    bool compensate;
    bool correct_bias;
    FixedPointWeights weights;  // known from the start, or once an op has run
    WeightFingerprint fingerprint{};
    std::vector<int8_t> integers;  // once they are rounded

    const std::string& key() const { return layers[0].name; }
    void SetWeights(const float* values, const ChannelView& view, const float* scales) {
        weights = FixedPointWeights(values, view, scales);
        fingerprint = FingerprintOf(values, view, scales);
    }
};

// What the record says of the input of a layer.
struct InputFactors {
    double scale;
    double offset;
    double mean_square_error;  // of its quantization
};

// Returns null for a layer that is not calibrated to its end.
using FindFactors = std::function<std::optional<InputFactors>(const std::string& layer)>;

// Not thread-safe, but for `Moments`' states: the record book has the lock.
class RoundingBook {
 public:
    void AddPlan(RoundingPlan plan) { plans_.push_back(std::move(plan)); }

    // Gives the plan of a layer its weights; those of constants are known when it is added.
    void SetWeights(const std::string& layer, const float* weights, const ChannelView& view,
                    const float* scales);

    // The state that the ops of these moments share across sessions; made on first use.
    std::shared_ptr<MomentsState> Moments(const std::string& name);

    // Forgets all batches and what they led to.
    void Restart();

    // Rounds the weights of which a layer has come to its end, many plans at once; those of several layers
    // anew when another one has.
    void Round(const FindFactors& factors_of, const ParallelFor& parallel_for);

    // Adds the results to the content of a file. Of `layers`, those without a plan are to be rounded to the
    // nearest.
    void AddTo(const std::vector<std::string>& layers, const FindFactors& factors_of,
               SafetensorsWriter* writer) const;

 private:
    using MomentsByName = std::map<std::string, std::shared_ptr<const SecondMoments>>;

    bool TakeMoments(const FindFactors& factors_of, MomentsByName* taken, RoundingPlan* plan);

    std::vector<RoundingPlan> plans_;
    std::map<std::string, std::shared_ptr<MomentsState>> moments_;
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_CALIBRATION_ROUNDING_BOOK_H_
