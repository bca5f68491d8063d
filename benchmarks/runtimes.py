"""Int8 models in the runtimes that have int8 kernels, beside the float models: speed, agreement, size.

Each time is that of a process of its own. The processes take turns, round by round, so that a noisy machine weighs on
all alike; what is printed are the medians over the rounds.
"""

from __future__ import annotations

import dataclasses
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import tensorflow as tf
from common import load_graph, print_json, sqnr
from real_models import mobilenet_v2, resnet8

import amct_tensorflow as amct
from amct_tensorflow.analysis.run_times import milliseconds
from amct_tensorflow.export.report import ExportReport

Run: TypeAlias = Callable[[str, str, np.ndarray], np.ndarray]

BATCHES, ROUNDS = (1, 32), 3


@dataclasses.dataclass(frozen=True)
class Net:
    """A frozen float graph with samples: those to calibrate with, and others where agreement means something."""

    pb: Path
    output: str
    calibration: np.ndarray
    evaluation: np.ndarray | None = None


def mobilenet(folder: Path) -> Net:
    """MobileNetV2, trained, with 400 images."""
    model = mobilenet_v2()
    return Net(model.path, model.logits, model.calibration, model.images)


def small_resnet(folder: Path) -> Net:
    """ResNet-8, trained, with 1200 images."""
    model = resnet8()
    return Net(model.path, model.logits, model.calibration, model.images)


def resnet50(folder: Path) -> Net:
    """ResNet50 of Keras with random weights."""
    return of_keras(tf.keras.applications.ResNet50(weights=None, classifier_activation=None), folder, (224, 224, 3))


def vgg_like(folder: Path) -> Net:
    """Plain convolutions with pooling between, as VGG, on images of 64 x 64."""
    layers = [tf.keras.Input((64, 64, 3))]
    for channels, count in ((64, 2), (128, 2), (256, 3), (512, 3)):
        layers += [tf.keras.layers.Conv2D(channels, 3, padding="same", activation="relu") for _ in range(count)]
        layers.append(tf.keras.layers.MaxPool2D())
    layers += [tf.keras.layers.Flatten(), tf.keras.layers.Dense(512, "relu"), tf.keras.layers.Dense(100)]
    return of_keras(tf.keras.Sequential(layers), folder, (64, 64, 3))


def transformer(folder: Path) -> Net:
    """An encoder of four blocks, 128 tokens of 512 numbers, eight heads."""
    x = start = tf.keras.Input((128, 512))
    for _ in range(4):
        heads = tf.keras.layers.MultiHeadAttention(8, 64)(x, x)
        x = tf.keras.layers.LayerNormalization()(x + heads)
        y = tf.keras.layers.Dense(512)(tf.keras.layers.Dense(2048, "relu")(x))
        x = tf.keras.layers.LayerNormalization()(x + y)
    return of_keras(tf.keras.Model(start, x), folder, (128, 512))


def of_keras(model: tf.keras.Model, folder: Path, shape: tuple[int, ...]) -> Net:
    """Freezes a model with random weights; noise is what it is calibrated with."""
    graph = amct.load_graph(model)
    (folder / "float.pb").write_bytes(graph.as_graph_def().SerializeToString())
    output = next(op.name for op in reversed(graph.get_operations()) if not op.outputs[0].consumers())
    return Net(folder / "float.pb", output, np.random.default_rng(0).uniform(-1, 1, (8, *shape)).astype(np.float32))


NETS: dict[str, Callable[[Path], Net]] = {
    "MobileNetV2": mobilenet,
    "ResNet-8": small_resnet,
    "ResNet50": resnet50,
    "VGG-like": vgg_like,
    "Transformer encoder": transformer,
}


def input_of(graph: tf.Graph) -> str:
    """Returns the name of the only placeholder."""
    [name] = [op.name for op in graph.get_operations() if op.type == "Placeholder"]
    return name


def quantize(net: Net, folder: Path, target: str) -> str:
    """Calibrates for a target and returns the path of the int8 model."""
    graph = load_graph(net.pb)
    config, record, prefix = (str(folder / name) for name in ("config.json", "record.txt", target))
    amct.create_quant_config(config, graph, target=target)
    amct.quantize_model(graph, config, record, [net.output])
    with tf.compat.v1.Session(graph=graph) as session:
        session.run(f"{net.output}:0", {f"{input_of(graph)}:0": net.calibration})
    amct.save_model(str(net.pb), [net.output], record, prefix)
    return f"{prefix}_quantized.pb"


def float_onnx(net: Net, path: Path) -> str:
    """Converts the float model with tf2onnx alone."""
    from tf2onnx import convert

    graph = load_graph(net.pb)
    names = {"input_names": [f"{input_of(graph)}:0"], "output_names": [f"{net.output}:0"]}
    convert.from_graph_def(graph.as_graph_def(), **names, opset=17, output_path=str(path))
    return str(path)


def batches(images: np.ndarray) -> list[np.ndarray]:
    """Returns images in batches of 50."""
    return [images[start : start + 50] for start in range(0, len(images), 50)]


def run_tensorflow(pb: str | Path, output: str, images: np.ndarray) -> np.ndarray:
    """Returns what a .pb puts out."""
    graph = load_graph(Path(pb))
    with tf.compat.v1.Session(graph=graph) as session:
        name = f"{input_of(graph)}:0"
        return np.concatenate([session.run(f"{output}:0", {name: batch}) for batch in batches(images)])


def run_onnx(model: str, output: str, images: np.ndarray) -> np.ndarray:
    """Returns what an ONNX model puts out."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run([output], {name: batch})[0] for batch in batches(images)])


def run_tflite(model: str, output: str, images: np.ndarray) -> np.ndarray:
    """Returns what a TFLite model puts out."""
    runner = tf.lite.Interpreter(model).get_signature_runner()
    [name] = runner.get_input_details()
    return np.concatenate([runner(**{name: batch})[output] for batch in batches(images)])


# A runtime -> its program for run times, what makes its model, and what runs that.
RUNTIMES: dict[str, tuple[str, Callable[..., ExportReport], Run]] = {
    "onnxruntime": ("onnxruntime", amct.export_onnx, run_onnx),
    "LiteRT": ("tflite", amct.export_tflite, run_tflite),
    "TensorFlow": ("tensorflow", amct.export_tensorflow, run_tensorflow),
}


def agreement(reference: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Returns how often the largest logit is the same, in percent, and the SQNR."""
    reference, other = (values.reshape(len(values), -1) for values in (reference, other))
    same = float(np.mean(reference.argmax(1) == other.argmax(1)) * 100)
    return {"agreement %": round(same, 2), "SQNR dB": round(sqnr(reference, other), 1)}


def measure(make: Callable[[Path], Net]) -> dict[str, object]:
    """Returns all figures of a net."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        net = make(folder)
        models = {"TensorFlow, float": ("tensorflow", str(net.pb))}
        models["onnxruntime, float"] = ("onnxruntime", float_onnx(net, folder / "float.onnx"))
        results: dict[str, object] = {}
        for target in ("ascend", "onnxruntime"):
            pb = quantize(net, folder, target)
            models[f"TensorFlow, as the chip computes, for {target}"] = "tensorflow", pb
            for runtime, (program, export, run) in RUNTIMES.items():
                report = export(pb, str(folder / f"for_{target}"), [net.output])
                models[f"{runtime}, int8 for {target}"] = program, report.files[0]
                results[f"{runtime} for {target}"] = facts(net, pb, report, run)
        return {**results, "milliseconds": times(models, net.output)}


def facts(net: Net, pb: str, report: ExportReport, run: Run) -> dict[str, object]:
    """Returns what is known of an exported model, beside the int8 model and the float model."""
    size = Path(report.files[0]).stat().st_size / net.pb.stat().st_size
    found: dict[str, object] = {
        "layers in int8": f"{len(report.layers) - len(report.in_float)} of {len(report.layers)}",
        "size, of the float .pb": round(size, 3),
    }
    if net.evaluation is not None:
        exported = run(report.files[0], net.output, net.evaluation)
        simulated, floats = (run_tensorflow(path, net.output, net.evaluation) for path in (pb, net.pb))
        found["beside the .pb"] = agreement(simulated, exported)
        found["beside the float model"] = agreement(floats, exported)
        found[".pb beside the float model"] = agreement(floats, simulated)
    return found


def times(models: dict[str, tuple[str, str]], output: str) -> dict[str, dict[str, float]]:
    """Returns the milliseconds of each model for each batch size."""
    found: dict[str, dict[str, float]] = {}
    for batch in BATCHES:
        measured: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(ROUNDS):
            for name, (program, file) in models.items():
                measured[name].append(milliseconds(program, file, batch, [f"{output}:0"]))
        found[f"batch {batch}"] = {name: round(statistics.median(times), 2) for name, times in measured.items()}
    return found


def main() -> None:
    """Measures the nets that are named, or all."""
    amct.set_logging_level("error", "error")
    print_json({name: measure(NETS[name]) for name in sys.argv[1:] or NETS})


if __name__ == "__main__":
    main()
