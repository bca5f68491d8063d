"""Which pass runs in which order for which job."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from amct_tensorflow.config import QuantConfig
from amct_tensorflow.errors import AmctRuntimeError, AmctValueError
from amct_tensorflow.graph.values import Deferred, materialize
from amct_tensorflow.graph_passes.absorb_batch_norm import absorb_batch_norm
from amct_tensorflow.graph_passes.absorb_bias import absorb_bias
from amct_tensorflow.graph_passes.calibrate_weights import FakeQuantizedWeights, find_weight_scales
from amct_tensorflow.graph_passes.deploy_activations import insert_ascend_quant
from amct_tensorflow.graph_passes.deploy_parameters import (
    Int8Weights,
    check_weights_fit,
    integer_bias,
    quantized_bias,
)
from amct_tensorflow.graph_passes.deploy_results import insert_ascend_dequant
from amct_tensorflow.graph_passes.hold_outputs import hold_outputs
from amct_tensorflow.graph_passes.calibrate_activations import calibrate_activations
from amct_tensorflow.graph_passes.insert_search_n import insert_search_n
from amct_tensorflow.graph_passes.rewrite_layers import rewrite_layers
from amct_tensorflow.graph_passes.workspace import Layer, Workspace
from amct_tensorflow.ops import RecordBook
from amct_tensorflow.record import LayerRecord


def plan_fusions(workspace: Workspace) -> None:
    """Lets the layers absorb what stands behind them; changes nothing in the graph."""
    absorb_bias(workspace)  # before the batch norms: one behind a bias is then found
    absorb_batch_norm(workspace)


def plan_calibration(workspace: Workspace) -> None:
    """Plans the calibration graph; raises where a layer cannot be calibrated, the graph being untouched."""
    plan_fusions(workspace)
    find_weight_scales(workspace)


def perform_calibration(workspace: Workspace, config: QuantConfig, book: RecordBook) -> None:
    """Turns the graph into the calibration graph."""
    rewrite_layers(workspace, FakeQuantizedWeights(book), _float_bias)
    params = {name: layer.activation for name, layer in config.layers.items()}
    calibrate_activations(workspace, book, config.batch_num, params)
    if config.shift_n:
        insert_search_n(workspace, book, config.batch_num)  # needs the scales of the activations
    hold_outputs(workspace)  # needs the final result of each layer


def plan_deployment(workspace: Workspace, records: Mapping[str, LayerRecord]) -> None:
    """Plans the deployed graph; raises where a layer cannot be deployed."""
    plan_fusions(workspace)
    for layer in workspace.layers:
        if layer.unfused_because is not None:  # the scales are those of weights with the batch norm
            raise AmctRuntimeError(
                f"layer {layer.name} was calibrated with its batch norm folded in, but {layer.unfused_because}. "
                "Calibrate the model that is saved, with the same outputs (calib_outputs of quantize_model)"
            )
        layer.scale_w = np.array(records[layer.name].scale_w or [1.0], np.float32)
        if layer.scale_w.size == 1:
            layer.channel_axes = ()
        if isinstance(layer.weights, Deferred) or isinstance(layer.bias, Deferred):
            raise AmctValueError(
                f"layer {layer.name} gets its parameters from variables: freeze the model, for example with "
                "convert_variables_to_constants_v2"
            )
        if isinstance(layer.weights, np.ndarray):
            check_weights_fit(layer, layer.weights)
        if layer.bias is not None:
            quantized_bias(layer, records[layer.name])  # raises before anything is done


def perform_deployment(workspace: Workspace, records: Mapping[str, LayerRecord]) -> None:
    """Turns the graph into the deployed graph."""
    rewrite_layers(workspace, Int8Weights(), functools.partial(integer_bias, records))
    insert_ascend_quant(workspace, records)
    insert_ascend_dequant(workspace, records)  # behind the bias that the rewriting left


def _float_bias(workspace: Workspace, layer: Layer) -> tf.Tensor:
    assert layer.bias is not None
    return materialize(workspace.graph, layer.bias, workspace.scope_for(layer, "bias_add") + "bias")
