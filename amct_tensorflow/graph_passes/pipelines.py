"""Which pass runs in which order for which job."""

from __future__ import annotations

import functools
from collections.abc import Collection, Container, Mapping, Sequence

import numpy as np
import tensorflow as tf

from amct_tensorflow.config import ActivationParams, QuantConfig, default_activation
from amct_tensorflow.errors import AmctRuntimeError, AmctValueError
from amct_tensorflow.graph.fake_quant import FakeQuant
from amct_tensorflow.graph.values import Deferred, materialize
from amct_tensorflow.graph_passes.balance_channels import (
    balance_inputs,
    balance_weights,
    check_balance,
    observe_balance,
)
from amct_tensorflow.graph_passes.calibrate_weights import FakeQuantizedWeights, find_weight_scales
from amct_tensorflow.graph_passes.deploy_parameters import Int8Weights, integer_bias, quantized_bias
from amct_tensorflow.graph_passes.performing.add_grouped_biases import add_grouped_biases
from amct_tensorflow.graph_passes.performing.calibrate_activations import calibrate_activations
from amct_tensorflow.graph_passes.performing.deploy_activations import (
    AscendQuants,
    deploy_fake_quants,
    insert_ascend_quant,
)
from amct_tensorflow.graph_passes.performing.deploy_results import insert_ascend_dequant
from amct_tensorflow.graph_passes.performing.drop_idle_waits import drop_idle_waits
from amct_tensorflow.graph_passes.performing.gather_moments import gather_moments
from amct_tensorflow.graph_passes.performing.hold_outputs import hold_outputs
from amct_tensorflow.graph_passes.performing.insert_search_n import insert_search_n
from amct_tensorflow.graph_passes.performing.move_outputs import move_outputs
from amct_tensorflow.graph_passes.performing.relax_relu6 import relax_relu6
from amct_tensorflow.graph_passes.performing.rewrite_layers import rewrite_layers
from amct_tensorflow.graph_passes.performing.share_with_max_pools import share_with_max_pools
from amct_tensorflow.graph_passes.planning.absorb_batch_norm import absorb_batch_norm
from amct_tensorflow.graph_passes.planning.absorb_bias import absorb_bias
from amct_tensorflow.graph_passes.planning.absorb_multiply import absorb_multiply
from amct_tensorflow.graph_passes.planning.front import Front
from amct_tensorflow.graph_passes.planning.join_additions import join_additions, quantize_additions
from amct_tensorflow.graph_passes.planning.join_layers import join_layers
from amct_tensorflow.graph_passes.planning.match_record import belongs_to_unfused, check_fit, check_own_scales
from amct_tensorflow.graph_passes.planning.pass_movers import pass_mover
from amct_tensorflow.graph_passes.planning.plan_rounding import Rounding, plan_rounding
from amct_tensorflow.graph_passes.planning.scales_for_biases import free_dead_channels, widen_vanishing_scales
from amct_tensorflow.graph_passes.planning.take_rounding import Taken, take_rounding
from amct_tensorflow.graph_passes.planning.uneven_gains import reason_against_gains
from amct_tensorflow.graph_passes.workspace import Layer, Workspace
from amct_tensorflow.layers import Surroundings, tensor_key
from amct_tensorflow.ops import RecordBook
from amct_tensorflow.record import LayerRecord, LayerRounding


def plan_fusions(workspace: Workspace) -> None:
    """Lets the layers absorb what stands behind them; changes nothing in the graph."""
    advancing = [Front.of(layer) for layer in workspace.layers if layer.weights is not None]
    fronts: dict[str, Front] = {}
    while advancing:
        for front in advancing:
            # Whatever one absorbs may uncover what another can; the bias goes first, so that it is known to the fold,
            # and what only moves the results last, since it may be all that is left.
            while any(go(workspace, front) for go in (absorb_bias, absorb_multiply, absorb_batch_norm, pass_mover)):
                pass
        fronts |= {front.tensor.name: front for front in advancing}
        advancing = join_layers(workspace, fronts, advancing)  # go on together


def plan_own_fusions(workspace: Workspace) -> None:
    """Lets the layers absorb what they gain by, where this package itself finds their scales."""
    plan_fusions(workspace)
    reasons = {layer.name: reason_against_gains(layer) for layer in workspace.layers}
    _undo_fusions(workspace, reasons, _unfused(workspace, [name for name, reason in reasons.items() if reason]))


def _unfused(workspace: Workspace, names: Collection[str]) -> dict[str, Layer]:
    """Plans layers anew without the fusion of batch norms, and those that have absorbed something jointly with them."""
    joined = {other for layer in workspace.layers if layer.name in names for other in layer.joined}
    layers = [layer.unfused() for layer in workspace.layers if layer.name in names or layer.name in joined]
    plan_fusions(Workspace(workspace.graph, layers, workspace.outputs, workspace.alone))
    return {layer.name: layer for layer in layers}


def _undo_fusions(workspace: Workspace, reasons: dict[str, str | None], unfused: Mapping[str, Layer]) -> None:
    """Puts the unfused forms of layers in their place for which there is a reason; adds those that are joined to it."""
    for layer in workspace.layers:  # what is absorbed jointly is undone jointly
        reasons[layer.name] = reasons.get(layer.name) or next(filter(None, map(reasons.get, layer.joined)), None)
    for name, reason in reasons.items():
        if reason is not None:
            unfused[name].unfused_because = reason
    workspace.layers = [unfused[layer.name] if reasons[layer.name] else layer for layer in workspace.layers]


def plan_balance(workspace: Workspace) -> None:
    """Plans the graph that finds the balance factors; raises where a layer cannot be balanced."""
    check_balance(workspace)
    plan_own_fusions(workspace)  # the weights to balance are those with their batch norm


def perform_balance(workspace: Workspace, book: RecordBook, batch_num: int, strengths: Mapping[str, float]) -> None:
    """Turns the graph into the one that finds the balance factors, after `plan_fusions`."""
    observe_balance(workspace, book, batch_num, strengths)


def plan_calibration(workspace: Workspace, config: QuantConfig, needed: Container[str] | None) -> Rounding:
    """Plans the calibration graph; raises where a layer cannot be calibrated, the graph being untouched.

    `needed` are the names of the ops that will be run; None for all. Returns how the weights are to be rounded.
    """
    plan_own_fusions(workspace)
    balance_weights(workspace.layers)  # those with their batch norm, whose scales are found next
    find_weight_scales(workspace)
    if config.joint_quant:
        workspace.joint = join_additions(workspace, Surroundings.of(workspace.graph), needed)
    if config.quantizes_results:
        quantize_additions(workspace, Surroundings.of(workspace.graph), needed)
    return plan_rounding(workspace.layers, config.weights_of)


def perform_calibration(workspace: Workspace, config: QuantConfig, book: RecordBook, rounding: Rounding) -> None:
    """Turns the graph into the calibration graph."""
    drop_idle_waits(workspace.graph)
    rewrite_layers(workspace, FakeQuantizedWeights(book), _float_bias)
    add_grouped_biases(workspace)  # what comes next goes behind them
    balance_inputs(workspace)  # what is quantized is the balanced input
    scales = calibrate_activations(
        workspace, book, config.batch_num, _activation_params(workspace, config), workspace.joint
    )
    gather_moments(workspace, book, config.batch_num, rounding)
    if config.searches_shifts:
        insert_search_n(workspace, book, config.batch_num, scales)
    hold_outputs(workspace)  # needs the final result of each layer


def _activation_params(workspace: Workspace, config: QuantConfig) -> dict[str, ActivationParams]:
    """Returns how to calibrate each activation."""
    params = {tensor_key(item.layer_name, item.input_index): item.activation for item in config.tensor_quantize}
    for layer in workspace.layers:
        params |= {activation.key: config.layers[layer.name].activation for activation in layer.activations()}
    default = default_activation(config.activation_offset)
    return {activation.key: params.get(activation.key, default) for activation in workspace.activations()}


def plan_deployment(
    workspace: Workspace, records: Mapping[str, LayerRecord], rounding: Mapping[str, LayerRounding | None]
) -> Taken:
    """Plans the deployed graph of a calibrated model; raises where a layer is not as it was calibrated.

    Returns:
        What became of the rounding that the calibration found.
    """
    plan_fusions(workspace)
    for layer in workspace.layers:
        if layer.unfused_because is not None:  # the scales are those of weights with the batch norm
            raise AmctRuntimeError(
                f"layer {layer.name} was calibrated with its batch norm folded in, but {layer.unfused_because}. "
                "Calibrate the model that is saved, with the same outputs (calib_outputs of quantize_model)"
            )
    _check_frozen(workspace)
    _take_factors(workspace.layers, records)
    for layer in workspace.layers:
        if layer.weights is not None:
            check_own_scales(layer)
    taken = take_rounding(workspace.layers, records, rounding)
    _fit_biases(workspace, records)
    return taken


def plan_conversion(workspace: Workspace, records: Mapping[str, LayerRecord]) -> list[str]:
    """Plans the deployed graph from factors of any origin; raises where they do not fit the weights.

    Returns:
        What the user should know of layers whose factors fit in some other way than the plain one, in sentences.
    """
    plan_fusions(workspace)
    _check_frozen(workspace)
    _take_factors(workspace.layers, records)
    others = _undo_wrong_fusions(workspace, records)
    layers = [layer for layer in workspace.layers if layer.weights is not None]
    warnings = [check_fit(layer, others.get(layer.name)) for layer in layers]
    unfused = [name for name, other in others.items() if other.folded is not None]
    if unfused:
        warnings.append(
            f"{len(unfused)} layer(s) go on without the fusion of their batch norm or Mul, because scale_w of the "
            f"record is of the weights without it: {', '.join(unfused)}"
        )
    _fit_biases(workspace, records)
    return [warning for warning in warnings if warning is not None]


def plan_qat_conversion(workspace: Workspace, records: Mapping[str, LayerRecord]) -> None:
    """Plans the deployed graph from the factors of quantization-aware training, of weights before any fusion."""
    _take_factors(workspace.layers, records)  # first: a folded batch norm scales them, too
    plan_fusions(workspace)
    _check_frozen(workspace)
    widen_vanishing_scales(workspace, records)
    _fit_biases(workspace, records)


def perform_deployment(
    workspace: Workspace, records: Mapping[str, LayerRecord], fake_quants: Collection[FakeQuant] = ()
) -> None:
    """Turns the graph into the deployed graph, with those of its fake-quant ops that are for no layer."""
    quants = AscendQuants(workspace)
    rewrite_layers(workspace, Int8Weights(), functools.partial(integer_bias, records))
    balance_inputs(workspace)  # in front of what comes next
    insert_ascend_quant(workspace, records, quants)
    deploy_fake_quants(workspace, fake_quants, quants)  # while they still share inputs with the layers
    insert_ascend_dequant(workspace, records)  # behind the bias that the rewriting left
    move_outputs(workspace)  # the results are final now
    share_with_max_pools(workspace, quants)
    relax_relu6(workspace)  # which a MaxPool, unlike an AscendQuant, would hinder


def _take_factors(layers: Sequence[Layer], records: Mapping[str, LayerRecord]) -> None:
    """Gives the layers the scales of their records, and balances their weights."""
    for layer in layers:
        record = records[layer.name]
        if layer.row.second_input is not None:  # what stands in the place of weights has a scale of its own
            record_of_second = records[tensor_key(layer.name, layer.row.second_input)]
            layer.scale_w = np.array([record_of_second.scale_d], np.float32)
        else:
            layer.scale_w = np.array(record.scale_w or [1.0], np.float32)
        if layer.scale_w.size == 1:
            layer.channel_axes = ()
        if record.tensor_balance_factor:
            layer.balance = np.array(record.tensor_balance_factor, np.float32)
    balance_weights(layers)


def _undo_wrong_fusions(workspace: Workspace, records: Mapping[str, LayerRecord]) -> dict[str, Layer]:
    """Starts layers anew whose scales are of the weights without their batch norm.

    Returns:
        The form that is not taken, fused or unfused, of the layers that could be fused, by name.
    """
    fused = {layer.name: layer for layer in workspace.layers if layer.folded is not None}
    unfused = _unfused(workspace, fused)
    _take_factors(list(unfused.values()), records)
    reasons = {name: belongs_to_unfused(layer, unfused[name]) for name, layer in fused.items()}
    _undo_fusions(workspace, reasons, unfused)
    return {name: layer if reasons[name] else unfused[name] for name, layer in fused.items()}


def _check_frozen(workspace: Workspace) -> None:
    for layer in workspace.layers:
        if isinstance(layer.weights, Deferred) or isinstance(layer.bias, Deferred):
            raise AmctValueError(
                f"layer {layer.name} gets its parameters from variables: freeze the model, for example with "
                "convert_variables_to_constants_v2"
            )


def _fit_biases(workspace: Workspace, records: Mapping[str, LayerRecord]) -> None:
    """Gives biases the scales they need where these are free; raises, before anything is done, for one beyond int32."""
    free_dead_channels(workspace, records)
    for layer in workspace.layers:
        if layer.bias is not None:
            quantized_bias(layer, records[layer.name])


def _float_bias(workspace: Workspace, layer: Layer) -> tf.Tensor:
    assert layer.bias is not None
    return materialize(workspace.graph, layer.bias, workspace.scope_for(layer, "bias_add") + "bias")
