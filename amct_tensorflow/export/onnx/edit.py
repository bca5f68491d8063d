"""The few edits of an ONNX graph that are made here. Nodes go to its end: who edits sorts the graph afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir


def constant_of(value: ir.Value | None) -> npt.NDArray | None:
    """Returns the array of a value that is constant, else None."""
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def add_constant(graph: ir.Graph, array: npt.NDArray, name: str) -> ir.Value:
    """Adds a constant; a name that exists gets a number."""
    unique, number = name, 1
    while unique in graph.initializers:
        unique, number = f"{name}_{number}", number + 1
    value = ir.val(unique, const_value=ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=unique))
    graph.register_initializer(value)
    return value


def add_node(
    graph: ir.Graph, op_type: str, inputs: Sequence[ir.Value | None], name: str, axis: int | None = None
) -> ir.Value:
    """Adds a node and returns what it puts out, a value of the same name."""
    node = ir.node(op_type, inputs, None if axis is None else {"axis": axis}, name=name)
    node.outputs[0].name = name
    graph.append(node)
    return node.outputs[0]


def add_dequantized(graph: ir.Graph, integers: npt.NDArray, scale: npt.NDArray, name: str, axis: int = 0) -> ir.Value:
    """Adds a constant of integers behind a DequantizeLinear, with one scale or one for each index of the axis."""
    scales = add_constant(graph, scale, f"{name}/scale")
    zero_points = add_constant(graph, np.zeros(scale.shape, integers.dtype), f"{name}/zero_point")
    quantized = add_constant(graph, integers, f"{name}/{integers.dtype}")
    along = axis if scale.ndim else None
    made = add_node(graph, "DequantizeLinear", [quantized, scales, zero_points], f"{name}/dequantized", along)
    made.dtype, made.shape = ir.DataType.FLOAT, ir.Shape(integers.shape)
    return made


def is_dequantized(value: ir.Value | None) -> bool:
    """Tells whether a DequantizeLinear puts it out."""
    producer = None if value is None else value.producer()
    return producer is not None and producer.op_type == "DequantizeLinear"


def scale_of(value: ir.Value | None) -> npt.NDArray[np.float32]:
    """Returns the scales of a value that a DequantizeLinear puts out, which must be constant."""
    producer = None if value is None else value.producer()
    assert producer is not None
    scale = constant_of(producer.inputs[1])
    assert scale is not None
    return scale


def replace(old: ir.Value, new: ir.Value) -> None:
    """Puts a value in the place of another one; where that is an output of the graph, it takes its name."""
    new.type, new.shape = old.type, old.shape
    if old.is_graph_output():
        old.name, new.name = f"{old.name}/replaced", old.name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
