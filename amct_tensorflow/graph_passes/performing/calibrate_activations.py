"""Performing: a QuantIfmr or QuantHfmg in front of every layer finds the factors of its input.

Whatever is fed by the same tensor and calibrated with the same parameters shares one op.

With `joint_quant`, the two branches that meet in an Add, and what else they feed, get one scale and offset: their ops
share what they have seen. The vendor's rule is not published; over the values of both, IFMR and HFMG find the factors
with the least error in all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from amct_tensorflow.config import ActivationParams, HfmgParams
from amct_tensorflow.graph.edit import at_root, topological_order
from amct_tensorflow.graph_passes.workspace import Activation, Workspace
from amct_tensorflow.ops import RecordBook, tensorflow_ops


def calibrate_activations(
    workspace: Workspace,
    book: RecordBook,
    batch_num: int,
    params: Mapping[str, ActivationParams],
    joint: Sequence[Sequence[str]] = (),
) -> dict[str, tf.Tensor]:
    """Runs the pass.

    Args:
        workspace: the graph.
        book: its record.
        batch_num: how many batches will be seen.
        params: how to calibrate, by the keys of activations; in a joint group the first decides.
        joint: keys of activations that get the same factors, group by group.

    Returns:
        The tensors of the scales, by the keys of activations.
    """
    number = {key: at for at, keys in enumerate(joint) for key in keys}
    groups: dict[object, list[Activation]] = {}
    for activation in workspace.activations():
        alike = number.get(activation.key, (activation.data.name, params[activation.key]))
        groups.setdefault(alike, []).append(activation)
    scales: dict[str, tf.Tensor] = {}
    order = topological_order(workspace.graph) if joint else {}
    for activations in groups.values():
        scales |= _calibrate(workspace, book, batch_num, params[activations[0].key], activations, order)
    return scales


def _calibrate(
    workspace: Workspace,
    book: RecordBook,
    batch_num: int,
    params: ActivationParams,
    activations: list[Activation],
    order: Mapping[str, int],
) -> dict[str, tf.Tensor]:
    """Puts ops in front of what is to have the same factors, one for each tensor; returns the scales by key.

    Where there are several they count each tensor of a batch as one. Each waits for the one before, so that the
    result does not depend on the threads of a session.
    """
    tensors = {activation.data.name: activation.data for activation in activations}
    earlier: list[tf.Operation] = []
    made: dict[str, Any] = {}
    for tensor in sorted(tensors.values(), key=lambda tensor: order.get(tensor.op.name, 0)):
        scope = workspace.scope_for(activations[0], "act_quant")
        with at_root(workspace.graph), workspace.graph.control_dependencies(earlier):
            quantized = _calibration_op(tensor, book, batch_num * len(tensors), params, activations, scope)
        earlier = [quantized.y.op]
        made[tensor.name] = quantized
    scales = {activation.key: made[activation.data.name].scale for activation in activations}
    for activation in activations:
        activation.replace(made[activation.data.name].y)
    return scales


def _calibration_op(
    data: tf.Tensor,
    book: RecordBook,
    batch_num: int,
    params: ActivationParams,
    activations: list[Activation],
    scope: str,
) -> Any:
    shared = {
        "record_file": book.path,
        "generation": book.generation,
        "layers": [activation.key for activation in activations],
        "batch_num": batch_num,
        "num_bits": params.num_bits,
        "with_offset": params.asymmetric,
    }
    if isinstance(params, HfmgParams):
        return tensorflow_ops().quant_hfmg(data, num_of_bins=params.num_of_bins, name=scope + "QuantHfmg", **shared)
    return tensorflow_ops().quant_ifmr(
        data,
        search_start=params.search_range[0],
        search_end=params.search_range[1],
        search_step=params.search_step,
        max_percentile=params.max_percentile,
        min_percentile=params.min_percentile,
        name=scope + "QuantIfmr",
        **shared,
    )
