"""From TensorFlow to ONNX with tf2onnx: everything but the integer weights, which the ONNX graph gets as inputs.

tf2onnx would fold int8 constants and lose their scale. As inputs they come through with all that is done to them, a
Transpose or Reshape, standing in the graph; `weights.py` then puts the integers in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import version_converter
from tf2onnx import constants, convert, utils

from amct_tensorflow.errors import AmctRuntimeError, AmctValueError, reason_of
from amct_tensorflow.export.checks import refuse_ops
from amct_tensorflow.graph.model_file import GraphDef
from amct_tensorflow.graph_passes.planning.find_deployed import UINT8_ZERO
from amct_tensorflow.log import silenced

NEWEST_OPSET = onnx.defs.onnx_opset_version()

_NEWEST_OF_TF2ONNX = max(constants.OPSET_TO_IR_VERSION)


def to_onnx(graph_def: GraphDef, inputs: Sequence[str], outputs: Sequence[str], opset: int) -> ir.Model:
    """Returns the ONNX model of a graph in which AscendQuant stands for rounding to int8 and back.

    Args:
        graph_def: the graph.
        inputs: names of the placeholders.
        outputs: names of tensors, ``op:0``.
        opset: of the model, from 13 on.

    Raises:
        AmctValueError: ONNX cannot express some op; names it.
        AmctRuntimeError: tf2onnx fails.
    """
    _refuse_unknown_ranks(graph_def, inputs)
    tensors = [f"{name}:0" for name in inputs]
    try:
        with silenced("tf2onnx", "tensorflow"):
            proto, _ = convert.from_graph_def(
                graph_def,
                name="amct_tensorflow",
                input_names=tensors,
                output_names=list(outputs),
                opset=min(opset, _NEWEST_OF_TF2ONNX),
                custom_op_handlers={"AscendQuant": (_quantize_and_dequantize, []), "Erfc": (_erfc, [])},
                tensors_to_rename={tensor: tensor.removesuffix(":0") for tensor in (*tensors, *outputs)},
            )
    except Exception as error:  # tf2onnx raises what it comes across
        refuse_ops((f"{node.op} {node.name}" for node in graph_def.node if node.op.startswith("_Fused")), "ONNX")
        raise AmctRuntimeError(f"tf2onnx cannot convert the model: {reason_of(error)}") from error
    left = (node for node in _nodes(proto.graph) if not onnx.defs.has(node.op_type))
    refuse_ops((f"{node.op_type} {node.name}" for node in left), "ONNX")
    if opset > _NEWEST_OF_TF2ONNX:
        proto = version_converter.convert_version(proto, opset)
    return ir.from_proto(proto)


def _quantize_and_dequantize(context: Any, node: Any, name: str, _: Any) -> None:
    """Puts QuantizeLinear and DequantizeLinear in the place of an AscendQuant; called by tf2onnx."""
    scale_d, offset_d = 1 / np.float32(node.attr["scale"].f), node.attr["offset"].f
    scale = context.make_const(utils.make_name(name), np.array(scale_d, np.float32))
    zero_point = context.make_const(utils.make_name(name), np.array(offset_d + UINT8_ZERO, np.uint8))
    tensor, shape, factors = node.input[0], context.get_shape(node.input[0]), [scale.output[0], zero_point.output[0]]
    for op_type, dtype in (("QuantizeLinear", onnx.TensorProto.UINT8), ("DequantizeLinear", onnx.TensorProto.FLOAT)):
        made = context.make_node(op_type, [tensor, *factors], shapes=[shape], dtypes=[dtype], op_name_scope=name)
        tensor = made.output[0]
    context.replace_all_inputs(node.output[0], tensor)
    context.remove_node(name)


def _erfc(context: Any, node: Any, name: str, _: Any) -> None:
    """Puts 1 - Erf in the place of an Erfc, as gelu has it, which tf2onnx does not know; called by tf2onnx."""
    dtype, shape = context.get_dtype(node.input[0]), context.get_shape(node.input[0])
    one = context.make_const(utils.make_name(name), np.array(1, utils.map_onnx_to_numpy_type(dtype)))
    erf = context.make_node("Erf", [node.input[0]], shapes=[shape], dtypes=[dtype], op_name_scope=name)
    rest = [one.output[0], erf.output[0]]
    made = context.make_node("Sub", rest, shapes=[shape], dtypes=[dtype], op_name_scope=name)
    context.replace_all_inputs(node.output[0], made.output[0])
    context.remove_node(name)


def _refuse_unknown_ranks(graph_def: GraphDef, inputs: Sequence[str]) -> None:
    """Raises `AmctValueError` for an input whose number of axes is not known: tf2onnx takes it for a scalar."""
    for node in graph_def.node:
        if node.name in inputs and ("shape" not in node.attr or node.attr["shape"].shape.unknown_rank):
            raise AmctValueError(
                f"input '{node.name}' has an unknown number of axes, which ONNX cannot express: give its placeholder a "
                "shape, with None for sizes that are open, and quantize the model again"
            )


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for subgraph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _nodes(subgraph)
