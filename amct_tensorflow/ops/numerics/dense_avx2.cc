// This file, and no other, is compiled for AVX2 and fused multiply-add (build.py), and linked last: what it
// has in common with others must not be taken from it on machines without them.

#if defined(__AVX2__) && defined(__FMA__)

#define Eigen EigenAvx2  // or the linker would take its functions for those of the baseline
#include "dense_eigen.h"

namespace amct {
const DenseCopy* const kAvx2Copy = &kThisCopy;
}  // namespace amct

#else

#include "dense_copy.h"

namespace amct {
const DenseCopy* const kAvx2Copy = nullptr;
}  // namespace amct

#endif
