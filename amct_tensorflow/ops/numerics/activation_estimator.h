// What every way to find the factors of an activation has in common: batches go in, a scale and an offset
// come out.

#ifndef AMCT_TENSORFLOW_OPS_NUMERICS_ACTIVATION_ESTIMATOR_H_
#define AMCT_TENSORFLOW_OPS_NUMERICS_ACTIVATION_ESTIMATOR_H_

#include "common.h"
#include "histogram.h"

namespace amct {

struct ActivationFactors {
    float scale = 1.0f;
    int32_t offset = 0;
    ScaleStatus status = ScaleStatus::kOk;
    double mean_square_error = 0;  // of quantizing the values with them; after the last batch
};

// The factors of a raw scale; with an offset, `min` becomes the lowest integer of num_bits.
inline ActivationFactors MakeFactors(float scale, float min, int num_bits, bool with_offset) {
    ActivationFactors factors;
    factors.status = SanitizeScale(&scale);
    factors.scale = scale;
    if (with_offset && factors.status == ScaleStatus::kOk) {
        factors.offset = static_cast<int32_t>(-std::round(min / scale)) - (1 << (num_bits - 1));
    }
    return factors;
}

class ActivationEstimator {
 public:
    virtual ~ActivationEstimator() = default;

    // Adds `size` values, at least one, and returns their range. Adds nothing when that is not finite.
    virtual Range Add(const float* values, int64_t size, const ParallelFor& parallel_for) = 0;

    // The factors of the values so far, at least one. Before the last batch they may be cheaper ones.
    virtual ActivationFactors Factors(bool last, const ParallelFor& parallel_for) const = 0;

    // Bytes kept between batches.
    virtual size_t StateBytes() const = 0;
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_NUMERICS_ACTIVATION_ESTIMATOR_H_
