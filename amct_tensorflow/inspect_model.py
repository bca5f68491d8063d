"""The job inspect_model: what can be quantized in a model, and why the rest cannot. It changes and writes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from amct_tensorflow.arguments import check_types, output_names
from amct_tensorflow.errors import AmctValueError, did_you_mean
from amct_tensorflow.graph.control_flow import ops_in_functions
from amct_tensorflow.graph.edit import upstream
from amct_tensorflow.graph.fake_quant import FAKE_QUANT_TYPES
from amct_tensorflow.graph.model_file import find_outputs, import_graph, read_graph_def
from amct_tensorflow.graph_passes.absorb_batch_norm import BATCH_NORMS
from amct_tensorflow.graph_passes.pipelines import plan_fusions
from amct_tensorflow.graph_passes.workspace import Layer, Workspace
from amct_tensorflow.layers import FoundLayer, find_layers, quantizable_types
from amct_tensorflow.ops import AMCT_OP_TYPES, CALIBRATION_OP_TYPES

Shape: TypeAlias = tuple[int | None, ...]

_INPUT_TYPES = ("Placeholder", "PlaceholderV2", "PlaceholderWithDefault")
# What nothing consumes either, but nobody means by the output of a model.
_NEVER_OUTPUTS = frozenset(
    (
        *_INPUT_TYPES,
        *("Const", "Assign", "AssignAdd", "AssignSub", "VarHandleOp", "Variable", "VariableV2"),
        *("ScalarSummary", "HistogramSummary", "ImageSummary", "MergeSummary"),
    )
)
_ASSERTION = "/AssertGuard/"  # the scope of a checked condition, in which TensorFlow passes it on
_MOST_LISTED = 20


@dataclasses.dataclass(frozen=True)
class InputReport:
    """A placeholder that the outputs need. `shape` is None if its rank is not known."""

    name: str
    shape: Shape | None
    dtype: str


@dataclasses.dataclass(frozen=True)
class LayerReport:
    """What is known of one layer.

    Attributes:
        name: the op's name, or ``<function>/<node>`` inside a function.
        op_type: its type.
        weight_shape: None for ops without weights, or where it is not known.
        output_shape: None if its rank is not known.
        quantized: whether it is quantized already, or being calibrated.
        reason: why it cannot be quantized; None if it can.
        batch_norm: the name of the batch norm that is folded into it, or None.
        unfused_because: why the batch norm behind it cannot be folded, or None.
    """

    name: str
    op_type: str
    weight_shape: Shape | None
    output_shape: Shape | None
    quantized: bool
    reason: str | None
    batch_norm: str | None = None
    unfused_because: str | None = None

    @property
    def quantizable(self) -> bool:
        """Whether quantize_model would quantize it."""
        return self.reason is None and not self.quantized


@dataclasses.dataclass(frozen=True)
class ModelReport:
    """What `inspect_model` finds.

    Attributes:
        model: the file.
        kind: ``float``, ``fake-quantized`` (convert it), ``calibration`` or ``quantized``.
        inputs: the placeholders that the outputs need.
        outputs: tensor names: those given, or all natural ones.
        layers: every op of a quantizable type, in graph order.
        op_count: the number of ops.
    """

    model: str
    kind: str
    inputs: tuple[InputReport, ...]
    outputs: tuple[str, ...]
    layers: tuple[LayerReport, ...]
    op_count: int


@check_types(pb_model=str)
def inspect_model(pb_model: str, outputs: list[str] | None = None) -> ModelReport:
    """Tells what can be quantized in a frozen model.

    Args:
        pb_model: the model: float, with fake-quant nodes, or quantized already.
        outputs: names of its output ops or tensors; by default all that nothing consumes.

    Raises:
        AmctTypeError, AmctValueError: the model cannot be read, or an output does not exist.
    """
    graph = import_graph(read_graph_def(pb_model), pb_model)
    if outputs is not None:
        output_names(outputs, argument="outputs")
    ends = resolve_outputs(graph, natural_outputs(graph) if outputs is None else outputs, pb_model)
    inputs = needed_inputs(graph, ends)
    return ModelReport(
        model=pb_model,
        kind=_kind(graph),
        inputs=tuple(InputReport(tensor.name, _shape(tensor), tensor.dtype.name) for tensor in inputs),
        outputs=tuple(tensor.name for tensor in ends),
        layers=(*_layers(graph, ends), *_layers_in_functions(graph)),
        op_count=len(graph.get_operations()),
    )


def natural_outputs(graph: tf.Graph) -> list[str]:
    """Returns the names of the ops that must be the model's outputs.

    These are the ops with a result that no other op uses as data, and that a placeholder leads to: not Const,
    Placeholder, NoOp, Assert, assignments, summaries and forgotten parameters.
    """
    ops = graph.get_operations()
    fed = _downstream(op for op in ops if op.type in _INPUT_TYPES)
    return [
        op.name
        for op in ops
        if op.outputs
        and op.type not in _NEVER_OUTPUTS
        and _ASSERTION not in op.name
        and not any(output.consumers() for output in op.outputs)
        and (not fed or op.name in fed)
    ]


def resolve_outputs(graph: tf.Graph, outputs: Sequence[str], where: str) -> list[tf.Tensor]:
    """Returns the tensors of the names, ``op`` or ``op:0``.

    Raises:
        AmctValueError: there is no such op in the graph, or it has no such output; names `where`.
    """
    tensors = []
    for output, op in zip(outputs, find_outputs(graph, outputs, where), strict=True):
        index = output.partition(":")[2] or "0"
        if not index.isdecimal() or int(index) >= len(op.outputs):
            raise AmctValueError(
                f"output '{output}' does not exist in {where}: op '{op.name}' has {len(op.outputs)} output(s), "
                "numbered from 0"
            )
        tensors.append(op.outputs[int(index)])
    return tensors


def only_natural_output(graph: tf.Graph, where: str) -> str:
    """Returns the model's output where there is no doubt which it is.

    Raises:
        AmctValueError: there is none, or several; lists them.
    """
    found = natural_outputs(graph)
    if len(found) == 1:
        return found[0]
    if not found:
        raise AmctValueError(f"{where} has no op that nothing consumes: name its outputs")
    listed = ";".join(f"{name}:0" for name in found[:_MOST_LISTED])
    more = f" and {len(found) - _MOST_LISTED} more" if len(found) > _MOST_LISTED else ""
    raise AmctValueError(f'{where} has {len(found)} ops that nothing consumes: name those you mean of "{listed}"{more}')


def needed_inputs(graph: tf.Graph, outputs: Iterable[tf.Tensor]) -> list[tf.Tensor]:
    """Returns the placeholders that the outputs need, in graph order."""
    needed = upstream(tensor.op for tensor in outputs)
    return [op.outputs[0] for op in graph.get_operations() if op.type in _INPUT_TYPES and op.name in needed]


def find_placeholder(graph: tf.Graph, name: str, where: str) -> tf.Tensor:
    """Returns the placeholder called ``name`` or ``name:0``.

    Raises:
        AmctValueError: the graph has none of that name; suggests the closest.
    """
    known = {op.name: op.outputs[0] for op in graph.get_operations() if op.type in _INPUT_TYPES}
    op_name = name.removesuffix(":0")
    if op_name not in known:
        listed = ", ".join(list(known)[:_MOST_LISTED]) or "none"
        hint = did_you_mean(op_name, known) or f": its inputs are {listed}"
        raise AmctValueError(f"input '{name}' does not exist in {where}{hint}")
    return known[op_name]


def _downstream(ops: Iterable[tf.Operation]) -> set[str]:
    found: set[str] = set()
    stack = list(ops)
    while stack:
        op = stack.pop()
        if op.name not in found:
            found.add(op.name)
            stack.extend(user for output in op.outputs for user in output.consumers())
    return found


def _kind(graph: tf.Graph) -> str:
    types = {op.type for op in graph.get_operations()}
    if types & set(CALIBRATION_OP_TYPES):
        return "calibration"
    if types & AMCT_OP_TYPES:
        return "quantized"
    return "fake-quantized" if types & set(FAKE_QUANT_TYPES) else "float"


def _shape(tensor: tf.Tensor) -> Shape | None:
    return None if tensor.shape.rank is None else tuple(tensor.shape.as_list())


def _layers(graph: tf.Graph, outputs: Sequence[tf.Tensor]) -> list[LayerReport]:
    found = list(find_layers(graph))
    workspace = Workspace(
        graph,
        [
            Layer.of(layer, fuse=True, channel_wise=layer.channel_wise)
            for layer in found
            if layer.reason is None and not _is_quantized(layer)
        ],
        frozenset(tensor.op.name for tensor in outputs),
    )
    plan_fusions(workspace)
    plans = {layer.name: layer for layer in workspace.layers}
    needed = upstream(tensor.op for tensor in outputs)
    return [_layer_report(layer, plans.get(layer.op.name), needed) for layer in found]


def _layer_report(found: FoundLayer, plan: Layer | None, needed: set[str]) -> LayerReport:
    op, row = found.op, found.row
    facts: dict[str, Any] = {
        "name": op.name,
        "op_type": op.type,
        "weight_shape": _shape(row.weights(op)) if row.has_weights else None,
        "output_shape": _shape(op.outputs[0]),
    }
    if plan is None:
        quantized = _is_quantized(found)
        return LayerReport(**facts, quantized=quantized, reason=None if quantized else _reason(found))
    folded = [name for name in plan.absorbed if op.graph.get_operation_by_name(name).type in BATCH_NORMS]
    return LayerReport(
        **facts,
        quantized=False,
        reason=None if op.name in needed else "the outputs do not need it",
        batch_norm=folded[0] if folded else None,
        unfused_because=plan.unfused_because,
    )


def _is_quantized(found: FoundLayer) -> bool:
    return any(tensor.op.type in AMCT_OP_TYPES for tensor in found.op.inputs)


def _reason(found: FoundLayer) -> str | None:
    if any(tensor.op.type in FAKE_QUANT_TYPES for tensor in found.op.inputs):
        return "it has fake-quant nodes: convert the model instead of calibrating it"
    return found.reason


def _layers_in_functions(graph: tf.Graph) -> list[LayerReport]:
    return [
        LayerReport(f"{function}/{node}", op_type, None, None, False, f"it is inside the function {function}")
        for function, node, op_type in ops_in_functions(graph, quantizable_types())
    ]
