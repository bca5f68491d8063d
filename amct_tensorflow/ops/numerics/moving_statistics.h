// The statistics of a batch norm over several batches, as Caffe keeps them: sums that decay, and their
// weight.
//
//     S = f * S + 1,   sum of means = f * sum + mean,   sum of variances = f * sum + m / (m - 1) * variance
//
// for each batch of m values per channel, with the moving average fraction f; the statistics are sum / S. The
// ones at the start have the weight 1. Source: specification of the training tools, section 6.

#ifndef AMCT_TENSORFLOW_OPS_NUMERICS_MOVING_STATISTICS_H_
#define AMCT_TENSORFLOW_OPS_NUMERICS_MOVING_STATISTICS_H_

#include <cstdint>
#include <vector>

namespace amct {

class MovingStatistics {
 public:
    MovingStatistics(const float* mean, const float* variance, int64_t channels)
        : means_(mean, mean + channels), variances_(variance, variance + channels) {}

    int64_t channels() const { return static_cast<int64_t>(means_.size()); }

    // Adds those of a batch, with the mean square deviation from its mean as variance; `count` is m, above 1.
    void Add(const float* mean, const float* variance, int64_t count, double fraction) {
        const double unbiased = static_cast<double>(count) / static_cast<double>(count - 1);
        weight_ = fraction * weight_ + 1;
        for (size_t c = 0; c < means_.size(); ++c) {
            means_[c] = fraction * means_[c] + mean[c];
            variances_[c] = fraction * variances_[c] + unbiased * variance[c];
        }
    }

    std::vector<float> Mean() const { return Divided(means_); }
    std::vector<float> Variance() const { return Divided(variances_); }

 private:
    std::vector<float> Divided(const std::vector<double>& sums) const {
        std::vector<float> values;
        values.reserve(sums.size());
        for (const double sum : sums) {
            values.push_back(static_cast<float>(sum / weight_));
        }
        return values;
    }

    double weight_ = 1;
    std::vector<double> means_;
    std::vector<double> variances_;
};

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_NUMERICS_MOVING_STATISTICS_H_
