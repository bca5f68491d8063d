"""export_onnx on real models: agreement with the int8 model, kernels and size."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from exported_onnx import onnx, onnxruntime
from small_models import load, sqnr, v1

import amct_tensorflow as amct

MODELS = {
    "mobilenet_v2": ("mobilenet_v2/mobilenet_v2_1.0_224_frozen.pb", "MobilenetV2/Logits/output"),
    "resnet8": ("resnet8_cifar10/resnet8_cifar10.pb", "Identity"),
}


def images(shared: Path, model: str) -> np.ndarray:
    if model == "resnet8":
        return np.load(shared / "data/resnet8_cifar10/cifar10_1200.npz")["x"][:200].astype(np.float32)
    pillow = pytest.importorskip("PIL.Image")
    paths = sorted((shared / "data/imagenet").glob("*.jpg"))[::10]
    pixels = [np.asarray(pillow.open(path).convert("RGB"), np.float32)[16:240, 16:240] for path in paths]
    return np.stack(pixels) / np.float32(127.5) - 1


class Real:
    """A real model, calibrated for a target and exported."""

    def __init__(self, shared: Path, model: str, target: str, folder: Path) -> None:
        path, self.output = shared / "data" / MODELS[model][0], MODELS[model][1]
        self.data = images(shared, model)
        graph = load(path)
        config, record = str(folder / "config.json"), str(folder / "record.txt")
        amct.create_quant_config(config, graph, target=target)
        amct.quantize_model(graph, config, record, [self.output])
        amct.calibrate(graph, [self.output], [self.data[:16]])
        amct.save_model(str(path), [self.output], record, str(folder / "model"))
        self.graph = load(folder / "model_quantized.pb")
        self.report = amct.export_onnx(str(folder / "model_quantized.pb"), str(folder / "model"), [self.output])
        self.size = Path(self.report.files[0]).stat().st_size / path.stat().st_size
        self.model = onnx.load(self.report.files[0])

    def tensorflow(self, names: list[str], data: np.ndarray) -> list[np.ndarray]:
        with v1.Session(graph=self.graph) as session:
            return session.run(names, {"input:0": data})


def run(model, feeds: dict[str, np.ndarray], folder: Path) -> tuple[dict[str, np.ndarray], Counter]:
    """Returns what onnxruntime puts out, by name, and how many nodes of each type it runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [value.name for value in session.get_outputs()]
    kernels = Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)
    return dict(zip(names, session.run(names, feeds), strict=True)), kernels


@pytest.fixture(
    scope="module", params=[("mobilenet_v2", "onnxruntime"), ("resnet8", "onnxruntime"), ("resnet8", "ascend")]
)
def real(request, shared, tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return request.param, Real(shared, *request.param, folder)


EXPECTED = {
    ("mobilenet_v2", "onnxruntime"): {"QLinearConv": 52, "QLinearAdd": 10, "QLinearAveragePool": 1},
    ("resnet8", "onnxruntime"): {"QLinearConv": 9, "QLinearAdd": 3, "QLinearAveragePool": 1, "QGemm": 1},
    ("resnet8", "ascend"): {"QLinearConv": 3, "QLinearAdd": 0, "QLinearAveragePool": 1, "QGemm": 1},
}


def test_results_and_kernels(real, tmp_path):
    case, exported = real
    onnx.checker.check_model(exported.model, full_check=True)
    [expected] = exported.tensorflow([f"{exported.output}:0"], exported.data)
    found, kernels = run(exported.model, {"input": exported.data}, tmp_path)
    actual = found[exported.output]
    same = expected.reshape(len(expected), -1).argmax(1) == actual.reshape(len(actual), -1).argmax(1)
    assert same.mean() >= 0.95
    assert sqnr(expected, actual) > 25
    assert {op_type: kernels[op_type] for op_type in EXPECTED[case]} == EXPECTED[case]
    assert exported.size < (0.28 if case[0] == "mobilenet_v2" else 0.33)


def test_single_layers_are_within_one_step(real, tmp_path):
    """What each layer makes, with the quantizer behind it, of what TensorFlow feeds it."""
    (_, target), exported = real
    if target == "ascend":
        pytest.skip("the shifts of these layers are not exported")
    batch = exported.data[:4]
    quants = [op for op in exported.graph.get_operations() if op.type == "AscendQuant"]
    values = exported.tensorflow([op.outputs[0].name for op in quants], batch)
    integers = {
        op.name: (value + op.get_attr("offset") + 128).astype(np.uint8)
        for op, value in zip(quants, values, strict=True)
    }
    cut, expected = cut_behind_quantizers(exported.model, integers, batch, tmp_path)
    found, _ = run(cut, {"input": batch, **{f"{name}/fed": value for name, value in expected.items()}}, tmp_path)
    assert len(expected) >= 0.9 * len(quants)
    for name, value in expected.items():
        difference = np.abs(found[name].astype(int) - value.astype(int))
        assert (difference <= 1).mean() >= 0.999, name


def cut_behind_quantizers(original, integers: dict[str, np.ndarray], batch: np.ndarray, folder: Path):
    """Returns the model with every quantized value as an output, and fed anew to what reads it; and these values."""
    model = onnx.ModelProto()
    model.CopyFrom(original)
    nodes = model.graph.node
    clips = {node.input[0]: node.output[0] for node in nodes if node.op_type == "Clip"}
    quantized = {
        clips.get(node.output[0], node.output[0]): integers[name]
        for node in nodes
        if node.op_type == "QuantizeLinear" and (name := node.name.partition("_QuantizeLinear")[0]) in integers
    }
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None) for name in quantized
    )
    shapes = {name: value.shape for name, value in run(model, {"input": batch}, folder)[0].items()}
    expected = {
        name: value if value.shape == shapes[name] else value.transpose(0, 3, 1, 2) for name, value in quantized.items()
    }
    for name, value in expected.items():
        model.graph.input.append(onnx.helper.make_tensor_value_info(f"{name}/fed", onnx.TensorProto.UINT8, value.shape))
        for node in nodes:
            node.input[:] = [f"{name}/fed" if edge == name else edge for edge in node.input]
    return model, expected
