"""This package and other quantizers, as functions of one form, and how the models that they make are run.

Preparing brings the float model into a quantizer's own form; the `Quantize` that comes out makes an int8 model of it
and some batches, and returns where that lies. Packages are imported only where they are used: each quantizer may live
in an environment that lacks the others.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from common import load_graph

Batches = list[np.ndarray]
Quantize = Callable[[Batches], Path]


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is quantized: a frozen graph between two of its ops, and a folder to work in."""

    model: Path
    input: str
    output: str
    folder: Path

    @property
    def shape(self) -> list[int | None]:
        """The input's shape, for batches of any size."""
        placeholder = load_graph(self.model).get_tensor_by_name(f"{self.input}:0")
        return [None, *placeholder.shape.as_list()[1:]]


Prepare = Callable[[Subject], Quantize]


def ours(subject: Subject, run: Callable[[tf.Graph, Batches], None], changes: Mapping[str, object]) -> Quantize:
    """All steps of this package; `changes` are made to the weight_quant_params of each layer in config.json."""
    import amct_tensorflow as amct

    amct.set_logging_level("error", "error")
    model, outputs, folder = str(subject.model), [subject.output], subject.folder
    config, record, prefix = str(folder / "config.json"), str(folder / "record.txt"), str(folder / "ours")

    def quantize(batches: Batches) -> Path:
        graph = load_graph(subject.model)
        amct.create_quant_config(config, graph, batch_num=len(batches))
        if changes:
            change_weights(Path(config), changes)
        amct.quantize_model(graph, config, record)
        run(graph, batches)
        amct.save_model(model, outputs, record, prefix)
        return Path(prefix + "_quantized.pb")

    return quantize


def change_weights(config: Path, changes: Mapping[str, object]) -> None:
    """Changes how the weights of all layers of a config.json are quantized."""
    content = json.loads(config.read_text())
    for entry in content.values():
        if isinstance(entry, dict) and "weight_quant_params" in entry:
            entry["weight_quant_params"].update(changes)
    config.write_text(json.dumps(content, indent=4))


def ours_in_own_session(subject: Subject) -> Quantize:
    """All steps, with a loop over a session of the user's."""

    def run(graph: tf.Graph, batches: Batches) -> None:
        with tf.compat.v1.Session(graph=graph) as session:
            for batch in batches:
                session.run(f"{subject.output}:0", {f"{subject.input}:0": batch})

    return ours(subject, run, {})


def ours_with_calibrate(changes: Mapping[str, object] | None = None) -> Prepare:
    """All steps, with amct.calibrate."""

    def prepare(subject: Subject) -> Quantize:
        import amct_tensorflow as amct

        return ours(subject, lambda graph, batches: amct.calibrate(graph, [subject.output], batches), changes or {})

    return prepare


def tflite_converter(subject: Subject) -> Quantize:
    """tf.lite.TFLiteConverter with a representative dataset of single samples, as it asks for."""
    saved = saved_model(subject)

    def quantize(batches: Batches) -> Path:
        converter = tf.lite.TFLiteConverter.from_saved_model(saved)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([sample] for sample in single_samples(batches))
        path = subject.folder / "converter.tflite"
        path.write_bytes(converter.convert())
        return path

    return quantize


def ai_edge_quantizer(joined: bool = False) -> Prepare:
    """Static int8 of weights and activations, from a float .tflite.

    It takes moving averages of the ranges of what it is given, single samples by custom. All samples joined into one
    batch have one range, which serves it better by far.
    """

    def prepare(subject: Subject) -> Quantize:
        from ai_edge_litert import interpreter
        from ai_edge_quantizer import quantizer, recipe

        path, made = subject.folder / "float.tflite", subject.folder / "ai_edge.tflite"
        path.write_bytes(tf.lite.TFLiteConverter.from_saved_model(saved_model(subject)).convert())
        [(signature, names)] = interpreter.Interpreter(str(path)).get_signature_list().items()
        [name] = names["inputs"]

        def quantize(batches: Batches) -> Path:
            feeds = [np.concatenate(batches)] if joined else single_samples(batches)
            tool = quantizer.Quantizer(str(path))
            tool.load_quantization_recipe(recipe.static_wi8_ai8())
            found = tool.calibrate({signature: [{name: feed} for feed in feeds]})
            made.write_bytes(tool.quantize(found).quantized_model)
            return made

        return quantize

    return prepare


def onnxruntime(method: str, preprocess: bool = False, **options: object) -> Prepare:
    """quantize_static of onnxruntime with one of its calibration methods, from what tf2onnx makes of the model."""

    def prepare(subject: Subject) -> Quantize:
        from onnxruntime.quantization import CalibrationMethod, quantize_static

        source, made = float_onnx(subject, preprocess), str(subject.folder / "onnxruntime.onnx")

        def quantize(batches: Batches) -> Path:
            reader = onnx_reader(subject, batches)
            quantize_static(source, made, reader, calibrate_method=CalibrationMethod[method], **options)
            return Path(made)

        return quantize

    return prepare


def float_onnx(subject: Subject, preprocess: bool) -> str:
    """Writes the model for onnxruntime and, if asked to, prepares it for quantization as its documentation advises."""
    import tf2onnx

    plain, ready = str(subject.folder / "float.onnx"), str(subject.folder / "ready.onnx")
    inputs = [f"{subject.input}:0"]
    tf2onnx.convert.from_graph_def(
        load_graph(subject.model).as_graph_def(),
        input_names=inputs,
        output_names=[f"{subject.output}:0"],
        inputs_as_nchw=inputs if len(subject.shape) == 4 else None,
        opset=17,
        output_path=plain,
    )
    if not preprocess:
        return plain
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(plain, ready)
    return ready


def onnx_reader(subject: Subject, batches: Batches) -> Any:
    """Returns what hands the batches to onnxruntime."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._feeds = iter([{f"{subject.input}:0": channels_first(batch)} for batch in batches])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._feeds, None)

    return Reader()


def neural_compressor(subject: Subject) -> Quantize:
    """Static quantization of Neural Compressor, of the same .pb."""
    from neural_compressor.tensorflow import StaticQuantConfig, quantize_model

    class Loader:
        def __init__(self, batches: Batches) -> None:
            self.batches, self.batch_size = batches, len(batches[0])

        def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            return ((batch, np.zeros(len(batch))) for batch in self.batches)

        def __len__(self) -> int:
            return len(self.batches)

    def quantize(batches: Batches) -> Path:
        made = quantize_model(str(subject.model), StaticQuantConfig(), Loader(batches), calib_iteration=len(batches))
        made.save(str(subject.folder / "compressor"))
        return subject.folder / "compressor.pb"

    return quantize


def saved_model(subject: Subject) -> str:
    """Writes the model as a SavedModel, with the signature that ai-edge-quantizer asks for."""
    graph_def, path = load_graph(subject.model).as_graph_def(), str(subject.folder / "saved_model")
    imported = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(graph_def, name=""), [])
    network = imported.prune(f"{subject.input}:0", f"{subject.output}:0")
    samples = tf.TensorSpec(subject.shape, tf.float32, name="samples")
    signature = tf.function(lambda samples: {"scores": network(samples)}).get_concrete_function(samples)
    tf.saved_model.save(tf.Module(), path, signatures=signature)
    return path


def single_samples(batches: Batches) -> Iterator[np.ndarray]:
    """Returns the samples of all batches as batches of one."""
    return (sample[None] for batch in batches for sample in batch)


def channels_first(samples: np.ndarray) -> np.ndarray:
    """Returns images as onnxruntime takes them, other samples as they are."""
    return samples.transpose(0, 3, 1, 2) if samples.ndim == 4 else samples


Run = Callable[[Subject, Path, Batches], np.ndarray]


def run_graph(subject: Subject, model: Path, batches: Batches) -> np.ndarray:
    """Returns the outputs of a frozen graph, float or ours."""
    with tf.compat.v1.Session(graph=load_graph(model)) as session:
        found = [session.run(f"{subject.output}:0", {f"{subject.input}:0": batch}) for batch in batches]
    return np.concatenate(found)


def run_with_tensorflow_lite(subject: Subject, model: Path, batches: Batches) -> np.ndarray:
    """Returns the outputs of a .tflite in TensorFlow's interpreter."""
    return _interpret(tf.lite.Interpreter(str(model)), batches)


def run_with_litert(subject: Subject, model: Path, batches: Batches) -> np.ndarray:
    """Returns the outputs of a .tflite in the interpreter that ai-edge-quantizer is made for."""
    from ai_edge_litert import interpreter

    return _interpret(interpreter.Interpreter(str(model)), batches)


def _interpret(interpreter: Any, batches: Batches) -> np.ndarray:
    [taken], [given] = interpreter.get_input_details(), interpreter.get_output_details()
    found, size = [], None
    for batch in batches:
        if len(batch) != size:
            interpreter.resize_tensor_input(taken["index"], batch.shape)
            interpreter.allocate_tensors()
            size = len(batch)
        interpreter.set_tensor(taken["index"], _as_taken(batch, taken))
        interpreter.invoke()
        found.append(_as_float(interpreter.get_tensor(given["index"]), given))
    return np.concatenate(found)


def _as_taken(batch: np.ndarray, taken: dict[str, Any]) -> np.ndarray:
    """Quantizes a batch where the model leaves that to who runs it."""
    if taken["dtype"] == np.float32:
        return batch
    scale, offset = taken["quantization"]
    limits = np.iinfo(taken["dtype"])
    return np.clip(np.round(batch / scale) + offset, limits.min, limits.max).astype(taken["dtype"])


def _as_float(values: np.ndarray, given: dict[str, Any]) -> np.ndarray:
    if given["dtype"] == np.float32:
        return values
    scale, offset = given["quantization"]
    return (values.astype(np.float32) - offset) * np.float32(scale)


def run_with_onnxruntime(subject: Subject, model: Path, batches: Batches) -> np.ndarray:
    """Returns the outputs of an .onnx."""
    from onnxruntime import InferenceSession

    session = InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {f"{subject.input}:0": channels_first(batch)})[0] for batch in batches])
