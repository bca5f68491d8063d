"""The job load_graph."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from amct_tensorflow.arguments import check_types
from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.graph.ends import natural_outputs, resolve_outputs
from amct_tensorflow.graph.sources import MODEL_TYPES, ModelSource, name_of, read_model
from amct_tensorflow.graph.values import needed_variables


@check_types(model=MODEL_TYPES, signature=str)
def load_graph(model: ModelSource, signature: str | None = None) -> tf.Graph:
    """Returns a new frozen graph of a model, for create_quant_config and quantize_model.

    Weights are constants, function calls are inlined as far as TensorFlow does that, and layers compute as in
    inference. The same model always gives the same names and bytes, so that save_model may be given the model again.

    Args:
        model: path of a frozen .pb or .pbtxt, of a SavedModel folder, or of a .keras or .h5 file; or a Keras model, of
            Keras 3 or of tf_keras; or a frozen graph, which is copied.
        signature: the signature of a SavedModel; by default serving_default.

    Returns:
        The graph. A .pb or .pbtxt and a SavedModel of TensorFlow 1 keep the names of their nodes. In that of a
        SavedModel of TensorFlow 2, placeholders and output ops are called like the inputs and outputs of the signature.
        In that of a Keras model they are called like the keys where it takes or returns a dictionary; or else like its
        Input layers and the layers that its outputs come from; or else, in a subclassed model, input and output, or
        input_0, input_1, … and output_0, output_1, ….

    Raises:
        AmctTypeError: an argument is of another type.
        AmctValueError: the model cannot be read or frozen, exceeds 2 GB, has variables, or has no such signature.
    """
    graph = read_model(model, signature)
    refuse_variables(graph, resolve_outputs(graph, natural_outputs(graph), name_of(model)), name_of(model))
    return graph


def refuse_variables(graph: tf.Graph, outputs: Sequence[tf.Tensor], where: str) -> None:
    """Raises `AmctValueError` if the outputs need variables."""
    loose = needed_variables(graph, outputs)
    if loose:
        raise AmctValueError(f"{where} is not frozen, it has variables such as '{loose[0]}': {WITH_WEIGHTS}")


WITH_WEIGHTS = "give a SavedModel or a Keras file, which have the weights, too"
