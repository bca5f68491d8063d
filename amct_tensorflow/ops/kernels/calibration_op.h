// What the kernels of the calibration ops share: attributes, the book that results go to, and error messages.

#ifndef AMCT_TENSORFLOW_OPS_KERNELS_CALIBRATION_OP_H_
#define AMCT_TENSORFLOW_OPS_KERNELS_CALIBRATION_OP_H_

#include <memory>
#include <string>
#include <vector>

#include "../calibration/record_book.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "op_helpers.h"
#include "tensorflow/core/framework/op_kernel.h"

namespace amct {

// What to do about an activation that cannot be calibrated. A name op:index is that of a single input.
inline std::string SkipRemedy(const std::string& names) {
    const bool has_inputs = names.find(':') != std::string::npos;
    return absl::StrCat("feed real data, or add it to skip_layers",
                        has_inputs
                            ? "; for an input op:index of a layer add the op, for any other take it out of "
                              "tensor_quantize, or switch joint_quant off"
                            : "");
}

inline std::string Quoted(const std::vector<std::string>& layers) {
    std::string text = layers.size() == 1 ? "layer " : "layers ";
    for (size_t i = 0; i < layers.size(); ++i) {
        text += (i == 0 ? "\"" : ", \"") + layers[i] + "\"";
    }
    return text;
}

// Common attributes, and the book that the results go to. `job` is the public function that inserts the op.
class CalibrationOp : public tensorflow::OpKernel {
 public:
    explicit CalibrationOp(tensorflow::OpKernelConstruction* context, const char* job = "quantize_model")
        : OpKernel(context), job_(job) {
        OP_REQUIRES_OK(context, context->GetAttr("record_file", &record_file_));
        OP_REQUIRES_OK(context, context->GetAttr("generation", &generation_));
    }

 protected:
    // Null, without an error, for an op of an earlier run of the job: it only passes its data on.
    std::shared_ptr<RecordBook> Book(tensorflow::OpKernelContext* context) const {
        if (FindRecordBook(record_file_) == nullptr) {
            context->SetStatus(absl::FailedPreconditionError(
                absl::StrCat("the calibration of ", record_file_, " was not started in this process: call ",
                             job_, " and run the graph in the same process")));
            return nullptr;
        }
        return FindRecordBook(record_file_, generation_);
    }

    static void Report(tensorflow::OpKernelContext* context, const std::string& error) {
        if (!error.empty()) {
            context->SetStatus(absl::PermissionDeniedError(error));
        }
    }

 private:
    const char* const job_;
    std::string record_file_;
    int64_t generation_;
};

// An op that passes its first input on, whatever it is, and looks at it.
class ObserverOp : public CalibrationOp {
 public:
    explicit ObserverOp(tensorflow::OpKernelConstruction* context, const char* job = "quantize_model")
        : CalibrationOp(context, job) {
        OP_REQUIRES_OK(context, context->GetAttr("batch_num", &batch_num_));
    }

    void Compute(tensorflow::OpKernelContext* context) final {
        context->set_output(0, context->input(0));
        const std::shared_ptr<RecordBook> book = Book(context);
        if (book != nullptr) {
            Observe(context, book.get());
        }
    }

 protected:
    virtual void Observe(tensorflow::OpKernelContext* context, RecordBook* book) const = 0;

    int64_t batch_num_;
};

// `tensor` is "the activation of layer ...", or the like.
inline absl::Status EmptyError(const std::string& tensor) {
    return absl::InvalidArgumentError(absl::StrCat(tensor, " is empty: feed batches of at least one sample"));
}

inline absl::Status OtherChannelsError(const std::string& tensor) {
    return absl::InvalidArgumentError(absl::StrCat(
        tensor, " has not as many channels as in the batches before: feed batches of one shape"));
}

// The error of a batch whose status is kEmpty or kOtherChannels.
inline absl::Status ShapeError(BatchStatus status, const std::string& tensor) {
    return status == BatchStatus::kEmpty ? EmptyError(tensor) : OtherChannelsError(tensor);
}

inline absl::Status NotFiniteError(const std::string& tensor) {
    return absl::InvalidArgumentError(
        absl::StrCat(tensor, " has invalid value inf or nan: ", SkipRemedy(tensor)));
}

#define AMCT_REGISTER_CPU(op, kernel) \
    REGISTER_KERNEL_BUILDER(Name(op).Device(tensorflow::DEVICE_CPU).TypeConstraint<float>("T"), kernel)

}  // namespace amct

#endif  // AMCT_TENSORFLOW_OPS_KERNELS_CALIBRATION_OP_H_
