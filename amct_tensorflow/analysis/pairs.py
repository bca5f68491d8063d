"""Two models of one network in one graph: what the tensors of their layers and outputs differ by."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Container, Sequence
from typing import Any

import tensorflow as tf

from amct_tensorflow.analysis.differences import sums_of
from amct_tensorflow.arguments import output_names
from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.fusion_info import FusedLayer, read_fusion_info
from amct_tensorflow.graph.edit import add_control_input, at_root, downstream, topological_order, upstream
from amct_tensorflow.graph.ends import INPUT_TYPES, find_placeholder, natural_outputs, needed_inputs, resolve_outputs
from amct_tensorflow.graph.side_by_side import Part, import_beside, part_before
from amct_tensorflow.graph.sources import ModelSource, name_of, read_model
from amct_tensorflow.graph_passes.planning.find_deployed import integer_tensors
from amct_tensorflow.log import LOGGER
from amct_tensorflow.ops import AMCT_OP_TYPES

_SECOND, _OWN = "second", "own"  # scopes, made unique
_ENDING = "quantized.pb"
# How many layers of the first model may be ahead of what has been compared.
_AHEAD = 2
# Reals in steps are clipped where they would be rounded to what int8 does not have.
_BEYOND = (-128.5, 127.5)


@dataclasses.dataclass(frozen=True)
class LayerPair:
    """A quantized layer of the second model.

    Attributes:
        name: its name.
        op_type: its type.
        reference: what the first model has in the place of its result.
        own: `sums_of` what it computes of the first model's tensors.
        accumulated: `sums_of` what it computes in its model.
        clipped: how many values of its inputs are beyond the int8 range, and how many there are, float64 [2].
    """

    name: str
    op_type: str
    reference: tf.Tensor
    own: tf.Tensor
    accumulated: tf.Tensor
    clipped: tf.Tensor


@dataclasses.dataclass(frozen=True)
class OutputPair:
    """An output of both models.

    Attributes:
        reference: that of the first.
        sums: `sums_of` that of the second.
        same: how many samples have the same largest score, and how many there are, float64 [2]; None if it has none.
    """

    reference: tf.Tensor
    sums: tf.Tensor
    same: tf.Tensor | None


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Both models.

    Attributes:
        name: how messages call the first model.
        graph: the graph of both; fed as the first model.
        inputs: the placeholders that its outputs need.
        layers: in the order in which they run.
        outputs: in the order that was asked for.
    """

    name: str
    graph: tf.Graph
    inputs: list[tf.Tensor]
    layers: list[LayerPair]
    outputs: list[OutputPair]


def pair_models(first: ModelSource, second: str, outputs: Sequence[Any] | None) -> Pairs:
    """Puts both models into one graph; `second` is the path of an int8 model.

    Raises:
        AmctTypeError, AmctValueError: a model or the outputs cannot be used, or the models do not belong together.
        AmctRuntimeError: the mapping of the nodes of an int8 model is missing or damaged.
    """
    where = name_of(first)
    graph, other = read_model(first), read_model(second)
    names = natural_outputs(other) if outputs is None else output_names(outputs, argument="outputs")
    resolve_outputs(other, names, second)
    ends = _numbers(resolve_outputs(graph, names, where), are_named=outputs is not None)
    reference = _Reference.of(first, graph)
    layers = reference.known(read_fusion_info(mapping_path(second)), second)
    fed = {tensor.name: find_placeholder(graph, tensor.op.name, where) for tensor in _placeholders(other)}
    scope = graph.unique_name(_SECOND, mark_as_used=False)
    import_beside(graph, other, scope, fed)
    pairing = _Pairing(graph, scope, reference, layers, second)
    with at_root(graph):
        paired = pairing.pair(upstream(tensor.op for tensor in ends))
        compared = [_output(end, graph.get_tensor_by_name(f"{scope}/{end.name}")) for end in ends]
    return Pairs(where, graph, needed_inputs(graph, ends), paired, compared)


def _numbers(ends: Sequence[tf.Tensor], *, are_named: bool) -> list[tf.Tensor]:
    """Returns those of numbers; all must be that if the user named them."""
    others = [end for end in ends if not (end.dtype.is_floating or end.dtype.is_integer or end.dtype.is_bool)]
    found = [end for end in ends if end.dtype not in [other.dtype for other in others]]
    if others and (are_named or not found):
        end = others[0]
        raise AmctValueError(f"output '{end.name}' is of {end.dtype.name}, and cannot be compared: name others")
    return found


def mapping_path(quantized_model: str) -> str:
    """Returns the path of the file that maps the nodes of an int8 model.

    Raises:
        AmctValueError: the path is not that of an int8 model.
    """
    if not quantized_model.endswith(_ENDING):
        raise AmctValueError(
            f"{quantized_model} is not called …quantized.pb: pass the int8 model, with its …quant.json beside it"
        )
    return quantized_model.removesuffix(_ENDING) + "quant.json"


class _Reference:
    """The first model: what it has in the place of the tensors of the second, by the names of the float model's."""

    def __init__(self, graph: tf.Graph, where: str, layers: Sequence[FusedLayer]) -> None:
        self._graph, self._where = graph, where
        self._moved = {layer.origin: f"{layer.end}:0" for layer in layers}
        self._integers = integer_tensors(graph)

    @classmethod
    def of(cls, model: ModelSource, graph: tf.Graph) -> _Reference:
        """Returns that of a model, whose mapping is read if it is an int8 model."""
        where = name_of(model)
        if not any(op.type in AMCT_OP_TYPES for op in graph.get_operations()):
            return cls(graph, where, [])
        if not isinstance(model, str):
            raise AmctValueError(f"{where} is an int8 model: pass its path, with its …quant.json beside it")
        return cls(graph, where, read_fusion_info(mapping_path(model)))

    def known(self, layers: Sequence[FusedLayer], second: str) -> list[FusedLayer]:
        """Returns the layers whose results it has.

        Raises:
            AmctValueError: a float model lacks one, or an int8 model all.
        """
        origins = {layer.origin: self.tensor(layer.origin) is not None for layer in layers}
        found = [layer for layer in layers if origins[layer.origin]]
        missing = [origin for origin, is_there in origins.items() if not is_there]
        if missing and (not self._moved or not found):
            raise AmctValueError(
                f"{second} was not made of {self._where}, which has no '{missing[0]}': pass the model that it was "
                "made of"
            )
        return found

    def tensor(self, name: str) -> tf.Tensor | None:
        """Returns the tensor of reals of a name, or None."""
        try:
            tensor = self._graph.get_tensor_by_name(self._moved.get(name, name))
        except (KeyError, ValueError):
            return None
        return None if tensor.name in self._integers else tensor


class _Pairing:
    """Finds and compares what both models compute; the second is in the graph of the first."""

    def __init__(
        self, graph: tf.Graph, scope: str, reference: _Reference, layers: Sequence[FusedLayer], second: str
    ) -> None:
        self._graph, self._scope, self._reference, self._second = graph, scope, reference, second
        self._own = graph.unique_name(_OWN)
        self._integers = integer_tensors(graph)
        self._fed = downstream(op for op in graph.get_operations() if op.type in INPUT_TYPES)
        self._order = topological_order(graph)
        self._of_layers = {f"{scope}/{node}" for layer in layers for node in layer.nodes}
        self._layers: dict[str, list[FusedLayer]] = {}  # by their end, which those that a Concat joins have in common
        for layer in layers:
            self._layers.setdefault(self._end(layer), []).append(layer)

    def _end(self, layer: FusedLayer) -> str:
        name = f"{self._scope}/{layer.end}"
        try:
            return str(self._graph.get_operation_by_name(name).outputs[0].name)
        except KeyError as error:
            raise AmctValueError(
                f"{mapping_path(self._second)} does not belong to {self._second}, which has no '{layer.end}': keep "
                "the two files of one save_path together"
            ) from error

    def pair(self, needed: Container[str]) -> list[LayerPair]:
        """Returns the layers whose counterparts are `needed`, by the names of their ops, in the order of the second."""
        pairs: list[LayerPair] = []
        compared: list[tuple[LayerPair, Part]] = []
        ends = [self._graph.get_tensor_by_name(name) for name in self._layers]
        for end in sorted(ends, key=lambda tensor: self._order[tensor.op.name]):
            layers = self._layers[end.name]
            reference = self._reference.tensor(layers[0].origin)
            assert reference is not None
            if not reference.shape.is_compatible_with(end.shape):
                LOGGER.push_info_message(
                    f"{layers[0].name} is not compared: its result has the shape {end.shape}, and {reference.name}, "
                    f"which it should stand for, {reference.shape}",
                    "compare_models",
                )
            elif reference.op.name in needed:
                part = part_before(end, self._counterpart, self._fed, self._order)
                own = part.on_counterparts(self._own)
                figures = *(sums_of(reference, tensor) for tensor in (own, end)), _clipped(part)
                pairs += [LayerPair(layer.name, self._type_of(layer), reference, *figures) for layer in layers]
                compared.append((pairs[-1], part))
        self._keep_in_step(compared)
        return pairs

    def _type_of(self, layer: FusedLayer) -> str:
        for name in (layer.name, f"{self._scope}/{layer.name}"):
            with contextlib.suppress(KeyError):
                return str(self._graph.get_operation_by_name(name).type)
        return "?"

    def _counterpart(self, tensor: tf.Tensor) -> tf.Tensor | None:
        """Returns the tensor of the first model that one of the second stands for, or None."""
        if not tensor.name.startswith(f"{self._scope}/"):
            return tensor  # the second reads it
        if tensor.name in self._layers:
            return self._reference.tensor(self._layers[tensor.name][0].origin)
        if tensor.name in self._integers or tensor.op.name not in self._fed or tensor.op.name in self._of_layers:
            return None
        other = self._reference.tensor(tensor.name.removeprefix(f"{self._scope}/"))
        return None if other is None or other.dtype != tensor.dtype else other

    def _keep_in_step(self, compared: Sequence[tuple[LayerPair, Part]]) -> None:
        """Lets both models compute a layer only when what is a few layers before it has been compared.

        Else one of them would run ahead, and its results would all wait for those of the other. No wait goes in a
        circle: what is compared with a layer, or before, is never behind a layer that is behind all this in
        topological order.
        """
        latest = 0
        for (pair, part), (later, later_part) in zip(compared, compared[_AHEAD:], strict=False):
            read = [*part.reads.values(), pair.reference]
            latest = max(latest, *(self._order[tensor.op.name] for tensor in read))
            waiting = [later_part.end.op]
            if self._order[later.reference.op.name] > latest:
                waiting.append(later.reference.op)
            for op in waiting:
                for before in (pair.own, pair.accumulated):
                    add_control_input(op, before.op)


def _placeholders(graph: tf.Graph) -> list[tf.Tensor]:
    return [op.outputs[0] for op in graph.get_operations() if op.type in INPUT_TYPES]


def _clipped(part: Part) -> tf.Tensor:
    """Counts the values that the AscendQuants of a part clip, and all that they read."""
    clipped, total = [tf.zeros([], tf.int64)], [tf.zeros([], tf.int64)]
    for op in part.ops:
        if op.type == "AscendQuant":
            values = tf.cast(op.inputs[0], tf.float32) * op.get_attr("scale") + op.get_attr("offset")
            beyond = tf.logical_or(values >= _BEYOND[1], values < _BEYOND[0])
            clipped.append(tf.math.count_nonzero(beyond))
            total.append(tf.size(values, out_type=tf.int64))
    return tf.cast(tf.stack([tf.add_n(clipped), tf.add_n(total)]), tf.float64)


def _output(reference: tf.Tensor, other: tf.Tensor) -> OutputPair:
    same = None
    if reference.shape.rank == 2 and reference.shape[1] != 1 and reference.dtype.is_floating:
        agree = tf.equal(tf.argmax(reference, 1), tf.argmax(other, 1))
        counts = [tf.math.count_nonzero(agree), tf.size(agree, out_type=tf.int64)]
        same = tf.cast(tf.stack(counts), tf.float64)
    return OutputPair(reference, sums_of(reference, other), same)
