"""Planning: what a deployed graph says of its layers, for passes that turn it into something else.

This reads what deploy_activations.py, deploy_parameters.py and deploy_results.py write: an AscendQuant right before
each input that carries activations, int8 constants behind an AscendWeightQuant, a constant of integers in the BiasAdd,
and scale_d * scale_w in the words of the AscendDequant behind it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.graph.constants import constant_value
from amct_tensorflow.graph_passes.performing.deploy_results import unpack_deq_scale
from amct_tensorflow.graph_passes.workspace import FloatArray
from amct_tensorflow.layers import TABLE

_REALS_AGAIN = ("AscendDequant", "AscendAntiQuant")
UINT8_ZERO = 128  # where int8 has its 0: runtimes for x86 have faster kernels for uint8 activations


@dataclasses.dataclass(frozen=True)
class IntegerWeights:
    """The weights of a layer.

    Attributes:
        values: int8, as the op has them.
        scale: what a step of them is; of their rank, with sizes of 1 but along the axes of the channels that have
            scales of their own.
    """

    values: npt.NDArray[np.int8]
    scale: FloatArray

    def in_reals(self) -> FloatArray:
        """Returns them in the units of the float model."""
        return self.values * self.scale


@dataclasses.dataclass(frozen=True, eq=False)
class DeployedLayer:
    """A layer of a deployed graph.

    Attributes:
        op: what computes it; it has the name of the layer.
        quants: the AscendQuants of its activations.
        weight_input: index of the input that carries its weights; None for op types without.
        bias_add: adds its bias; None without.
        dequant: its AscendDequant.
        scales: what a step of its result is: one value, or one per channel.
        shifts: how many bits of its result are cut off, N, likewise.
    """

    op: tf.Operation
    quants: tuple[tf.Operation, ...]
    weight_input: int | None
    bias_add: tf.Operation | None
    dequant: tf.Operation
    scales: FloatArray
    shifts: npt.NDArray[np.int64]

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.op.name

    def integers(self) -> IntegerWeights:
        """Returns the weights of a layer that has some.

        Raises:
            AmctValueError: they are no int8 constant, or have an offset.
        """
        assert self.weight_input is not None
        values, offset = map(constant_value, self.op.inputs[self.weight_input].op.inputs)
        if values is None or values.dtype != np.int8 or offset is None or offset.any():
            raise _unknown_form(self.name, "has weights that are no int8 constant without offset")
        scale = np.asarray(self.scales / scale_of(self.quants[0]), np.float32)
        shape = offset.shape if scale.size > 1 else [1] * values.ndim
        if scale.size not in (1, offset.size) or len(shape) != values.ndim:
            raise _unknown_form(self.name, f"has {scale.size} scales for weights of the shape {list(values.shape)}")
        return IntegerWeights(values, scale.reshape(shape))

    def bias(self) -> FloatArray | None:
        """Returns the bias in the units of the float model, one value or one per channel; None for none.

        What a shift of N bits cuts off is (2^N - 1) / 2 steps on average. The bias has that in it, where there are no
        shifts any more.

        Raises:
            AmctValueError: it is no constant.
        """
        integers = np.zeros(1) if self.bias_add is None else constant_value(self.bias_add.inputs[1])
        if integers is None:
            raise _unknown_form(self.name, "has a bias that is no constant")
        if self.bias_add is None and not self.shifts.any():
            return None
        return np.asarray((integers - (2.0**self.shifts - 1) / 2) * self.scales.astype(np.float64), np.float32)


def scale_of(quant: tf.Operation) -> np.float32:
    """Returns scale_d of an AscendQuant, which holds its inverse."""
    return np.float32(1.0) / np.float32(quant.get_attr("scale"))


def offset_of(quant: tf.Operation) -> int:
    """Returns offset_d of an AscendQuant."""
    return int(quant.get_attr("offset"))


def find_deployed(graph: tf.Graph, needed: Container[str]) -> list[DeployedLayer]:
    """Returns the layers of a deployed graph that are `needed`, by the names of their ops, in graph order.

    Raises:
        AmctValueError: the graph has an AscendDequant that is not behind a layer as this package writes it.
    """
    return [layer_before(op) for op in graph.get_operations() if op.type == "AscendDequant" and op.name in needed]


def integer_tensors(graph: tf.Graph) -> set[str]:
    """Returns the names of the tensors of a deployed graph that hold integers, up to what makes them reals again."""
    found: set[str] = set()
    stack = [op for op in graph.get_operations() if op.type in ("AscendQuant", "AscendWeightQuant")]
    while stack:
        op = stack.pop()
        for tensor in op.outputs:
            if tensor.name not in found:
                found.add(tensor.name)
                stack.extend(user for user in tensor.consumers() if user.type not in _REALS_AGAIN)
    return found


def layer_before(dequant: tf.Operation) -> DeployedLayer:
    """Returns the layer in front of an AscendDequant.

    Raises:
        AmctValueError: as `find_deployed`.
    """
    op, bias_add = dequant.inputs[0].op, None
    if op.type == "BiasAdd":
        op, bias_add = op.inputs[0].op, op
    if op.type not in TABLE:
        raise _unknown_form(dequant.name, f"is an AscendDequant behind {op.type} {op.name}")
    before = [tensor.op for tensor in op.inputs]
    quants = tuple(producer for producer in before if producer.type == "AscendQuant")
    weight_inputs = [index for index, producer in enumerate(before) if producer.type == "AscendWeightQuant"]
    if not quants or len(weight_inputs) > 1:
        raise _unknown_form(op.name, "has no AscendQuant in front of it, or two AscendWeightQuants")
    words = constant_value(dequant.inputs[1])
    if words is None:
        raise _unknown_form(op.name, "has a deq_scale that is no constant")
    weight_input = weight_inputs[0] if weight_inputs else None
    return DeployedLayer(op, quants, weight_input, bias_add, dequant, *unpack_deq_scale(words.reshape(-1)))


def _unknown_form(name: str, what: str) -> AmctValueError:
    return AmctValueError(
        f"{name} {what}, which this version does not write: quantize the float model again with this version"
    )
