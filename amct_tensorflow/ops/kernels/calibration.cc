// Kernels of the other calibration ops: of weights, of shifts and of balance factors.

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "calibration_op.h"

namespace amct {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

// Returns an error unless the axes are neighbours, in rising order.
absl::Status CheckNeighbours(const char* op, const std::vector<int>& axes) {
    for (size_t i = 1; i < axes.size(); ++i) {
        if (axes[i] != axes[i - 1] + 1) {
            return absl::InvalidArgumentError(
                absl::StrCat(op, ": channel_axes must be neighbours in rising order"));
        }
    }
    return absl::OkStatus();
}

bool HasAxes(const Tensor& weights, const std::vector<int>& axes) {
    return axes.empty() || (axes.front() >= 0 && axes.back() < weights.dims());
}

// The view of weights whose channels are these neighbouring axes; one channel if there are none.
ChannelView ViewWeights(const Tensor& weights, const std::vector<int>& axes) {
    return axes.empty() ? ChannelView{1, 1, weights.NumElements()}
                        : ViewAround(weights.shape(), axes.front(), axes.back());
}

class QuantArqOp : public CalibrationOp {
 public:
    explicit QuantArqOp(OpKernelConstruction* context) : CalibrationOp(context) {
        OP_REQUIRES_OK(context, context->GetAttr("layers", &layers_));
        OP_REQUIRES_OK(context, context->GetAttr("channel_axes", &channel_axes_));
        OP_REQUIRES_OK(context, context->GetAttr("num_bits", &num_bits_));
        OP_REQUIRES(
            context, num_bits_ >= 2 && num_bits_ <= 16,
            absl::InvalidArgumentError(absl::StrCat("QuantArq: num_bits must be in 2..16, not ", num_bits_)));
        OP_REQUIRES_OK(context, CheckNeighbours("QuantArq", channel_axes_));
    }

    void Compute(OpKernelContext* context) override {
        const Tensor& weights = context->input(0);
        OP_REQUIRES(
            context, weights.NumElements() > 0,
            absl::InvalidArgumentError(absl::StrCat("the weights of ", Quoted(layers_), " are empty")));
        OP_REQUIRES(context, HasAxes(weights, channel_axes_),
                    absl::InvalidArgumentError(
                        absl::StrCat("QuantArq: channel_axes are beyond the weights of ", Quoted(layers_))));
        const std::shared_ptr<RecordBook> book = Book(context);
        if (!context->status().ok()) {
            return;
        }
        const ChannelView view = ViewWeights(weights, channel_axes_);
        Tensor* output = nullptr;
        Tensor* scale = nullptr;
        OP_REQUIRES_OK(context, context->allocate_output(0, weights.shape(), &output));
        OP_REQUIRES_OK(context, context->allocate_output(1, TensorShape({view.channels}), &scale));
        const float* values = weights.flat<float>().data();
        float* scales = scale->flat<float>().data();
        OP_REQUIRES(context, ArqScales(values, view, num_bits_, scales) == ScaleStatus::kOk,
                    absl::InvalidArgumentError(
                        absl::StrCat("the weights of ", Quoted(layers_),
                                     " have nan, inf or a scale greater than 1 / FLT_EPSILON: repair ",
                                     "them, or add the layer to skip_layers")));
        FakeQuantizeWeights(values, view, scales, num_bits_, output->flat<float>().data());
        if (book != nullptr) {
            Report(context,
                   book->SetWeights(layers_, values, view, std::vector<float>(scales, scales + view.channels),
                                    ThreadPoolOf(context)));
        }
    }

 private:
    std::vector<std::string> layers_;
    std::vector<int> channel_axes_;
    int num_bits_;
};

class DequantArqOp : public OpKernel {
 public:
    explicit DequantArqOp(OpKernelConstruction* context) : OpKernel(context) {
        OP_REQUIRES_OK(context, context->GetAttr("channel_axes", &channel_axes_));
        OP_REQUIRES_OK(context, CheckNeighbours("DequantArq", channel_axes_));
    }

    void Compute(OpKernelContext* context) override {
        const Tensor& weights = context->input(0);
        const Tensor& scale = context->input(1);
        OP_REQUIRES(context, HasAxes(weights, channel_axes_),
                    absl::InvalidArgumentError(
                        absl::StrCat("DequantArq: channel_axes are beyond the weights of ", name())));
        const ChannelView view = ViewWeights(weights, channel_axes_);
        OP_REQUIRES(context, scale.NumElements() == view.channels,
                    absl::InvalidArgumentError(absl::StrCat("DequantArq: ", scale.NumElements(),
                                                            " weight scales for ", view.channels,
                                                            " channels of ", name())));
        Tensor* output = nullptr;
        OP_REQUIRES_OK(context, context->allocate_output(0, weights.shape(), &output));
        DequantizeWeights(weights.flat<int8_t>().data(), view, scale.flat<float>().data(),
                          ThreadPoolOf(context), output->flat<float>().data());
    }

 private:
    std::vector<int> channel_axes_;
};

class SearchNOp : public ObserverOp {
 public:
    explicit SearchNOp(OpKernelConstruction* context) : ObserverOp(context) {
        OP_REQUIRES_OK(context, context->GetAttr("layer", &layer_));
        OP_REQUIRES_OK(context, context->GetAttr("data_format", &data_format_));
        OP_REQUIRES_OK(context, context->GetAttr("share_range", &share_range_));
    }

 private:
    void Observe(OpKernelContext* context, RecordBook* book) const override {
        const Tensor& values = context->input(0);
        const Tensor& scale_w = context->input(2);
        ChannelView view = ViewOutput(values.shape(), data_format_);
        if (scale_w.NumElements() == 1) {
            view = {1, 1, values.NumElements()};
        }
        OP_REQUIRES(context, context->input(1).NumElements() == 1 && scale_w.NumElements() == view.channels,
                    absl::InvalidArgumentError(
                        absl::StrCat("SearchN of layer \"", layer_, "\": ", scale_w.NumElements(),
                                     " weight scales for ", view.channels, " channels")));
        std::vector<float> deq_scales(view.channels);
        for (int64_t c = 0; c < view.channels; ++c) {
            deq_scales[c] = context->input(1).flat<float>()(0) * scale_w.flat<float>()(c);
        }
        std::vector<uint32_t> shifts;
        const BatchStatus status =
            book->Shift(layer_)->Add(values.flat<float>().data(), view, deq_scales.data(), share_range_,
                                     batch_num_, ThreadPoolOf(context), &shifts);
        const std::string tensor = "the output of layer \"" + layer_ + "\"";
        OP_REQUIRES(context, status != BatchStatus::kEmpty, EmptyError(tensor));
        OP_REQUIRES(context, status != BatchStatus::kOtherChannels, OtherChannelsError(tensor));
        OP_REQUIRES(context, status != BatchStatus::kNotFinite, NotFiniteError(tensor));
        if (status == BatchStatus::kCompleted) {
            Report(context, book->SetShift(layer_, shifts, ThreadPoolOf(context)));
        }
    }

    std::string layer_;
    std::string data_format_;
    bool share_range_;
};

class DmqBalanceOp : public ObserverOp {
 public:
    explicit DmqBalanceOp(OpKernelConstruction* context) : ObserverOp(context, "quantize_preprocess") {
        OP_REQUIRES_OK(context, context->GetAttr("layer", &layer_));
        OP_REQUIRES_OK(context, context->GetAttr("migration_strength", &migration_strength_));
        OP_REQUIRES_OK(context, context->GetAttr("channel_axis", &channel_axis_));
        OP_REQUIRES(context, migration_strength_ >= 0.2f && migration_strength_ <= 0.8f,
                    absl::InvalidArgumentError(absl::StrCat(
                        "DmqBalance: migration_strength must be in 0.2..0.8, not ", migration_strength_)));
    }

 private:
    void Observe(OpKernelContext* context, RecordBook* book) const override {
        const Tensor& values = context->input(0);
        const auto weights = context->input(1).flat<float>();
        const std::string layer = Quoted({layer_});
        const int axis = channel_axis_ < 0 ? channel_axis_ + values.dims() : channel_axis_;
        OP_REQUIRES(
            context, axis >= 0 && axis < values.dims(),
            absl::InvalidArgumentError(absl::StrCat("DmqBalance of ", layer, ": channel_axis ", channel_axis_,
                                                    " is beyond an activation of rank ", values.dims())));
        const ChannelView view = ViewAround(values.shape(), axis, axis);
        OP_REQUIRES(
            context, view.size() == 0 || weights.size() == view.channels,
            absl::InvalidArgumentError(absl::StrCat("DmqBalance of ", layer, ": ", weights.size(),
                                                    " weight maxima for ", view.channels, " channels")));
        const std::vector<float> weight_max(weights.data(), weights.data() + weights.size());
        OP_REQUIRES(
            context,
            std::all_of(weight_max.begin(), weight_max.end(), [](float w) { return std::isfinite(w); }),
            absl::InvalidArgumentError(absl::StrCat(
                "the weights of ", layer, " have nan or inf: repair them, or add the layer to skip_layers")));
        std::vector<float> factors;
        const BatchStatus status =
            book->Balance(layer_)->Add(values.flat<float>().data(), view, weight_max, batch_num_,
                                       migration_strength_, ThreadPoolOf(context), &factors);
        Conclude(context, book, status, factors);
    }

    void Conclude(OpKernelContext* context, RecordBook* book, BatchStatus status,
                  const std::vector<float>& factors) const {
        const std::string tensor = "the activation of " + Quoted({layer_});
        switch (status) {
            case BatchStatus::kCompleted:
                Log(LogLevel::kInfo, "Do layer " + layer_ + " dmq balance calibration success!");
                Report(context, book->SetBalance(layer_, factors));
                return;
            case BatchStatus::kEmpty:
            case BatchStatus::kOtherChannels:
                context->SetStatus(ShapeError(status, tensor));
                return;
            case BatchStatus::kNotFinite:
                context->SetStatus(NotFiniteError(tensor));
                return;
            case BatchStatus::kBadScale:
                context->SetStatus(BadFactorError(factors));
                return;
            default:
                return;
        }
    }

    absl::Status BadFactorError(const std::vector<float>& factors) const {
        const auto bad = std::find_if_not(factors.begin(), factors.end(), IsBalanceFactor);
        return absl::InvalidArgumentError(absl::StrCat(
            Quoted({layer_}), " has tensor_balance_factor ", *bad, " in input channel ",
            bad - factors.begin(),
            ", which is not between FLT_EPSILON and 1 / FLT_EPSILON: feed real data, or take its "
            "dmq_balancer_param out of the configuration"));
    }

    std::string layer_;
    float migration_strength_;
    int channel_axis_;
};

AMCT_REGISTER_CPU("QuantArq", QuantArqOp);
AMCT_REGISTER_CPU("DequantArq", DequantArqOp);
AMCT_REGISTER_CPU("SearchN", SearchNOp);
AMCT_REGISTER_CPU("DmqBalance", DmqBalanceOp);

}  // namespace amct
