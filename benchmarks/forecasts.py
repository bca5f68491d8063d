"""How well the forecast of each layer's SQNR agrees with what is measured.

Each layer of the int8 model is run alone, on the input that it has in the float model, over samples that it was not
calibrated on. Both numbers are of its result without the bias.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import nets
import numpy as np
import tensorflow as tf
from common import load_graph

import amct_tensorflow as amct
from amct_tensorflow.graph_passes.pipelines import plan_deployment
from amct_tensorflow.inventory import Inventory
from amct_tensorflow.post_training.deploy import FloatModel
from amct_tensorflow.record import read_record, read_rounding

Feed = Mapping[str, np.ndarray]


def forecasts_of(model: Path, outputs: list[str], record_file: str) -> dict[str, float]:
    """Returns the forecast of each layer, in dB, for the model that save_model writes."""
    source = FloatModel.load(str(model), outputs)
    inventory, records = Inventory.of(source.graph), read_record(record_file)
    workspace = source.workspace(inventory, records, record_file)
    taken = plan_deployment(workspace, records, read_rounding(record_file) or {})
    return {name: found.sqnr for name, found in taken.forecasts.items()}


def measured(model: Path, quantized: Path, ends: Mapping[str, str], feed: Feed) -> dict[str, float]:
    """Returns the SQNR of each layer in dB.

    Args:
        model: the float model.
        quantized: what became of it.
        ends: the op of the float model that puts out a layer's result, by the op that does so in the other.
        feed: the samples.
    """
    float_graph, int8_graph = load_graph(model), load_graph(quantized)
    found = {}
    with tf.compat.v1.Session(graph=float_graph) as source, tf.compat.v1.Session(graph=int8_graph) as target:
        for name, end in ends.items():
            dequant = int8_graph.get_operation_by_name(name)
            inputs = _inputs(dequant.inputs[0].op, ends, float_graph)
            *values, expected = source.run([*inputs.values(), f"{end}:0"], feed)
            words, *bias = target.run([dequant.inputs[1], *_bias(dequant)])
            got = target.run(dequant.outputs[0], dict(zip(inputs, values, strict=True)))
            expected = expected.reshape(got.shape).astype(np.float64)
            axis = 1 if dequant.get_attr("data_format") == b"NCHW" and got.ndim > 2 else -1
            of_bias = sum(bias, np.float32(0)) * _scales(words)
            shape = [-1 if at == axis % got.ndim and of_bias.size > 1 else 1 for at in range(got.ndim)]
            signal = np.square(expected - np.reshape(of_bias, shape)).sum()
            noise = np.square(expected - got).sum()
            found[name] = float(10 * np.log10(signal / noise))
    return found


def _inputs(op: tf.Operation, ends: Mapping[str, str], float_graph: tf.Graph) -> dict[str, str]:
    """Returns the tensors that the quantized layer gets its data from, and those of the float model in their place."""
    names = {node.name for node in float_graph.get_operations()}
    stack, found, behind_quant = list(op.inputs), {}, False
    while stack:
        tensor = stack.pop()
        behind_quant = behind_quant or tensor.op.type == "AscendQuant"
        if behind_quant and tensor.op.type == "AscendDequant":
            found[tensor.name] = f"{ends[tensor.op.name]}:0"
        elif behind_quant and tensor.op.name in names and tensor.op.type != "Const":
            found[tensor.name] = tensor.name
        elif tensor.op.type not in ("Const", "AscendWeightQuant"):
            stack.extend(tensor.op.inputs)
    return found


def _bias(dequant: tf.Operation) -> list[tf.Tensor]:
    """Returns the bias of a quantized layer in the units of its accumulator, if it has one."""
    add = dequant.inputs[0].op
    return [add.inputs[1]] if add.type == "BiasAdd" else []


def _scales(words: np.ndarray) -> np.ndarray:
    """Returns the scales that the words of a deq_scale hold."""
    return (words & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.float32)


def dequants_of(mapping: Path) -> dict[str, tuple[str, str]]:
    """Returns the layer, and the float op that puts out its result, of each AscendDequant of a `_quant.json`."""
    found = {}
    for op in json.loads(mapping.read_text())["graph"][0]["op"]:
        if op["type"] == "AscendDequant":
            described = {item["key"]: item["value"] for item in op["output_desc"][0]["attr"]}
            found[op["name"]] = op["attr"][0]["value"]["list"]["s"][0], described["_datadump_origin_name"]["s"]
    return found


def differences(net: nets.Net, folder: Path) -> list[float]:
    """Quantizes a net with the defaults and returns by how many dB each layer's forecast is above what is measured."""
    batches, outputs = net.calibration_batches(seed=0), [net.info.logits]
    config, record, prefix = str(folder / "config.json"), str(folder / "record.txt"), str(folder / "int8")
    graph = load_graph(net.model)
    amct.create_quant_config(config, graph, batch_num=len(batches))
    amct.quantize_model(graph, config, record)
    amct.calibrate(graph, outputs, [{net.info.input: batch} for batch in batches])
    amct.save_model(str(net.model), outputs, record, prefix)
    expected = forecasts_of(net.model, outputs, record)
    dequants = dequants_of(Path(f"{prefix}_quant.json"))
    ends = {name: end for name, (_, end) in dequants.items()}
    feed = {f"{net.info.input}:0": net.evaluation_batches()[0]}
    found = measured(net.model, Path(f"{prefix}_quantized.pb"), ends, feed)
    return [expected[layer] - found[name] for name, (layer, _) in dequants.items() if layer in expected]


def main() -> None:
    """Prints a line for each net that is in the cache."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="the folder in which accuracy.py keeps its nets")
    amct.set_logging_level("error", "error")
    cache = parser.parse_args().cache
    for name in nets.NETS:
        folder = nets.folder_of(cache, name)
        if nets.is_complete(folder):
            with tempfile.TemporaryDirectory() as scratch:
                found = np.array(differences(nets.read(folder), Path(scratch)))
            within = 100 * np.mean(np.abs(found) <= 3)
            print(f"{name}: {len(found)} layers, {within:.0f} % within 3 dB, mean {found.mean():+.1f} dB")


if __name__ == "__main__":
    main()
