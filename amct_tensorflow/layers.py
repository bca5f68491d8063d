"""The table of quantizable op types: all that the package knows about an op type is here.

A row says where data and weights go in, which axes of the weights are the output channels, what may follow
the op (bias, batch norm), and which constraints an op must meet. `find_layers` applies it to a graph.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from amct_tensorflow.graph.constants import forget, is_constant, is_parameter, reason_against_value
from amct_tensorflow.graph.control_flow import ops_in_control_flow
from amct_tensorflow.graph.edit import consumers
from amct_tensorflow.products import Multiplication, Product
from amct_tensorflow.stencils import Stencil, WeightLayout, layout_of

Constraint = Callable[[tf.Operation], str | None]


@dataclasses.dataclass(frozen=True)
class OpType:
    """One row of the table.

    Attributes:
        name: the TensorFlow op type.
        data_input: index of the input that carries activations.
        weight_input: index of the weights, None for ops without.
        channel_axes: the axes of the weights that make up the output channels, in order.
        input_axis: the axis of the weights along the input channels (of one group).
        may_group: whether its input may have more channels than its weights, in groups.
        channel_wise: whether the weights have one scale per output channel unless the configuration says otherwise.
        takes_batch_norm: whether a batch norm behind it can be folded into its weights.
        shifts: whether SearchN looks for a shift of its int32 result.
        stencil: how the kernel of an op goes over its input; None for products of matrices, and without weights.
        window: the pooling window [height, width] of an op; convolutions count as 1 x 1.
        second_input: index of a second input that carries activations, in the place of weights; None without.
        symmetric: whether its activations are quantized without offset.
        product: how its operands become matrices, of a MatMul or BatchMatMulV2 that computes the quantized layer in its
            place; None if the op does so itself.
        with_halves: whether it is quantized in a model that computes partly in float16, and then may itself.
        adapt: what `of` does.
        constraint: returns why an op of the type is not quantizable, in words, or None.
    """

    name: str
    data_input: int = 0
    weight_input: int | None = None
    channel_axes: tuple[int, ...] = ()
    input_axis: int = 0
    may_group: bool = False
    channel_wise: bool = False
    takes_batch_norm: bool = False
    shifts: bool = False
    stencil: Callable[[tf.Operation], Stencil | None] = lambda op: None
    window: Callable[[tf.Operation], list[int]] = lambda op: [1, 1]
    second_input: int | None = None
    symmetric: bool = False
    product: Product | None = None
    with_halves: bool = True
    adapt: Callable[[OpType, tf.Operation], OpType] = lambda row, op: row
    constraint: Constraint = lambda op: None

    def of(self, op: tf.Operation) -> OpType:
        """Returns the row as it is for one op."""
        return self.adapt(self, op)

    def of_matrices(self) -> OpType:
        """Returns the row of the product of matrices that stands in the place of an op with a `product`."""
        return dataclasses.replace(self, data_input=0, weight_input=1 if self.has_weights else None, product=None)

    @property
    def has_weights(self) -> bool:
        """Whether the op has weights."""
        return self.weight_input is not None

    def activations(self, name: str) -> list[tuple[str, int]]:
        """Returns (key, index) of the inputs that carry activations: the key of a layer's record, and the input."""
        inputs = [(name, self.data_input)]
        if self.second_input is not None:
            inputs.append((tensor_key(name, self.second_input), self.second_input))
        return inputs

    def weights(self, op: tf.Operation) -> tf.Tensor:
        """Returns the weights of an op whose type has some."""
        assert self.weight_input is not None
        return op.inputs[self.weight_input]

    def weight_shape(self, op: tf.Operation) -> list[int]:
        """Returns the shape of the weights as the layer has them, which `channel_axes` and `input_axis` are about."""
        shape: list[int] = self.weights(op).shape.as_list()
        return shape if self.product is None else self.product.other_matrix(shape)

    def channels(self, op: tf.Operation) -> int:
        """Returns the number of output channels of an op with weights."""
        return int(np.prod([self._weight_size(op, axis) for axis in self.channel_axes]))

    def groups(self, op: tf.Operation) -> int:
        """Returns how many groups of input channels an op with weights has; 1 where that cannot be known."""
        size = self._data_channels(op) if self.may_group else None
        return 1 if size is None else size // self._weight_size(op, self.input_axis)

    def groups_are_known(self, op: tf.Operation) -> bool:
        """Tells whether `groups` knows, and does not guess."""
        return not self.may_group or self._data_channels(op) is not None

    def weight_layout(self, op: tf.Operation) -> WeightLayout:
        """Returns where the weights of an op with weights are in their tensor."""
        is_kernel = self.stencil(op) is not None
        shape = self.weight_shape(op)
        return layout_of(shape, self.channel_axes, self.input_axis, self.groups(op), is_kernel=is_kernel)

    def input_channels(self, op: tf.Operation) -> int:
        """Returns the number of input channels, over all groups, of an op with weights."""
        return self.groups(op) * self._weight_size(op, self.input_axis)

    def _data_channels(self, op: tf.Operation) -> int | None:
        shape = op.inputs[self.data_input].shape
        return None if shape.rank is None else shape.as_list()[channel_axis(op)]

    def _weight_size(self, op: tf.Operation, axis: int) -> int:
        return int(self.weight_shape(op)[axis])


def _pool_window(op: tf.Operation) -> list[int]:
    ksize = list(op.get_attr("ksize"))
    return ksize[2:4] if data_format(op) == "NCHW" else ksize[1:3]


def _not_dilated_in_depth(op: tf.Operation) -> str | None:
    dilations = list(op.get_attr("dilations"))
    depth = dilations[2 if data_format(op) == "NCHW" else 1]
    return None if depth == 1 else f"its dilation in depth is {depth}, only 1 is supported"


def _not_dilated(op: tf.Operation) -> str | None:
    dilations = list(op.get_attr("dilations"))
    return None if max(dilations) == 1 else f"its dilations are {dilations}, only 1 is supported"


def _pools_space_only(op: tf.Operation) -> str | None:
    ksize = list(op.get_attr("ksize"))
    if int(np.prod(ksize)) != int(np.prod(_pool_window(op))):
        return f"its window {ksize} also spans the batch or the channels"
    return None


def data_format(op: tf.Operation) -> str:
    """Returns ``NCHW`` if the channels come first, with a depth axis or without, else ``NHWC``."""
    try:
        channels_first = op.get_attr("data_format").startswith(b"NC")
    except ValueError:
        channels_first = False
    return "NCHW" if channels_first else "NHWC"


def channel_axis(op: tf.Operation) -> int:
    """Returns the axis of the channels in an op's data: 1 or the last."""
    return 1 if data_format(op) == "NCHW" else -1


def channel_axes_of(op: tf.Operation) -> tuple[int, ...]:
    """Returns the axes of the output channels in the weights of an op of a deployed graph."""
    row = TABLE[op.type]
    multiplication = _MULTIPLICATIONS.get(op.type)
    return (row if multiplication is None else multiplication.of_matrices(row, op)).channel_axes


def averaged_axes(op: tf.Operation) -> list[int] | None:
    """Returns the axes that an AvgPool averages as a whole; None if its window is smaller, or it is another op."""
    if op.type != "AvgPool" or op.inputs[0].shape.rank != 4:
        return None
    axes = [2, 3] if data_format(op) == "NCHW" else [1, 2]
    sizes, results = (tensor.shape.as_list() for tensor in (op.inputs[0], op.outputs[0]))
    whole = [sizes[axis] for axis in axes] == _pool_window(op) and all(results[axis] == 1 for axis in axes)
    return axes if whole else None


_MULTIPLICATIONS = {
    "MatMul": Multiplication(("transpose_a", "transpose_b"), rank=2, goes_on=((False, False),)),
    "SparseMatMul": Multiplication(("transpose_a", "transpose_b"), rank=2),
    **dict.fromkeys(
        ("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3"),
        Multiplication(("adj_x", "adj_y"), goes_on=((False, False), (False, True)), of_two_tensors=True),
    ),
    "Einsum": Multiplication(of_two_tensors=True),
}

TABLE: dict[str, OpType] = {
    row.name: row
    for row in (
        OpType(
            "Conv2D",
            weight_input=1,
            channel_axes=(3,),
            input_axis=2,
            may_group=True,
            channel_wise=True,
            stencil=Stencil.of,
            takes_batch_norm=True,
            shifts=True,
        ),
        OpType(
            "DepthwiseConv2dNative",
            weight_input=1,
            channel_axes=(2, 3),  # output channel = input channel * multiplier + m
            input_axis=2,
            channel_wise=True,
            stencil=Stencil.of,
            takes_batch_norm=True,
            shifts=True,
        ),
        OpType(
            "Conv3D",
            weight_input=1,
            channel_axes=(4,),
            input_axis=3,
            may_group=True,
            channel_wise=True,
            stencil=Stencil.of,
            takes_batch_norm=True,
            constraint=_not_dilated_in_depth,
        ),
        OpType(
            "Conv2DBackpropInput",
            data_input=2,
            weight_input=1,
            channel_axes=(2,),
            input_axis=3,
            channel_wise=True,
            stencil=lambda op: Stencil.of(op, transposed=True),
            takes_batch_norm=True,
            shifts=True,
            constraint=_not_dilated,
        ),
        *(
            OpType(name, weight_input=1, channel_axes=(1,), takes_batch_norm=True, shifts=True, adapt=multiplication)
            for name, multiplication in _MULTIPLICATIONS.items()
        ),
        OpType("AvgPool", window=_pool_window, with_halves=False, constraint=_pools_space_only),
    )
}

# What TensorFlow's own optimizers make of a layer and what is behind it; nothing can be taken out of these again.
_FUSED = {
    name: OpType(name, constraint=lambda op: f"it is a {op.type}: optimized for TensorFlow, quantize the model before")
    for name in (
        *("_FusedConv2D", "_FusedConv3D", "_FusedDepthwiseConv2dNative", "_FusedMatMul", "_FusedBatchMatMulV2"),
        *("FusedPadConv2D", "FusedResizeAndPadConv2D"),
    )
}

ADDITIONS = ("Add", "AddV2")

# Types whose inputs can be quantized alone, without the op -> the inputs.
TENSOR_INPUTS: dict[str, tuple[int, ...]] = {"MaxPool": (0,), **dict.fromkeys(ADDITIONS, (0, 1))}

BATCH_NORMS = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")

# What may stand between a layer and the Softmax that it feeds, besides a bias.
_BEFORE_SOFTMAX = ("Reshape", "Squeeze", "Identity")


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """What a graph as a whole means for its ops.

    Attributes:
        in_control_flow: names of the ops inside loops and branches.
        has_halves: whether something is computed in float16.
    """

    in_control_flow: set[str]
    has_halves: bool

    @classmethod
    def of(cls, graph: tf.Graph) -> Surroundings:
        """Looks at a graph, as it is now."""
        forget(graph)
        halves = (output for op in graph.get_operations() for output in op.outputs if output.dtype == tf.float16)
        computed = (output for output in halves if not (is_constant(output) or is_parameter(output)))
        return cls(ops_in_control_flow(graph), next(computed, None) is not None)


@dataclasses.dataclass(frozen=True)
class FoundLayer:
    """An op of a type of the table, or one that holds such an op.

    Attributes:
        op: the op.
        row: its type.
        reason: why it cannot be quantized; None if it can.
        out_of_reach: whether that is because of where it stands, and nothing can be done about it.
    """

    op: tf.Operation
    row: OpType
    reason: str | None
    out_of_reach: bool = False

    @property
    def channel_wise(self) -> bool:
        """Whether it has one weight scale per channel unless the configuration says otherwise."""
        return self.row.channel_wise and not feeds_softmax(self.op)

    @property
    def one_scale(self) -> bool:
        """Whether it has one weight scale whatever is said: the convolution that feeds Softmax, the vendor's rule.

        A product that feeds it has no rule of the vendor's: it has one scale unless somebody wants more.
        """
        return self.row.channel_wise and feeds_softmax(self.op)


def find_layers(graph: tf.Graph, around: Surroundings | None = None) -> Iterator[FoundLayer]:
    """Yields every op whose type is in the table, or that holds one of these, in graph order."""
    around = around or Surroundings.of(graph)
    for op in graph.get_operations():
        row = TABLE.get(op.type, _FUSED.get(op.type))
        if row is not None:
            row = row.of(op)
            inside = op.name in around.in_control_flow
            yield FoundLayer(op, row, INSIDE if inside else _reason_against(op, row, around), inside)


INSIDE = "it is inside a while loop or a cond"
_HALVES = "the model computes partly in float16, where only layers with weights are quantized"


def _reason_against(op: tf.Operation, row: OpType, around: Surroundings) -> str | None:
    dtype = op.inputs[row.data_input].dtype
    if dtype != tf.float32 and not (dtype == tf.float16 and row.with_halves):
        others = " and float16 are" if row.with_halves else " is"
        return f"its type is {dtype.name}, only float32{others} supported"
    if around.has_halves and not row.with_halves:
        return _HALVES
    if is_constant(op.inputs[row.data_input]):
        return "its input is constant"
    return row.constraint(op) or (_reason_against_weights(op, row) if row.has_weights else None)


def tensor_key(name: str, index: int) -> str:
    """Returns the key of an op's input in a record; the first input of a layer goes by the layer's name instead."""
    return f"{name}:{index}"


def split_tensor_key(key: str) -> tuple[str, int | None]:
    """Returns the op name and the input index of a key, None for that of a layer."""
    name, _, index = key.rpartition(":")  # which no op name contains
    return (name, int(index)) if index.isdecimal() and name else (key, None)


def reason_against_tensor(op: tf.Operation, index: int, around: Surroundings) -> str | None:
    """Returns why an input of an op cannot be quantized alone, in words, or None."""
    inputs = TENSOR_INPUTS.get(op.type)
    if inputs is None:
        return f"it is of type {op.type}, only inputs of {', '.join(TENSOR_INPUTS)} are quantized alone"
    if index not in inputs:
        return f"{op.type} has no input {index} that can be"
    if op.name in around.in_control_flow:
        return INSIDE
    dtype = op.inputs[index].dtype
    if dtype != tf.float32:
        return f"its type is {dtype.name}, only float32 is supported"
    if around.has_halves:
        return _HALVES
    return "that input is a constant or variable" if is_parameter(op.inputs[index]) else None


def _reason_against_weights(op: tf.Operation, row: OpType) -> str | None:
    weights = row.weights(op)
    reason = reason_against_value(weights) if is_constant(weights) else None
    if reason is not None:
        return f"its weights '{weights.name}' cannot be computed from their constants: {reason}"
    if not is_parameter(weights):
        return f"its weights '{weights.name}' are computed, not a constant or a variable"
    if not weights.shape.is_fully_defined() or weights.shape.num_elements() == 0:
        return f"its weights have the shape {weights.shape}"
    return None


def feeds_softmax(op: tf.Operation) -> bool:
    """Tells whether Softmax follows the op, with nothing between but bias and reshaping."""
    stack: list[tf.Tensor] = [op.outputs[0]]
    while stack:
        for user, index in consumers(stack.pop()):
            if user.type in ("Softmax", "LogSoftmax"):
                return True
            if is_bias(user, index) or (user.type in _BEFORE_SOFTMAX and index == 0):
                stack.append(user.outputs[0])
    return False


def is_bias(op: tf.Operation, index: int) -> bool:
    """Tells whether `op` adds a parameter to its input `index`."""
    if op.type == "BiasAdd":
        return index == 0 and is_parameter(op.inputs[1])
    return op.type in ADDITIONS and is_parameter(op.inputs[1 - index])


def quantizable_types() -> Sequence[str]:
    """Returns the op types of the table."""
    return list(TABLE)
