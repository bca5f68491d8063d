// Kernels of the calibration ops: they hand the tensor to the state of its layer and pass it on unchanged.

#include <memory>
#include <string>
#include <vector>

#include "../calibration/record_book.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "op_helpers.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace amct {

using tensorflow::OpKernel;
using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

namespace {

std::string Quoted(const std::vector<std::string>& layers) {
    std::string text = layers.size() == 1 ? "layer " : "layers ";
    for (size_t i = 0; i < layers.size(); ++i) {
        text += (i == 0 ? "\"" : ", \"") + layers[i] + "\"";
    }
    return text;
}

constexpr char kSkipRemedy[] = "feed real data, or add it to skip_layers";

}  // namespace

// Common attributes, and the book that the results go to.
class CalibrationOp : public OpKernel {
 public:
    explicit CalibrationOp(OpKernelConstruction* context) : OpKernel(context) {
        OP_REQUIRES_OK(context, context->GetAttr("record_file", &record_file_));
        OP_REQUIRES_OK(context, context->GetAttr("generation", &generation_));
    }

 protected:
    // Null, without an error, for an op of an earlier quantize_model: it only passes its data on.
    std::shared_ptr<RecordBook> Book(OpKernelContext* context) const {
        if (FindRecordBook(record_file_) == nullptr) {
            context->SetStatus(absl::FailedPreconditionError(absl::StrCat(
                "the calibration of ", record_file_, " was not started in this process: call quantize_model ",
                "and run the graph in the same process")));
            return nullptr;
        }
        return FindRecordBook(record_file_, generation_);
    }

    static void Report(OpKernelContext* context, const std::string& error) {
        if (!error.empty()) {
            context->SetStatus(absl::PermissionDeniedError(absl::StrCat(error)));
        }
    }

 private:
    std::string record_file_;
    int64_t generation_;
};

class QuantIfmrOp : public CalibrationOp {
 public:
    explicit QuantIfmrOp(OpKernelConstruction* context) : CalibrationOp(context) {
        OP_REQUIRES_OK(context, context->GetAttr("layers", &layers_));
        OP_REQUIRES_OK(context, context->GetAttr("batch_num", &batch_num_));
        OP_REQUIRES_OK(context, context->GetAttr("num_bits", &options_.num_bits));
        OP_REQUIRES_OK(context, context->GetAttr("with_offset", &options_.with_offset));
        OP_REQUIRES_OK(context, context->GetAttr("search_start", &options_.search_start));
        OP_REQUIRES_OK(context, context->GetAttr("search_end", &options_.search_end));
        OP_REQUIRES_OK(context, context->GetAttr("search_step", &options_.search_step));
        OP_REQUIRES_OK(context, context->GetAttr("max_percentile", &options_.max_percentile));
        OP_REQUIRES_OK(context, context->GetAttr("min_percentile", &options_.min_percentile));
        OP_REQUIRES(context, options_.num_bits >= 2 && options_.num_bits <= 16,
                    absl::InvalidArgumentError(
                        absl::StrCat("QuantIfmr: num_bits must be in 2..16, not ", options_.num_bits)));
        OP_REQUIRES(context,
                    options_.search_start > 0 && options_.search_start <= options_.search_end &&
                        options_.search_step > 0,
                    absl::InvalidArgumentError(
                        absl::StrCat("QuantIfmr: the search needs 0 < start <= end and a step above 0")));
        OP_REQUIRES(context, options_.search_end - options_.search_start <= 1e5f * options_.search_step,
                    absl::InvalidArgumentError(
                        "QuantIfmr: the search has more than 100000 candidates, enlarge search_step"));
        for (const float percentile : {options_.max_percentile, options_.min_percentile}) {
            OP_REQUIRES(context, percentile > 0 && percentile <= 1,
                        absl::InvalidArgumentError(absl::StrCat(
                            "QuantIfmr: a percentile must be above 0 and at most 1, not ", percentile)));
        }
    }

    void Compute(OpKernelContext* context) override {
        context->set_output(0, context->input(0));
        ActivationFactors factors;
        const std::shared_ptr<RecordBook> book = Book(context);
        if (book != nullptr) {
            Observe(context, book.get(), &factors);
        }
        if (!context->status().ok()) {
            return;
        }
        Tensor* output = nullptr;
        OP_REQUIRES_OK(context, context->allocate_output(1, TensorShape({}), &output));
        output->scalar<float>()() = factors.scale;
        OP_REQUIRES_OK(context, context->allocate_output(2, TensorShape({}), &output));
        output->scalar<float>()() = static_cast<float>(factors.offset);
    }

 private:
    void Observe(OpKernelContext* context, RecordBook* book, ActivationFactors* factors) {
        const auto values = context->input(0).flat<float>();
        const std::shared_ptr<ActivationState> state = book->Activation(layers_);
        switch (
            state->Add(values.data(), values.size(), batch_num_, options_, ThreadPoolOf(context), factors)) {
            case BatchStatus::kIgnored:
            case BatchStatus::kAdded:
                return;
            case BatchStatus::kCompleted:
                Announce(*state, *factors);
                Report(context, book->SetActivation(layers_, factors->scale, factors->offset));
                return;
            case BatchStatus::kEmpty:
                context->SetStatus(absl::InvalidArgumentError(
                    absl::StrCat("the activation of ", Quoted(layers_),
                                 " is empty: feed batches of at least one sample")));
                return;
            case BatchStatus::kNotFinite:
                context->SetStatus(absl::InvalidArgumentError(absl::StrCat(
                    "the activation of ", Quoted(layers_), " has invalid value inf or nan: ", kSkipRemedy)));
                return;
            case BatchStatus::kBadScale:
                context->SetStatus(absl::InvalidArgumentError(
                    absl::StrCat(Quoted(layers_),
                                 " calculate scale failed. Not support scale greater than 1 / FLT_EPSILON: ",
                                 "its activations are too large; ", kSkipRemedy)));
                return;
        }
    }

    void Announce(const ActivationState& state, const ActivationFactors& factors) const {
        for (const std::string& layer : layers_) {
            Log(LogLevel::kInfo, "Do layer " + layer + " activation calibration with ifmr success!");
            Log(LogLevel::kDebug,
                absl::StrCat("layer ", layer, ": scale_d ", factors.scale, ", offset_d ", factors.offset));
        }
        if (state.negligible()) {
            Log(LogLevel::kWarning, absl::StrCat("the activation of ", Quoted(layers_),
                                                 " was zero, or too small to quantize, in all calibration "
                                                 "batches: scale 1.0 is recorded, ",
                                                 "with which such values become 0; calibrate with data that "
                                                 "reach it, or add it to skip_layers"));
        }
    }

    std::vector<std::string> layers_;
    int64_t batch_num_;
    IfmrOptions options_;
};

class QuantArqOp : public CalibrationOp {
 public:
    explicit QuantArqOp(OpKernelConstruction* context) : CalibrationOp(context) {
        OP_REQUIRES_OK(context, context->GetAttr("layers", &layers_));
        OP_REQUIRES_OK(context, context->GetAttr("channel_axes", &channel_axes_));
        OP_REQUIRES_OK(context, context->GetAttr("num_bits", &num_bits_));
        OP_REQUIRES(
            context, num_bits_ >= 2 && num_bits_ <= 16,
            absl::InvalidArgumentError(absl::StrCat("QuantArq: num_bits must be in 2..16, not ", num_bits_)));
        for (size_t i = 1; i < channel_axes_.size(); ++i) {
            OP_REQUIRES(context, channel_axes_[i] == channel_axes_[i - 1] + 1,
                        absl::InvalidArgumentError(
                            absl::StrCat("QuantArq: channel_axes must be neighbours in rising order")));
        }
    }

    void Compute(OpKernelContext* context) override {
        const Tensor& weights = context->input(0);
        OP_REQUIRES(
            context, weights.NumElements() > 0,
            absl::InvalidArgumentError(absl::StrCat("the weights of ", Quoted(layers_), " are empty")));
        OP_REQUIRES(
            context,
            channel_axes_.empty() || (channel_axes_.front() >= 0 && channel_axes_.back() < weights.dims()),
            absl::InvalidArgumentError(
                absl::StrCat("QuantArq: channel_axes are beyond the weights of ", Quoted(layers_))));
        const std::shared_ptr<RecordBook> book = Book(context);
        if (!context->status().ok()) {
            return;
        }
        const ChannelView view = View(weights.shape());
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
            Report(context, book->SetWeights(layers_, std::vector<float>(scales, scales + view.channels)));
        }
    }

 private:
    ChannelView View(const TensorShape& shape) const {
        ChannelView view{1, 1, 1};
        for (int axis = 0; axis < shape.dims(); ++axis) {
            if (!channel_axes_.empty() && axis < channel_axes_.front()) {
                view.outer *= shape.dim_size(axis);
            } else if (!channel_axes_.empty() && axis <= channel_axes_.back()) {
                view.channels *= shape.dim_size(axis);
            } else {
                view.inner *= shape.dim_size(axis);
            }
        }
        return view;
    }

    std::vector<std::string> layers_;
    std::vector<int> channel_axes_;
    int num_bits_;
};

class SearchNOp : public CalibrationOp {
 public:
    explicit SearchNOp(OpKernelConstruction* context) : CalibrationOp(context) {
        OP_REQUIRES_OK(context, context->GetAttr("layer", &layer_));
        OP_REQUIRES_OK(context, context->GetAttr("batch_num", &batch_num_));
        OP_REQUIRES_OK(context, context->GetAttr("data_format", &data_format_));
    }

    void Compute(OpKernelContext* context) override {
        context->set_output(0, context->input(0));
        const std::shared_ptr<RecordBook> book = Book(context);
        if (book != nullptr) {
            Observe(context, book.get());
        }
    }

 private:
    void Observe(OpKernelContext* context, RecordBook* book) const {
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
        const BatchStatus status = book->Shift(layer_)->Add(
            values.flat<float>().data(), view, deq_scales.data(), batch_num_, ThreadPoolOf(context), &shifts);
        OP_REQUIRES(
            context, status != BatchStatus::kEmpty,
            absl::InvalidArgumentError(absl::StrCat("the output of layer \"", layer_,
                                                    "\" is empty: feed batches of at least one sample")));
        OP_REQUIRES(context, status != BatchStatus::kNotFinite,
                    absl::InvalidArgumentError(absl::StrCat(
                        "the output of layer \"", layer_, "\" has invalid value inf or nan: ", kSkipRemedy)));
        if (status == BatchStatus::kCompleted) {
            Report(context, book->SetShift(layer_, shifts));
        }
    }

    std::string layer_;
    int64_t batch_num_;
    std::string data_format_;
};

#define AMCT_REGISTER_CPU(op, kernel) \
    REGISTER_KERNEL_BUILDER(Name(op).Device(tensorflow::DEVICE_CPU).TypeConstraint<float>("T"), kernel)

AMCT_REGISTER_CPU("QuantIfmr", QuantIfmrOp);
AMCT_REGISTER_CPU("QuantArq", QuantArqOp);
AMCT_REGISTER_CPU("SearchN", SearchNOp);

}  // namespace amct
