// The calibration ops: identities on their data that observe it. See kernels/calibration.cc.

#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace amct {

using tensorflow::shape_inference::InferenceContext;

namespace {

absl::Status ShapesOfActivationOp(InferenceContext* c) {
    c->set_output(0, c->input(0));
    c->set_output(1, c->Scalar());
    c->set_output(2, c->Scalar());
    return absl::OkStatus();
}

}  // namespace

REGISTER_OP("QuantIfmr")
    .Input("x: T")
    .Output("y: T")
    .Output("scale: float")
    .Output("offset: float")
    .Attr("T: {float16, float32, float64}")
    .Attr("record_file: string")
    .Attr("generation: int")
    .Attr("layers: list(string) >= 1")
    .Attr("batch_num: int >= 1")
    .Attr("num_bits: int = 8")
    .Attr("with_offset: bool = true")
    .Attr("search_start: float = 0.7")
    .Attr("search_end: float = 1.3")
    .Attr("search_step: float = 0.01")
    .Attr("max_percentile: float = 0.999999")
    .Attr("min_percentile: float = 0.999999")
    .SetIsStateful()
    .SetShapeFn(ShapesOfActivationOp)
    .Doc(R"doc(
Passes x on and finds, over batch_num runs, the scale and offset that quantize it with the least error.

scale, offset: the factors of the range of the runs so far; after the last one, those that were found.
record_file: the absolute path of the record that receives scale_d and offset_d.
generation: which quantize_model made this op; ops of an earlier one only pass x on.
layers: the layers that x feeds; each gets the factors in its record.
)doc");

REGISTER_OP("QuantHfmg")
    .Input("x: T")
    .Output("y: T")
    .Output("scale: float")
    .Output("offset: float")
    .Attr("T: {float16, float32, float64}")
    .Attr("record_file: string")
    .Attr("generation: int")
    .Attr("layers: list(string) >= 1")
    .Attr("batch_num: int >= 1")
    .Attr("num_bits: int = 8")
    .Attr("with_offset: bool = true")
    .Attr("num_of_bins: int = 4096")
    .SetIsStateful()
    .SetShapeFn(ShapesOfActivationOp)
    .Doc(R"doc(
Passes x on and finds, over batch_num runs, the scale and offset that quantize a histogram of it with the least error.

scale, offset: the factors of the range of the runs so far; after the last one, those that were found.
num_of_bins: the bins of the histogram: 1024, 2048, 4096 or 8192.
)doc");

REGISTER_OP("QuantArq")
    .Input("weights: T")
    .Output("y: T")
    .Output("scale: float")
    .Attr("T: {float16, float32, float64}")
    .Attr("record_file: string")
    .Attr("generation: int")
    .Attr("layers: list(string) >= 1")
    .Attr("channel_axes: list(int)")
    .Attr("num_bits: int = 8")
    .SetIsStateful()
    .SetShapeFn([](InferenceContext* c) {
        c->set_output(0, c->input(0));
        c->set_output(1, c->Vector(InferenceContext::kUnknownDim));
        return absl::OkStatus();
    })
    .Doc(R"doc(
Quantizes weights symmetrically and dequantizes them again, and records scale_w.

channel_axes: the neighbouring axes that make up the output channels; empty for one scale in all.
)doc");

REGISTER_OP("DequantArq")
    .Input("weights: int8")
    .Input("scale: float")
    .Output("y: T")
    .Attr("T: {float16, float32, float64} = DT_FLOAT")
    .Attr("channel_axes: list(int)")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::UnchangedShape)
    .Doc(R"doc(
Returns the weights that int8 values stand for: weights * scale.

It is said to be stateful so that no optimizer computes it beforehand, and keeps the weights as floats, too.
scale: one a channel, or one in all.
channel_axes: the neighbouring axes that make up the output channels; empty for one scale in all.
)doc");

REGISTER_OP("SearchN")
    .Input("x: T")
    .Input("scale_d: float")
    .Input("scale_w: float")
    .Output("y: T")
    .Attr("T: {float16, float32, float64}")
    .Attr("record_file: string")
    .Attr("generation: int")
    .Attr("layer: string")
    .Attr("batch_num: int >= 1")
    .Attr("data_format: {'NHWC', 'NCHW'} = 'NHWC'")
    .Attr("share_range: bool = false")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::UnchangedShape)
    .Doc(R"doc(
Passes a layer output on and finds, over batch_num runs, the right shift to int16 with the least error.

scale_d: the activation scale of the layer's input, a scalar; that of the last run counts.
scale_w: the weight scales, one or one a channel of x; likewise.
data_format: where the channels are: last, or after the batch.
share_range: whether the shift of each channel lets pass as much as any channel has reached.
)doc");

REGISTER_OP("InputMoments")
    .Input("x: T")
    .Output("y: T")
    .Attr("T: {float16, float32, float64}")
    .Attr("record_file: string")
    .Attr("generation: int")
    .Attr("layers: list(string) >= 1")
    .Attr("batch_num: int >= 1")
    .Attr("groups: int >= 1")
    .Attr("most_block: int >= 1")
    .Attr("kernel: list(int)")
    .Attr("strides: list(int)")
    .Attr("dilations: list(int)")
    .Attr("padding: {'SAME', 'VALID', 'EXPLICIT'} = 'VALID'")
    .Attr("explicit_paddings: list(int) = []")
    .Attr("transposed: bool = false")
    .Attr("data_format: {'NHWC', 'NCHW'} = 'NHWC'")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::UnchangedShape)
    .Doc(R"doc(
Passes a layer input on and gathers, over batch_num runs, its mean and second moments as the weights see it.

layers: those whose weights are rounded with them; the first gives them their name.
groups: how many groups of channels have weights of their own: of the channels, or of the batch without a kernel.
most_block: beyond as many inputs of a weight, the second moments are kept in blocks.
kernel, strides, dilations: along height and width, or depth, too; empty for a product of matrices.
explicit_paddings: before and after, for each of these axes.
transposed: whether it is a transposed convolution, which has the strides in its result.
data_format: where the channels are: last, or after the batch.
)doc");

REGISTER_OP("DmqBalance")
    .Input("x: T")
    .Input("weight_max: float")
    .Output("y: T")
    .Attr("T: {float16, float32, float64}")
    .Attr("record_file: string")
    .Attr("generation: int")
    .Attr("layer: string")
    .Attr("batch_num: int >= 1")
    .Attr("migration_strength: float")
    .Attr("channel_axis: int")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::UnchangedShape)
    .Doc(R"doc(
Passes a layer input on and finds, over batch_num runs, the factors that balance its channels with the weights.

weight_max: the largest magnitude of the weights of each input channel.
migration_strength: how much of the spread of the activations moves to the weights, 0.2 to 0.8.
channel_axis: the axis of x that holds the input channels; below 0, counted from the end.
)doc");

REGISTER_OP("BatchNormStatistics")
    .Input("mean: T")
    .Input("variance: T")
    .Input("count: int64")
    .Output("y: T")
    .Attr("T: {float16, float32, float64}")
    .Attr("record_file: string")
    .Attr("generation: int")
    .Attr("batch_norm: string")
    .Attr("batch_num: int >= 1")
    .Attr("fraction: float")
    .SetIsStateful()
    .SetShapeFn(tensorflow::shape_inference::UnchangedShape)
    .Doc(R"doc(
Passes the mean of a batch on and finds, over batch_num runs, the moving statistics of a batch norm.

variance: the mean square deviation from the mean, of each channel.
count: how many values of each channel they are of.
batch_norm: its name.
fraction: the moving average fraction, by which the batches before weigh less with each batch.
)doc");

}  // namespace amct
