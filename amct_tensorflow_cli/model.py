"""A model as the commands read it: the graph, what to fetch from it, and what kind it is."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable

import tensorflow as tf

from amct_tensorflow.analysis.inspect_model import model_kind
from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.graph.ends import needed_inputs, only_natural_output, resolve_outputs
from amct_tensorflow.graph.sources import ModelSource, is_binary_graph, read_model
from amct_tensorflow.load import refuse_variables


@dataclasses.dataclass(frozen=True)
class Model:
    """A graph and the tensors to fetch from it.

    Attributes:
        path: where it was read.
        source: what the jobs are given for it: the path, or the frozen graph where reading it again would take long.
        graph: a graph of it that may be edited.
        outputs: the tensors.
    """

    path: str
    source: ModelSource
    graph: tf.Graph
    outputs: list[tf.Tensor]

    @classmethod
    def load(cls, path: str, names: list[str] | None, signature: str | None) -> Model:
        """Reads a model; without names, its outputs are the only op that nothing consumes.

        Raises:
            AmctValueError: it cannot be read or frozen, or has other outputs.
        """
        source = source_of(path, signature)
        graph = read_model(source)
        outputs = resolve_outputs(graph, names or [only_natural_output(graph, path)], path)
        refuse_inputs([tensor.name for tensor in outputs], [tensor.name for tensor in needed_inputs(graph, outputs)])
        refuse_variables(graph, outputs, path)
        return cls(path, source, graph, outputs)

    def again(self) -> Model:
        """Returns the model in another graph."""
        graph = read_model(self.source)
        return dataclasses.replace(self, graph=graph, outputs=resolve_outputs(graph, self.output_names, self.path))

    @property
    def output_names(self) -> list[str]:
        """The names of the outputs, ``op:0``."""
        return [tensor.name for tensor in self.outputs]

    @property
    def kind(self) -> str:
        """As in a `ModelReport`."""
        return model_kind(self.graph, self.outputs)

    @property
    def size(self) -> int:
        """The size of its frozen .pb."""
        if isinstance(self.source, tf.Graph):
            return self.source.as_graph_def().ByteSize()
        return os.path.getsize(self.path)


def source_of(path: str, signature: str | None) -> ModelSource:
    """Returns what the jobs are given for a model.

    Raises:
        AmctValueError: it cannot be read or frozen.
    """
    return path if signature is None and is_binary_graph(path) else read_model(path, signature)


def refuse_inputs(outputs: Iterable[str], inputs: Iterable[str]) -> None:
    """Raises `AmctValueError` for an output that is an input."""
    both = set(outputs) & set(inputs)
    if both:
        raise AmctValueError(f"output '{min(both)}' is an input of the model: name what is computed from it")
