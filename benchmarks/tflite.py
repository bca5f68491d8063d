"""export_tflite beside the int8 models of TensorFlow's converter and of ai-edge-quantizer: accuracy, size and time.

    python benchmarks/tflite.py --cache FOLDER --python INTERPRETER

All calibrate on the same samples. Each model is made in a process of its own, and all are timed in turns in one process
that has only LiteRT. `--python` names the interpreter of an environment with ai-edge-litert and ai-edge-quantizer.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

THREADS = 2
ROUNDS = 9
REPETITIONS = {1: 40, 32: 4}  # by batch size
NETS = ("MobileNetV2 1.0", "ResNet-8")


def make_ours(net: object, path: Path, **settings: object) -> None:
    """Calibrates with changes of config.json, saves and exports."""
    import amct_tensorflow as amct

    amct.set_logging_level("error", "error")
    output, folder = net.info.logits.partition(":")[0], path.parent
    config, record, prefix = (str(folder / name) for name in ("config.json", "record.txt", "ours"))
    graph, batches = amct.load_graph(str(net.model)), net.calibration_batches(0)
    amct.create_quant_config(config, graph, batch_num=len(batches))
    Path(config).write_text(json.dumps({**json.loads(Path(config).read_text()), **settings}))
    amct.quantize_model(graph, config, record, calib_outputs=[output])
    amct.calibrate(graph, [output], batches)
    amct.save_model(str(net.model), [output], record, prefix)
    amct.export_tflite(f"{prefix}_quantized.pb", str(path))


def make_with(quantizer: str) -> Callable[..., None]:
    """One of the quantizers of quantizers.py."""

    def make(net: object, path: Path) -> None:
        import accuracy
        import quantizers

        prepare = {
            "converter": quantizers.tflite_converter,
            "ai-edge": quantizers.ai_edge_quantizer(joined=True),
        }[quantizer]
        made = prepare(accuracy.subject_of(net, path.parent))(net.calibration_batches(0))
        path.write_bytes(made.read_bytes())

    return make


def make_float(net: object, path: Path) -> None:
    """The float model, converted."""
    import accuracy
    import quantizers
    import tensorflow as tf

    saved = quantizers.saved_model(accuracy.subject_of(net, path.parent))
    path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(saved).convert())


MAKERS: dict[str, Callable[..., None]] = {
    "float": make_float,
    "ours": make_ours,
    "ours, for onnxruntime": lambda net, path: make_ours(net, path, target="onnxruntime"),
    "TFLite converter": make_with("converter"),
    "ai-edge-quantizer": make_with("ai-edge"),
}
OURS = ("float", "ours", "ours, for onnxruntime", "TFLite converter")  # made without ai-edge-quantizer


@dataclasses.dataclass(frozen=True)
class Figures:
    """What is measured of a model: against the float one, and milliseconds a batch."""

    sqnr: float
    agreement: float
    megabytes: float
    milliseconds: list[float]


def time_all(paths: list[str], result: str) -> None:
    """Writes the median times of models, by batch size; run in a process without TensorFlow."""
    from ai_edge_litert.interpreter import Interpreter

    random, found = np.random.default_rng(0), []
    for size, repetitions in REPETITIONS.items():
        runs = []
        for path in paths:
            interpreter = Interpreter(path, num_threads=THREADS)
            [taken] = interpreter.get_input_details()
            shape = [size, *taken["shape"][1:]]
            interpreter.resize_tensor_input(taken["index"], shape)
            interpreter.allocate_tensors()
            interpreter.set_tensor(taken["index"], random.standard_normal(shape).astype(taken["dtype"]))
            interpreter.invoke()
            runs.append(interpreter)
        found.append(np.median([[time_of(run, repetitions) for run in runs] for _ in range(ROUNDS)], axis=0).tolist())
    Path(result).write_text(json.dumps(found))


def time_of(interpreter: object, repetitions: int) -> float:
    """Returns milliseconds a run."""
    start = time.perf_counter()
    for _ in range(repetitions):
        interpreter.invoke()
    return (time.perf_counter() - start) / repetitions * 1e3


def measure(name: str, cache: Path, python: str) -> dict[str, Figures]:
    """Makes the models of a net and measures them."""
    import accuracy
    import nets
    import quantizers
    from common import Failure, run_script

    net = nets.read(nets.folder_of(cache, name))
    subject, batches = accuracy.subject_of(net, net.folder), net.evaluation_batches()
    with tempfile.TemporaryDirectory() as scratch:
        paths = {}
        for number, maker in enumerate(MAKERS):
            folder = Path(scratch, str(number))
            folder.mkdir()
            interpreter = sys.executable if maker in OURS else python
            done = run_script(interpreter, __file__, "--make", maker, str(net.folder), str(folder / "model.tflite"))
            if isinstance(done, Failure):
                print(f"skipped: {maker}, {name}: {done.reason}")
            else:
                paths[maker] = folder / "model.tflite"
        result = Path(scratch, "times.json")
        done = run_script(python, __file__, "--time", *map(str, paths.values()), str(result))
        if isinstance(done, Failure):
            raise SystemExit(f"the models of {name} cannot be timed: {done.reason}")
        times = np.transpose(json.loads(result.read_text())).tolist()
        reference = quantizers.run_graph(subject, net.model, batches)
        figures = {}
        for (maker, path), spent in zip(paths.items(), times, strict=True):
            logits = quantizers.run_with_tensorflow_lite(subject, path, batches)
            compared = accuracy.compare(net, reference, logits)
            figures[maker] = Figures(compared.sqnr, compared.agreement, path.stat().st_size / 1e6, spent)
        return figures


def main() -> None:
    """Prints a table for each net, or does one step in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=list(NETS), metavar="NAME")
    parser.add_argument("--cache", type=Path, help="the folder in which benchmarks/accuracy.py keeps its nets")
    parser.add_argument("--python", default=sys.executable, help="the interpreter for LiteRT and ai-edge-quantizer")
    parser.add_argument("--make", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--time", nargs="+", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.make:
        import nets

        maker, folder, path = asked.make
        MAKERS[maker](nets.read(Path(folder)), Path(path))
    elif asked.time:
        time_all(asked.time[:-1], asked.time[-1])
    else:
        for name in asked.nets:
            print(f"\n{name:20}{'dB':>8}{'top-1, %':>10}{'MB':>8}{'ms, 1':>9}{'ms, 32':>9}")
            for maker, row in measure(name, asked.cache, asked.python).items():
                spent = "".join(f"{value:9.2f}" for value in row.milliseconds)
                print(f"{maker:20}{row.sqnr:8.1f}{row.agreement:10.2f}{row.megabytes:8.2f}{spent}")


if __name__ == "__main__":
    main()
