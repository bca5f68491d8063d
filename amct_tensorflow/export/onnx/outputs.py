"""Outputs of an ONNX graph whose values the graph goes on with."""

from __future__ import annotations

import onnx_ir as ir

from amct_tensorflow.export.onnx.edit import add_node

_MOVERS = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity")


def keep_outputs_apart(graph: ir.Graph) -> None:
    """Puts a node that changes nothing between such an output and what the graph goes on with.

    onnxruntime moves a QuantizeLinear up past a Transpose, also where what this reads is an output of the graph, and
    then takes the output from the integers.
    """
    for at, output in enumerate(graph.outputs):
        source = _source(output)
        if output.dtype == ir.DataType.FLOAT and not _is_read_only_for(output, source):
            apart = add_node(graph, "Max", [output, output], f"{output.name}/apart")
            apart.dtype, apart.shape = output.dtype, output.shape
            output.name, apart.name = f"{output.name}/inner", output.name
            graph.outputs[at] = apart


def _source(value: ir.Value) -> ir.Value:
    """Returns what is the value in another form."""
    node = value.producer()
    while node is not None and node.op_type in _MOVERS and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _is_read_only_for(output: ir.Value, source: ir.Value) -> bool:
    """Tells whether all that reads the source leads to this output, and nothing else."""
    value = source
    while value is not output:
        [first, *others] = value.consumers()
        if others or value.is_graph_output():
            return False
        value = first.outputs[0]
    return not output.uses()
