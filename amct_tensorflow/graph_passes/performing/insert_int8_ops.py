"""Performing: layers of a graph in reals are computed by TensorFlow's int8 ops.

AscendQuant means "rounded to int8, and reals again" here, as restore_reals.py leaves it. Each becomes quint8 values,
which the int8 ops read, and a Dequantize for all that reads reals.

    Q(conv(x))        =  the op itself rounds its result to the factors of Q
    Q(move(x))        =  move(Q(x))
    Q(pad(x, 0))      =  pad(Q(x), zero point)
    Q(clip(x, a, b))  =  clip(Q(x), Q(a), Q(b)),   as Q rounds monotonously

Cases, for what is before an AscendQuant, is read by it alone, and is no output:

1. The result of a layer that an int8 op computes: the op puts out quint8.
2. Something that only moves values, pads them with zeros, or takes the largest ones: does so with quint8 values.
3. A Relu or Relu6: goes where the integers cannot leave its limits; else they are clipped.
4. The sum of the result of a convolution and of what another AscendQuant puts out, of one shape that is known but for
   the first size: the op of the convolution adds them. An AscendQuant between the convolution and the sum goes, so
   that nothing is rounded or clipped there. What an AscendQuant puts out is added so once.
5. Anything else: QuantizeV2.

A layer whose result is needed in reals puts out floats.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterator, Sequence

import numpy as np
import tensorflow as tf

from amct_tensorflow.graph import int8_ops
from amct_tensorflow.graph.edit import at_root, clone_in_type, consumers, replace_uses, topological_order
from amct_tensorflow.graph.int8_ops import Factors, Kernel, Operand
from amct_tensorflow.graph_passes.planning.plan_int8_ops import CONVOLUTIONS, Int8Layer, factors_of, is_transposed
from amct_tensorflow.layers import ADDITIONS, data_format

_LIMITS = {"Relu": (0.0, np.inf), "Relu6": (0.0, 6.0)}
_MOVERS = ("Reshape", "Squeeze", "ExpandDims", "Identity", "ConcatV2")
_ROUNDED = ("Identity", "AscendQuant")  # what may be between a convolution and a sum
_MOVERS_OF_BYTES = ("Transpose", "MaxPool")  # they have kernels for uint8, but none for quint8


@dataclasses.dataclass(frozen=True)
class Inserted:
    """What the pass did.

    Attributes:
        replaced: what is in the place of tensors, by their names.
        clones: names of the ops of layers -> names of the ops that compute them now.
    """

    replaced: dict[str, tf.Tensor]
    clones: dict[str, str]


def insert_int8_ops(
    graph: tf.Graph, layers: Sequence[Int8Layer], live: Container[str], fetched: Container[str]
) -> Inserted:
    """Runs the pass.

    Args:
        graph: in reals.
        layers: those to compute in int8.
        live: the names of the ops that the outputs need.
        fetched: the names of the tensors that are outputs.
    """
    inserter = _Inserter(layers, live, fetched)
    order = topological_order(graph)
    quants = [op for op in graph.get_operations() if op.type == "AscendQuant" and op.name in live]
    quants.sort(key=lambda op: order[op.name])
    with at_root(graph):
        for op in quants:
            inserter.integers[op.name] = inserter.quantized(op.inputs[0], factors_of(op))
        replaced = dict(inserter.in_reals(layers))
        for op in quants:
            name, reals = op.outputs[0].name, f"{op.name}/reals"
            replaced[name] = int8_ops.dequantize(inserter.integers[op.name], factors_of(op), reals)
            replace_uses(op.outputs[0], replaced[name])
    return Inserted(replaced, inserter.clones)


class _Inserter:
    """Puts the ops in.

    Attributes:
        integers: quint8 values in the place of the AscendQuants that are done, by the names of these.
        clones: see `Inserted`.
    """

    def __init__(self, layers: Sequence[Int8Layer], live: Container[str], fetched: Container[str]) -> None:
        self.integers: dict[str, tf.Tensor] = {}
        self.clones: dict[str, str] = {}
        self._ends = {_end(plan).name: plan for plan in layers}
        self._live = live
        self._fetched = fetched
        self._summands: set[str] = set()

    def quantized(self, tensor: tf.Tensor, factors: Factors) -> tf.Tensor:
        """Returns the quint8 values of a tensor of reals; the int8 layers before it are done, but for the last."""
        op = tensor.op
        if not self._is_alone(tensor):
            return int8_ops.quantize(tensor, factors, f"{op.name}/quantized")
        if tensor.name in self._ends:
            return self._compute(self._ends[tensor.name], factors)
        if op.type in _LIMITS:
            return _clip(self.quantized(op.inputs[0], factors), factors, _LIMITS[op.type], f"{op.name}/clipped")
        name = f"{op.name}/moved"
        if op.type in _MOVERS:
            return clone_in_type(op, name, tf.float32, tf.quint8, lambda data: self.quantized(data, factors)).outputs[0]
        if op.type in _MOVERS_OF_BYTES and data_format(op) == "NHWC":
            moved = clone_in_type(op, name, tf.float32, tf.uint8, lambda data: _bytes(self.quantized(data, factors)))
            return tf.bitcast(moved.outputs[0], tf.quint8)
        if op.type == "Pad":
            return _pad(self.quantized(op.inputs[0], factors), op.inputs[1], factors, name)
        addends = self._addends(op) if op.type in ADDITIONS else None
        if addends is not None:
            plan, summand = addends
            self._summands.add(summand.name)
            return self._compute(plan, factors, summand)
        return int8_ops.quantize(tensor, factors, f"{op.name}/quantized")

    def in_reals(self, layers: Sequence[Int8Layer]) -> Iterator[tuple[str, tf.Tensor]]:
        """Yields the results of the layers that put out no integers, with the names of what they take the place of."""
        for plan in layers:
            if plan.layer.name not in self.clones:
                end = _end(plan)
                result = self._compute(plan, None)
                replace_uses(end, result)
                yield end.name, result

    def _is_alone(self, tensor: tf.Tensor) -> bool:
        users = [op for op, _ in consumers(tensor) if op.name in self._live]
        return len(users) == 1 and tensor.name not in self._fetched

    def _addends(self, addition: tf.Operation) -> tuple[Int8Layer, tf.Operation] | None:
        """Returns the convolution whose op can compute an addition, and the AscendQuant of what it adds; or None."""
        for tensor, other in (addition.inputs, reversed(addition.inputs)):
            if other.op.type != "AscendQuant" or other.op.name in self._summands or not _have_one_shape(tensor, other):
                continue
            result = tensor
            while result.op.type in _ROUNDED and self._is_alone(result):
                result = result.op.inputs[0]
            plan = self._ends.get(result.name)
            if plan is not None and plan.layer.op.type in CONVOLUTIONS and self._is_alone(result):
                return plan, other.op
        return None

    def _compute(self, plan: Int8Layer, result: Factors | None, added: tf.Operation | None = None) -> tf.Tensor:
        """Returns what a layer puts out, with these factors, or in reals; with what an AscendQuant puts out added."""
        layer, name = plan.layer, f"{plan.layer.name}/int8"
        quant = layer.quants[0]
        data, factors = self.integers[quant.name], factors_of(quant)
        kernel, scale = _kernel(plan, factors, result, added), None if result is None else result.scale
        if layer.op.type in CONVOLUTIONS:
            if plan.paddings is not None:
                data = _pad(data, tf.constant(plan.paddings), factors, f"{layer.name}/padded")
            made = self._convolve(plan, Operand(data, factors.scale), kernel, scale, added)
        else:
            made = _multiply(layer.op, Operand(data, factors.scale), kernel, scale, name)
            self.clones[layer.name] = made.op.name
        made.set_shape(_end(plan).shape)
        return made

    def _convolve(
        self, plan: Int8Layer, data: Operand, kernel: Kernel, scale: np.float32 | None, added: tf.Operation | None
    ) -> tf.Tensor:
        layer, name = plan.layer, f"{plan.layer.name}/int8"
        padding = None if plan.paddings is None else "VALID"
        is_first = data_format(layer.op) == "NCHW"
        if is_first:
            data = Operand(int8_ops.channels_last(data.values, f"{name}/channels_last"), data.scale)
        summand = None if added is None else self._summand(added, data.values, is_first=is_first)
        made = int8_ops.convolve(layer.op, data, kernel, scale, name, padding, summand)
        self.clones[layer.name] = made.op.name
        return int8_ops.channels_first(made, name) if is_first else made

    def _summand(self, quant: tf.Operation, data: tf.Tensor, *, is_first: bool) -> Operand:
        values, sizes = self.integers[quant.name], quant.inputs[0].shape.as_list()[1:]
        if is_first:
            values, sizes = int8_ops.channels_last(values, f"{quant.name}/channels_last"), [*sizes[1:], sizes[0]]
        return Operand(int8_ops.own_copy(values, data, sizes, f"{quant.name}/own"), factors_of(quant).scale)


def _end(plan: Int8Layer) -> tf.Tensor:
    """Returns the result of a layer, with its bias."""
    return plan.layer.dequant.inputs[0]


def _have_one_shape(first: tf.Tensor, second: tf.Tensor) -> bool:
    """Tells whether that is known of two tensors; both may leave their first size open."""
    if first.shape.rank is None or second.shape.rank is None:
        return False
    sizes = first.shape.as_list()
    return sizes == second.shape.as_list() and None not in sizes[1:]


def _kernel(plan: Int8Layer, data: Factors, result: Factors | None, added: tf.Operation | None) -> Kernel:
    scales = plan.weights.scale.astype(np.float64)
    scales = scales.reshape(-1) if scales.size > 1 else scales.reshape(())
    bias = plan.bias - _zero(data) * scales * plan.sums
    if result is not None:
        bias = bias + _zero(result)
    if added is not None:
        bias = bias - _zero(factors_of(added))
    return Kernel(plan.weights.values, scales, bias)


def _zero(factors: Factors) -> np.float64:
    """Returns by how much values mean more without the zero point."""
    return factors.zero_point * np.float64(factors.scale)


def _multiply(op: tf.Operation, data: Operand, kernel: Kernel, result_scale: np.float32 | None, name: str) -> tf.Tensor:
    """Computes a product whose first operand may have more axes than those of a matrix."""
    transposed = is_transposed(op)
    if op.inputs[0].shape.rank == 2:
        return int8_ops.multiply(data, kernel, result_scale, name, transposed=transposed)
    inner, outer = kernel.weights.shape[::-1] if transposed else kernel.weights.shape
    matrix = Operand(tf.reshape(data.values, [-1, inner], name=f"{name}/data_matrix"), data.scale)
    product = int8_ops.multiply(matrix, kernel, result_scale, f"{name}/product", transposed=transposed)
    return tf.reshape(product, _with_last(op.inputs[0], outer), name=name)


def _with_last(tensor: tf.Tensor, size: int) -> tf.Tensor | list[int]:
    """Returns the shape of a tensor with another last size."""
    sizes = [-1 if known is None else known for known in tensor.shape.as_list()[:-1]]
    if sizes.count(-1) < 2:
        return [*sizes, size]
    return tf.concat([tf.shape(tensor)[:-1], [size]], 0)


def _bytes(tensor: tf.Tensor) -> tf.Tensor:
    return tf.bitcast(tensor, tf.uint8)


def _pad(data: tf.Tensor, paddings: tf.Tensor, factors: Factors, name: str) -> tf.Tensor:
    """Pads quint8 values with what means 0."""
    zero = tf.constant(factors.zero_point, tf.uint8)
    padded = tf.raw_ops.PadV2(input=_bytes(data), paddings=paddings, constant_values=zero, name=name)
    return tf.bitcast(padded, tf.quint8)


def _clip(data: tf.Tensor, factors: Factors, limits: tuple[float, float], name: str) -> tf.Tensor:
    """Clips quint8 values, where they can leave the limits, which are reals."""
    least, most = 0, int8_ops.UINT8_STEPS
    lowest, highest = (_nearest(limit, factors, least, most) for limit in limits)
    if (lowest, highest) == (least, most):
        return data
    clipped = _bytes(data)
    if lowest > least:
        clipped = tf.raw_ops.Maximum(x=clipped, y=tf.constant(lowest, tf.uint8), name=f"{name}/from")
    if highest < most:
        clipped = tf.raw_ops.Minimum(x=clipped, y=tf.constant(highest, tf.uint8), name=f"{name}/to")
    return tf.bitcast(clipped, tf.quint8)


def _nearest(value: float, factors: Factors, least: int, most: int) -> int:
    return int(np.clip(np.floor(value / factors.scale + 0.5) + factors.zero_point, least, most))
