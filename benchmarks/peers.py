"""Time and memory of this package and of other quantizers on MobileNetV2, as one table.

Each quantizer runs in a process of its own, which is warm: all was done once before. It is given the float model in its
own form, whose making is not counted, and 32 images in one batch or 128 in four; what is counted ends with an int8
model, in memory or on disk. Float batches of TensorFlow are run in turns with the quantizations, and times are also
given as multiples of one of them: those can be compared between machines. Memory is the peak above what the process
held right before.

A quantizer that is not installed is skipped, with the reason. Those that want other versions of packages than this one
may live in an environment of their own: --python names its interpreter.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from common import Failure, growth, load_graph, run_script, seconds, shared_data
from quantizers import (
    Batches,
    Prepare,
    Subject,
    ai_edge_quantizer,
    neural_compressor,
    onnxruntime,
    ours_in_own_session,
    ours_with_calibrate,
    tflite_converter,
)

MODEL = "mobilenet_v2/mobilenet_v2_1.0_224_frozen.pb"
INPUT, OUTPUT = "input", "MobilenetV2/Predictions/Reshape_1"
BATCH = 32
BATCHES = (1, 4)
ROUNDS = 5

QUANTIZERS: dict[str, Prepare] = {
    "ours, own session": ours_in_own_session,
    "ours, amct.calibrate": ours_with_calibrate(),
    "ai-edge-quantizer": ai_edge_quantizer(),
    "onnxruntime, min-max": onnxruntime("MinMax"),
    "onnxruntime, entropy": onnxruntime("Entropy"),
    "onnxruntime, percentile": onnxruntime("Percentile"),
    "TFLite converter": tflite_converter,
    "Neural Compressor": neural_compressor,
}


def load_batches(count: int) -> Batches:
    """Returns central crops of ImageNet images spread evenly over the set, float32 [BATCH, 224, 224, 3] a batch."""
    from PIL import Image

    paths = sorted(shared_data("imagenet").glob("*.jpg"))
    chosen = paths[:: len(paths) // (count * BATCH)][: count * BATCH]
    images = [np.asarray(Image.open(path).convert("RGB"), np.float32)[16:240, 16:240] for path in chosen]
    return np.split(np.stack(images) / np.float32(127.5) - 1, count)


def measure(name: str, count: int, rounds: int) -> dict[str, float]:
    """Measures one quantizer in this process."""
    model, batches = shared_data(MODEL), load_batches(count)
    # Not as the default session: the converters of others want to run eagerly.
    session = tf.compat.v1.Session(graph=load_graph(model))

    def run_float() -> None:
        session.run(f"{OUTPUT}:0", {f"{INPUT}:0": batches[0]})

    with tempfile.TemporaryDirectory() as scratch:
        prepared = QUANTIZERS[name](Subject(model, INPUT, OUTPUT, Path(scratch)))

        def quantize() -> None:
            prepared(batches)

        run_float()
        quantize()
        pairs = [(seconds(run_float), seconds(quantize)) for _ in range(rounds)]
        memory = growth(quantize)
    float_batch, time = (statistics.median(times) for times in zip(*pairs, strict=True))
    return {"seconds": time, "float batches": time / float_batch, "MB": memory}


def in_own_process(name: str, count: int, rounds: int, python: str) -> dict[str, float] | str:
    """Returns what `measure` returns in a process of its own, or why there is nothing."""
    done = run_script(python, __file__, "--measure", name, "--batches", str(count), "--rounds", str(rounds))
    if isinstance(done, Failure):
        return done.reason
    measured: dict[str, float] = json.loads(done.splitlines()[-1])
    return measured


def main() -> None:
    """Measures all quantizers and prints the table, or one in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=QUANTIZERS, metavar="NAME", help="which ones; default: all")
    parser.add_argument("--python", default=sys.executable, help="the interpreter for those that are not ours")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"how often each is run; default: {ROUNDS}")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--batches", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        with contextlib.redirect_stdout(sys.stderr):
            measured = measure(arguments.measure, arguments.batches, arguments.rounds)
        print(json.dumps(measured))
        return
    shared_data(MODEL)
    print(f"TensorFlow {tf.__version__}, {os.cpu_count()} cores; MobileNetV2, batches of {BATCH} images")
    print(f"{'':26}{'batches':>8}{'seconds':>10}{'float batches':>15}{'MB':>8}")
    for name in arguments.only or QUANTIZERS:
        for count in BATCHES:
            python = sys.executable if name.startswith("ours") else arguments.python
            measured = in_own_process(name, count, arguments.rounds, python)
            if isinstance(measured, str):
                print(f"{name:26} skipped: {measured}", flush=True)
                break
            figures = f"{measured['seconds']:10.2f}{measured['float batches']:15.1f}{measured['MB']:8.0f}"
            print(f"{name:26}{count:8}{figures}", flush=True)


if __name__ == "__main__":
    main()
