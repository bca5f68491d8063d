"""How well the forecast of each layer's SQNR agrees with what is measured.

Each layer of the int8 model is run alone, on the input that it has in the float model, over all samples that it was not
calibrated on, and for several draws of those that it was. The numbers are of its result without the bias. Measured is

* the SQNR of all samples together. Where activations have a heavy tail it is that of the few that leave the range of
  the calibration furthest, which no calibration foresees. So is compared, too, what is measured with one half of the
  samples with what is with the other half: a forecast cannot do better than that;
* the SQNR of the median sample.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import nets
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from common import load_graph

import amct_tensorflow as amct
from amct_tensorflow.graph_passes.pipelines import plan_deployment
from amct_tensorflow.inventory import Inventory
from amct_tensorflow.post_training.deploy import FloatModel
from amct_tensorflow.record import read_record, read_rounding

Feed = Mapping[str, np.ndarray]

_DRAWS = 3
_TINY = float(np.finfo(np.float64).tiny)


def forecasts_of(model: Path, outputs: list[str], record_file: str) -> dict[str, float]:
    """Returns the forecast of each layer, in dB, for the model that save_model writes."""
    source = FloatModel.load(str(model), outputs)
    inventory, records = Inventory.of(source.graph), read_record(record_file)
    workspace = source.workspace(inventory, records, record_file)
    taken = plan_deployment(workspace, records, read_rounding(record_file) or {})
    return {name: found.sqnr for name, found in taken.forecasts.items()}


def measured(
    model: Path, quantized: Path, ends: Mapping[str, str], batches: Sequence[Feed]
) -> dict[str, npt.NDArray[np.float64]]:
    """Returns the squares of each layer's result and of its error, summed for each sample, [2, samples].

    Args:
        model: the float model.
        quantized: what became of it.
        ends: the op of the float model that puts out a layer's result, by the op that does so in the other.
        batches: the samples.
    """
    float_graph, int8_graph = load_graph(model), load_graph(quantized)
    with tf.compat.v1.Session(graph=float_graph) as source, tf.compat.v1.Session(graph=int8_graph) as target:
        names = {node.name for node in float_graph.get_operations()}
        layers = [_Layer.of(int8_graph.get_operation_by_name(name), end, ends, names) for name, end in ends.items()]
        wanted = sorted({name for layer in layers for name in (layer.end, *layer.inputs.values())})
        found: list[list[npt.NDArray[np.float64]]] = [[] for _ in layers]
        for feed in batches:
            values = dict(zip(wanted, source.run(wanted, feed), strict=True))
            for layer, sums in zip(layers, found, strict=True):
                sums.append(layer.squares(target, values, len(next(iter(feed.values())))))
    return {name: np.concatenate(sums, axis=1) for name, sums in zip(ends, found, strict=True)}


@dataclasses.dataclass(frozen=True)
class _Layer:
    """A layer of an int8 model.

    Attributes:
        dequant: what puts out its result.
        inputs: the tensors that it gets its data from, and those of the float model in their place.
        end: the tensor of the float model that is its result.
    """

    dequant: tf.Operation
    inputs: Mapping[str, str]
    end: str

    @classmethod
    def of(cls, dequant: tf.Operation, end: str, ends: Mapping[str, str], names: Collection[str]) -> _Layer:
        """Finds its inputs; `ends` are as in `measured`, `names` those of the ops of the float model."""
        return cls(dequant, _inputs(dequant.inputs[0].op, ends, names), f"{end}:0")

    def squares(
        self, session: tf.compat.v1.Session, values: Mapping[str, np.ndarray], samples: int
    ) -> npt.NDArray[np.float64]:
        """Runs it on values of the float model; see `measured`."""
        words, *bias = session.run([self.dequant.inputs[1], *_bias(self.dequant)])
        got = session.run(self.dequant.outputs[0], {name: values[of] for name, of in self.inputs.items()})
        expected = values[self.end].reshape(got.shape).astype(np.float64)
        axis = 1 if self.dequant.get_attr("data_format") == b"NCHW" and got.ndim > 2 else -1
        of_bias = sum(bias, np.float32(0)) * _scales(words)
        shape = [-1 if at == axis % got.ndim and of_bias.size > 1 else 1 for at in range(got.ndim)]
        each = np.stack([expected - np.reshape(of_bias, shape), expected - got])
        return np.square(each).reshape(2, samples, -1).sum(axis=2)


def _inputs(op: tf.Operation, ends: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """Returns the tensors that the quantized layer gets its data from, and those of the float model in their place."""
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


@dataclasses.dataclass(frozen=True)
class Agreement:
    """By how many dB something differs, [layers] each.

    Attributes:
        together: the forecast from what is measured of all samples together.
        median: the forecast from the median sample.
        halves: what is measured of one half of the samples from that of the other.
    """

    together: npt.NDArray[np.float64]
    median: npt.NDArray[np.float64]
    halves: npt.NDArray[np.float64]


def agreement(net: nets.Net, seed: int, folder: Path) -> Agreement:
    """Quantizes a net with the defaults, calibrated with one draw of samples, and compares its layers."""
    batches, outputs = net.calibration_batches(seed), [net.info.logits]
    config, record, prefix = str(folder / "config.json"), str(folder / "record.txt"), str(folder / "int8")
    graph = load_graph(net.model)
    amct.create_quant_config(config, graph, batch_num=len(batches))
    amct.quantize_model(graph, config, record)
    amct.calibrate(graph, outputs, [{net.info.input: batch} for batch in batches])
    amct.save_model(str(net.model), outputs, record, prefix)
    expected = forecasts_of(net.model, outputs, record)
    dequants = dequants_of(Path(f"{prefix}_quant.json"))
    ends = {name: end for name, (_, end) in dequants.items()}
    feeds = [{f"{net.info.input}:0": batch} for batch in net.evaluation_batches()]
    squares = measured(net.model, Path(f"{prefix}_quantized.pb"), ends, feeds)
    found = {name: each for name, each in squares.items() if dequants[name][0] in expected}
    forecast = np.array([expected[dequants[name][0]] for name in found])
    return Agreement(
        together=forecast - [_sqnr(each.sum(axis=1)) for each in found.values()],
        median=forecast - [np.median(_sqnr(each)) for each in found.values()],
        halves=np.array(
            [_sqnr(each[:, ::2].sum(axis=1)) - _sqnr(each[:, 1::2].sum(axis=1)) for each in found.values()]
        ),
    )


def _sqnr(squares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Returns the ratio of the first row to the second in dB, at most 99."""
    signal, noise = squares
    return np.minimum(10 * np.log10(np.maximum(signal, _TINY) / np.maximum(noise, _TINY)), 99.0)


def _within(differences: npt.NDArray[np.float64]) -> str:
    """Returns the share of differences of at most 3 dB."""
    return f"{100 * np.mean(np.abs(differences) <= 3):3.0f} %"


def main() -> None:
    """Prints a line for each net that is in the cache."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="the folder in which accuracy.py keeps its nets")
    amct.set_logging_level("error", "error")
    cache = parser.parse_args().cache
    print("Layers whose forecast is within 3 dB of what is measured, and by how much it is above in the mean;")
    print("and layers that are measured alike, within 3 dB, with either half of the samples")
    for name in nets.NETS:
        folder = nets.folder_of(cache, name)
        if nets.is_complete(folder):
            with tempfile.TemporaryDirectory() as scratch:
                found = [agreement(nets.read(folder), seed, Path(scratch)) for seed in range(_DRAWS)]
            together, median, halves = (
                np.concatenate([getattr(each, field.name) for each in found]) for field in dataclasses.fields(Agreement)
            )
            print(
                f"{name}: {len(median) // _DRAWS} layers; median sample {_within(median)}, {median.mean():+.1f} dB; "
                f"all together {_within(together)}, {together.mean():+.1f} dB; halves {_within(halves)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
