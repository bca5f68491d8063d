#include "dense_eigen.h"

namespace amct {

namespace {

const DenseCopy& BestCopy() {
#if defined(__x86_64__) && defined(__GNUC__)
    static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (has_avx2 && kAvx2Copy != nullptr) {
        return *kAvx2Copy;
    }
#endif
    return kThisCopy;
}

}  // namespace

void AddToGram(const float* x, int64_t rows, int64_t width, int64_t first, int64_t size, int64_t second,
               int64_t more, float* gram) {
    BestCopy().add_to_gram(x, rows, width, first, size, second, more, gram);
}

void Multiply(const ConstMatrix& left, const ConstMatrix& right, float* product) {
    BestCopy().multiply(left, right, product);
}

bool Factorize(float* matrix, int64_t size) { return BestCopy().factorize(matrix, size); }

}  // namespace amct
