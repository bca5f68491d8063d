"""Performing: an InputMoments behind the op that calibrates the input of layers gathers its second moments.

It stands there, and not before, so that data which cannot be calibrated with do not reach it. Layers that read one
tensor with factors of their own have several such ops before them: the first feeds all, the others run before it.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from amct_tensorflow.graph.edit import at_root, set_input
from amct_tensorflow.graph_passes.planning.plan_rounding import InputMoments, Rounding
from amct_tensorflow.graph_passes.workspace import Workspace
from amct_tensorflow.ops import RecordBook, tensorflow_ops


def gather_moments(workspace: Workspace, book: RecordBook, batch_num: int, rounding: Rounding) -> None:
    """Runs the pass, after the one that inserts QuantIfmr."""
    for moments in rounding.moments:
        others = {layer.data.op.name: layer.data.op for layer in moments.layers[1:]}
        others.pop(moments.layers[0].data.op.name, None)
        with at_root(workspace.graph), workspace.graph.control_dependencies(list(others.values())):
            gathered = _input_moments(workspace, book, batch_num, moments, rounding.most_block)
        for layer in moments.layers:
            set_input(layer.op, layer.row.data_input, gathered)


def _input_moments(
    workspace: Workspace, book: RecordBook, batch_num: int, moments: InputMoments, most_block: int
) -> tf.Tensor:
    layer = moments.layers[0]
    stencil = moments.stencil
    window: dict[str, Any] = {"kernel": [], "strides": [], "dilations": []}
    if stencil is not None:
        window = {
            "kernel": moments.layout.kernel,
            "strides": stencil.strides,
            "dilations": stencil.dilations,
            "padding": stencil.padding,
            "explicit_paddings": stencil.explicit_paddings,
            "transposed": stencil.transposed,
        }
    return tensorflow_ops().input_moments(
        layer.data,
        record_file=book.path,
        generation=book.generation,
        layers=[member.name for member in moments.layers],
        batch_num=batch_num,
        groups=moments.layout.groups,
        most_block=most_block,
        data_format=layer.data_format,
        name=workspace.scope_for(layer, "input_moments") + "InputMoments",
        **window,
    )
