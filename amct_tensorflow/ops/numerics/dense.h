// Products and factors of dense row-major matrices: Eigen does the work.
//
// Each function works on the calling thread; the result of one does not depend on how many call others.

#ifndef AMCT_TENSORFLOW_OPS_NUMERICS_DENSE_H_
#define AMCT_TENSORFLOW_OPS_NUMERICS_DENSE_H_

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <cstdint>

namespace amct {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using MatrixView = Eigen::Map<Matrix, 0, Eigen::OuterStride<>>;
using ConstMatrixView = Eigen::Map<const Matrix, 0, Eigen::OuterStride<>>;

// A matrix whose rows are `step` values apart.
inline MatrixView View(float* values, int64_t rows, int64_t columns, int64_t step) {
    return MatrixView(values, rows, columns, Eigen::OuterStride<>(step));
}
inline ConstMatrixView View(const float* values, int64_t rows, int64_t columns, int64_t step) {
    return ConstMatrixView(values, rows, columns, Eigen::OuterStride<>(step));
}

// gram[first : first + size, second : second + more] += X[:, first...]' X[:, second...], of the Gram matrix
// of X [rows, width]; of a tile on the diagonal the upper triangle.
inline void AddToGram(const float* x, int64_t rows, int64_t width, int64_t first, int64_t size,
                      int64_t second, int64_t more, float* gram) {
    const auto left = View(x + first, rows, size, width);
    auto tile = View(gram + first * width + second, size, more, width);
    if (first == second) {
        tile.selfadjointView<Eigen::Upper>().rankUpdate(left.transpose());
    } else {
        tile.noalias() += left.transpose() * View(x + second, rows, more, width);
    }
}

// Replaces the upper triangle of a symmetric matrix A [size, size] by R, A = R' R; false if A is not positive
// definite, and then what is left is of no use.
inline bool Factorize(float* matrix, int64_t size) {
    Eigen::Map<Matrix> whole(matrix, size, size);
    const Eigen::LLT<Eigen::Ref<Matrix>, Eigen::Upper> factor(whole);
    return factor.info() == Eigen::Success;
}

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_NUMERICS_DENSE_H_
