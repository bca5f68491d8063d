"""A model as jobs of several rooms start from it: the graph, what to fetch from it, and what kind it is."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence

import tensorflow as tf

from amct_tensorflow.arguments import output_names
from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.graph import int8_ops
from amct_tensorflow.graph.ends import needed_inputs, only_natural_output, resolve_outputs
from amct_tensorflow.graph.fake_quant import FAKE_QUANT_TYPES
from amct_tensorflow.graph.sources import ModelSource, is_binary_graph, name_of, read_model
from amct_tensorflow.graph.values import needed_variables
from amct_tensorflow.load import refuse_variables
from amct_tensorflow.ops import AMCT_OP_TYPES, CALIBRATION_OP_TYPES


@dataclasses.dataclass(frozen=True)
class Model:
    """A graph and the tensors to fetch from it.

    Attributes:
        name: how messages call it: its path, if it has one.
        source: what other jobs are given for it: the path, or the frozen graph where reading it again would take long.
        graph: a graph of it that may be edited.
        outputs: the tensors.
    """

    name: str
    source: ModelSource
    graph: tf.Graph
    outputs: list[tf.Tensor]

    @classmethod
    def load(cls, model: ModelSource, names: Sequence[str] | None, signature: str | None = None) -> Model:
        """Reads a model; without names, its outputs are the only op that nothing consumes.

        Raises:
            AmctTypeError, AmctValueError: it cannot be read or frozen, or has other outputs.
        """
        where, source = name_of(model), source_of(model, signature)
        graph = read_model(source)
        wanted = [only_natural_output(graph, where)] if names is None else output_names(names, argument="outputs")
        outputs = resolve_outputs(graph, wanted, where)
        refuse_inputs([tensor.name for tensor in outputs], [tensor.name for tensor in needed_inputs(graph, outputs)])
        refuse_variables(graph, outputs, where)
        return cls(where, source, graph, outputs)

    def again(self) -> Model:
        """Returns the model in another graph."""
        graph = read_model(self.source)
        return dataclasses.replace(self, graph=graph, outputs=resolve_outputs(graph, self.output_names, self.name))

    @property
    def output_names(self) -> list[str]:
        """The names of the outputs, ``op:0``."""
        return [tensor.name for tensor in self.outputs]

    @property
    def kind(self) -> str:
        """As in a `ModelReport`."""
        return model_kind(self.graph, self.outputs)


def source_of(model: ModelSource, signature: str | None = None) -> ModelSource:
    """Returns what the jobs are given for a model.

    Raises:
        AmctValueError: it cannot be read or frozen.
    """
    if isinstance(model, tf.Graph) and signature is None:
        return model
    if isinstance(model, str) and signature is None and is_binary_graph(model):
        return model
    return read_model(model, signature)


def model_size(source: ModelSource) -> int:
    """Returns how many bytes the frozen .pb of a model has, or would have."""
    if isinstance(source, str):
        return os.path.getsize(source)
    return read_model(source).as_graph_def().ByteSize()


def refuse_inputs(outputs: Iterable[str], inputs: Iterable[str]) -> None:
    """Raises `AmctValueError` for an output that is an input."""
    both = set(outputs) & set(inputs)
    if both:
        raise AmctValueError(f"output '{min(both)}' is an input of the model: name what is computed from it")


def model_kind(graph: tf.Graph, outputs: Sequence[tf.Tensor]) -> str:
    """Returns the kind of a model, as `ModelReport` has it."""
    types = {op.type for op in graph.get_operations()}
    if types & set(CALIBRATION_OP_TYPES):
        return "calibration"
    if types & AMCT_OP_TYPES:
        return "quantized"
    if types & set(int8_ops.OP_TYPES):
        return "exported"
    if needed_variables(graph, outputs):
        return "not frozen"
    return "fake-quantized" if types & set(FAKE_QUANT_TYPES) else "float"
