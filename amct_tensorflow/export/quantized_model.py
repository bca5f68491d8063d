"""The int8 model that an export starts from."""

from __future__ import annotations

import dataclasses

import tensorflow as tf

from amct_tensorflow.arguments import output_names
from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.graph.edit import upstream
from amct_tensorflow.graph.ends import natural_outputs, needed_inputs, resolve_outputs
from amct_tensorflow.graph.sources import ModelSource, name_of, read_model
from amct_tensorflow.graph_passes.planning.find_deployed import DeployedLayer, find_deployed, integer_tensors


@dataclasses.dataclass(frozen=True)
class QuantizedModel:
    """An int8 model in a graph of its own that a job may edit.

    Attributes:
        name: how messages call it: its path, if it has one.
        graph: its graph.
        inputs: the placeholders that the outputs need.
        outputs: the tensors that are its outputs.
        layers: its quantized layers that the outputs need.
    """

    name: str
    graph: tf.Graph
    inputs: list[tf.Tensor]
    outputs: list[tf.Tensor]
    layers: list[DeployedLayer]

    @classmethod
    def load(cls, model: ModelSource, outputs: list[str] | None) -> QuantizedModel:
        """Loads the model; without `outputs`, these are all that nothing consumes.

        Raises:
            AmctTypeError, AmctValueError: the model or the outputs cannot be used, or it is no int8 model of this
                package.
        """
        graph, where = read_model(model), name_of(model)
        names = natural_outputs(graph) if outputs is None else output_names(outputs, argument="outputs")
        ends = resolve_outputs(graph, names, where)
        layers = find_deployed(graph, upstream(tensor.op for tensor in ends))
        if not layers:
            raise AmctValueError(
                f"{where} has no int8 layer that its outputs need: pass the <save_path>_quantized.pb that save_model "
                "or convert_model wrote, and outputs behind its layers"
            )
        integers = integer_tensors(graph)
        inside = [end.name for end in ends if end.name in integers]
        if inside:
            raise AmctValueError(
                f"output '{inside[0]}' of {where} is inside a quantized layer, where integers are: name what is behind "
                "it, such as its AscendDequant"
            )
        return cls(where, graph, needed_inputs(graph, ends), ends, layers)
