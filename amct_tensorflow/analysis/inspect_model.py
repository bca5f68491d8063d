"""The job inspect_model: what can be quantized in a model, and why the rest cannot. It changes and writes nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeAlias

import tensorflow as tf

from amct_tensorflow.analysis.int8_facts import Int8Facts, Int8Input, inputs_alone, int8_facts
from amct_tensorflow.arguments import check_types, output_names
from amct_tensorflow.graph.control_flow import ops_in_functions
from amct_tensorflow.graph.edit import upstream
from amct_tensorflow.graph.ends import natural_outputs, needed_inputs, resolve_outputs
from amct_tensorflow.graph.fake_quant import FAKE_QUANT_TYPES
from amct_tensorflow.graph.sources import MODEL_TYPES, ModelSource, name_of, read_model
from amct_tensorflow.graph_passes.pipelines import plan_own_fusions
from amct_tensorflow.graph_passes.workspace import Layer, Workspace
from amct_tensorflow.layers import FoundLayer, find_layers, quantizable_types
from amct_tensorflow.model import model_kind
from amct_tensorflow.ops import AMCT_OP_TYPES

Shape: TypeAlias = tuple[int | None, ...]

NOT_NEEDED = "the outputs do not need it"
LEFT_FLOAT = "it was left float when the model was quantized"
FAKE_QUANTIZED = "it has fake-quant nodes: convert the model instead of calibrating it"


@dataclasses.dataclass(frozen=True)
class InputReport:
    """A placeholder that the outputs need. `shape` is None if its rank is not known."""

    name: str
    shape: Shape | None
    dtype: str
    has_default: bool = False


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
        facts: the factors of a quantized layer; None where they are not known.
    """

    name: str
    op_type: str
    weight_shape: Shape | None
    output_shape: Shape | None
    quantized: bool
    reason: str | None
    batch_norm: str | None = None
    unfused_because: str | None = None
    facts: Int8Facts | None = None

    @property
    def quantizable(self) -> bool:
        """Whether quantize_model would quantize it."""
        return self.reason is None and not self.quantized


@dataclasses.dataclass(frozen=True)
class ModelReport:
    """What `inspect_model` finds.

    Attributes:
        model: the file, or what the model is called.
        kind: ``float``, ``fake-quantized`` (convert it), ``not frozen``, ``calibration``, ``quantized``, or
            ``exported`` for TensorFlow's own int8 ops.
        inputs: the placeholders that the outputs need.
        outputs: tensor names: those given, or all natural ones.
        layers: every op of a quantizable type, in graph order.
        op_count: the number of ops.
        inputs_alone: (name, type, factors) of the ops of an int8 model that are no layers, but of which an input is
            quantized.
    """

    model: str
    kind: str
    inputs: tuple[InputReport, ...]
    outputs: tuple[str, ...]
    layers: tuple[LayerReport, ...]
    op_count: int
    inputs_alone: tuple[tuple[str, str, Int8Input], ...] = ()


@check_types(pb_model=MODEL_TYPES)
def inspect_model(pb_model: ModelSource, outputs: list[str] | None = None) -> ModelReport:
    """Tells what can be quantized in a model.

    Args:
        pb_model: the model, as `load_graph` takes it: float, with fake-quant nodes, or quantized already.
        outputs: names of its output ops or tensors; by default all that nothing consumes.

    Raises:
        AmctTypeError, AmctValueError: the model cannot be read, or an output does not exist.
    """
    graph, where = read_model(pb_model), name_of(pb_model)
    names = natural_outputs(graph) if outputs is None else output_names(outputs, argument="outputs")
    ends = resolve_outputs(graph, names, where)
    inputs = needed_inputs(graph, ends)
    return ModelReport(
        model=where,
        kind=model_kind(graph, ends),
        inputs=tuple(map(_input_report, inputs)),
        outputs=tuple(tensor.name for tensor in ends),
        layers=(*_layers(graph, ends), *_layers_in_functions(graph)),
        op_count=len(graph.get_operations()),
        inputs_alone=tuple(inputs_alone(graph)),
    )


def _input_report(tensor: tf.Tensor) -> InputReport:
    return InputReport(tensor.name, _shape(tensor), tensor.dtype.name, tensor.op.type == "PlaceholderWithDefault")


def _shape(tensor: tf.Tensor) -> Shape | None:
    return None if tensor.shape.rank is None else tuple(tensor.shape.as_list())


def _layers(graph: tf.Graph, outputs: Sequence[tf.Tensor]) -> list[LayerReport]:
    found = list(find_layers(graph))
    workspace = Workspace(
        graph,
        [
            Layer.of(layer, fuse=True, channel_wise=layer.channel_wise)
            for layer in found
            if layer.reason is None and not _is_quantized(layer) and not _is_fake_quantized(layer)
        ],
        frozenset(tensor.op.name for tensor in outputs),
    )
    plan_own_fusions(workspace)
    plans = {layer.name: layer for layer in workspace.layers}
    needed = upstream(tensor.op for tensor in outputs)
    facts = int8_facts(graph)
    is_int8 = model_kind(graph, outputs) == "quantized"
    reports = [_layer_report(layer, plans.get(layer.op.name), needed) for layer in found]
    return [
        dataclasses.replace(
            report,
            facts=facts.get(report.name),
            reason=LEFT_FLOAT if is_int8 and report.quantizable else report.reason,
        )
        for report in reports
    ]


def _layer_report(found: FoundLayer, plan: Layer | None, needed: set[str]) -> LayerReport:
    op, row = found.op, found.row
    unneeded = None if op.name in needed else NOT_NEEDED
    facts: dict[str, Any] = {
        "name": op.name,
        "op_type": op.type,
        "weight_shape": _shape(row.weights(op)) if row.has_weights else None,
        "output_shape": _shape(op.outputs[0]),
    }
    if plan is None:
        quantized = _is_quantized(found)
        return LayerReport(**facts, quantized=quantized, reason=None if quantized else unneeded or _reason(found))
    return LayerReport(
        **facts,
        quantized=False,
        reason=unneeded,
        batch_norm=plan.folded,
        unfused_because=plan.unfused_because,
    )


def _is_quantized(found: FoundLayer) -> bool:
    return any(tensor.op.type in AMCT_OP_TYPES for tensor in found.op.inputs)


def _is_fake_quantized(found: FoundLayer) -> bool:
    return any(tensor.op.type in FAKE_QUANT_TYPES for tensor in found.op.inputs)


def _reason(found: FoundLayer) -> str | None:
    return FAKE_QUANTIZED if _is_fake_quantized(found) else found.reason


def _layers_in_functions(graph: tf.Graph) -> list[LayerReport]:
    return [
        LayerReport(f"{function}/{node}", op_type, None, None, False, f"it is inside the function {function}")
        for function, node, op_type in ops_in_functions(graph, quantizable_types())
    ]
