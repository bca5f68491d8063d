"""Performing: an output of the user's graph that became part of a layer is taken from the layer's clone.

The counterpart of `hold_outputs` in a graph that is deployed, where the original ops are left out.
"""

from __future__ import annotations

from amct_tensorflow.graph_passes.workspace import Workspace


def move_outputs(workspace: Workspace) -> None:
    """Runs the pass, when the result of each layer is final."""
    for layer in workspace.layers:
        if layer.trail is None and workspace.is_output(layer.end):
            workspace.moved[layer.end.op.name] = layer.stand_in()
