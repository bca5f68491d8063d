"""Planning and performing the fusions of a graph, without quantization."""

from __future__ import annotations

from small_models import assert_close, run

from amct_tensorflow.graph.values import materialize
from amct_tensorflow.graph_passes.performing.rewrite_layers import rewrite_layers
from amct_tensorflow.graph_passes.pipelines import plan_fusions
from amct_tensorflow.graph_passes.workspace import Layer, Workspace
from amct_tensorflow.layers import find_layers


def plan(graph, outputs=(), *, fuse=True):
    """The planned layers of a graph, by name."""
    layers = [
        Layer.of(found, fuse=fuse, channel_wise=found.channel_wise)
        for found in find_layers(graph)
        if found.reason is None
    ]
    workspace = Workspace(graph, layers, frozenset(outputs))
    plan_fusions(workspace)
    return workspace, {layer.name: layer for layer in layers}


def rewrite_in_float(workspace):
    """What the jobs do, without quantization."""
    rewrite_layers(
        workspace,
        lambda workspace, layer: materialize(workspace.graph, layer.weights, f"{layer.name}/fused_w"),
        lambda workspace, layer: materialize(workspace.graph, layer.bias, f"{layer.name}/fused_b"),
    )


def fuse(graph, x, outputs=(), *, remapping=True):
    """Fuses the graph, checks that its output is what it was, and returns the layers."""
    before = run(graph, "out:0", x, remapping=remapping)
    with graph.as_default():
        workspace, layers = plan(graph, outputs)
        rewrite_in_float(workspace)
    assert_close(run(graph, "out:0", x, remapping=remapping), before)
    return layers
