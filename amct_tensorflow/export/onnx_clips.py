"""Relu and Clip in front of a QuantizeLinear, which clips anyway, so that the runtime makes one kernel of what is left.

    Q(clip(x, a, b))  =  clip(Q(x), Q(a), Q(b)),   as Q rounds monotonously

Cases, for a Relu or a Clip by constants that is no output, and whose result goes to QuantizeLinears of one scale only:

1. The integers cannot leave [Q(a), Q(b)]: it goes.
2. They can, as with a Relu6 whose scale reaches beyond 6, or a Relu in front of a range with negative values: the
   integers are clipped, behind the QuantizeLinear.
3. Anything else: left alone.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from amct_tensorflow.export.onnx_edit import add_constant, add_node, constant_of

_UINT8 = (0, 255)


def absorb_clips(graph: ir.Graph) -> None:
    """Runs the pass."""
    for node in list(graph):
        limits = _limits(node)
        if limits is not None and not node.outputs[0].is_graph_output():
            _absorb(graph, node, limits)


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


def _absorb(graph: ir.Graph, clip: ir.Node, limits: tuple[float, float]) -> None:
    users = list(clip.outputs[0].consumers())
    if not users or any(user.op_type != "QuantizeLinear" for user in users):
        return
    factors = {tuple(np.float32(constant_of(value)).item() for value in user.inputs[1:]) for user in users}
    if len(factors) > 1:
        return
    scale, zero_point = factors.pop()
    lowest, highest = (int(np.clip(np.rint(limit / scale) + zero_point, *_UINT8)) for limit in limits)
    for user in users:
        user.replace_input_with(0, clip.inputs[0])
        if (lowest, highest) != _UINT8:
            _clip_integers(graph, user, lowest, highest)
    graph.remove(clip, safe=True)


def _clip_integers(graph: ir.Graph, quantize: ir.Node, lowest: int, highest: int) -> None:
    quantized = quantize.outputs[0]
    readers = list(quantized.uses())
    name = str(quantize.name)
    limits = [add_constant(graph, np.array(limit, np.uint8), f"{name}/limit") for limit in (lowest, highest)]
    clipped = add_node(graph, "Clip", [quantized, *limits], f"{name}/Clip")
    for node, index in readers:
        node.replace_input_with(index, clipped)
