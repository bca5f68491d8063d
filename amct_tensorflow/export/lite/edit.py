"""The few edits of a TFLite graph that are made here. It is a ``SubGraphT``, in which tensors go by their numbers."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from amct_tensorflow.graph.lite import schema

INT8, FLOAT32 = schema.TensorType.INT8, schema.TensorType.FLOAT32

_DTYPES = {INT8: np.int8, FLOAT32: np.float32}
_DEQUANTIZE = schema.BuiltinOperator.DEQUANTIZE
_INT8_VERSION, _PER_CHANNEL_VERSION = 2, 5  # of DEQUANTIZE


def names_of(tensor: Any) -> list[str]:
    """Returns the names of the TensorFlow ops that a tensor comes from."""
    return list(tensor.name.decode().split(";"))


def constant_of(model: Any, tensor: Any) -> npt.NDArray | None:
    """Returns the array of an int8 or float32 tensor that is constant, else None."""
    data = model.buffers[tensor.buffer].data
    if data is None or tensor.type not in _DTYPES:
        return None
    return np.frombuffer(bytes(data), _DTYPES[tensor.type]).reshape(tensor.shape)


def consumers(graph: Any, number: int) -> list[Any]:
    """Returns the operators that read a tensor."""
    return [operator for operator in graph.operators if number in operator.inputs]


def producer(graph: Any, number: int) -> Any | None:
    """Returns the operator that puts out a tensor, or None."""
    return next((operator for operator in graph.operators if number in operator.outputs), None)


def feed_instead(graph: Any, old: int, new: int) -> None:
    """Feeds tensor `new` wherever `old` was used, as an output, too."""
    for operator in consumers(graph, old):
        operator.inputs = [new if number == old else number for number in operator.inputs]
    graph.outputs = [new if number == old else number for number in graph.outputs]


def remove_operators(graph: Any, removed: Sequence[Any]) -> None:
    """Removes operators, whose results nothing reads."""
    numbers = set(map(id, removed))
    graph.operators = [operator for operator in graph.operators if id(operator) not in numbers]


def set_constant(model: Any, tensor: Any, array: npt.NDArray) -> None:
    """Puts an array into a constant, in a buffer of its own: several constants may share one."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(array.tobytes(), np.uint8)
    model.buffers.append(buffer)
    tensor.buffer = len(model.buffers) - 1


def set_bias(model: Any, operator: Any, scale: npt.NDArray[np.float32]) -> None:
    """Makes the int32 bias of an operator that of weights with other scales."""
    graph = model.subgraphs[0]
    given = [graph.tensors[number] for number in operator.inputs if number >= 0]
    [data] = [tensor for tensor in given if tensor.type == INT8 and model.buffers[tensor.buffer].data is None]
    bias = next((tensor for tensor in reversed(given) if _is_bias(model, tensor)), None)
    if bias is None:
        return
    integers = np.frombuffer(bytes(model.buffers[bias.buffer].data), np.int32)
    step = np.asarray(data.quantization.scale, np.float64) * scale.reshape(-1)
    reals = integers * np.asarray(bias.quantization.scale, np.float64)
    set_constant(model, bias, np.rint(reals / step).astype(np.int32))
    bias.quantization = quantization_of(step.astype(np.float32))


def _is_bias(model: Any, tensor: Any) -> bool:
    is_constant = model.buffers[tensor.buffer].data is not None
    return tensor.type == schema.TensorType.INT32 and is_constant and tensor.quantization is not None


def add_dequantized(
    model: Any, graph: Any, integers: npt.NDArray[np.int8], scale: npt.NDArray[np.float32], like: Any
) -> int:
    """Adds a constant of integers behind a DEQUANTIZE and returns the number of its result, a tensor as `like`."""
    quantized = schema.TensorT()
    quantized.name, quantized.shape, quantized.type, quantized.hasRank = like.name, like.shape, INT8, True
    set_constant(model, quantized, integers)
    quantized.quantization = quantization_of(scale)
    restored = schema.TensorT()
    restored.name, restored.shape, restored.type, restored.hasRank = like.name + b"/restored", like.shape, FLOAT32, True
    graph.tensors += [quantized, restored]
    operator = schema.OperatorT()
    operator.opcodeIndex = _code_of_dequantize(model, _PER_CHANNEL_VERSION if scale.size > 1 else _INT8_VERSION)
    operator.inputs, operator.outputs = [len(graph.tensors) - 2], [len(graph.tensors) - 1]
    graph.operators.insert(0, operator)
    return len(graph.tensors) - 1


def quantization_of(scale: npt.NDArray[np.float32]) -> Any:
    """Returns the factors of integers without offset, with scales of their rank that differ along one axis at most."""
    made = schema.QuantizationParametersT()
    made.scale, made.zeroPoint = scale.reshape(-1), np.zeros(scale.size, np.int64)
    made.quantizedDimension = next((axis for axis, size in enumerate(scale.shape) if size > 1), 0)
    return made


def drop_unused(model: Any) -> None:
    """Drops tensors of the main graph that nothing uses, and the content of buffers that nothing refers to."""
    graph = model.subgraphs[0]
    fields = ("inputs", "outputs", "intermediates")
    used = {*graph.inputs, *graph.outputs}
    for operator in graph.operators:
        for field in fields:
            used.update(number for number in _numbers(operator, field) if number >= 0)  # -1 is an input left out
    numbers = {old: new for new, old in enumerate(sorted(used))} | {-1: -1}
    graph.tensors = [graph.tensors[number] for number in sorted(used)]
    graph.inputs, graph.outputs = ([numbers[number] for number in ends] for ends in (graph.inputs, graph.outputs))
    for operator in graph.operators:
        for field in fields:
            setattr(operator, field, [numbers[number] for number in _numbers(operator, field)])
    for signature in model.signatureDefs:
        for entry in (*signature.inputs, *signature.outputs):
            entry.tensorIndex = numbers[entry.tensorIndex]
    _empty_buffers(model, {tensor.buffer for subgraph in model.subgraphs for tensor in subgraph.tensors})


def _numbers(operator: Any, field: str) -> list[int]:
    numbers = getattr(operator, field)
    return [] if numbers is None else [int(number) for number in numbers]


def _empty_buffers(model: Any, used: Container[int]) -> None:
    kept = {entry.buffer for entry in model.metadata or []}
    for number, buffer in enumerate(model.buffers):
        if number not in used and number not in kept:
            buffer.data = None


def _code_of_dequantize(model: Any, version: int) -> int:
    for number, code in enumerate(model.operatorCodes):
        if code.builtinCode == _DEQUANTIZE and code.version == version:
            return number
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = _DEQUANTIZE
    code.version = version
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1
