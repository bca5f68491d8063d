// A copy of dense.h's functions for the instruction set of the file that includes this: Eigen does the work.

#ifndef AMCT_TENSORFLOW_OPS_NUMERICS_DENSE_EIGEN_H_
#define AMCT_TENSORFLOW_OPS_NUMERICS_DENSE_EIGEN_H_

#include <Eigen/Cholesky>
#include <Eigen/Core>

#include "dense_copy.h"

namespace amct {
namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Steps = Eigen::OuterStride<>;

Eigen::Map<Matrix, 0, Steps> View(float* values, int64_t rows, int64_t columns, int64_t step) {
    return {values, rows, columns, Steps(step)};
}

Eigen::Map<const Matrix, 0, Steps> View(const ConstMatrix& matrix) {
    return {matrix.values, matrix.rows, matrix.columns, Steps(matrix.step)};
}

void AddToGramHere(const float* x, int64_t rows, int64_t width, int64_t first, int64_t size, int64_t second,
                   int64_t more, float* gram) {
    const auto left = View({x + first, rows, size, width});
    auto tile = View(gram + first * width + second, size, more, width);
    if (first == second) {
        tile.selfadjointView<Eigen::Upper>().rankUpdate(left.transpose());
    } else {
        tile.noalias() += left.transpose() * View({x + second, rows, more, width});
    }
}

void MultiplyHere(const ConstMatrix& left, const ConstMatrix& right, float* product) {
    View(product, left.rows, right.columns, right.columns).noalias() = View(left) * View(right);
}

bool FactorizeHere(float* matrix, int64_t size) {
    Eigen::Map<Matrix> whole(matrix, size, size);
    const Eigen::LLT<Eigen::Ref<Matrix>, Eigen::Upper> factor(whole);
    return factor.info() == Eigen::Success;
}

constexpr DenseCopy kThisCopy{&AddToGramHere, &MultiplyHere, &FactorizeHere};

}  // namespace
}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_NUMERICS_DENSE_EIGEN_H_
