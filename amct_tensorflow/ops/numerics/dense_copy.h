// dense.h's functions in several copies, each for an instruction set.

#ifndef AMCT_TENSORFLOW_OPS_NUMERICS_DENSE_COPY_H_
#define AMCT_TENSORFLOW_OPS_NUMERICS_DENSE_COPY_H_

#include "dense.h"

namespace amct {

struct DenseCopy {
    decltype(&AddToGram) add_to_gram;
    decltype(&Multiply) multiply;
    decltype(&Factorize) factorize;
};

// That for AVX2 and fused multiply-add, about three times as fast as the baseline of x86-64; null where the
// library is not built for x86-64.
extern const DenseCopy* const kAvx2Copy;

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_NUMERICS_DENSE_COPY_H_
