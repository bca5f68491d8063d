"""Inputs and outputs of a TFLite model: their names and order, and integers in the place of floats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amct_tensorflow.export.lite.edit import consumers, feed_instead, producer, remove_operators
from amct_tensorflow.graph.lite import operator_name, schema

_Factors = tuple[float, int]


def remove_fences(model: Any, fence: str) -> None:
    """Takes out the operators that only kept the converter from applying rules of its own."""
    for graph in model.subgraphs:  # the others are the bodies of loops and branches
        fences = [operator for operator in graph.operators if operator_name(model, operator) == fence]
        for operator in fences:
            [source], [result] = operator.inputs, operator.outputs
            feed_instead(graph, result, source)
        remove_operators(graph, fences)
    signature = _signature(model)
    for entry, number in zip(signature.outputs, model.subgraphs[0].outputs, strict=True):
        entry.tensorIndex = number


def order_ends(model: Any, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> None:
    """Puts inputs and outputs into this order: by the names that the signature has, those that it gets."""
    graph, signature = model.subgraphs[0], _signature(model)
    for names, field in ((inputs, "inputs"), (outputs, "outputs")):
        entries = {entry.name.decode(): entry for entry in getattr(signature, field)}
        ordered = [entries[name] for name in names]
        for entry in ordered:
            entry.name = names[entry.name.decode()].encode()
        setattr(signature, field, ordered)
        setattr(graph, field, [entry.tensorIndex for entry in ordered])


def name_ends(model: Any) -> None:
    """Gives the tensors of inputs and outputs the names that the signature has."""
    graph, signature = model.subgraphs[0], _signature(model)
    for entry in (*signature.inputs, *signature.outputs):
        graph.tensors[entry.tensorIndex].name = entry.name


def names_of_ends(model: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns the names of inputs and outputs."""
    signature = _signature(model)
    inputs, outputs = (tuple(entry.name.decode() for entry in ends) for ends in (signature.inputs, signature.outputs))
    return inputs, outputs


def make_ends_integer(model: Any) -> list[str]:
    """Makes those inputs and outputs int8 that have factors, and returns reasons against the others, in words."""
    graph, signature, reasons = model.subgraphs[0], _signature(model), []
    for entry in signature.inputs:
        quantizers = consumers(graph, entry.tensorIndex)
        if quantizers and all(operator_name(model, operator) == "QUANTIZE" for operator in quantizers):
            results = [operator.outputs[0] for operator in quantizers]
            factors = {_factors(graph.tensors[number]) for number in results}
            if len(factors) == 1:
                for number in results[1:]:
                    feed_instead(graph, number, results[0])
                remove_operators(graph, quantizers)
                graph.inputs = [results[0] if number == entry.tensorIndex else number for number in graph.inputs]
                entry.tensorIndex = results[0]
                continue
        reasons.append(f"input {entry.name.decode()} stays float because not all that reads it has the same factors")
    for position, entry in enumerate(signature.outputs):
        operator = producer(graph, entry.tensorIndex)
        if operator is None or operator_name(model, operator) != "DEQUANTIZE":
            reasons.append(f"output {entry.name.decode()} stays float because it has no factors")
            continue
        entry.tensorIndex = graph.outputs[position] = operator.inputs[0]
        if not consumers(graph, operator.outputs[0]) and operator.outputs[0] not in graph.outputs:
            remove_operators(graph, [operator])
    return reasons


def _signature(model: Any) -> Any:
    [signature] = model.signatureDefs
    return signature


def _factors(tensor: Any) -> _Factors | None:
    if tensor.type != schema.TensorType.INT8:
        return None
    return float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
