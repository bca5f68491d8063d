"""What a job knows of the layers of a graph before it starts, and the lines it prints of them at its end."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Container, Iterator, Mapping

import tensorflow as tf

from amct_tensorflow.config import LayerTraits
from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.graph.control_flow import ops_in_functions
from amct_tensorflow.graph_passes.workspace import Workspace
from amct_tensorflow.layers import FoundLayer, Surroundings, find_layers, quantizable_types, reason_against_tensor
from amct_tensorflow.log import LOGGER
from amct_tensorflow.ops import AMCT_OP_TYPES


def refuse_quantized(graph: tf.Graph) -> None:
    """Raises `AmctValueError` if the graph has quantization ops already."""
    present = sorted({op.type for op in graph.get_operations()} & AMCT_OP_TYPES)
    if present:
        raise AmctValueError(
            f"the graph is already quantized, it contains {', '.join(present)}: start from the float model"
        )


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a layer.

    Attributes:
        name: the op's name, or ``<function>/<node>`` inside a function.
        op_type: its type.
        reason: why it is left in float, in words; None if it is quantized.
        is_remarkable: whether a warning is due: it cannot be quantized, and something can be done about it.
    """

    name: str
    op_type: str
    reason: str | None
    is_remarkable: bool = False


@dataclasses.dataclass(frozen=True)
class Inventory:
    """The ops of the table that a graph has, quantizable or not, by name and in graph order."""

    graph: tf.Graph
    layers: dict[str, FoundLayer]
    around: Surroundings

    @classmethod
    def of(cls, graph: tf.Graph) -> Inventory:
        """Takes the inventory.

        Raises:
            AmctValueError: the graph has quantization ops already.
        """
        refuse_quantized(graph)
        around = Surroundings.of(graph)
        return cls(graph, {found.op.name: found for found in find_layers(graph, around)}, around)

    @functools.cached_property
    def traits(self) -> dict[str, LayerTraits]:
        """The quantizable layers, as the configuration sees them."""
        return {name: _traits(found) for name, found in self.layers.items() if found.reason is None}

    @functools.cached_property
    def reasons(self) -> dict[str, str]:
        """Why the others are not quantizable."""
        reasons = {name: found.reason for name, found in self.layers.items() if found.reason is not None}
        return reasons | {label: reason for _, label, reason in self._in_functions}

    def keys(self, name: str) -> list[str]:
        """Returns the keys of a layer's entries in a record."""
        return [key for key, _ in self.layers[name].row.activations(name)]

    def reason_against_tensor(self, name: str, index: int) -> str | None:
        """Returns why an input of an op of the graph cannot be quantized alone, in words, or None."""
        return reason_against_tensor(self.graph.get_operation_by_name(name), index, self.around)

    @functools.cached_property
    def _in_functions(self) -> list[tuple[str, str, str]]:
        """(op type, name, reason) of the layers inside functions, which are out of reach."""
        return [
            (op_type, f"{function}/{node}", f"it is inside the function {function}")
            for function, node, op_type in ops_in_functions(self.graph, quantizable_types())
        ]

    @functools.cached_property
    def all_ops(self) -> frozenset[str]:
        """The names of all ops of the graph."""
        return frozenset(op.name for op in self.graph.get_operations())

    def report(
        self,
        workspace: Workspace,
        left: Mapping[str, str],
        module: str,
        *,
        failed: Container[str] = (),
        unneeded: Container[str] = (),
        notes: Mapping[str, str] | None = None,
    ) -> list[Outcome]:
        """Logs one line per layer, quantized, or left float and why, and returns what became of each.

        Args:
            workspace: with what is quantized.
            left: the reasons of quantizable layers that are not among them.
            module: the job, for the lines.
            failed: names of those of `left` that cannot be quantized.
            unneeded: names of layers that the outputs do not need.
            notes: what else is to be said of layers that are quantized, by name.
        """
        quantized = {layer.name: layer for layer in workspace.layers}
        outcomes = list(self._outcomes(quantized, left, failed, unneeded))
        for outcome in outcomes:
            label = f"{outcome.op_type} {outcome.name}"
            if outcome.reason is None:
                more = filter(None, (quantized[outcome.name].unfused_because, (notes or {}).get(outcome.name)))
                LOGGER.push_info_message("; ".join([f"{label}: quantized", *more]), module)
            else:
                push = LOGGER.push_warning_message if outcome.is_remarkable else LOGGER.push_info_message
                push(f"{label}: left float because {outcome.reason}", module)
        for activation in workspace.alone:
            op = activation.op
            LOGGER.push_info_message(f"{op.type} {op.name}: input {activation.index} is quantized", module)
        LOGGER.push_info_message(f"{len(quantized)} of {len(outcomes)} layers are quantized", module)
        return outcomes

    def _outcomes(
        self, quantized: Container[str], left: Mapping[str, str], failed: Container[str], unneeded: Container[str]
    ) -> Iterator[Outcome]:
        for name, found in self.layers.items():
            if name in quantized:
                yield Outcome(name, found.op.type, None)
            elif name in unneeded:
                yield Outcome(name, found.op.type, "the outputs do not need it")
            else:
                remarkable = (found.reason is not None and not found.out_of_reach) or name in failed
                yield Outcome(name, found.op.type, found.reason or left[name], remarkable)
        for op_type, name, reason in self._in_functions:
            yield Outcome(name, op_type, reason)


def _traits(found: FoundLayer) -> LayerTraits:
    return LayerTraits(
        op_type=found.op.type,
        has_weights=found.row.has_weights,
        channel_wise=found.channel_wise,
        fusable=found.row.takes_batch_norm,
        symmetric=found.row.symmetric,
        one_scale=found.one_scale,
    )
