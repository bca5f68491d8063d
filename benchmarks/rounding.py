"""What compensated rounding and bias correction cost: time and memory of a calibration, beside that without them.

MobileNetV2 on 32 images, where the shared data are, and Keras' ResNet152 with random weights on 8. Calibrations with
and without are run in turns, after one of each that does not count; times are in steady float batches.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
from common import SHARED, growth, load_graph, seconds
from scale import INPUT, OUTPUT, write_keras_model

import amct_tensorflow as amct

REPEATS = 5
CONFIGURATIONS = {"nearest": {"weight_rounding": "nearest", "bias_correction": False}, "default": {}}


class Subject:
    """A model and a batch to calibrate it with."""

    def __init__(self, path: Path, inputs: str, output: str, batch: np.ndarray) -> None:
        self.path, self.input, self.output, self.batch = path, inputs, output, batch

    def calibration(self, folder: Path, changes: dict[str, object]) -> Callable[[], object]:
        """Prepares a calibration and returns the call that runs it."""
        config, record = folder / "config.json", str(folder / "record.txt")
        graph = load_graph(self.path)
        amct.create_quant_config(str(config), graph)
        config.write_text(json.dumps(json.loads(config.read_text()) | changes))
        amct.quantize_model(graph, str(config), record)
        return lambda: amct.calibrate(graph, [self.output], [{self.input: self.batch}])

    def measure(self, folder: Path) -> None:
        """Prints the figures."""
        with tf.compat.v1.Session(graph=load_graph(self.path)) as session:

            def run_float() -> object:
                return session.run(f"{self.output}:0", {f"{self.input}:0": self.batch})

            run_float()
            times: dict[str, list[float]] = {"float": [], **{name: [] for name in CONFIGURATIONS}}
            peaks: dict[str, list[float]] = {name: [] for name in CONFIGURATIONS}
            for repeat in range(REPEATS + 1):
                times["float"].append(seconds(run_float))
                for name, changes in CONFIGURATIONS.items():
                    call = self.calibration(folder, changes)
                    peaks[name].append(growth(lambda call=call, name=name: times[name].append(seconds(call))))
                if repeat == 0:
                    for values in (*times.values(), *peaks.values()):
                        values.clear()
        float_batch = statistics.median(times["float"])
        print(f"a steady float batch {float_batch:.2f} s")
        for name in CONFIGURATIONS:
            time, peak = statistics.median(times[name]), statistics.median(peaks[name])
            print(f"{name}: {time:.2f} s, {time / float_batch:.1f} float batches; peak {peak:.0f} MB")
        more = statistics.median(
            with_it - without for without, with_it in zip(times["nearest"], times["default"], strict=True)
        )
        ratio = statistics.median(times["default"]) / statistics.median(times["nearest"])
        print(
            f"in addition: {more / float_batch:.1f} float batches, "
            f"{statistics.median(peaks['default']) - statistics.median(peaks['nearest']):.0f} MB; {ratio:.2f} times"
        )


def subjects(folder: Path) -> Iterator[tuple[str, Subject]]:
    """Yields the models, each when its turn comes."""
    if (SHARED / "data").exists():
        import real_models

        model = real_models.mobilenet_v2()
        yield "MobileNetV2, 32 images", Subject(model.path, "input", model.output, model.calibration)
    else:
        print("skipped: MobileNetV2, which needs the project's shared data")
    write_keras_model("ResNet152", folder / "resnet.pb", image=224, batch=None)
    images = np.random.default_rng(0).uniform(-1, 1, [8, 224, 224, 3]).astype(np.float32)
    yield "ResNet152, 8 images", Subject(folder / "resnet.pb", INPUT, OUTPUT, images)


def main() -> None:
    """Prints the figures of each model."""
    amct.set_logging_level("error", "error")
    with tempfile.TemporaryDirectory() as scratch:
        for name, subject in subjects(Path(scratch)):
            print(f"-- {name}")
            subject.measure(Path(scratch))


if __name__ == "__main__":
    main()
