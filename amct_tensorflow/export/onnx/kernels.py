"""Which nodes of an ONNX model with QuantizeLinear and DequantizeLinear onnxruntime computes in int8.

It makes one integer kernel of a node, the DequantizeLinears before and the QuantizeLinear behind it. Products of
matrices can also put out floats; all else stays float where no QuantizeLinear follows.
"""

from __future__ import annotations

import onnx_ir as ir

from amct_tensorflow.export.onnx.edit import constant_of, is_dequantized

_MAY_PUT_OUT_FLOATS = ("MatMul", "Gemm")
_PASSED = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Relu", "Clip")  # who reads it is behind them
_WITHOUT_KERNEL = ("ConvTranspose",)


def reason_against_int8(node: ir.Node | None) -> str | None:
    """Returns why the node of a layer is computed in float, in words, or None."""
    if node is None:
        return "it became part of another node of the ONNX graph"
    if node.op_type in _WITHOUT_KERNEL:
        return f"onnxruntime has no int8 kernel for {node.op_type}"
    if not all(is_dequantized(value) for value in node.inputs[:2]):
        return "its inputs are not all quantized"
    if node.op_type in _MAY_PUT_OUT_FLOATS:
        return None
    users = node.outputs[0].consumers()
    if len(users) == 1 and users[0].op_type == "QuantizeLinear":
        return None
    return _float_reader(node.outputs[0]) or "its result goes to several quantizers, of different factors"


def _float_reader(value: ir.Value) -> str | None:
    """Returns what needs a value in float, in words, or None."""
    if value.is_graph_output():
        return "its result is an output, and not quantized"
    for user in value.consumers():
        if user.op_type in _PASSED:
            reader = _float_reader(user.outputs[0])
            if reader is not None:
                return reader
        elif user.op_type != "QuantizeLinear":
            joins = user.op_type == "Add" and all(constant_of(addend) is None for addend in user.inputs)
            remedy = ": calibrate for the target onnxruntime" if joins else ""
            return f"its result goes to {user.op_type} {user.name}, which is not quantized{remedy}"
    return None
