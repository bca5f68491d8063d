// The kernel that gathers the statistics of a batch norm's input: it hands those of a batch to the state of
// the batch norm and passes the mean on unchanged.

#include <string>

#include "calibration_op.h"

namespace amct {

using tensorflow::OpKernelConstruction;
using tensorflow::OpKernelContext;
using tensorflow::Tensor;

class BatchNormStatisticsOp : public ObserverOp {
 public:
    explicit BatchNormStatisticsOp(OpKernelConstruction* context)
        : ObserverOp(context, "update_batch_norms") {
        OP_REQUIRES_OK(context, context->GetAttr("batch_norm", &batch_norm_));
        OP_REQUIRES_OK(context, context->GetAttr("fraction", &fraction_));
        OP_REQUIRES(context, fraction_ > 0 && fraction_ < 1,
                    absl::InvalidArgumentError(absl::StrCat(
                        "BatchNormStatistics: fraction must be between 0 and 1, not ", fraction_)));
    }

 private:
    void Observe(OpKernelContext* context, RecordBook* book) const override {
        const Tensor& mean = context->input(0);
        const Tensor& variance = context->input(1);
        const Tensor& count = context->input(2);
        const std::shared_ptr<BatchNormState> state = book->BatchNorm(batch_norm_);
        OP_REQUIRES(
            context,
            state != nullptr && count.NumElements() == 1 && variance.NumElements() == mean.NumElements(),
            absl::InvalidArgumentError(absl::StrCat("BatchNormStatistics: the statistics are not "
                                                    "those of batch norm \"",
                                                    batch_norm_, "\"")));
        const BatchStatus status =
            state->Add(mean.flat<float>().data(), variance.flat<float>().data(), mean.NumElements(),
                       count.flat<int64_t>()(0), batch_num_, fraction_);
        Conclude(context, book, status);
    }

    void Conclude(OpKernelContext* context, RecordBook* book, BatchStatus status) const {
        const std::string tensor = "the input of batch norm \"" + batch_norm_ + "\"";
        switch (status) {
            case BatchStatus::kCompleted:
                Report(context, book->CompleteBatchNorm(ThreadPoolOf(context)));
                return;
            case BatchStatus::kEmpty:
            case BatchStatus::kOtherChannels:
                context->SetStatus(ShapeError(status, tensor));
                return;
            case BatchStatus::kNotFinite:
                context->SetStatus(absl::InvalidArgumentError(
                    absl::StrCat(tensor, " has invalid value inf or nan: feed real data")));
                return;
            case BatchStatus::kNoVariance:
                context->SetStatus(absl::InvalidArgumentError(
                    absl::StrCat(tensor,
                                 " has one value in each channel, which has no variance: feed "
                                 "batches of more samples")));
                return;
            default:
                return;
        }
    }

    std::string batch_norm_;
    float fraction_;
};

AMCT_REGISTER_CPU("BatchNormStatistics", BatchNormStatisticsOp);

}  // namespace amct
