"""Each QuantizeLinear moves up towards its layer, so that the runtime makes one kernel of both.

    Q(move(x))        =  move(Q(x))
    Q(pad(x, 0))      =  pad(Q(x), zero point)
    Q(clip(x, a, b))  =  clip(Q(x), Q(a), Q(b)),   as Q rounds monotonously

Cases, for what is before a QuantizeLinear, is read by it alone, and is no output of the graph:

1. Something that only moves values, pads them with zeros, or takes the largest ones: does so with the integers.
2. A Relu, or a Clip by constants, whose limits the integers cannot leave: goes.
3. The same where they can, as with a Relu6 whose scale reaches beyond 6, or a Relu in front of a range with negative
   values: clips the integers.
4. Anything else: left alone.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from amct_tensorflow.export.onnx.edit import add_constant, add_node, constant_of

_MOVERS = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "MaxPool")
_UINT8 = (0, 255)


def move_quantizers_up(graph: ir.Graph) -> None:
    """Runs the pass."""
    for node in list(graph):
        if node.op_type == "QuantizeLinear":
            while _move_up(graph, node):
                pass


def _move_up(graph: ir.Graph, quantize: ir.Node) -> bool:
    """Takes a QuantizeLinear past the node before it, if that can be."""
    assert quantize.inputs[0] is not None
    before = quantize.inputs[0].producer()
    if before is None or len(before.outputs) > 1:
        return False
    result = before.outputs[0]
    if result.is_graph_output() or len(result.uses()) > 1:
        return False
    if before.op_type in _MOVERS or _pads_with_zeros(before):
        _swap(before, quantize)
        return True
    limits = _limits(before)
    if limits is not None:
        _absorb(graph, before, quantize, limits)
    return limits is not None


def _swap(mover: ir.Node, quantize: ir.Node) -> None:
    moved, quantized = mover.outputs[0], quantize.outputs[0]
    data, readers = mover.inputs[0], list(quantized.uses())
    if mover.op_type == "Pad":
        mover.resize_inputs(max(3, len(mover.inputs)))
        mover.replace_input_with(2, quantize.inputs[2])
    quantize.replace_input_with(0, data)
    mover.replace_input_with(0, quantized)
    for node, index in readers:
        node.replace_input_with(index, moved)
    quantized.shape = None if data is None else data.shape
    moved.dtype = ir.DataType.UINT8


def _pads_with_zeros(node: ir.Node) -> bool:
    if node.op_type != "Pad" or node.attributes.get_string("mode", "constant") != "constant":
        return False
    value = node.inputs[2] if len(node.inputs) > 2 else None
    return value is None or constant_of(value) == 0


def _limits(node: ir.Node) -> tuple[float, float] | None:
    """Returns between what a node clips; None if it does something else, or that is not constant."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type != "Clip":
        return None
    limits = []
    for index, default in ((1, -np.inf), (2, np.inf)):
        value = node.inputs[index] if len(node.inputs) > index else None
        limit = default if value is None else constant_of(value)
        if limit is None:
            return None
        limits.append(float(limit))
    return limits[0], limits[1]


def _absorb(graph: ir.Graph, clip: ir.Node, quantize: ir.Node, limits: tuple[float, float]) -> None:
    scale, zero_point = (np.float32(constant_of(value)).item() for value in quantize.inputs[1:])
    lowest, highest = (int(np.clip(np.rint(limit / scale) + zero_point, *_UINT8)) for limit in limits)
    quantize.replace_input_with(0, clip.inputs[0])
    graph.remove(clip, safe=True)
    if (lowest, highest) != _UINT8:
        _clip_integers(graph, quantize, lowest, highest)


def _clip_integers(graph: ir.Graph, quantize: ir.Node, lowest: int, highest: int) -> None:
    quantized, name = quantize.outputs[0], str(quantize.name)
    readers = list(quantized.uses())
    limits = [add_constant(graph, np.array(limit, np.uint8), f"{name}/limit") for limit in (lowest, highest)]
    clipped = add_node(graph, "Clip", [quantized, *limits], f"{name}/Clip")
    clipped.dtype, clipped.shape = ir.DataType.UINT8, quantized.shape
    for node, index in readers:
        node.replace_input_with(index, clipped)
