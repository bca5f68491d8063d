"""The calibration data of a model, checked against its placeholders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from amct_tensorflow.data import CalibrationData, InputSpec, Preprocessing, input_specs
from amct_tensorflow.data.inputs import check_against, check_complete, specs_from_shapes
from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.graph.ends import find_placeholder, needed_inputs
from amct_tensorflow_cli.values import check_entries


def open_data(
    graph: tf.Graph,
    outputs: Sequence[tf.Tensor],
    *,
    model: str,
    paths: Sequence[str],
    input_shape: Mapping[str, Sequence[int]] | None,
    data_types: Sequence[str] | None,
    preprocessing: Preprocessing,
) -> CalibrationData:
    """Opens the data; the inputs are those of `input_shape`, or else the placeholders that the outputs need.

    Raises:
        UsageError: there are more or fewer paths than inputs.
        AmctTypeError, AmctValueError: names, shapes, types or files do not fit the model or one another.
    """
    needed = needed_inputs(graph, outputs)
    if input_shape is None:
        tensors = [tensor for tensor in needed if tensor.op.type != "PlaceholderWithDefault"]
        if not tensors:
            raise AmctValueError(f"{model} has no input that its outputs need: name other outputs")
        specs = input_specs(tensors, data_types, preprocessing.size)
    else:
        tensors = [find_placeholder(graph, name, model) for name in input_shape]
        shapes = {tensor.name: shape for tensor, shape in zip(tensors, input_shape.values(), strict=True)}
        for tensor in tensors:
            check_against(tensor, shapes[tensor.name])
        check_complete(list(shapes), needed)
        specs = specs_from_shapes(
            shapes, [tensor.dtype.name for tensor in tensors] if data_types is None else data_types
        )
    check_entries("data_dir", len(paths), [spec.name for spec in specs])
    for tensor, spec in zip(tensors, specs, strict=True):
        _check_type(tensor, spec)
    return CalibrationData(specs, paths, preprocessing)


def _check_type(tensor: tf.Tensor, spec: InputSpec) -> None:
    if not np.can_cast(spec.dtype.as_numpy_dtype, tensor.dtype.as_numpy_dtype, "same_kind"):
        raise AmctValueError(
            f"data_types gives {spec.dtype.name} for '{tensor.name}', which takes {tensor.dtype.name}: correct it"
        )
