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
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from common import growth, load_graph, seconds, shared_data

MODEL = "mobilenet_v2/mobilenet_v2_1.0_224_frozen.pb"
INPUT, OUTPUT = "input", "MobilenetV2/Predictions/Reshape_1"
BATCH = 32
BATCHES = (1, 4)
ROUNDS = 5

Batches = list[np.ndarray]  # float32 [BATCH, 224, 224, 3] each
Quantize = Callable[[], object]


def ours_in_own_session(model: Path, batches: Batches, folder: Path) -> Quantize:
    """All steps, with a loop over a session of the user's."""

    def run(graph: tf.Graph) -> None:
        with tf.compat.v1.Session(graph=graph) as session:
            for batch in batches:
                session.run(f"{OUTPUT}:0", {f"{INPUT}:0": batch})

    return _ours(model, len(batches), folder, run)


def ours_with_calibrate(model: Path, batches: Batches, folder: Path) -> Quantize:
    """All steps, with amct.calibrate."""
    import amct_tensorflow as amct

    return _ours(model, len(batches), folder, lambda graph: amct.calibrate(graph, [OUTPUT], batches))


def _ours(model: Path, batch_num: int, folder: Path, run: Callable[[tf.Graph], None]) -> Quantize:
    import amct_tensorflow as amct

    amct.set_logging_level("error", "error")
    config, record, prefix = str(folder / "config.json"), str(folder / "record.txt"), str(folder / "int8")

    def quantize() -> None:
        graph = load_graph(model)
        amct.create_quant_config(config, graph, batch_num=batch_num)
        amct.quantize_model(graph, config, record)
        run(graph)
        amct.save_model(str(model), [OUTPUT], record, prefix)

    return quantize


def tflite_converter(model: Path, batches: Batches, folder: Path) -> Quantize:
    """tf.lite.TFLiteConverter with a representative dataset of single images, as it asks for."""
    saved = _saved_model(model, folder)

    def quantize() -> None:
        converter = tf.lite.TFLiteConverter.from_saved_model(saved)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image] for image in _single_images(batches))
        (folder / "int8.tflite").write_bytes(converter.convert())

    return quantize


def ai_edge_quantizer(model: Path, batches: Batches, folder: Path) -> Quantize:
    """Static int8 of weights and activations, from a float .tflite."""
    from ai_edge_litert import interpreter
    from ai_edge_quantizer import quantizer, recipe

    path = folder / "float.tflite"
    path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(_saved_model(model, folder)).convert())
    [(signature, names)] = interpreter.Interpreter(str(path)).get_signature_list().items()
    [name] = names["inputs"]

    def quantize() -> None:
        tool = quantizer.Quantizer(str(path))
        tool.load_quantization_recipe(recipe.static_wi8_ai8())
        found = tool.calibrate({signature: [{name: image} for image in _single_images(batches)]})
        (folder / "int8.tflite").write_bytes(tool.quantize(found).quantized_model)

    return quantize


def onnxruntime(method: str) -> Callable[[Path, Batches, Path], Quantize]:
    """quantize_static of onnxruntime with one of its calibration methods, from what tf2onnx makes of the model."""

    def prepare(model: Path, batches: Batches, folder: Path) -> Quantize:
        import tf2onnx
        from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static

        names = {"input_names": [f"{INPUT}:0"], "inputs_as_nchw": [f"{INPUT}:0"], "output_names": [f"{OUTPUT}:0"]}
        graph_def = load_graph(model).as_graph_def()
        tf2onnx.convert.from_graph_def(graph_def, opset=17, output_path=str(folder / "float.onnx"), **names)

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self._feeds = iter([{f"{INPUT}:0": batch.transpose(0, 3, 1, 2)} for batch in batches])

            def get_next(self) -> dict[str, np.ndarray] | None:
                return next(self._feeds, None)

        paths = str(folder / "float.onnx"), str(folder / "int8.onnx")
        return lambda: quantize_static(*paths, Reader(), calibrate_method=CalibrationMethod[method])

    return prepare


def neural_compressor(model: Path, batches: Batches, folder: Path) -> Quantize:
    """Static quantization of Neural Compressor, of the same .pb."""
    from neural_compressor.tensorflow import StaticQuantConfig, quantize_model

    class Loader:
        batch_size = BATCH

        def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            return ((batch, np.zeros(BATCH)) for batch in batches)

        def __len__(self) -> int:
            return len(batches)

    def quantize() -> None:
        made = quantize_model(str(model), StaticQuantConfig(), Loader(), calib_iteration=len(batches))
        made.save(str(folder / "int8"))

    return quantize


QUANTIZERS: dict[str, Callable[[Path, Batches, Path], Quantize]] = {
    "ours, own session": ours_in_own_session,
    "ours, amct.calibrate": ours_with_calibrate,
    "ai-edge-quantizer": ai_edge_quantizer,
    "onnxruntime, min-max": onnxruntime("MinMax"),
    "onnxruntime, entropy": onnxruntime("Entropy"),
    "onnxruntime, percentile": onnxruntime("Percentile"),
    "TFLite converter": tflite_converter,
    "Neural Compressor": neural_compressor,
}


def _saved_model(model: Path, folder: Path) -> str:
    """Writes the model as a SavedModel, with the signature that ai-edge-quantizer asks for."""
    graph_def = load_graph(model).as_graph_def()
    imported = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph_def, name=""), [])
    network = imported.prune(f"{INPUT}:0", f"{OUTPUT}:0")
    images = tf.TensorSpec([None, 224, 224, 3], tf.float32, name="images")
    signature = tf.function(lambda images: {"scores": network(images)}).get_concrete_function(images)
    tf.saved_model.save(tf.Module(), str(folder / "saved_model"), signatures=signature)
    return str(folder / "saved_model")


def _single_images(batches: Batches) -> Iterator[np.ndarray]:
    return (image[None] for batch in batches for image in batch)


def load_batches(count: int) -> Batches:
    """Returns batches of ImageNet images spread evenly over the set, central crops, as the model takes them."""
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
        quantize = QUANTIZERS[name](model, batches, Path(scratch))
        run_float()
        quantize()
        pairs = [(seconds(run_float), seconds(quantize)) for _ in range(rounds)]
        memory = growth(quantize)
    float_batch, time = (statistics.median(times) for times in zip(*pairs, strict=True))
    return {"seconds": time, "float batches": time / float_batch, "MB": memory}


def in_own_process(name: str, count: int, rounds: int, python: str) -> dict[str, float] | str:
    """Returns what `measure` returns in a process of its own, or why there is nothing."""
    command = [python, __file__, "--measure", name, "--batches", str(count), "--rounds", str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
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
