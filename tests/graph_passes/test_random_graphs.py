"""Whatever graph is drawn: its int8 model loads, keeps its outputs, is close, has no float weights, is reproducible.

How close a layer must be follows from its scales alone. With x the layer's input in the int8 model, x' its quantized
value, W' and W its weights, quantized and as folded floats, the layer computes W' x' where the float model would
compute W x of the same input:

    |W' x' - W x| <= sum|W'| * max|x' - x| + count * max|x| * scale_w / 2 + scale_d * scale_w / 2 (for the bias)
"""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, assume, given, settings
from random_graphs import RandomNet, random_nets
from small_models import Deployed, batch, graph_of, run, sqnr

from amct_tensorflow.errors import AmctRuntimeError
from amct_tensorflow.layers import TABLE, find_layers

FEEDS = [batch(0), batch(1)]


class Checked:
    """One graph, quantized."""

    def __init__(self, net: RandomNet, folder, *, channel_wise: bool, **config) -> None:
        """`channel_wise`: every layer with weights has a scale for each channel, not only convolutions."""
        folder.mkdir()
        net_outputs = self._outputs(net)
        if channel_wise:
            found = [layer for layer in find_layers(graph_of(net)) if layer.reason is None and layer.row.has_weights]
            config |= {layer.op.name: {"weight_quant_params": {"channel_wise": True}} for layer in found}
        self.deployed = Deployed(net, net_outputs, folder, feeds=FEEDS, calib_outputs=net_outputs, **config)

    @staticmethod
    def _outputs(net: RandomNet) -> list[str]:
        graph_of(net)
        return net.outputs

    def check_outputs(self) -> None:
        for output in self.deployed.outputs:
            expected, actual = self.deployed.run_float(FEEDS[0], output), self.deployed.run(FEEDS[0], output)
            assert actual.shape == expected.shape
            assert sqnr(expected, actual) > 8, output  # the bounds below are the sharp check

    def check_no_float_weights(self) -> None:
        for node in self.deployed.nodes.values():
            row = TABLE.get(node.op)
            if row is not None and any(self._source(edge).op == "AscendQuant" for edge in node.input):
                weights = {"AscendWeightQuant", "AscendQuant"}
                assert {self._source(edge).op for edge in node.input} <= {*weights, "Const", "Pack", "Cast"}, node.name
        of_layers = {self.deployed.nodes[self.deployed.inputs(node.name)[0]].name for node in self._quants()}
        assert all(self.deployed.constant(name).dtype == np.int8 for name in of_layers)

    def _quants(self):
        return self.deployed.of_type("AscendWeightQuant")

    def _source(self, edge: str):
        return self.deployed.nodes[edge.lstrip("^").partition(":")[0]]

    def check_each_layer(self) -> None:
        for dequant in self.deployed.of_type("AscendDequant"):
            self._check_layer(dequant)

    def _check_layer(self, dequant) -> None:
        added = self._source(dequant.input[0])
        bias, layer = (added, self._source(added.input[0])) if added.op == "BiasAdd" else (None, added)
        row = TABLE[layer.op]
        quants = [self._source(edge) for edge in layer.input]
        if row.weight_input is None or quants[row.weight_input].op != "AscendWeightQuant":
            return  # no weights
        quant, weight_quant = quants[row.data_input], quants[row.weight_input]
        name = self._original(layer)
        x, quantized, accumulated = run(
            self.deployed.graph,
            [quant.input[0] + ("" if ":" in quant.input[0] else ":0"), f"{quant.name}:0", f"{added.name}:0"],
            FEEDS[0],
        )
        words = self.deployed.constant(dequant.input[1])
        deq_scale = (words & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.float32)
        scale_d = np.float32(self.deployed.records[name].scale_d)
        scale_w = deq_scale / scale_d
        weights = self.deployed.constant(weight_quant.input[0])
        expected = self._expected(name, x)
        actual = accumulated * deq_scale
        if expected is None or expected.shape != actual.shape:
            return  # behind something that moves the results; check_outputs has seen them
        others = tuple(axis for axis in range(weights.ndim) if axis not in row.channel_axes)
        sums = np.abs(weights.astype(np.float64)).sum(axis=others).reshape(-1) * scale_w
        count = weights.size // sums.size
        bound = (
            sums * np.abs(quantized * scale_d - x).max()
            + count * np.abs(x).max() * scale_w / 2
            + (0 if bias is None else deq_scale / 2)
        )
        largest = np.abs(expected).reshape(-1, expected.shape[-1]).max(axis=0)
        difference = np.abs(actual - expected).reshape(-1, expected.shape[-1]).max(axis=0)
        assert (difference <= bound * 1.001 + largest * 1e-4).all(), (name, difference, bound)

    def _original(self, layer) -> str:
        return layer.name.removesuffix("/quantized")

    def _expected(self, name: str, x: np.ndarray) -> np.ndarray | None:
        """What the float model makes of the layer's input in the int8 model, with all that the layer absorbed."""
        graph = self.deployed.float_graph
        op = graph.get_operation_by_name(name)
        data = op.inputs[TABLE[op.type].data_input]
        if data.dtype != tf.float32:
            return None
        [absorbed] = [
            entry["value"]["list"]["s"]
            for info in self.deployed.info.values()
            for entry in info.get("attr", [])
            if info["type"] == "AscendDequant" and entry["value"]["list"]["s"][0] == name
        ]
        x = x.reshape([-1, *data.shape[1:]])  # of an Einsum it is a matrix; all that are drawn have its axes in order
        return run(graph, f"{absorbed[-1]}:0", {"x": FEEDS[0], data.name: x})


CONFIGS = {
    "": {"channel_wise": False},
    "channel_wise": {"channel_wise": True},
    "no shift, joint_quant": {"channel_wise": False, "shift_n": False, "joint_quant": True},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_any_graph(tmp_path_factory, config):
    @settings(max_examples=20, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(random_nets())
    def check(net):
        folder = tmp_path_factory.mktemp("graph")
        try:
            first = Checked(net, folder / "first", **config)
        except AmctRuntimeError as error:
            assume("nothing would be quantized" not in str(error))  # the outputs that were drawn need no layer
            raise
        first.check_outputs()
        first.check_no_float_weights()
        first.check_each_layer()
        second = Checked(net, folder / "second", **config)
        for name in ("model_quantized.pb", "model_quant.json", "record.txt", "config.json"):
            assert (folder / "first" / name).read_bytes() == (folder / "second" / name).read_bytes(), name
        assert second.deployed.outputs == first.deployed.outputs

    check()
