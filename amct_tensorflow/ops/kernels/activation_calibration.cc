// Kernels that find the factors of activations: they hand the tensor to the state of its layers and pass it
// on unchanged.

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "../numerics/hfmg.h"
#include "../numerics/ifmr.h"
#include "calibration_op.h"

namespace amct {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;
using tensorflow::TensorShape;

// Everything but the algorithm, which `name` stands for in log lines and `Options` in attributes.
template <typename Estimator, typename Options>
class ActivationOp : public CalibrationOp {
 public:
    ActivationOp(OpKernelConstruction* context, const char* name) : CalibrationOp(context), name_(name) {
        OP_REQUIRES_OK(context, context->GetAttr("layers", &layers_));
        OP_REQUIRES_OK(context, context->GetAttr("batch_num", &batch_num_));
        OP_REQUIRES_OK(context, context->GetAttr("num_bits", &options_.num_bits));
        OP_REQUIRES_OK(context, context->GetAttr("with_offset", &options_.with_offset));
        OP_REQUIRES(context, options_.num_bits >= 2 && options_.num_bits <= 16,
                    absl::InvalidArgumentError(
                        absl::StrCat(type_string(), ": num_bits must be in 2..16, not ", options_.num_bits)));
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

 protected:
    Options options_;

 private:
    void Observe(OpKernelContext* context, RecordBook* book, ActivationFactors* factors) {
        const auto values = context->input(0).flat<float>();
        const std::shared_ptr<ActivationState> state = book->Activation(layers_);
        const MakeEstimator make_estimator = [this] { return std::make_unique<Estimator>(options_); };
        const std::string tensor = "the activation of " + Quoted(layers_);
        switch (state->Add(values.data(), values.size(), batch_num_, make_estimator, ThreadPoolOf(context),
                           factors)) {
            case BatchStatus::kCompleted:
                Announce(*state, *factors);
                Report(context, book->SetActivation(layers_, *factors, ThreadPoolOf(context)));
                return;
            case BatchStatus::kEmpty:
                context->SetStatus(EmptyError(tensor));
                return;
            case BatchStatus::kNotFinite:
                context->SetStatus(NotFiniteError(tensor));
                return;
            case BatchStatus::kBadScale:
                context->SetStatus(absl::InvalidArgumentError(
                    absl::StrCat(Quoted(layers_),
                                 " calculate scale failed. Not support scale greater than 1 / FLT_EPSILON: ",
                                 "its activations are too large; ", SkipRemedy(Quoted(layers_)))));
                return;
            default:
                return;
        }
    }

    void Announce(const ActivationState& state, const ActivationFactors& factors) const {
        for (const std::string& layer : layers_) {
            Log(LogLevel::kInfo,
                absl::StrCat("Do layer ", layer, " activation calibration with ", name_, " success!"));
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

    const char* const name_;
    std::vector<std::string> layers_;
    int64_t batch_num_;
};

class QuantIfmrOp : public ActivationOp<IfmrEstimator, IfmrOptions> {
 public:
    explicit QuantIfmrOp(OpKernelConstruction* context) : ActivationOp(context, "ifmr") {
        OP_REQUIRES_OK(context, context->GetAttr("search_start", &options_.search_start));
        OP_REQUIRES_OK(context, context->GetAttr("search_end", &options_.search_end));
        OP_REQUIRES_OK(context, context->GetAttr("search_step", &options_.search_step));
        OP_REQUIRES_OK(context, context->GetAttr("max_percentile", &options_.max_percentile));
        OP_REQUIRES_OK(context, context->GetAttr("min_percentile", &options_.min_percentile));
        OP_REQUIRES(
            context,
            options_.search_start > 0 && options_.search_start <= options_.search_end &&
                options_.search_step > 0,
            absl::InvalidArgumentError("QuantIfmr: the search needs 0 < start <= end and a step above 0"));
        OP_REQUIRES(context, options_.search_end - options_.search_start <= 1e5f * options_.search_step,
                    absl::InvalidArgumentError(
                        "QuantIfmr: the search has more than 100000 candidates, enlarge search_step"));
        for (const float percentile : {options_.max_percentile, options_.min_percentile}) {
            OP_REQUIRES(context, percentile > 0 && percentile <= 1,
                        absl::InvalidArgumentError(absl::StrCat(
                            "QuantIfmr: a percentile must be above 0 and at most 1, not ", percentile)));
        }
    }
};

class QuantHfmgOp : public ActivationOp<HfmgEstimator, HfmgOptions> {
 public:
    explicit QuantHfmgOp(OpKernelConstruction* context) : ActivationOp(context, "hfmg") {
        OP_REQUIRES_OK(context, context->GetAttr("num_of_bins", &options_.num_of_bins));
        const auto allowed = {1024, 2048, 4096, 8192};
        OP_REQUIRES(
            context, std::find(allowed.begin(), allowed.end(), options_.num_of_bins) != allowed.end(),
            absl::InvalidArgumentError(absl::StrCat(
                "QuantHfmg: num_of_bins must be 1024, 2048, 4096 or 8192, not ", options_.num_of_bins)));
    }
};

AMCT_REGISTER_CPU("QuantIfmr", QuantIfmrOp);
AMCT_REGISTER_CPU("QuantHfmg", QuantHfmgOp);

}  // namespace amct
