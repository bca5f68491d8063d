r"""Quantizes a MobileNetV2 to int8 and compares it with the float model.

Without arguments it takes the small MobileNetV2 of this folder and scikit-learn's digits. An ImageNet model::

    python main.py --model mobilenet_v2_1.0_224_frozen.pb --data_dir imagenet_images \
        --input input:0 --output MobilenetV2/Predictions/Reshape_1

Calibration images are taken evenly from the whole folder, and the whole folder is evaluated. Images are named
after their class index, as in 0123_n01440764.jpg, or listed in the file given by --labels.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
from digits import load_digits, preprocess

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Hides what TensorFlow's C++ code logs while it loads; Python exceptions still arrive."""
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


with silent_stderr():
    import tensorflow as tf

import amct_tensorflow as amct

DIGITS_MODEL = Path(__file__).with_name("mobilenet_v2_0.35_32_digits.pb")
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp"}
PACKAGES = {"sklearn": "scikit-learn", "PIL": "pillow"}


class Images(NamedTuple):
    """Labelled images; ``load`` turns indices into a preprocessed batch."""

    load: Callable[[np.ndarray], np.ndarray]
    labels: np.ndarray


class Ends(NamedTuple):
    """Op names of the input and the output of a model."""

    input: str
    output: str


class Files(NamedTuple):
    """What the sample writes; the last two come from ``amct.save_model``."""

    config: Path
    record: Path
    rounding: Path
    model: Path
    mapping: Path


def main() -> None:
    """Runs the sample."""
    args = parse_args()
    graph = load_graph(args.model)
    ends = find_ends(graph, args.input, args.output)
    calibration, evaluation = load_images(args, graph, ends)
    print(f"model        {args.model}: {ends.input} -> {ends.output}")
    print(f"calibration  {args.calibration_images} images, batch_num {args.batch_num}")
    print(f"evaluation   {len(evaluation.labels)} images")

    indices = np.arange(len(evaluation.labels))
    float_classes = classify(graph, ends, evaluation, indices, args.batch_size)
    files = quantize(args, ends, calibration)
    int8_classes = classify(load_graph(files.model), ends, evaluation, indices, args.batch_size)
    report(args.model, files, evaluation.labels, float_classes, int8_classes)


def parse_args() -> argparse.Namespace:
    """Returns the checked command line arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", type=Path, help="frozen graph (default: the digits model)")
    add("--input", help="input op (default: the only placeholder)")
    add("--output", help="output op (default: the only op that nothing consumes)")
    add("--data_dir", type=Path, help="folder of images, for --model")
    add("--labels", type=Path, help="text file with 'filename label' on each line")
    add("--label_offset", type=int, help="added to each label (default: 1 for 1001 classes, else 0)")
    add("--batch_size", type=int, default=32)
    add("--batch_num", type=int, default=1, help="batches to calibrate on")
    add("--calibration_images", type=int, help="images in all of these (default: batch_size * batch_num)")
    add("--output_dir", type=Path, default=Path("outputs"))
    args = parser.parse_args()
    if (args.model is None) != (args.data_dir is None):
        parser.error("--model and --data_dir go together")
    args.model = args.model or DIGITS_MODEL
    if min(args.batch_size, args.batch_num) < 1:
        parser.error("--batch_size and --batch_num must be at least 1")
    args.calibration_images = args.calibration_images or args.batch_size * args.batch_num
    if args.calibration_images < 1 or args.calibration_images % args.batch_num:
        parser.error("--calibration_images must be a multiple of --batch_num")
    return args


def load_graph(path: Path) -> tf.Graph:
    """Reads a frozen graph."""
    if not path.is_file():
        fail(f"no model file {path}")
    graph_def = tf.compat.v1.GraphDef()
    try:
        graph_def.ParseFromString(path.read_bytes())
        with tf.Graph().as_default() as graph:
            tf.graph_util.import_graph_def(graph_def, name="")
    except Exception as error:  # protobuf and TensorFlow have no common error class
        fail(f"{path} is not a frozen graph that TensorFlow can read: {str(error).splitlines()[0]}")
    return graph


def find_ends(graph: tf.Graph, input_name: str | None, output_name: str | None) -> Ends:
    """Returns the ops that the user named, or the only ones that come into question."""
    ops = graph.get_operations()
    inputs = [op.name for op in ops if op.type == "Placeholder"]
    outputs = [op.name for op in ops if op.outputs and not any(tensor.consumers() for tensor in op.outputs)]
    others = [op.name for op in ops if op.outputs and op.type not in ("Const", "Placeholder")]
    return Ends(find_op("input", input_name, inputs), find_op("output", output_name, outputs, others))


def find_op(what: str, name: str | None, candidates: list[str], others: Sequence[str] = ()) -> str:
    """Returns the op of this name, or the only candidate where no name is given."""
    listed = ", ".join(candidates[:20]) or "none found"
    if name is None and len(candidates) != 1:
        fail(f"give --{what}, one of: {listed}")
    name = name.removesuffix(":0") if name else candidates[0]
    if name not in candidates and name not in others:
        fail(f"the model has no {what} '{name}'; candidates: {listed}")
    return name


def load_images(args: argparse.Namespace, graph: tf.Graph, ends: Ends) -> tuple[Images, Images]:
    """Returns the images to calibrate on and those to evaluate."""
    batch_sizes = {args.batch_size, args.calibration_images // args.batch_num}
    height, width = image_size(graph, ends.input, batch_sizes)
    if args.data_dir is None:
        data = load_digits()
        calibration = Images(data.train_images.__getitem__, data.train_labels)
        evaluation = Images(data.test_images.__getitem__, data.test_labels)
    else:
        offset = args.label_offset
        if offset is None:
            classes = graph.get_tensor_by_name(f"{ends.output}:0").shape
            offset = int(classes.rank is not None and classes[-1] == 1001)
        calibration = evaluation = folder_images(args.data_dir, args.labels, offset, height, width)
    if args.calibration_images > len(calibration.labels):
        fail(f"{args.calibration_images} calibration images wanted, {len(calibration.labels)} found")
    return calibration, evaluation


def image_size(graph: tf.Graph, input_name: str, batch_sizes: set[int]) -> tuple[int, int]:
    """Returns height and width of the placeholder after a check of its shape."""
    shape = graph.get_tensor_by_name(f"{input_name}:0").shape
    if shape.rank != 4 or None in shape[1:].as_list() or shape[3] != 3:
        fail(f"input '{input_name}' has the shape {shape}, not [batch, height, width, 3]")
    if shape[0] is not None and batch_sizes != {shape[0]}:
        fail(f"the model only takes batches of {shape[0]}: give --batch_size {shape[0]}")
    return shape[1], shape[2]


def folder_images(folder: Path, labels: Path | None, offset: int, height: int, width: int) -> Images:
    """Returns the labelled images of a folder, sorted by name."""
    if not folder.is_dir():
        fail(f"no folder {folder}")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if labels is not None:
        by_name = read_labels(labels)
        paths = [path for path in paths if path.name in by_name]
    else:
        by_name = {path.name: index_in_name(path) for path in paths}
    if not paths:
        fail(f"no {'images' if labels is None else f'images listed in {labels}'} in {folder}")

    def load(indices: np.ndarray) -> np.ndarray:
        return np.stack([read_image(paths[index], height, width) for index in indices])

    return Images(load, np.array([by_name[path.name] for path in paths]) + offset)


def read_labels(path: Path) -> dict[str, int]:
    """Reads the class index of each file name."""
    if not path.is_file():
        fail(f"no label file {path}")
    try:
        rows = [line.rsplit(maxsplit=1) for line in path.read_text().splitlines() if line.strip()]
        return {name: int(label) for name, label in rows}
    except ValueError as error:
        fail(f"{path} must have 'filename label' on each line: {error}")


def index_in_name(path: Path) -> int:
    """Returns the class index that a file name starts with."""
    index = path.stem.partition("_")[0]
    if not index.isdecimal():
        fail(f"{path.name} does not start with a class index as in 0123_n01440764.jpg; give --labels")
    return int(index)


def read_image(path: Path, height: int, width: int) -> np.ndarray:
    """Returns the central crop at 7/8 of the size, the usual ImageNet evaluation."""
    from PIL import Image

    try:
        image = Image.open(path).convert("RGB")
    except OSError as error:
        fail(f"cannot read {path}: {error}")
    zoom = max(height / image.height, width / image.width) * 8 / 7
    size = round(image.width * zoom), round(image.height * zoom)
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return preprocess(np.asarray(image.crop((left, top, left + width, top + height)), np.float32))


def classify(graph: tf.Graph, ends: Ends, images: Images, indices: np.ndarray, batch_size: int) -> np.ndarray:
    """Runs the graph on images in batches and returns the class of each."""
    classes = []
    with tf.compat.v1.Session(graph=graph) as session:
        for start in range(0, len(indices), batch_size):
            batch = indices[start : start + batch_size]
            full = np.pad(batch, (0, batch_size - len(batch)), mode="edge")  # for models of a fixed batch size
            scores = session.run(f"{ends.output}:0", {f"{ends.input}:0": images.load(full)})
            classes.append(scores.reshape(batch_size, -1).argmax(axis=1)[: len(batch)])
    return np.concatenate(classes)


def quantize(args: argparse.Namespace, ends: Ends, images: Images) -> Files:
    """Calibrates and saves the int8 model: the four steps of this sample."""
    try:
        args.output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail(f"--output_dir {args.output_dir} cannot be made: {error.strerror}")
    prefix = str(args.output_dir / args.model.stem)
    config, record = args.output_dir / "config.json", args.output_dir / "record.txt"
    amct.set_logging_level(print_level="info", save_level="info")

    # 1. Write down which layers to quantize and how.
    graph = load_graph(args.model)
    amct.create_quant_config(str(config), graph, batch_num=args.batch_num)
    # 2. Insert the calibration ops into the graph.
    amct.quantize_model(graph, str(config), str(record))
    # 3. Run batch_num batches through it; the ops write the quantization factors to the record.
    indices = np.arange(args.calibration_images) * len(images.labels) // args.calibration_images
    classify(graph, ends, images, indices, args.calibration_images // args.batch_num)
    # 4. Build the int8 model from the float model and the record.
    amct.save_model(str(args.model), [ends.output], str(record), prefix)
    rounding = Path(f"{record}.safetensors")  # which the ops write beside it
    return Files(config, record, rounding, Path(f"{prefix}_quantized.pb"), Path(f"{prefix}_quant.json"))


def report(model: Path, files: Files, labels: np.ndarray, before: np.ndarray, after: np.ndarray) -> None:
    """Prints the files written and how the classes before and after quantization compare."""
    float_size, int8_size = model.stat().st_size, files.model.stat().st_size
    print(f"\n{'':16}{'float':>12}{'int8':>12}")
    print(f"{'top-1 accuracy':16}{np.mean(before == labels):12.2%}{np.mean(after == labels):12.2%}")
    print(f"{'top-1 agreement':16}{'':12}{np.mean(before == after):12.2%}")
    ratio = f"{float_size / int8_size:.2f}x smaller"
    print(f"{'file size':16}{kilobytes(float_size)}{kilobytes(int8_size)}   {ratio}")
    print(f"\nwritten to {files.config.parent}:")
    for path in files:
        print(f"  {path.name:44}{kilobytes(path.stat().st_size)}")


def kilobytes(size: int) -> str:
    """Formats a file size in 12 columns."""
    return f"{size / 1000:,.1f} kB".rjust(12)


def fail(message: str) -> NoReturn:
    """Ends the program with a one-line error."""
    sys.exit(f"error: {message}")


if __name__ == "__main__":
    try:
        main()
    except ModuleNotFoundError as error:
        fail(f"{error}; pip install {PACKAGES.get(error.name or '', error.name)}")
