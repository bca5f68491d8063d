// Rounding of the weights of some outputs, one input after the other, so that the later make up for the
// errors of the earlier.
//
// With M = R' R, the error e' M e is |R e|^2. The weights of an output are rounded from the last row of the
// triangle R up: each to the integer next to what makes its own row of R e least, given the errors of those
// before. That is the method of Frantar et al. (OPTQ / GPTQ, 2022), which pushes errors on through the
// Cholesky factor of M^-1: the inverse of R, in reverse order.

#ifndef AMCT_TENSORFLOW_OPS_NUMERICS_ROUNDING_PANEL_H_
#define AMCT_TENSORFLOW_OPS_NUMERICS_ROUNDING_PANEL_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "common.h"
#include "dense.h"

namespace amct {

// R, the upper triangle of [size, size], and the input of each of its rows.
struct MomentFactor {
    std::vector<float> upper;
    std::vector<int64_t> order;

    int64_t size() const { return static_cast<int64_t>(order.size()); }
};

// Rows are in the order of the factor.
class RoundedPanel {
 public:
    // `weights` are those of the outputs, in units of their scales: [size, outputs].
    RoundedPanel(const MomentFactor& factor, std::vector<int64_t> outputs, std::vector<float> weights,
                 bool compensate)
        : size_(factor.size()),
          count_(static_cast<int64_t>(outputs.size())),
          outputs_(std::move(outputs)),
          weights_(std::move(weights)),
          errors_(weights_.size(), 0.0f),
          lost_(count_, 0.0),
          beyond_(count_, 0.0f) {
        Round(factor, compensate);
    }

    const std::vector<int64_t>& outputs() const { return outputs_; }
    int64_t count() const { return count_; }
    float Error(int64_t row, int64_t i) const { return errors_[row * count_ + i]; }
    int8_t Integer(int64_t row, int64_t i) const {
        return static_cast<int8_t>(weights_[row * count_ + i] - Error(row, i));
    }
    double Lost(int64_t i) const { return lost_[i]; }  // e' M e

    // The outputs of which a weight was to be beyond the integers.
    std::vector<int64_t> Saturated() const {
        std::vector<int64_t> found;
        for (int64_t i = 0; i < count_; ++i) {
            if (beyond_[i] > 0.5f) {
                found.push_back(outputs_[i]);
            }
        }
        return found;
    }

    // Takes what another panel has made of some of the outputs, where it loses less. Outputs ascend.
    void TakeBetter(const RoundedPanel& other) {
        for (int64_t i = 0; i < other.count_; ++i) {
            const auto at =
                std::lower_bound(outputs_.begin(), outputs_.end(), other.outputs_[i]) - outputs_.begin();
            if (other.lost_[i] < lost_[at]) {
                lost_[at] = other.lost_[i];
                for (int64_t row = 0; row < size_; ++row) {
                    errors_[row * count_ + at] = other.Error(row, i);
                }
            }
        }
    }

 private:
    static constexpr int64_t kRows = 64;  // whose errors are made up for by one product

    void Round(const MomentFactor& factor, bool compensate) {
        std::vector<float> follows(count_);  // whether an output's weights follow the errors: 1 or 0
        for (int64_t i = 0; i < count_; ++i) {
            follows[i] = compensate && IsAlive(i) ? 1.0f : 0.0f;
        }
        std::vector<float> products(kRows * count_);
        for (int64_t end = size_; end > 0; end -= kRows) {
            const int64_t begin = std::max<int64_t>(end - kRows, 0);
            Multiply({factor.upper.data() + begin * size_ + end, end - begin, size_ - end, size_},
                     {errors_.data() + end * count_, size_ - end, count_, count_}, products.data());
            for (int64_t row = end - 1; row >= begin; --row) {
                const float* of_row = factor.upper.data() + row * size_;
                float* known = products.data() + (row - begin) * count_;
                for (int64_t later = row + 1; later < end; ++later) {
                    AddScaled(errors_.data() + later * count_, of_row[later], count_, known);
                }
                RoundRow(weights_.data() + row * count_, of_row[row], follows.data(), count_, known,
                         beyond_.data(), errors_.data() + row * count_);
                for (int64_t i = 0; i < count_; ++i) {
                    lost_[i] += static_cast<double>(known[i]) * known[i];
                }
            }
        }
    }

    // Whether an output has a weight that is not next to 0. If not, its scale is not one of its weights.
    bool IsAlive(int64_t i) const {
        for (int64_t row = 0; row < size_; ++row) {
            if (std::fabs(weights_[row * count_ + i]) >= 0.5f) {
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
                                         int64_t count, float* known, float* beyond, float* errors) {
        for (int64_t i = 0; i < count; ++i) {
            const float wanted = weights[i] + follows[i] * (known[i] / diagonal);
            const float possible = Clip(wanted, -128.0f, 127.0f);
            const float by = std::fabs(wanted - possible);
            beyond[i] = beyond[i] < by ? by : beyond[i];
            errors[i] = weights[i] - RoundHalfAway(possible);
            known[i] += diagonal * errors[i];
        }
    }

    const int64_t size_;
    const int64_t count_;
    std::vector<int64_t> outputs_;
    std::vector<float> weights_;
    std::vector<float> errors_;  // [size, outputs], as the weights
    std::vector<double> lost_;
    std::vector<float> beyond_;  // by how much a weight was to be beyond the integers
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_NUMERICS_ROUNDING_PANEL_H_
