"""What compensated rounding and bias correction cost: time and memory of a calibration, beside that without them.

MobileNetV2 on 32 images, where the shared data are, and Keras' ResNet152 with random weights on 8. Calibrations with
and without are run in turns, after one of each that does not count; times are in steady float batches.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from accuracy import CONFIGURATIONS
from common import SHARED, growth, load_graph, seconds
from quantizers import Subject, change_weights
from scale import INPUT, OUTPUT, write_keras_model

import amct_tensorflow as amct

REPEATS = 5
WITH, WITHOUT = "ours", "ours, nearest, no correction"


def calibration(subject: Subject, batch: np.ndarray, configuration: str) -> Callable[[], object]:
    """Prepares a calibration and returns the call that runs it."""
    config, record = subject.folder / "config.json", str(subject.folder / "record.txt")
    graph = load_graph(subject.model)
    amct.create_quant_config(str(config), graph)
    change_weights(config, CONFIGURATIONS[configuration])
    amct.quantize_model(graph, str(config), record)
    return lambda: amct.calibrate(graph, [subject.output], [{subject.input: batch}])


def measure(subject: Subject, batch: np.ndarray) -> None:
    """Prints the figures of a model that is calibrated with a batch."""
    times: dict[str, list[float]] = {"float": [], WITHOUT: [], WITH: []}
    peaks: dict[str, list[float]] = {WITHOUT: [], WITH: []}
    with tf.compat.v1.Session(graph=load_graph(subject.model)) as session:
        for _ in range(REPEATS + 1):
            feed = {f"{subject.input}:0": batch}
            times["float"].append(seconds(lambda feed=feed: session.run(f"{subject.output}:0", feed)))
            for name in peaks:
                call = calibration(subject, batch, name)
                peaks[name].append(growth(lambda call=call, name=name: times[name].append(seconds(call))))
    time = {name: statistics.median(values[1:]) for name, values in times.items()}  # the first is a warm-up
    peak = {name: statistics.median(values[1:]) for name, values in peaks.items()}
    print(f"a steady float batch {time['float']:.2f} s")
    for name in peaks:
        print(f"{name}: {time[name]:.2f} s, {time[name] / time['float']:.1f} float batches; peak {peak[name]:.0f} MB")
    more = (time[WITH] - time[WITHOUT]) / time["float"]
    print(
        f"in addition: {more:.1f} float batches, {peak[WITH] - peak[WITHOUT]:.0f} MB; "
        f"{time[WITH] / time[WITHOUT]:.2f} times"
    )


def subjects(folder: Path) -> Iterator[tuple[str, Subject, np.ndarray]]:
    """Yields the models, each when its turn comes, and a batch to calibrate it with."""
    if (SHARED / "data").exists():
        import real_models

        model = real_models.mobilenet_v2()
        yield "MobileNetV2, 32 images", Subject(model.path, "input", model.output, folder), model.calibration
    else:
        print("skipped: MobileNetV2, which needs the project's shared data")
    write_keras_model("ResNet152", folder / "resnet.pb", image=224, batch=None)
    images = np.random.default_rng(0).uniform(-1, 1, [8, 224, 224, 3]).astype(np.float32)
    yield "ResNet152, 8 images", Subject(folder / "resnet.pb", INPUT, OUTPUT, folder), images


def main() -> None:
    """Prints the figures of each model."""
    amct.set_logging_level("error", "error")
    with tempfile.TemporaryDirectory() as scratch:
        for name, subject, batch in subjects(Path(scratch)):
            print(f"-- {name}")
            measure(subject, batch)


if __name__ == "__main__":
    main()
