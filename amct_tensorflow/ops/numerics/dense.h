// Products and factors of dense row-major matrices of floats; `step` is from one row to the next.
//
// Each function works on the calling thread; the result of one does not depend on how many call others. It
// does, in the last bits, on the instruction set of the machine, as that of TensorFlow's own products does.

#ifndef AMCT_TENSORFLOW_OPS_NUMERICS_DENSE_H_
#define AMCT_TENSORFLOW_OPS_NUMERICS_DENSE_H_

#include <cstdint>

namespace amct {

struct ConstMatrix {
    const float* values;
    int64_t rows;
    int64_t columns;
    int64_t step;
};

// gram[first : first + size, second : second + more] += X[:, first...]' X[:, second...], of the Gram matrix
// of X [rows, width]; of a tile on the diagonal the upper triangle.
void AddToGram(const float* x, int64_t rows, int64_t width, int64_t first, int64_t size, int64_t second,
               int64_t more, float* gram);

// Writes left * right, [left.rows, right.columns] without gaps.
void Multiply(const ConstMatrix& left, const ConstMatrix& right, float* product);

// Replaces the upper triangle of a symmetric matrix A [size, size] by R, A = R' R; false if A is not positive
// definite, and then what is left is of no use.
bool Factorize(float* matrix, int64_t size);

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_NUMERICS_DENSE_H_
