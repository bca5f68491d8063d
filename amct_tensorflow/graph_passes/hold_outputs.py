"""Performing: fetching an output of the user's graph runs the calibration of the layer that it stood for.

Such an output is computed by the original ops, see `rewrite_layers`; a control edge makes them wait for the last
op of the calibrated clone. It leads to the first of them: TensorFlow's optimizer loses one that leads to a batch
norm.
"""

from __future__ import annotations

from amct_tensorflow.graph.edit import add_control_input
from amct_tensorflow.graph_passes.workspace import Workspace


def hold_outputs(workspace: Workspace) -> None:
    """Runs the pass, last."""
    for layer in workspace.layers:
        end = layer.end if layer.trail is None else layer.trail.end
        if workspace.is_output(end):
            original = workspace.graph.get_operation_by_name(layer.name)
            add_control_input(original, layer.output().op)
