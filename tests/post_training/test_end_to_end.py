"""The four calls on real models: the sample's always, the shared ones where they are."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from small_graphs import load

import amct_tensorflow as amct
from amct_tensorflow.record import read_record

tf1 = tf.compat.v1

SAMPLE = Path(__file__).resolve().parents[2] / "samples" / "mobilenetv2"
DIGITS_MODEL = SAMPLE / "mobilenet_v2_0.35_32_digits.pb"
DIGITS_OUTPUT = "MobilenetV2/Predictions/Softmax"


def run(graph: tf.Graph, images: np.ndarray, output: str, batch_size: int = 100) -> np.ndarray:
    with tf1.Session(graph=graph) as session:
        batches = range(0, len(images), batch_size)
        return np.concatenate(
            [session.run(f"{output}:0", {"input:0": images[start : start + batch_size]}) for start in batches]
        )


def quantize(model: Path, output: str, batches: list[np.ndarray], folder: Path, **options) -> Path:
    """Calibrates and saves; returns the int8 model's path."""
    graph = load(model)
    amct.create_quant_config(str(folder / "config.json"), graph, batch_num=len(batches), **options)
    amct.quantize_model(graph, str(folder / "config.json"), str(folder / "record.txt"))
    with tf1.Session(graph=graph) as session:
        for batch in batches:
            session.run(f"{output}:0", {"input:0": batch})
    amct.save_model(str(model), [output], str(folder / "record.txt"), str(folder / "model"))
    return folder / "model_quantized.pb"


@pytest.fixture(scope="module")
def digits():
    sys.path.insert(0, str(SAMPLE))
    try:
        from digits import load_digits
    finally:
        sys.path.remove(str(SAMPLE))
    return load_digits()


@pytest.fixture(scope="module")
def float_digits(digits) -> np.ndarray:
    return run(load(DIGITS_MODEL), digits.test_images, DIGITS_OUTPUT)


def top1(scores: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(scores.argmax(1) == labels))


@pytest.mark.parametrize("activation_offset", [True, False], ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize("batch_num", [1, 3], ids=["one_batch", "three_batches"])
def test_digits(tmp_path, digits, float_digits, activation_offset, batch_num):
    batches = np.array_split(digits.train_images[:48], batch_num)
    path = quantize(DIGITS_MODEL, DIGITS_OUTPUT, batches, tmp_path, activation_offset=activation_offset)
    scores = run(load(path), digits.test_images, DIGITS_OUTPUT)
    assert top1(scores, digits.test_labels) >= top1(float_digits, digits.test_labels) - 0.01
    assert np.mean(scores.argmax(1) == float_digits.argmax(1)) >= 0.98


def test_two_runs_write_the_same_bytes(tmp_path, digits):
    contents = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        quantize(DIGITS_MODEL, DIGITS_OUTPUT, [digits.train_images[:16]], folder)
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]


def test_skipped_layers_stay_float(tmp_path, digits, float_digits):
    skipped = "MobilenetV2/expanded_conv_3/expand/Conv2D"
    path = quantize(DIGITS_MODEL, DIGITS_OUTPUT, [digits.train_images[:16]], tmp_path, skip_layers=[skipped])
    names = {op.name for op in load(path).get_operations()}
    assert "MobilenetV2/expanded_conv_3/expand/act_quant/AscendQuant" not in names
    assert "MobilenetV2/expanded_conv_3/expand/weights" in names
    assert skipped not in read_record(tmp_path / "record.txt")
    scores = run(load(path), digits.test_images, DIGITS_OUTPUT)
    assert np.mean(scores.argmax(1) == float_digits.argmax(1)) >= 0.98


def test_without_fusion_and_shift(tmp_path, digits, float_digits):
    """do_fusion and shift_n of config.json are obeyed, in the record and in the model."""
    graph = load(DIGITS_MODEL)
    config_file, record_file = tmp_path / "config.json", tmp_path / "record.txt"
    amct.create_quant_config(str(config_file), graph)
    config = json.loads(config_file.read_text())
    config["do_fusion"] = config["shift_n"] = False
    config_file.write_text(json.dumps(config))
    amct.quantize_model(graph, str(config_file), str(record_file))
    run(graph, digits.train_images[:32], DIGITS_OUTPUT)
    amct.save_model(str(DIGITS_MODEL), [DIGITS_OUTPUT], str(record_file), str(tmp_path / "model"))
    records = read_record(record_file)
    assert not any(record.shift_bit for record in records.values())
    assert records["MobilenetV2/Conv/Conv2D"].skip_fusion
    saved = load(tmp_path / "model_quantized.pb")
    assert "MobilenetV2/Conv/BatchNorm/FusedBatchNormV3" in {op.name for op in saved.get_operations()}
    scores = run(saved, digits.test_images, DIGITS_OUTPUT)
    assert np.mean(scores.argmax(1) == float_digits.argmax(1)) >= 0.97


def test_every_layer_has_its_line(tmp_path, digits, capsys):
    amct.set_logging_level("info", "info")
    quantize(
        DIGITS_MODEL,
        DIGITS_OUTPUT,
        [digits.train_images[:8]],
        tmp_path,
        skip_layers=["MobilenetV2/Conv/Conv2D"],
    )
    lines = capsys.readouterr().err.splitlines()
    layers = [op for op in load(DIGITS_MODEL).get_operations() if op.type in amct_types()]
    for job in ("quantize_model", "save_model"):
        for op in layers:
            mine = [line for line in lines if f"[{job}]" in line and f" {op.name}: " in line]
            assert len(mine) == 1, op.name
            assert ("left float because" if op.name == "MobilenetV2/Conv/Conv2D" else "quantized") in mine[0]


def amct_types() -> set[str]:
    return {"Conv2D", "DepthwiseConv2dNative", "MatMul", "AvgPool"}


def test_calibration_in_one_process_and_saving_in_another(tmp_path, digits):
    quantize(DIGITS_MODEL, DIGITS_OUTPUT, [digits.train_images[:16]], tmp_path)
    code = (
        "import amct_tensorflow as amct\n"
        f"amct.save_model({str(DIGITS_MODEL)!r}, [{DIGITS_OUTPUT!r}], {str(tmp_path / 'record.txt')!r}, 'again')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "again_quantized.pb").read_bytes() == (tmp_path / "model_quantized.pb").read_bytes()


KILLED = """
import sys
import numpy as np
import tensorflow as tf
import amct_tensorflow as amct
graph_def = tf.compat.v1.GraphDef()
graph_def.ParseFromString(open(sys.argv[1], 'rb').read())
with tf.Graph().as_default() as graph:
    tf.import_graph_def(graph_def, name='')
amct.create_quant_config('config.json', graph, batch_num=20)
amct.quantize_model(graph, 'config.json', 'record.txt')
with tf.compat.v1.Session(graph=graph) as session:
    for step in range(10**6):
        data = np.random.default_rng(step).random((8, 32, 32, 3), np.float32)
        session.run('MobilenetV2/Predictions/Softmax:0', {'input:0': data})
        print(step, flush=True)
"""


@pytest.mark.parametrize("steps", [3, 19], ids=["in_the_middle", "at_the_last_batch"])
def test_a_killed_run_leaves_a_readable_record(tmp_path, steps):
    (tmp_path / "run.py").write_text(KILLED)
    process = subprocess.Popen(
        [sys.executable, "run.py", str(DIGITS_MODEL)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= steps:
                break
        time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert len(read_record(tmp_path / "record.txt")) == 36


def test_variables(tmp_path, digits, float_digits):
    """A graph of variables, restored from a checkpoint, is calibrated; its frozen twin is saved."""
    graph = with_variables(load(DIGITS_MODEL).as_graph_def())
    amct.create_quant_config(str(tmp_path / "config.json"), graph)
    with graph.as_default():
        before = [variable.name for variable in tf1.global_variables()]
        added = amct.quantize_model(graph, str(tmp_path / "config.json"), str(tmp_path / "record.txt"))
        assert added == []
        assert [variable.name for variable in tf1.global_variables()] == before
        with tf1.Session(graph=graph) as session:
            session.run(tf1.global_variables_initializer())
            session.run(f"{DIGITS_OUTPUT}:0", {"input:0": digits.train_images[:32]})
    amct.save_model(str(DIGITS_MODEL), [DIGITS_OUTPUT], str(tmp_path / "record.txt"), str(tmp_path / "model"))
    scores = run(load(tmp_path / "model_quantized.pb"), digits.test_images, DIGITS_OUTPUT)
    assert np.mean(scores.argmax(1) == float_digits.argmax(1)) >= 0.98


def with_variables(graph_def: tf1.GraphDef) -> tf.Graph:
    """Returns the frozen graph with a variable for every constant parameter."""
    with tf.Graph().as_default() as graph:
        variables = {}
        for node in graph_def.node:
            if node.op == "Const" and node.attr["value"].tensor.tensor_shape.dim:
                value = tf.make_ndarray(node.attr["value"].tensor)
                variable = tf1.get_variable(node.name, initializer=value, use_resource=True)
                variables[f"{node.name}/read:0"] = variable.read_value()
        tf.import_graph_def(graph_def, input_map=variables, name="")
    return graph


def test_sample_script(tmp_path):
    """What `make demo` runs prints the accuracies and the files."""
    result = subprocess.run(
        [sys.executable, str(SAMPLE / "main.py")], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "top-1 accuracy" in result.stdout and "top-1 agreement" in result.stdout
    for name in ("config.json", "record.txt", f"{DIGITS_MODEL.stem}_quantized.pb", f"{DIGITS_MODEL.stem}_quant.json"):
        assert name in result.stdout and (tmp_path / "outputs" / name).exists()


def test_committed_model_is_small():
    assert DIGITS_MODEL.stat().st_size < 1_000_000


# Real models


def sqnr(reference: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(np.sum(reference**2) / np.sum((reference - other) ** 2)))


def test_mobilenet_v2(shared, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="needs pillow")
    paths = sorted((shared / "data" / "imagenet").glob("*.jpg"))
    pixels = [np.asarray(image.open(path).convert("RGB"), np.float32)[16:240, 16:240] for path in paths]
    images = np.stack(pixels) / np.float32(127.5) - 1
    labels = np.array([int(path.name[:4]) + 1 for path in paths])
    model = shared / "data" / "mobilenet_v2" / "mobilenet_v2_1.0_224_frozen.pb"
    calibration = images[::12][:32]
    logits = "MobilenetV2/Logits/output"
    path = quantize(model, "MobilenetV2/Predictions/Reshape_1", [calibration], tmp_path)
    before, after = (run(load(at), images, logits, batch_size=32) for at in (model, path))
    assert top1(after, labels) >= top1(before, labels) - 0.01
    assert np.mean(before.argmax(1) == after.argmax(1)) >= 0.97
    assert sqnr(before, after) >= 17.5
    assert path.stat().st_size <= 0.28 * model.stat().st_size


def test_mobilenet_v2_weight_scales_equal_the_vendors(shared, tmp_path):
    model = shared / "data" / "mobilenet_v2" / "mobilenet_v2_1.0_224_frozen.pb"
    graph = load(model)
    amct.create_quant_config(str(tmp_path / "config.json"), graph)
    amct.quantize_model(graph, str(tmp_path / "config.json"), str(tmp_path / "record.txt"))
    ours = read_record(tmp_path / "record.txt")
    theirs = read_record(model.parent / "record_quantized.txt")
    convolutions = [op.name for op in load(model).get_operations() if op.type == "Conv2D"]
    logits = "MobilenetV2/Logits/Conv2d_1c_1x1/Conv2D"
    assert len(ours[logits].scale_w) == len(theirs[logits].scale_w) == 1
    assert [len(ours[name].scale_w) for name in convolutions] == [len(theirs[name].scale_w) for name in convolutions]
    ratios = np.concatenate([np.divide(ours[name].scale_w, theirs[name].scale_w) for name in convolutions])
    equal = np.abs(ratios - 1) <= 1e-5
    assert len(ratios) == 9921
    assert np.mean(equal) >= 0.985
    np.testing.assert_allclose(ratios[~equal], 127 / 128, rtol=1e-5)  # ties of the rebuilt weights
    zero = [scale for name in convolutions for scale in theirs[name].scale_w if scale == 1.0]
    assert len(zero) == sum(scale == 1.0 for name in convolutions for scale in ours[name].scale_w)


def test_resnet8(shared, tmp_path):
    data = np.load(shared / "data" / "resnet8_cifar10" / "cifar10_1200.npz")
    images, labels = data["x"].astype(np.float32), data["y"]
    model = shared / "data" / "resnet8_cifar10" / "resnet8_cifar10.pb"
    path = quantize(model, "Identity", [images[::12]], tmp_path)
    before, after = (run(load(at), images, "Identity") for at in (model, path))
    assert top1(after, labels) >= top1(before, labels) - 0.012  # of single draws 0.1 to 0.8 points, 0.3 in the mean
    assert np.mean(before.argmax(1) == after.argmax(1)) >= 0.98
