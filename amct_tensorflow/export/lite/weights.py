"""Integer weights in a TFLite model.

Cases, for the constant of a layer's weights:

1. The converter made the layer's integers of it: they get the layer's scales to the last bit.
2. It made others, with scales of its own, as it was not told better: the layer's integers and scales take their place,
   and the bias that of the new scales.
3. It left floats, as the operator computes in float: the integers, behind a DEQUANTIZE, which runtimes do once.
4. It folded a multiplication into it, which changes the scales of integers: stays, and so do floats that are not the
   weights any more, or are in no layout that is known here.

An operator that computes in float gets its integers through a DEQUANTIZE, also a -128: without one the runtime would
quantize its input on the fly, with other factors.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from amct_tensorflow.errors import AmctRuntimeError
from amct_tensorflow.export.lite.edit import (
    INT8,
    add_dequantized,
    constant_of,
    consumers,
    names_of,
    quantization_of,
    set_bias,
    set_constant,
)
from amct_tensorflow.export.lite.narrow_weights import NarrowWeights
from amct_tensorflow.graph.lite import operator_name
from amct_tensorflow.graph_passes.planning.find_deployed import IntegerWeights

_ENDING = "/int8_weights"
_NAME = re.compile(rf"(.*?)(?:{_ENDING}\d*)?", re.DOTALL)  # the converter numbers names that are there already

_Layout = Callable[[npt.NDArray], npt.NDArray]


@dataclasses.dataclass(frozen=True)
class _Weights:
    """The constant of a layer's weights in the file: its tensor, what it holds, and the operator that computes."""

    number: int
    tensor: Any
    array: npt.NDArray
    operator: Any


def _transposed(*axes: int) -> _Layout:
    return lambda array: array.transpose(axes)


def _as_it_is(array: npt.NDArray) -> npt.NDArray:
    return array


def _turned(array: npt.NDArray) -> npt.NDArray:
    return array.swapaxes(-1, -2)


_LAYOUTS: dict[str, tuple[_Layout, ...]] = {
    "CONV_2D": (_transposed(3, 0, 1, 2),),
    "DEPTHWISE_CONV_2D": (lambda array: array.reshape(1, *array.shape[:2], -1),),
    "TRANSPOSE_CONV": (_transposed(2, 0, 1, 3),),
    "FULLY_CONNECTED": (_turned, _as_it_is),
    "BATCH_MATMUL": (_as_it_is, _turned),
    "CONV_3D": (_as_it_is,),
}


def name_of_weights(layer: str) -> str:
    """Returns the name of the op by which the weights of a layer are found again."""
    return layer + _ENDING


def put_weights(model: Any, weights: Mapping[str, NarrowWeights]) -> dict[str, Any]:
    """Puts in the weights of layers, by their names.

    Returns:
        The operators of the layers, by the same names, as far as they are there.

    Raises:
        AmctRuntimeError: the converter has changed the integers of a layer.
    """
    graph, operators = model.subgraphs[0], {}
    for number, tensor in enumerate(list(graph.tensors)):
        layer = _layer_of(tensor, weights)
        found = None if layer is None else _find(model, number, tensor)
        if layer is None or found is None or found.array.size != weights[layer].before.values.size:
            continue
        operators[layer] = found.operator
        _put(model, found, weights[layer], layer)
    return operators


def _layer_of(tensor: Any, weights: Mapping[str, NarrowWeights]) -> str | None:
    found = (_NAME.fullmatch(name) for name in names_of(tensor))
    return next((match[1] for match in found if match and match[1] in weights), None)


def _find(model: Any, number: int, tensor: Any) -> _Weights | None:
    array, readers = constant_of(model, tensor), consumers(model.subgraphs[0], number)
    if readers and operator_name(model, readers[0]) == "DEQUANTIZE":
        readers = consumers(model.subgraphs[0], readers[0].outputs[0])
    return None if array is None or not readers else _Weights(number, tensor, array, readers[0])


def _put(model: Any, found: _Weights, narrowed: NarrowWeights, layer: str) -> None:
    graph, weights = model.subgraphs[0], narrowed.weights
    layouts = _LAYOUTS.get(operator_name(model, found.operator), ())
    fitting = [layout for layout in layouts if _fits(found, layout(weights.in_reals()))]
    if not fitting:
        if found.tensor.type == INT8 and not _has_integers(found, weights, layouts):
            raise AmctRuntimeError(
                f"TensorFlow's converter has changed the int8 weights of layer {layer}: export with another version of "
                "TensorFlow"
            )
        return
    computes_in_int8 = graph.tensors[found.operator.outputs[0]].type == INT8
    weights = weights if computes_in_int8 else narrowed.before
    integers, scale = np.ascontiguousarray(fitting[0](weights.values)), _scale(weights, fitting[0])
    if found.tensor.type == INT8 and not np.array_equal(integers, found.array):
        set_constant(model, found.tensor, integers)
        if computes_in_int8:
            set_bias(model, found.operator, scale)
    if found.tensor.type == INT8:
        found.tensor.quantization = quantization_of(scale)
    if found.number in found.operator.inputs and not computes_in_int8:
        restored = add_dequantized(model, graph, integers, scale, found.tensor)
        for reader in consumers(graph, found.number):
            reader.inputs = [restored if read == found.number else read for read in reader.inputs]


def _fits(found: _Weights, reals: npt.NDArray) -> bool:
    """Tells whether the constant holds these values, up to the rounding to steps of its own."""
    if reals.shape != found.array.shape:
        return False
    if found.tensor.type != INT8:
        return bool(np.allclose(reals, found.array, rtol=1e-4, atol=0))
    shape = [1] * reals.ndim
    steps = np.asarray(found.tensor.quantization.scale, np.float64)
    shape[found.tensor.quantization.quantizedDimension] = steps.size
    steps = steps.reshape(shape)
    return bool((np.abs(found.array * steps - reals) <= 0.501 * steps).all())


def _has_integers(found: _Weights, weights: IntegerWeights, layouts: tuple[_Layout, ...]) -> bool:
    """Tells whether it holds the integers, where the converter has folded a Mul behind them into scales and signs."""
    return any(np.array_equal(abs(layout(weights.values)), abs(found.array)) for layout in layouts)


def _scale(weights: IntegerWeights, layout: _Layout) -> npt.NDArray[np.float32]:
    """Returns the scales in a layout, with sizes of 1 but along the axis of the channels that have their own."""
    numbers = np.arange(weights.scale.size).reshape(weights.scale.shape)
    numbers = layout(np.broadcast_to(numbers, weights.values.shape))
    for axis in range(numbers.ndim):
        first = np.take(numbers, [0], axis)
        numbers = first if (numbers == first).all() else numbers
    return weights.scale.reshape(-1)[numbers]
