// The deployment ops, exactly as other programs register them: no attribute may be added.

#include "tensorflow/core/framework/common_shape_fns.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace amct {

using tensorflow::shape_inference::UnchangedShape;

REGISTER_OP("AscendQuant")
    .Input("x: T")
    .Output("y: T")
    .Attr("T: {float16, float32, float64}")
    .Attr("quant_bits: int = 8")
    .Attr("scale: float")
    .Attr("offset: float")
    .SetIsStateful()
    .SetShapeFn(UnchangedShape)
    .Doc(R"doc(
y = clip(round(x * scale) + offset, -2^(b-1), 2^(b-1) - 1) - offset, b = quant_bits: integers held in floats.

scale: 1 / scale_d.
)doc");

REGISTER_OP("AscendWeightQuant")
    .Input("x: int8")
    .Input("offset_w: int8")
    .Output("y: T")
    .Attr("T: {float16, float32, float64}")
    .SetIsStateful()
    .SetShapeFn(UnchangedShape)
    .Doc(R"doc(
y = x - offset_w, integers held in floats.

offset_w: broadcasts against x.
)doc");

REGISTER_OP("AscendDequant")
    .Input("x: T")
    .Input("deq_scale: uint64")
    .Output("y: T")
    .Attr("T: {float16, float32, float64}")
    .Attr("ksize: list(int)")
    .Attr("data_format: string = 'NHWC'")
    .SetIsStateful()
    .SetShapeFn(UnchangedShape)
    .Doc(R"doc(
y = clip(floor(x * area / 2^N)) * scale * 2^N / area, area = ksize[0] * ksize[1].

The floor and the clip to int16 are there for N > 0; for N = 0 the clip is to int32.
deq_scale: one word, or one a channel: bits 0-31 the float32 of scale = scale_d * scale_w, bits 32-39 N,
  bits 40-47 offset_w.
)doc");

REGISTER_OP("AscendAntiQuant")
    .Input("x: T")
    .Output("y: T")
    .Attr("T: {float16, float32, float64}")
    .Attr("scale: float")
    .Attr("offset: float")
    .SetIsStateful()
    .SetShapeFn(UnchangedShape)
    .Doc(R"doc(
y = x * scale, undoing an AscendQuant; the offset was subtracted there.

scale: scale_d.
)doc");

}  // namespace amct
