"""Which operators of a TFLite model compute in int8: those whose tensors are int8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amct_tensorflow.export.lite.edit import INT8, consumers, names_of
from amct_tensorflow.graph.lite import operator_name

_MOVERS = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE")
_ROUNDING_TWICE = ("AVERAGE_POOL_2D",)
_WITHOUT_KERNEL = ("CONV_3D",)


def find_operator(model: Any, names: Sequence[str]) -> Any | None:
    """Returns the operator whose result comes from a TensorFlow op of one of these names."""
    graph = model.subgraphs[0]
    for operator in graph.operators:
        if any(name in names for number in operator.outputs for name in names_of(graph.tensors[number])):
            return operator
    return None


def reason_against_int8(model: Any, operator: Any | None) -> str | None:
    """Returns why the operator of a layer computes in float, in words, or None."""
    if operator is None:
        return "nothing of it is left in the TFLite model"
    graph, [result] = model.subgraphs[0], operator.outputs
    if graph.tensors[result].type == INT8:
        return None
    name = operator_name(model, operator)
    if name in _ROUNDING_TWICE:
        return f"TFLite's int8 {name} would round its result to the steps of its input"
    if name in _WITHOUT_KERNEL:
        return f"TFLite has no int8 kernel for {name}"
    readers = consumers(graph, result)
    while len(readers) == 1 and result not in graph.outputs and operator_name(model, readers[0]) in _MOVERS:
        result = readers[0].outputs[0]
        readers = consumers(graph, result)
    if result in graph.outputs:
        return "its result is an output, which has no factors"
    in_float = [reader for reader in readers if operator_name(model, reader) != "QUANTIZE"]
    if in_float:
        source = names_of(graph.tensors[in_float[0].outputs[0]])[0]
        return f"its result goes to {operator_name(model, in_float[0])} {source}, which is not quantized"
    if len(readers) > 1:
        return f"its result goes to {len(readers)} quantizers of different factors"
    return "TensorFlow's converter does not make an int8 operator of it"
