"""Integer weights and biases in an ONNX model: constants behind DequantizeLinear nodes.

    w  =  DequantizeLinear(int8, scale_w)               one scale, or one per output channel
    b  =  DequantizeLinear(int32, scale_d * scale_w)

The runtime makes its integer kernels of them. Cases:

1. What lies between weights and their layer, as tf2onnx put it there, moves values only: done to the integers.
2. Scales that then differ along several axes, which no DequantizeLinear has: the weights stay float.
3. A MatMul of two matrices and the Add of a constant behind it become a Gemm, whose bias can be integer.
4. A bias behind anything else, or of a layer whose input is not quantized: stays float.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from amct_tensorflow.export.onnx.edit import (
    add_constant,
    add_dequantized,
    add_node,
    constant_of,
    is_dequantized,
    replace,
    scale_of,
)
from amct_tensorflow.graph_passes.planning.find_deployed import IntegerWeights
from amct_tensorflow.graph_passes.workspace import FloatArray

_MOVERS = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity")
_WITH_BIAS = ("Conv", "Gemm")  # as third input, of a layer whose weights are the second
_LARGEST_INT32 = 2**31 - 1


def put_weights(graph: ir.Graph, weights: Mapping[str, IntegerWeights]) -> dict[str, ir.Value]:
    """Puts the weights in the place of the graph inputs of their names, and makes the biases behind them integers.

    Returns:
        The values that the layers now read, by the same names.
    """
    made: dict[str, ir.Value] = {}
    for value in [value for value in graph.inputs if value.name in weights]:
        name = str(value.name)
        made[name] = _put(graph, value, weights[name], name)
        graph.inputs.remove(value)
    for node in list(graph):
        if node.op_type == "MatMul":
            _make_gemm(graph, node)
    for node in list(graph):
        if node.op_type in _WITH_BIAS and len(node.inputs) == 3:
            _make_bias_integer(graph, node)
    return made


def _put(graph: ir.Graph, value: ir.Value, weights: IntegerWeights, name: str) -> ir.Value:
    """Replaces a value that stands for the weights of a layer, and returns what the layer reads now."""
    [(node, index)] = value.uses()
    if node.op_type in _MOVERS and index == 0:
        made = _put(graph, node.outputs[0], _moved(graph, node, weights), name)
        graph.remove(node, safe=True)
        return made
    made = _constant(graph, weights, name)
    node.replace_input_with(index, made)
    return made


def _constant(graph: ir.Graph, weights: IntegerWeights, name: str) -> ir.Value:
    axes = [axis for axis, size in enumerate(weights.scale.shape) if size > 1]
    if len(axes) > 1:
        return add_constant(graph, weights.in_reals(), name)
    return add_dequantized(graph, weights.values, weights.scale.squeeze(), name, *axes)


def _moved(graph: ir.Graph, node: ir.Node, weights: IntegerWeights) -> IntegerWeights:
    """Returns what a node makes of weights."""
    evaluator = ReferenceEvaluator(ir.to_proto(node), opsets=dict(graph.opset_imports))
    others = {str(value.name): constant_of(value) for value in node.inputs[1:] if value is not None}
    name = next(str(value.name) for value in node.inputs if value is not None)
    scale = np.broadcast_to(weights.scale, weights.values.shape)
    values, scale = (next(iter(evaluator.run(None, {name: array, **others}))) for array in (weights.values, scale))
    return IntegerWeights(values, _without_repetition(scale))


def _without_repetition(scale: FloatArray) -> FloatArray:
    """Returns the scales with a size of 1 for the axes along which they are all the same."""
    for axis in range(scale.ndim):
        first = np.take(scale, [0], axis)
        scale = first if (scale == first).all() else scale
    return scale


def _make_gemm(graph: ir.Graph, node: ir.Node) -> None:
    product, uses = node.outputs[0], list(node.outputs[0].uses())
    if len(uses) != 1 or product.is_graph_output() or not all(map(is_dequantized, node.inputs)):
        return
    add, index = uses[0]
    bias = add.inputs[1 - index] if add.op_type == "Add" else None
    value = constant_of(bias)
    if bias is None or value is None or value.ndim != 1 or not all(map(_is_matrix, node.inputs)):
        return
    replace(add.outputs[0], add_node(graph, "Gemm", [*node.inputs, bias], str(node.name)))
    graph.remove([add, node], safe=True)


def _is_matrix(value: ir.Value | None) -> bool:
    return value is not None and value.shape is not None and len(value.shape) == 2


def _make_bias_integer(graph: ir.Graph, node: ir.Node) -> None:
    data, weights, bias = node.inputs
    value = constant_of(bias)
    if value is None or bias is None or not (is_dequantized(data) and is_dequantized(weights)):
        return
    scale = np.asarray(scale_of(data) * scale_of(weights), np.float32)
    integers = np.rint(value / scale.astype(np.float64))
    if value.ndim == 1 and np.abs(integers).max(initial=0) <= _LARGEST_INT32:
        node.replace_input_with(2, add_dequantized(graph, integers.astype(np.int32), scale, f"{node.name}/bias"))
