"""Graphs like those that people publish: all layers are quantized, and int8 is close to float."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hard_graphs import Maker
from small_models import Deployed, run, sqnr
from strangers import STRANGERS, mtcnn

import amct_tensorflow as amct
from amct_tensorflow.analysis.inspect_model import inspect_model
from amct_tensorflow.errors import AmctValueError


@pytest.mark.parametrize("name", STRANGERS)
def test_every_layer_is_quantized(tmp_path, name):
    stranger = STRANGERS[name]
    feeds = [stranger.feed(number) for number in range(3)]
    deployed = Deployed(
        lambda _: stranger.fill(Maker(data=feeds[0])), stranger.outputs, tmp_path, feeds=feeds, imported=True
    )
    assert len(deployed.quantized) == len(deployed.of_type("AscendDequant")) == stranger.layers
    assert not any(node.op.startswith("FusedBatchNorm") for node in deployed.nodes.values())
    assert len(deployed.float_graph.get_operations()) >= stranger.nodes
    outputs, unseen = [f"{output}:0" for output in stranger.outputs], stranger.feed(9)
    expected, actual = (run(graph, outputs, unseen) for graph in (deployed.float_graph, deployed.graph))
    for reference, found in zip(expected, actual, strict=True):
        assert reference.shape == found.shape and np.ptp(reference) > 0
        assert sqnr(reference - reference.mean(axis=0), found - reference.mean(axis=0)) > stranger.least


def test_networks_in_loops_are_refused_with_the_reason(tmp_path):
    with tf.Graph().as_default() as graph:
        mtcnn(Maker())
    layers = inspect_model(graph).layers
    assert len(layers) == 6 and {layer.reason for layer in layers} == {"it is inside a while loop or a cond"}
    with pytest.raises(
        AmctValueError,
        match=r"No layer support quantization in the graph\. \(pnet/pnet/conv1: it is inside a while loop or a cond; ",
    ):
        amct.create_quant_config(str(tmp_path / "config.json"), graph)
    assert not (tmp_path / "config.json").exists()
