// What every numeric kernel shares: rounding, scale sanitising, spans and the parallel-for it is handed.
//
// Nothing in this folder knows TensorFlow. Arithmetic is float32 as in the vendor's original C++ ("cpp" in
// the specification), reductions are double or integer.

#ifndef AMCT_TENSORFLOW_OPS_NUMERICS_COMMON_H_
#define AMCT_TENSORFLOW_OPS_NUMERICS_COMMON_H_

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>

// One copy of a hot loop per instruction set, chosen when the library is loaded. "avx2" does not switch on
// fused multiply-add, so both copies give the same bits. Not for aarch64, where NEON is the baseline, and not
// under sanitizers, which run before the resolvers may.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define AMCT_VECTORIZED __attribute__((target_clones("avx2", "default")))
#else
#define AMCT_VECTORIZED
#endif

namespace amct {

// Runs fn(begin, end) over disjoint pieces of [0, total); cost is the cycles of one unit. The pieces may run
// at the same time, so fn must not depend on their order.
using ParallelFor = std::function<void(int64_t total, int64_t cost,
                                       const std::function<void(int64_t begin, int64_t end)>& fn)>;

inline void Serially(int64_t total, int64_t /*cost*/, const std::function<void(int64_t, int64_t)>& fn) {
    fn(0, total);
}

constexpr float kFloatEpsilon = std::numeric_limits<float>::epsilon();
constexpr float kMaxScale = 1.0f / kFloatEpsilon;

// Rounds half away from zero, as C round() does, for |x| < 2^31. Adding the float just below one half
// instead of one half keeps 0.49999997 from becoming 1.
inline float RoundHalfAway(float x) {
    return static_cast<float>(static_cast<int32_t>(x + std::copysign(0.49999997f, x)));
}

inline float Clip(float x, float low, float high) {
    x = x < low ? low : x;
    return x > high ? high : x;
}

enum class ScaleStatus { kOk, kNotFinite, kTooLarge };

// The vendor's ProcessScale: a scale below FLT_EPSILON (an all-zero or tiny tensor) becomes 1; one that is
// not finite or above 1 / FLT_EPSILON is an error.
inline ScaleStatus SanitizeScale(float* scale) {
    if (*scale < kFloatEpsilon) {
        *scale = 1.0f;
        return ScaleStatus::kOk;
    }
    if (!std::isfinite(*scale)) {
        return ScaleStatus::kNotFinite;
    }
    return 1.0f / *scale < kFloatEpsilon ? ScaleStatus::kTooLarge : ScaleStatus::kOk;
}

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_NUMERICS_COMMON_H_
