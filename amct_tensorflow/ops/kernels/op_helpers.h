// What the kernels share: TensorFlow's thread pool as a ParallelFor, and the channel view of a tensor.

#ifndef AMCT_TENSORFLOW_OPS_KERNELS_OP_HELPERS_H_
#define AMCT_TENSORFLOW_OPS_KERNELS_OP_HELPERS_H_

#include <string>

#include "../numerics/arq.h"
#include "../numerics/common.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/util/work_sharder.h"

namespace amct {

inline ParallelFor ThreadPoolOf(tensorflow::OpKernelContext* context) {
    const auto* workers = context->device()->tensorflow_cpu_worker_threads();
    return [workers](int64_t total, int64_t cost, const std::function<void(int64_t, int64_t)>& fn) {
        tensorflow::Shard(workers->num_threads, workers->workers, total, cost, fn);
    };
}

// The view of a tensor whose channels are the neighbouring axes first..last.
inline ChannelView ViewAround(const tensorflow::TensorShape& shape, int first, int last) {
    ChannelView view{1, 1, 1};
    for (int axis = 0; axis < shape.dims(); ++axis) {
        int64_t& size = axis < first ? view.outer : axis <= last ? view.channels : view.inner;
        size *= shape.dim_size(axis);
    }
    return view;
}

// The view of a layer output: channels last for NHWC (and for ranks below 3), second for NCHW.
inline ChannelView ViewOutput(const tensorflow::TensorShape& shape, const std::string& data_format) {
    const int rank = shape.dims();
    if (rank == 0) {
        return {1, 1, 1};
    }
    const int axis = data_format == "NCHW" && rank > 2 ? 1 : rank - 1;
    return ViewAround(shape, axis, axis);
}

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_KERNELS_OP_HELPERS_H_
