"""What the passes hand to one another: the graph, and the plan of each layer that is being quantized."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from amct_tensorflow.graph.edit import scope_of, set_input, unique_scope, upstream
from amct_tensorflow.graph.values import Value, reshape, transpose, value_of
from amct_tensorflow.layers import FoundLayer, OpType, channel_axis, data_format, tensor_key

FloatArray = npt.NDArray[np.float32]


@dataclasses.dataclass(eq=False)
class Layer:
    """A layer that is being quantized.

    Planning passes let it absorb the ops behind it: `end` then is the tensor of the user's graph that the
    layer takes the place of, `weights` and `bias` the parameters with which it does so.

    Attributes:
        name: the op's name in the user's graph, the key of the record.
        op: the op that computes the layer: the original, or its clone once rewritten.
        row: its op type.
        fuse: whether a batch norm may be folded into it.
        weights: shape as the clone of the op will have them; None for op types without, and once rewritten.
        weights_key: the same for layers with the same weights.
        bias: one value per output channel, or None.
        end: see above.
        trail: what it absorbs behind `end` and what stays between, None if nothing; see `Trail`.
        absorbed: names of the user's ops that the layer stands for, the layer first.
        channel_axes: axes of the weights with a scale of their own; empty for one scale.
        bias_stays: whether a bias follows that the layer could not absorb here; it may in another graph of the model.
        folded: name of the batch norm, or of the Mul, that is folded into it last.
        unfused_because: why the batch norm or Mul behind it, if there is one, is not folded into it.
        scale_w: one value or one per channel; None if an op of the graph computes it, or without weights.
        integers: int8 of the shape of the weights; None for those nearest to the weights.
        balance: the factors that move from its input to its weights, one per input channel; None without.
        result: once rewritten, the tensor that is the layer's output now.
        behind: once rewritten, the result in the type and form of `end`; None if it has these.
        behind_trail: once rewritten, what is in the place of the end of its trail; None without one.
        inserted: once rewritten, the ops that belong to the layer.
        clones: once rewritten, name of an original op -> name of its clone.
        bias_add: the BiasAdd right behind it that it absorbed, or None.
        joined: names of the layers, itself included, that absorb something jointly; mostly none.
        scale_w_tensor: in a calibration graph, the output of the op that finds its scale_w.
    """

    name: str
    op: tf.Operation
    row: OpType
    fuse: bool
    weights: Value | None
    weights_key: str
    bias: Value | None
    end: tf.Tensor
    absorbed: list[str]
    channel_axes: tuple[int, ...]
    bias_stays: bool = False
    folded: str | None = None
    unfused_because: str | None = None
    scale_w: FloatArray | None = None
    integers: npt.NDArray[np.int8] | None = None
    balance: FloatArray | None = None
    result: tf.Tensor | None = None
    behind: tf.Tensor | None = None
    behind_trail: tf.Tensor | None = None
    inserted: list[tf.Operation] = dataclasses.field(default_factory=list)
    clones: dict[str, str] = dataclasses.field(default_factory=dict)
    bias_add: tf.Operation | None = None
    trail: Trail | None = None
    joined: tuple[str, ...] = ()
    scale_w_tensor: tf.Tensor | None = None

    @classmethod
    def of(cls, found: FoundLayer, *, fuse: bool, channel_wise: bool) -> Layer:
        """Starts the plan of a layer as it is in the user's graph."""
        op, row = found.op, found.row
        weights = row.weights(op) if row.has_weights else None
        return cls(
            name=op.name,
            op=op,
            row=row,
            fuse=fuse,
            weights=None if weights is None else in_form_of_layer(row, op, value_of(weights)),
            weights_key="" if weights is None else f"{weights.name} {row.product or ''}",
            bias=None,
            end=op.outputs[0],
            absorbed=[op.name],
            channel_axes=row.channel_axes if channel_wise else (),
        )

    def unfused(self) -> Layer:
        """Returns the plan started anew, without the fusion of a batch norm."""
        found = FoundLayer(self.op, self.row, None)
        unfused = Layer.of(found, fuse=False, channel_wise=bool(self.channel_axes))
        unfused.balance = self.balance
        return unfused

    @property
    def scope(self) -> str:
        """The layer's name scope, with a trailing slash, or empty."""
        return scope_of(self.name)

    @property
    def data(self) -> tf.Tensor:
        """The tensor that the layer is applied to."""
        return self.op.inputs[self.row.data_input]

    def activations(self) -> list[Activation]:
        """Returns the inputs of its op that are quantized."""
        return [Activation(key, self.op, index, self.scope) for key, index in self.row.activations(self.name)]

    @property
    def data_format(self) -> str:
        """``NHWC`` or ``NCHW``."""
        return data_format(self.op)

    @property
    def channel_axis(self) -> int:
        """The axis of the channels in its data: 1 or the last."""
        return channel_axis(self.op)

    @property
    def channels(self) -> int:
        """The number of output channels; only for layers with weights."""
        return self.row.channels(self.op)

    def along_channels(self) -> list[int]:
        """Returns the shape in which one value per output channel broadcasts against the weights."""
        shape = self.row.weight_shape(self.op)
        return [size if axis in self.row.channel_axes else 1 for axis, size in enumerate(shape)]

    @property
    def wants_shift(self) -> bool:
        """Whether a calibration shall find the shift of its result, which must be that with the bias."""
        return self.row.shifts and not self.bias_stays

    @property
    def may_fuse(self) -> bool:
        """Whether a batch norm may be folded into it."""
        return self.fuse and self.row.takes_batch_norm

    @property
    def skips_fusion(self) -> bool:
        """Whether its record must say that a batch norm is not folded into it, for whatever reason."""
        return self.row.takes_batch_norm and (not self.fuse or self.unfused_because is not None)

    def output(self) -> tf.Tensor:
        """Returns `result` of a rewritten layer."""
        assert self.result is not None
        return self.result

    def stand_in(self) -> tf.Tensor:
        """Returns what is in the place of `end` once the layer is rewritten."""
        return self.output() if self.behind is None else self.behind


def in_form_of_layer(row: OpType, op: tf.Operation, value: Value) -> Value:
    """Returns the weights of an op, or what has their shape, in the form in which the layer has them."""
    if row.product is None:
        return value
    return reshape(transpose(value, row.product.other_order), row.weight_shape(op))


@dataclasses.dataclass(frozen=True)
class Activation:
    """An input of an op that is quantized: of a layer, or alone.

    Attributes:
        key: under which its factors stand in a record.
        op: the op.
        index: the input.
        scope: the op's name scope, with a trailing slash, or empty.
    """

    key: str
    op: tf.Operation
    index: int
    scope: str

    @classmethod
    def alone(cls, op: tf.Operation, index: int) -> Activation:
        """Returns an input of an op that is no layer."""
        return cls(tensor_key(op.name, index), op, index, scope_of(op.name))

    @property
    def data(self) -> tf.Tensor:
        """The tensor."""
        return self.op.inputs[self.index]

    def replace(self, tensor: tf.Tensor) -> None:
        """Feeds another tensor."""
        set_input(self.op, self.index, tensor)


@dataclasses.dataclass(frozen=True, eq=False)
class Trail:
    """What stands behind layers that have absorbed something behind ops that stay.

    Attributes:
        ops: the ops from the ends of the layers on, in order, absorbed or not.
        end: what the last of them, which is absorbed, puts out.
    """

    ops: tuple[tf.Operation, ...]
    end: tf.Tensor


@dataclasses.dataclass
class Workspace:
    """The graph under work.

    Attributes:
        graph: edited in place.
        layers: the layers being quantized, in graph order.
        outputs: names of ops whose results the user fetches.
        alone: inputs of other ops that are quantized.
        joint: keys of activations that get the same factors when they are calibrated, group by group.
        moved: for outputs that are no op of the deployed graph, the tensor that is the output now.
        clones: name of an original op that belongs to no layer -> name of its clone.
    """

    graph: tf.Graph
    layers: list[Layer]
    outputs: frozenset[str]
    alone: list[Activation] = dataclasses.field(default_factory=list)
    joint: list[list[str]] = dataclasses.field(default_factory=list)
    moved: dict[str, tf.Tensor] = dataclasses.field(default_factory=dict)
    clones: dict[str, str] = dataclasses.field(default_factory=dict)

    def is_output(self, tensor: tf.Tensor) -> bool:
        """Tells whether the user fetches the op of this tensor."""
        return tensor.op.name in self.outputs

    def is_fetched(self, tensor: tf.Tensor) -> bool:
        """Tells whether the user fetches this tensor of a deployed graph, under whatever name."""
        return self.is_output(tensor) or any(tensor.name == moved.name for moved in self.moved.values())

    def live(self) -> set[str]:
        """Returns the names of the ops that the outputs need, of a deployed graph."""
        return upstream(
            self.moved[name].op if name in self.moved else self.graph.get_operation_by_name(name)
            for name in self.outputs
        )

    def is_alone(self, op: tf.Operation) -> bool:
        """Tells whether an input of the op is quantized, which is no layer."""
        return any(activation.op.name == op.name for activation in self.alone)

    def activations(self) -> list[Activation]:
        """Returns all inputs that are quantized, those of layers first."""
        return [*(activation for layer in self.layers for activation in layer.activations()), *self.alone]

    def scope_for(self, layer: Layer | Activation, kind: str) -> str:
        """Reserves ``<scope>/<kind>``, or ``_1``, … and returns it with a trailing slash."""
        return unique_scope(self.graph, layer.scope + kind) + "/"
