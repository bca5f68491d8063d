"""Performing: fetching what a layer has absorbed, or stood for, runs the calibration of the layer.

Such a tensor is computed by the original ops, see `rewrite_layers`; a control edge makes them wait for the last
op of the calibrated clone. It leads to the first of them: TensorFlow's optimizer loses one that leads to a batch
norm. Where nobody fetches them, the original ops are not run, and the edge costs nothing.
"""

from __future__ import annotations

from amct_tensorflow.graph.edit import add_control_input, waited_for
from amct_tensorflow.graph_passes.workspace import Workspace


def hold_outputs(workspace: Workspace) -> None:
    """Runs the pass, last."""
    for layer in workspace.layers:
        original = workspace.graph.get_operation_by_name(layer.name)
        end = layer.end if layer.trail is None else layer.trail.end
        if workspace.is_output(end) or not waited_for(original):  # else the clone might wait for it in turn
            add_control_input(original, layer.output().op)
