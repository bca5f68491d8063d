// Kernels of the deployment ops.

#include <algorithm>
#include <string>
#include <vector>

#include "../numerics/deploy.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "op_helpers.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace amct {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

// An op whose output has the shape of its first input, and takes its memory where that is free.
class DeploymentOp : public OpKernel {
 public:
    using OpKernel::OpKernel;

    void Compute(OpKernelContext* context) override {
        const Tensor& input = context->input(0);
        OP_REQUIRES(
            context, input.NumElements() > 0,
            absl::InvalidArgumentError(absl::StrCat(type_string(), "Op: input_tensor is empty! (", name(),
                                                    ") Feed batches of at least one sample")));
        Tensor* output = nullptr;
        if (input.dtype() == output_type(0)) {
            OP_REQUIRES_OK(context,
                           context->forward_input_or_allocate_output({0}, 0, input.shape(), &output));
        } else {
            OP_REQUIRES_OK(context, context->allocate_output(0, input.shape(), &output));
        }
        Run(context, input, output);
    }

 protected:
    virtual void Run(OpKernelContext* context, const Tensor& input, Tensor* output) const = 0;
};

class AscendQuantOp : public DeploymentOp {
 public:
    explicit AscendQuantOp(OpKernelConstruction* context) : DeploymentOp(context) {
        OP_REQUIRES_OK(context, context->GetAttr("quant_bits", &quant_bits_));
        OP_REQUIRES_OK(context, context->GetAttr("scale", &scale_));
        OP_REQUIRES_OK(context, context->GetAttr("offset", &offset_));
        OP_REQUIRES(context, quant_bits_ >= 2 && quant_bits_ <= 16,
                    absl::InvalidArgumentError(
                        absl::StrCat("AscendQuantOp: quant_bits must be in 2..16, not ", quant_bits_)));
    }

 protected:
    void Run(OpKernelContext* context, const Tensor& input, Tensor* output) const override {
        const float* x = input.flat<float>().data();
        float* y = output->flat<float>().data();
        ThreadPoolOf(context)(input.NumElements(), 2, [&](int64_t begin, int64_t end) {
            AscendQuantize(x + begin, end - begin, scale_, offset_, quant_bits_, y + begin);
        });
    }

 private:
    int quant_bits_;
    float scale_;
    float offset_;
};

class AscendAntiQuantOp : public DeploymentOp {
 public:
    explicit AscendAntiQuantOp(OpKernelConstruction* context) : DeploymentOp(context) {
        OP_REQUIRES_OK(context, context->GetAttr("scale", &scale_));
    }

 protected:
    void Run(OpKernelContext* context, const Tensor& input, Tensor* output) const override {
        const float* x = input.flat<float>().data();
        float* y = output->flat<float>().data();
        ThreadPoolOf(context)(input.NumElements(), 1, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                y[i] = x[i] * scale_;
            }
        });
    }

 private:
    float scale_;
};

class AscendWeightQuantOp : public DeploymentOp {
 public:
    using DeploymentOp::DeploymentOp;

 protected:
    void Run(OpKernelContext* context, const Tensor& input, Tensor* output) const override {
        const Tensor& offset = context->input(1);
        const int8_t* x = input.flat<int8_t>().data();
        const int8_t* offsets = offset.flat<int8_t>().data();
        float* y = output->flat<float>().data();
        const ParallelFor parallel_for = ThreadPoolOf(context);
        OP_REQUIRES(context, offset.dims() <= input.dims(), BadOffset(offset));
        std::vector<int64_t> strides(input.dims(), 0);  // of offset_w along each axis of x
        int64_t stride = 1;
        for (int axis = input.dims() - 1, from = offset.dims() - 1; from >= 0; --axis, --from) {
            const int64_t size = offset.dim_size(from);
            OP_REQUIRES(context, size == 1 || size == input.dim_size(axis), BadOffset(offset));
            strides[axis] = size == 1 ? 0 : stride;
            stride *= size;
        }
        if (std::all_of(offsets, offsets + offset.NumElements(), [](int8_t value) { return value == 0; })) {
            parallel_for(input.NumElements(), 1,
                         [&](int64_t begin, int64_t end) { std::copy(x + begin, x + end, y + begin); });
            return;
        }
        parallel_for(input.NumElements(), 8, [&](int64_t begin, int64_t end) {
            for (int64_t i = begin; i < end; ++i) {
                int64_t rest = i;
                int64_t from = 0;
                for (int axis = input.dims() - 1; axis >= 0; --axis) {
                    from += rest % input.dim_size(axis) * strides[axis];
                    rest /= input.dim_size(axis);
                }
                y[i] = static_cast<float>(x[i] - offsets[from]);
            }
        });
    }

 private:
    absl::Status BadOffset(const Tensor& offset) const {
        return absl::InvalidArgumentError(
            absl::StrCat("AscendWeightQuantOp: offset_w of shape ", offset.shape().DebugString(),
                         " does not broadcast against the weights (", name(), ")"));
    }
};

class AscendDequantOp : public DeploymentOp {
 public:
    explicit AscendDequantOp(OpKernelConstruction* context) : DeploymentOp(context) {
        std::vector<int> ksize;
        OP_REQUIRES_OK(context, context->GetAttr("ksize", &ksize));
        OP_REQUIRES_OK(context, context->GetAttr("data_format", &data_format_));
        OP_REQUIRES(
            context, ksize.size() >= 2 && ksize[0] > 0 && ksize[1] > 0,
            absl::InvalidArgumentError(absl::StrCat("AscendDequantOp: ksize needs two sizes above 0")));
        area_ = static_cast<float>(ksize[0]) * static_cast<float>(ksize[1]);
    }

 protected:
    void Run(OpKernelContext* context, const Tensor& input, Tensor* output) const override {
        const auto words = context->input(1).flat<uint64_t>();
        ChannelView view = ViewOutput(input.shape(), data_format_);
        if (words.size() == 1) {
            view = {1, 1, input.NumElements()};
        }
        OP_REQUIRES(context, words.size() == view.channels,
                    absl::InvalidArgumentError(absl::StrCat("AscendDequantOp: ", words.size(),
                                                            " values of deq_scale for ", view.channels,
                                                            " channels (", name(), ")")));
        std::vector<DequantChannel> channels;
        for (int64_t c = 0; c < view.channels; ++c) {
            channels.emplace_back(DeqScale::Unpack(words(c)), area_);
        }
        const float* x = input.flat<float>().data();
        float* y = output->flat<float>().data();
        const ParallelFor parallel_for = ThreadPoolOf(context);
        if (view.inner == 1 && view.channels > 1) {
            const DequantColumns columns(channels);
            parallel_for(view.outer, 2 * view.channels, [&](int64_t begin, int64_t end) {
                columns.Dequantize(x + begin * view.channels, end - begin, y + begin * view.channels);
            });
        } else if (view.channels == 1) {
            parallel_for(view.inner, 2, [&](int64_t begin, int64_t end) {
                DequantizeRun(x + begin, end - begin, channels[0], y + begin);
            });
        } else {
            parallel_for(view.outer * view.channels, 2 * view.inner, [&](int64_t begin, int64_t end) {
                for (int64_t run = begin; run < end; ++run) {
                    DequantizeRun(x + run * view.inner, view.inner, channels[run % view.channels],
                                  y + run * view.inner);
                }
            });
        }
    }

 private:
    std::string data_format_;
    float area_;
};

#define AMCT_REGISTER_CPU(op) \
    REGISTER_KERNEL_BUILDER(Name(#op).Device(tensorflow::DEVICE_CPU).TypeConstraint<float>("T"), op##Op)

AMCT_REGISTER_CPU(AscendQuant);
AMCT_REGISTER_CPU(AscendWeightQuant);
AMCT_REGISTER_CPU(AscendDequant);
AMCT_REGISTER_CPU(AscendAntiQuant);

}  // namespace amct
