"""A model as the commands read it: the graph, what to fetch from it, and what kind it is."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable

import tensorflow as tf

from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.files import similar_file
from amct_tensorflow.graph.ends import needed_inputs, only_natural_output, resolve_outputs
from amct_tensorflow.graph.model_file import import_graph, read_graph_def
from amct_tensorflow.inspect_model import model_kind, variables

# How files of other formats start.
_FORMATS = ((b"\x89HDF\r\n\x1a\n", "a Keras model in HDF5"), (b"PK\x03\x04", "a zip archive, such as a .keras model"))
FREEZE = "freeze it first, as docs/calibrate.md shows under 'Models that are not frozen .pb files'"


@dataclasses.dataclass(frozen=True)
class Model:
    """A graph and the tensors to fetch from it."""

    path: str
    graph: tf.Graph
    outputs: list[tf.Tensor]

    @classmethod
    def load(cls, path: str, names: list[str] | None) -> Model:
        """Reads a frozen model; without names, its outputs are the only op that nothing consumes.

        Raises:
            AmctValueError: it is no frozen model, or has other outputs.
        """
        check_file(path)
        graph = import_graph(read_graph_def(path), path)
        outputs = resolve_outputs(graph, names or [only_natural_output(graph, path)], path)
        refuse_inputs([tensor.name for tensor in outputs], [tensor.name for tensor in needed_inputs(graph, outputs)])
        loose = variables(graph, outputs)
        if loose:
            raise AmctValueError(f"{path} is not frozen, it has variables such as '{loose[0]}': {FREEZE}")
        return cls(path, graph, outputs)

    @property
    def output_names(self) -> list[str]:
        """The names of the outputs, ``op:0``."""
        return [tensor.name for tensor in self.outputs]

    @property
    def kind(self) -> str:
        """As in a `ModelReport`."""
        return model_kind(self.graph, self.outputs)


def check_file(path: str) -> None:
    """Raises `AmctValueError` if there is no such file, or one of a format that must be frozen first."""
    if not os.path.exists(path):
        hint = similar_file(path) or ": pass the path of a frozen .pb file"
        raise AmctValueError(f"the model {path} does not exist{hint}")
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    saved_model = os.path.join(folder, "saved_model.pb")
    if os.path.exists(saved_model) and (folder == path or os.path.samefile(path, saved_model)):
        raise AmctValueError(f"{path} is a SavedModel, not a frozen .pb file: {FREEZE}")
    if os.path.isfile(path):
        with open(path, "rb") as file:
            start = file.read(8)
        for magic, words in _FORMATS:
            if start.startswith(magic):
                raise AmctValueError(f"{path} is {words}, not a frozen .pb file: {FREEZE}")


def refuse_inputs(outputs: Iterable[str], inputs: Iterable[str]) -> None:
    """Raises `AmctValueError` for an output that is an input."""
    both = set(outputs) & set(inputs)
    if both:
        raise AmctValueError(f"output '{min(both)}' is an input of the model: name what is computed from it")
