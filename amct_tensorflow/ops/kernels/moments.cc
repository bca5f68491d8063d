// The kernel that gathers the moments of a layer's input: it hands the tensor to the state of its layers and
// passes it on unchanged.

#include <string>
#include <vector>

#include "calibration_op.h"

namespace amct {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

class InputMomentsOp : public ObserverOp {
 public:
    explicit InputMomentsOp(OpKernelConstruction* context) : ObserverOp(context) {
        std::vector<int64_t> kernel, strides, dilations;
        OP_REQUIRES_OK(context, context->GetAttr("layers", &layers_));
        OP_REQUIRES_OK(context, context->GetAttr("groups", &groups_));
        OP_REQUIRES_OK(context, context->GetAttr("most_block", &most_block_));
        OP_REQUIRES_OK(context, context->GetAttr("data_format", &data_format_));
        OP_REQUIRES_OK(context, context->GetAttr("kernel", &kernel));
        OP_REQUIRES_OK(context, context->GetAttr("strides", &strides));
        OP_REQUIRES_OK(context, context->GetAttr("dilations", &dilations));
        OP_REQUIRES_OK(context, context->GetAttr("padding", &padding_));
        OP_REQUIRES_OK(context, context->GetAttr("explicit_paddings", &explicit_paddings_));
        OP_REQUIRES_OK(context, context->GetAttr("transposed", &window_.transposed));
        axes_ = static_cast<int>(kernel.size());
        const bool fits = axes_ <= 3 && strides.size() == kernel.size() &&
                          dilations.size() == kernel.size() &&
                          (padding_ != "EXPLICIT" || explicit_paddings_.size() == 2 * kernel.size());
        OP_REQUIRES(
            context, fits,
            absl::InvalidArgumentError("InputMoments: kernel, strides, dilations and explicit_paddings "
                                       "must be of the same, at most 3, axes"));
        for (int axis = 0; axis < axes_; ++axis) {
            window_.kernel[3 - axes_ + axis] = kernel[axis];
            window_.stride[3 - axes_ + axis] = strides[axis];
            window_.dilation[3 - axes_ + axis] = dilations[axis];
            OP_REQUIRES(context, kernel[axis] > 0 && strides[axis] > 0 && dilations[axis] > 0,
                        absl::InvalidArgumentError(
                            "InputMoments: kernel, strides and dilations must be greater than 0"));
        }
    }

 private:
    void Observe(OpKernelContext* context, RecordBook* book) const override {
        const Tensor& values = context->input(0);
        const std::string tensor = "the activation of " + Quoted(layers_);
        Window window = window_;
        LayerInput input;
        input.values = values.flat<float>().data();
        const bool fits =
            axes_ > 0 ? ViewImage(values.shape(), &window, &input) : ViewMatrices(values.shape(), &input);
        OP_REQUIRES(context, fits,
                    absl::InvalidArgumentError(absl::StrCat("InputMoments: ", tensor, " has the shape ",
                                                            values.shape().DebugString(),
                                                            ", which does not fit its weights")));
        const BatchStatus status =
            book->Moments(layers_[0])->Add(input, window, most_block_, batch_num_, ThreadPoolOf(context));
        switch (status) {
            case BatchStatus::kCompleted:
                Report(context, book->SetMoments(layers_, ThreadPoolOf(context)));
                return;
            case BatchStatus::kEmpty:
            case BatchStatus::kOtherChannels:
                context->SetStatus(ShapeError(status, tensor));
                return;
            default:
                return;
        }
    }

    // Views [batch, height, width, channels], or the like, as a convolution sees it.
    bool ViewImage(const TensorShape& shape, Window* window, LayerInput* input) const {
        if (shape.dims() != axes_ + 2) {
            return false;
        }
        const int first = data_format_ == "NCHW" ? 2 : 1;
        const int64_t channels = shape.dim_size(data_format_ == "NCHW" ? 1 : axes_ + 1);
        if (channels % groups_ != 0) {
            return false;
        }
        int64_t step = data_format_ == "NCHW" ? 1 : channels;
        for (int axis = axes_ - 1; axis >= 0; --axis) {
            const int at = 3 - axes_ + axis;
            input->size[at] = shape.dim_size(first + axis);
            input->size_step[at] = step;
            step *= input->size[at];
            Place(axis, at, input, window);
        }
        input->batch = shape.dim_size(0);
        input->groups = groups_;
        input->width = channels / groups_;
        input->channel_step = data_format_ == "NCHW" ? step : 1;
        input->group_step = input->width * input->channel_step;
        input->batch_step = data_format_ == "NCHW" ? step * channels : step;
        return input->width > 0;
    }

    // Sets where the window starts along an axis, and how many positions the result has there. Padded like
    // the input, the result of a transposed convolution is taken to be as large as it can be; else as small.
    void Place(int axis, int at, LayerInput* input, Window* window) const {
        const int64_t size = input->size[at];
        const int64_t stride = window->stride[at];
        const int64_t span = (window->kernel[at] - 1) * window->dilation[at] + 1;
        int64_t* output = &input->output[at];
        if (padding_ == "SAME") {
            *output = window->transposed ? size * stride : (size + stride - 1) / stride;
            const int64_t larger = window->transposed ? *output : size;
            const int64_t smaller = window->transposed ? size : *output;
            window->before[at] = std::max<int64_t>((smaller - 1) * stride + span - larger, 0) / 2;
            return;
        }
        int64_t padded = 0;
        if (padding_ == "EXPLICIT") {
            window->before[at] = explicit_paddings_[2 * axis];
            padded = window->before[at] + explicit_paddings_[2 * axis + 1];
        }
        const int64_t positions = window->transposed ? (size - 1) * stride + span - padded
                                                     : (size + padded - span + stride) / stride;
        *output = std::max<int64_t>(positions, 0);
    }

    // Views [..., rows, channels] as rows of one group, or of as many as the weights are a batch of matrices.
    bool ViewMatrices(const TensorShape& shape, LayerInput* input) const {
        if (shape.dims() < 1 || shape.dim_size(shape.dims() - 1) == 0) {
            return false;
        }
        const int64_t channels = shape.dim_size(shape.dims() - 1);
        const int64_t rows = groups_ == 1        ? shape.num_elements() / channels
                             : shape.dims() >= 2 ? shape.dim_size(shape.dims() - 2)
                                                 : 0;
        const int64_t part = groups_ * rows * channels;
        if (part > 0 ? shape.num_elements() % part != 0 : groups_ != 1) {
            return false;
        }
        input->batch = part > 0 ? shape.num_elements() / part : 0;
        input->size[2] = input->output[2] = rows;
        input->groups = groups_;
        input->width = channels;
        input->batch_step = part;
        input->group_step = rows * channels;
        input->size_step[2] = channels;
        return true;
    }

    std::vector<std::string> layers_;
    int64_t groups_;
    int64_t most_block_;
    std::string data_format_;
    std::string padding_;
    std::vector<int64_t> explicit_paddings_;
    int axes_;
    Window window_;
};

AMCT_REGISTER_CPU("InputMoments", InputMomentsOp);

}  // namespace amct
