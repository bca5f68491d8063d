"""What a file is, told by its content: forms that are read under any name, and those that are refused by their own."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from small_graphs import NEAREST, conv_net, prepare, run
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

import amct_tensorflow as amct
from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.graph.file_forms import Form, form_of
from amct_tensorflow.graph.sources import is_binary_graph

v1 = tf.compat.v1


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One model in all its forms, and the two checkpoints of another."""
    folder = tmp_path_factory.mktemp("forms")
    layers = tf.keras.layers
    model = tf.keras.Sequential([layers.Input([4]), layers.Dense(2, name="end")], name="net")
    model.save(folder / "model.keras")
    model.save(folder / "model.h5")
    model.export(folder / "saved", verbose=False)
    graph_def = conv_net().as_graph_def()
    (folder / "model.pb").write_bytes(graph_def.SerializeToString())
    (folder / "model.pbtxt").write_text(str(graph_def))
    (folder / "model.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    with tf.Graph().as_default(), v1.Session() as session:
        v1.get_variable("weights", [8, 8])
        session.run(v1.global_variables_initializer())
        for version in (1, 2):
            (folder / f"version_{version}").mkdir()
            saver = v1.train.Saver(write_version=version)
            saver.save(session, str(folder / f"version_{version}" / "model.ckpt"))
        v1.train.export_meta_graph(str(folder / "text.meta"), as_text=True)
    return folder


# -- Forms that are read -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["model.pb", "model.pbtxt", "model.ckpt", "model.h5", "model.keras", "model", "m.onnx"]
)
@pytest.mark.parametrize("form", ["model.pb", "model.pbtxt", "model.keras", "model.h5"])
def test_read_under_any_name(folder, tmp_path, form, name):
    shutil.copy(folder / form, tmp_path / name)
    expected = amct.load_graph(folder / form).as_graph_def()
    assert amct.load_graph(tmp_path / name).as_graph_def() == expected


def test_a_graph_may_be_called_like_a_part_of_something_else(folder, tmp_path):
    for name in ("saved_model.pb", "saved_model.pbtxt", "model.data-00000-of-00001"):
        shutil.copy(folder / "model.pb", tmp_path / name)
        assert form_of(str(tmp_path / name)) is Form.GRAPH
        assert "block/conv" in {op.name for op in amct.load_graph(tmp_path / name).get_operations()}
    assert "block/conv" in {op.name for op in amct.load_graph(tmp_path).get_operations()}


def test_text_as_editors_of_windows_write_it(folder, tmp_path):
    (tmp_path / "model.pbtxt").write_text((folder / "model.pbtxt").read_text(), encoding="utf-8-sig")
    assert (
        amct.load_graph(tmp_path / "model.pbtxt").as_graph_def() == amct.load_graph(folder / "model.pb").as_graph_def()
    )


def test_damaged_text_is_not_quoted_as_a_whole(tmp_path):
    (tmp_path / "model.pbtxt").write_text('node {\n  name: "' + "x" * 100_000)
    with pytest.raises(AmctValueError, match=r"is not a frozen GraphDef \(2:9 : ") as caught:
        amct.load_graph(tmp_path / "model.pbtxt")
    assert len(str(caught.value)) < 500


def test_the_text_of_a_saved_model(folder, tmp_path):
    shutil.copytree(folder / "saved", tmp_path / "saved")
    message = SavedModel()
    message.ParseFromString((tmp_path / "saved" / "saved_model.pb").read_bytes())
    os.remove(tmp_path / "saved" / "saved_model.pb")
    (tmp_path / "saved" / "saved_model.pbtxt").write_text(str(message))
    expected = amct.load_graph(folder / "saved").as_graph_def()
    for path in (tmp_path / "saved", tmp_path / "saved" / "saved_model.pbtxt"):
        assert amct.load_graph(path).as_graph_def() == expected


def test_save_and_convert_take_a_text_graph(folder, tmp_path):
    model = str(shutil.copy(folder / "model.pbtxt", tmp_path / "model.pb"))
    graph = amct.load_graph(model)
    record = prepare(graph, tmp_path, **NEAREST)
    run(graph, np.ones((2, 8, 8, 3), np.float32))
    amct.save_model(model, ["out"], record, str(tmp_path / "int8"))
    amct.convert_model(model, ["out"], record, str(tmp_path / "again"))
    saved = (tmp_path / "int8_quantized.pb").read_bytes()
    assert b"AscendDequant" in saved and saved == (tmp_path / "again_quantized.pb").read_bytes()


# -- Forms that are not read ---------------------------------------------------------------------------------

CHECKPOINT = (
    r"belongs to a checkpoint, which has weights but no network: restore it in the network and save that as a Sav"
)
META = "is the .meta file of a checkpoint, which has a network but no weights: import it, restore the checkpoint"
MADE = {
    "version_2/model.ckpt.index": CHECKPOINT,
    "version_2/model.ckpt.data-00000-of-00001": CHECKPOINT,
    "version_2/checkpoint": CHECKPOINT,
    "version_2/model.ckpt": CHECKPOINT,  # no file, but what its files start with
    "version_2": CHECKPOINT,
    "version_1/model.ckpt": CHECKPOINT,
    "version_2/model.ckpt.meta": META,
    "text.meta": META,
    "model.tflite": "is a TFLite model, which does not lead back to a graph: give the model that it was converted from",
}


@pytest.mark.parametrize("name", MADE)
def test_files_of_tensorflow_that_are_no_models(folder, name):
    with pytest.raises(AmctValueError, match=MADE[name]) as raised:
        amct.load_graph(folder / name)
    assert str(raised.value).startswith(f"{folder / name} ")


ONNX = "is an ONNX model: give the TensorFlow model that it comes from, or convert it to a SavedModel"
PAGE = "is HTML or XML, not a model, as after a failed download: download the file again"
WRITTEN = {
    "empty": (b"", "is empty, as after a failed download or copy: get the file again"),
    "ONNX of PyTorch": (b"\x08\x07\x12\x07pytorch\x1a\x051.7.0\x3a\x02\x0a\x00", ONNX),
    "ONNX without a producer": (b"\x08\x09\x3a\x02\x0a\x00\x42\x02\x10\x0d", ONNX),
    "the first ONNX": (b"\x08\x01\x12\x06CNTK10\x3a\x02\x0a\x00", ONNX),
    "gzip": (b"\x1f\x8b\x08\x00" + bytes(20), "is compressed with gzip: unpack it"),
    "Git LFS": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n",
        "is a Git LFS pointer instead of the file itself: run git lfs pull in its repository",
    ),
    "HTML": (b"\n <!DOCTYPE html>\n<html><body>404</body></html>", PAGE),
    "HTML without a type": (b"<HTML><title>403 Forbidden</title></HTML>", PAGE),
    "XML": (b"\xef\xbb\xbf<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", PAGE),
}


@pytest.mark.parametrize("case", WRITTEN)
@pytest.mark.parametrize("name", ["model.pb", "model.pbtxt", "model.h5", "saved_model.pb"])
def test_files_of_others(tmp_path, case, name):
    content, words = WRITTEN[case]
    (tmp_path / name).write_bytes(content)
    for ask in (amct.load_graph, is_binary_graph):
        with pytest.raises(AmctValueError, match=words):
            ask(str(tmp_path / name))
    if name == "saved_model.pb":
        with pytest.raises(AmctValueError, match=rf"saved_model\.pb {words}"):
            amct.load_graph(str(tmp_path))


def test_a_saved_model_whose_weights_are_a_pointer(folder, tmp_path):
    shutil.copytree(folder / "saved", tmp_path / "saved")
    [weights] = (tmp_path / "saved" / "variables").glob("*.data-*")
    weights.write_bytes(WRITTEN["Git LFS"][0])
    with pytest.raises(
        AmctValueError, match=rf"{weights.name} is a Git LFS pointer instead of the file itself: run git"
    ):
        amct.load_graph(tmp_path / "saved")


def test_a_zip_archive_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    with pytest.raises(AmctValueError, match=r"is a zip archive, but not a \.keras file: unpack it, or save the model"):
        amct.load_graph(tmp_path / "model.keras")


def test_a_saved_model_under_another_name(folder, tmp_path):
    for name, wanted in (("model.pb", "saved_model.pb"), ("saved_model.pbtxt", "saved_model.pb")):
        shutil.copy(folder / "saved" / "saved_model.pb", tmp_path / name)
        with pytest.raises(
            AmctValueError, match=f"{name} is the graph of a SavedModel under another name: call it {wanted}, beside"
        ):
            amct.load_graph(tmp_path / name)


def test_a_keras_error_names_the_file_that_was_given(folder, tmp_path):
    whole = (folder / "model.h5").read_bytes()
    (tmp_path / "cut.pb").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(AmctValueError, match=r"Keras cannot load .*cut\.pb") as raised:
        amct.load_graph(tmp_path / "cut.pb")
    assert "model.h5" not in str(raised.value)


def test_every_content_has_some_form(tmp_path):
    """Whatever a file holds, what is said of it is an error of ours."""
    random = np.random.default_rng(0)
    for at, start in enumerate([b"", b"\x08", b"\x0a", b"\x0a\x05\x12", b"PK\x03\x04", b"\x08\x01\x12", b"text"] * 3):
        (tmp_path / str(at)).write_bytes(start + random.bytes(int(random.integers(1, 400))))
        with pytest.raises(AmctValueError):
            amct.load_graph(tmp_path / str(at))
