"""Computing beforehand what only constants lead to."""

from __future__ import annotations

from collections.abc import Collection

import tensorflow as tf

from amct_tensorflow.graph.constants import constant_value, is_pure, is_stored
from amct_tensorflow.graph.control_flow import ops_in_control_flow
from amct_tensorflow.graph.edit import at_root, consumers, replace_uses


def fold_constants(graph: tf.Graph, needed: Collection[str], *, up_to: Collection[str] = ()) -> None:
    """Puts constants in the place of what is computed from constants alone, in place.

    Frozen models of quantization-aware training have such results: fake-quantized weights, and the arithmetic of
    batch norms that were folded while training.

    A result larger than every constant behind it stays computed: a file of it would be larger than its recipe. So does
    what TensorFlow cannot compute.

    Args:
        graph: the graph.
        needed: names of the ops to look at.
        up_to: op types that are not computed, nor what comes behind them.
    """
    sizes = _largest_sources(graph, up_to)
    results = [
        output
        for op in graph.get_operations()
        if op.name in sizes and op.name in needed and op.type != "Const"
        for output in op.outputs
        if not is_stored(output) and _is_worth_it(output, sizes)
    ]
    for output in results:
        value = constant_value(output)
        if value is not None:
            with at_root(graph):
                folded = tf.constant(value, output.dtype, name=f"{output.op.name}/folded")
            replace_uses(output, folded)


def _largest_sources(graph: tf.Graph, up_to: Collection[str]) -> dict[str, int]:
    """Returns the constants, and the ops that only constants lead to, with the size of the largest constant."""
    out_of_reach = ops_in_control_flow(graph)
    # In the order of creation, inputs come first, except in loops; constants of an earlier run came last.
    ops = sorted(graph.get_operations(), key=lambda op: op.type != "Const" or bool(op.control_inputs))
    sizes: dict[str, int] = {}
    for op in ops:
        before = [*(used.op for used in op.inputs), *op.control_inputs]
        # A constant that waits for something else may be in a branch that is not taken.
        if op.name in out_of_reach or any(source.name not in sizes for source in before):
            continue
        if op.type == "Const":
            sizes[op.name] = op.outputs[0].shape.num_elements()
        elif is_pure(op) and op.type not in up_to:
            sizes[op.name] = max(sizes[source.name] for source in before)
    return sizes


def _is_worth_it(output: tf.Tensor, sizes: dict[str, int]) -> bool:
    """Tells whether ops that are not constant use the result, and it does not grow the model."""
    size = output.shape.num_elements()
    used = any(user.name not in sizes for user, _ in consumers(output))
    return used and size is not None and size <= sizes[output.op.name] and output.dtype.is_floating
