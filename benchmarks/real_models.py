"""Accuracy, time, memory and size on real models, as one JSON object.

MobileNetV2 is calibrated with 32 of 400 images and ResNet-8 with 100 of 1200; all are evaluated. The batch norms of
ResNet-8 also get new statistics, of 128 images that are drawn several times. MobileNetV2 is also converted with the
vendor's published record, and calibrated in the other ways that a configuration can ask for. Times are those of a
process whose TensorFlow is warm: the float graph was loaded and run before.
"""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from common import (
    load_graph,
    peak_memory,
    print_json,
    reset_peak_memory,
    seconds,
    shared_data,
    sqnr,
)

import amct_tensorflow as amct
from amct_tensorflow.graph_passes.batch_norm_statistics import replaced_statistics
from amct_tensorflow.graph_passes.planning.find_batch_norms import find_batch_norms
from amct_tensorflow.record import read_batch_norms

REPEATS = 5


@dataclasses.dataclass(frozen=True)
class Model:
    """A frozen model with labelled images, as float32 [N, height, width, 3]."""

    path: Path
    logits: str
    output: str
    images: np.ndarray
    labels: np.ndarray
    calibration_images: int
    batch_size: int

    @property
    def calibration(self) -> np.ndarray:
        """Images spread evenly over the set."""
        return self.images[:: len(self.images) // self.calibration_images][: self.calibration_images]


def mobilenet_v2() -> Model:
    """MobileNetV2 with 400 ImageNet images, central crops."""
    from PIL import Image

    paths = sorted(shared_data("imagenet").glob("*.jpg"))
    images = [np.asarray(Image.open(path).convert("RGB"), np.float32)[16:240, 16:240] for path in paths]
    return Model(
        path=shared_data("mobilenet_v2/mobilenet_v2_1.0_224_frozen.pb"),
        logits="MobilenetV2/Logits/output",
        output="MobilenetV2/Predictions/Reshape_1",
        images=np.stack(images) / np.float32(127.5) - 1,
        labels=np.array([int(path.name[:4]) + 1 for path in paths]),
        calibration_images=32,
        batch_size=32,
    )


def resnet8() -> Model:
    """ResNet-8 with 1200 CIFAR-10 images."""
    data = np.load(shared_data("resnet8_cifar10/cifar10_1200.npz"))
    return Model(
        path=shared_data("resnet8_cifar10/resnet8_cifar10.pb"),
        logits="Identity",
        output="Identity",
        images=data["x"].astype(np.float32),
        labels=data["y"].astype(int),
        calibration_images=100,
        batch_size=100,
    )


def evaluate(graph: tf.Graph, model: Model) -> np.ndarray:
    """Returns the logits of all images."""
    with tf.compat.v1.Session(graph=graph) as session:
        return np.concatenate(
            [
                session.run(f"{model.logits}:0", {"input:0": model.images[start : start + model.batch_size]})
                for start in range(0, len(model.images), model.batch_size)
            ]
        )


def steady_runs(session: tf.compat.v1.Session, model: Model) -> Callable[[], object]:
    """Returns a call that runs the calibration batch."""
    return lambda: session.run(f"{model.output}:0", {"input:0": model.calibration})


def quantize(model: Model, folder: Path) -> dict[str, float]:
    """Runs the four steps and returns the seconds of each."""
    config, record, prefix = str(folder / "config.json"), str(folder / "record.txt"), str(folder / "model")
    graph = load_graph(model.path)

    def calibrate() -> None:
        with tf.compat.v1.Session(graph=graph) as session:
            steady_runs(session, model)()

    return {
        "create_quant_config": seconds(lambda: amct.create_quant_config(config, graph)),
        "quantize_model": seconds(lambda: amct.quantize_model(graph, config, record)),
        "calibration batch in a new session": seconds(calibrate),
        "save_model": seconds(lambda: amct.save_model(str(model.path), [model.output], record, prefix)),
    }


def measure(model: Model) -> dict[str, object]:
    """Returns all figures of a model."""
    with tempfile.TemporaryDirectory() as scratch, tf.compat.v1.Session(graph=load_graph(model.path)) as session:
        folder = Path(scratch)
        run_float = steady_runs(session, model)
        run_float()
        reset_peak_memory()
        # Float runs around the quantizations: a noisy machine then weighs on both alike.
        float_times = [seconds(run_float) for _ in range(REPEATS)]
        float_peak = peak_memory()
        reset_peak_memory()
        steps = [quantize(model, folder)]
        peak = peak_memory()
        for _ in range(REPEATS):
            steps.append(quantize(model, folder))
            float_times.append(seconds(run_float))
        float_time = statistics.median(float_times)
        total = statistics.median(sum(step.values()) for step in steps)
        int8_path = folder / "model_quantized.pb"
        return {
            **accuracy(model, int8_path),
            "seconds": {
                "one steady float batch": round(float_time, 3),
                **{name: round(statistics.median(step[name] for step in steps), 3) for name in steps[0]},
                "all four steps": round(total, 3),
            },
            "all four steps / float batch": round(total / float_time, 2),
            "peak MB above the float run": round(peak - float_peak, 1),
            "int8 / float inference time": round(inference_ratio(model, int8_path), 2),
            "float bytes": model.path.stat().st_size,
            "int8 bytes": int8_path.stat().st_size,
            "int8 / float size": round(int8_path.stat().st_size / model.path.stat().st_size, 4),
        }


def accuracy(model: Model, int8_path: Path) -> dict[str, object]:
    """Compares the int8 model with the float model on all images."""
    before, after = evaluate(load_graph(model.path), model), evaluate(load_graph(int8_path), model)
    float_top1 = float(np.mean(before.argmax(1) == model.labels))
    int8_top1 = float(np.mean(after.argmax(1) == model.labels))
    return {
        "float top-1": round(float_top1, 4),
        "int8 top-1": round(int8_top1, 4),
        "points lost": round(100 * (float_top1 - int8_top1), 2),
        "top-1 agreement": round(float(np.mean(before.argmax(1) == after.argmax(1))), 4),
        "logits SQNR dB": round(sqnr(before, after), 2),
    }


def inference_ratio(model: Model, int8_path: Path) -> float:
    """Returns the int8 graph's time over the float graph's, run in turns."""
    with (
        tf.compat.v1.Session(graph=load_graph(model.path)) as float_session,
        tf.compat.v1.Session(graph=load_graph(int8_path)) as int8_session,
    ):
        runs = [steady_runs(float_session, model), steady_runs(int8_session, model)]
        for run in runs:
            run()
        times = [[seconds(run) for run in runs] for _ in range(2 * REPEATS)]
    return statistics.median(int8 for _, int8 in times) / statistics.median(plain for plain, _ in times)


def published_record(model: Model) -> dict[str, object]:
    """Returns the figures of convert_model with the vendor's record."""
    record = shared_data("mobilenet_v2/record_quantized.txt")
    with tempfile.TemporaryDirectory() as scratch:
        prefix = str(Path(scratch, "model"))
        time = seconds(lambda: amct.convert_model(str(model.path), [model.output], str(record), prefix))
        return {**accuracy(model, Path(prefix + "_quantized.pb")), "convert_model seconds": round(time, 3)}


CONFIGURATIONS = {
    "hfmg": "common_config { hfmg_quantize { } }",
    "dmq": "common_config { dmq_balancer { } }",
    "hfmg and dmq": "common_config { hfmg_quantize { } dmq_balancer { } }",
    "symmetric activations": "activation_offset: false",
}


def configured(model: Model, simplified: str) -> dict[str, object]:
    """Returns the accuracy of a calibration with a simplified configuration."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "a.cfg").write_text(simplified)
        config, record, prefix = str(folder / "config.json"), str(folder / "record.txt"), str(folder / "model")
        amct.create_quant_config(config, load_graph(model.path), config_defination=str(folder / "a.cfg"))
        steps = [amct.quantize_preprocess] if "dmq" in simplified else []
        for step in (*steps, amct.quantize_model):
            graph = load_graph(model.path)
            step(graph, config, record)
            with tf.compat.v1.Session(graph=graph) as session:
                steady_runs(session, model)()
        amct.save_model(str(model.path), [model.output], record, prefix)
        return accuracy(model, Path(prefix + "_quantized.pb"))


def new_statistics(model: Model, draws: int = 12) -> dict[str, object]:
    """Returns the accuracy where batch norms get the statistics of the calibration images: the mean, the least."""
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        config = Path(scratch, "a.cfg")
        config.write_text("batch_num: 4 update_bn: true bn_update_config { bn_moving_average_fraction: 0.9 }")
        for seed in range(draws):
            images = model.images[np.random.default_rng(seed).permutation(len(model.images))[:128]]
            result = amct.quantize(str(model.path), images, f"{scratch}/model", config=str(config))
            graph = load_graph(model.path)
            with replaced_statistics(find_batch_norms(graph)[0], read_batch_norms(result.record_file)):
                answers = [evaluate(each, model).argmax(1) for each in (graph, load_graph(Path(result.model)))]
            found.append([float(np.mean(answer == model.labels)) for answer in answers])
    columns = {"float top-1": 0, "int8 top-1": 1}
    means, least = np.mean(found, axis=0), np.min(found, axis=0)
    return {name: [round(float(means[at]), 4), round(float(least[at]), 4)] for name, at in columns.items()}


def main() -> None:
    """Measures both models."""
    amct.set_logging_level("error", "error")
    mobilenet = mobilenet_v2()
    print_json(
        {
            "mobilenet_v2": measure(mobilenet),
            "mobilenet_v2, published record": published_record(mobilenet),
            **{f"mobilenet_v2, {name}": configured(mobilenet, text) for name, text in CONFIGURATIONS.items()},
            "resnet8": measure(resnet8()),
            "resnet8, new batch norm statistics": new_statistics(resnet8()),
        }
    )


if __name__ == "__main__":
    main()
