"""What form of model a file holds, told by its content: names are often wrong."""

from __future__ import annotations

import enum
import os
import re
import zipfile
from typing import NamedTuple

from amct_tensorflow.errors import AmctValueError

FORMS = "a frozen .pb or .pbtxt, a SavedModel folder, or a .keras or .h5 file"


class Form(enum.Enum):
    """A form of model that can be read."""

    GRAPH = enum.auto()
    TEXT_GRAPH = enum.auto()
    SAVED_MODEL = enum.auto()
    TEXT_SAVED_MODEL = enum.auto()
    HDF5 = enum.auto()
    KERAS = enum.auto()


class Foreign(NamedTuple):
    """A form that cannot be read: what it is, and what to do."""

    message: str


_CHECKPOINT = Foreign(
    "belongs to a checkpoint, which has weights but no network: restore it in the network and save that as a "
    "SavedModel, or freeze it"
)
_META = Foreign(
    "is the .meta file of a checkpoint, which has a network but no weights: import it, restore the checkpoint, and "
    "save a SavedModel, or freeze it"
)
_ONNX = Foreign("is an ONNX model: give the TensorFlow model that it comes from, or convert it to a SavedModel")
_TFLITE = Foreign("is a TFLite model, which does not lead back to a graph: give the model that it was converted from")
_LFS = Foreign("is a Git LFS pointer instead of the file itself: run git lfs pull in its repository")
_GZIP = Foreign("is compressed with gzip: unpack it")
_OTHER_ZIP = Foreign("is a zip archive, but not a .keras file: unpack it, or save the model again with Keras")
_PAGE = Foreign("is HTML or XML, not a model, as after a failed download: download the file again")
_EMPTY = Foreign("is empty, as after a failed download or copy: get the file again")

_STAND_INS = (_LFS, _PAGE, _EMPTY)  # are in the place of any file

_LENGTH = rb"[\x80-\xff]{0,4}[\x00-\x7f]"  # of a field of protobuf

# What the files start with; the first that matches counts.
_STARTS: tuple[tuple[bytes, Form | Foreign], ...] = (
    (rb"\Z", _EMPTY),
    (rb"\x89HDF\r\n\x1a\n", Form.HDF5),
    (rb"PK\x03\x04", Form.KERAS),
    (rb"\x1f\x8b", _GZIP),
    (rb".{4}TFL3", _TFLITE),
    (rb"version https://git-lfs\.github\.com/", _LFS),
    (rb"(?i:(\xef\xbb\xbf)?\s*<(!doctype|!--|html|\?xml))", _PAGE),
    (rb"\s*model_checkpoint_path:", _CHECKPOINT),
    (rb"\s*meta_info_def\s*\{", _META),
    (rb"\s*saved_model_schema_version:", Form.TEXT_SAVED_MODEL),
    (rb"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]+\Z", Form.TEXT_GRAPH),  # a binary one has \x12 before the type of its node
    (rb"\x08\x01(\Z|\x12" + _LENGTH + rb"\n)", Form.SAVED_MODEL),  # schema_version 1, then a MetaGraphDef
    (rb"\x08[\x01-\x3f](\x12" + _LENGTH + rb"[ -~]|[\x3a\x42])", _ONNX),  # ir_version, then the producer or the graph
    (rb"\n" + _LENGTH + rb"\n", Form.GRAPH),  # a NodeDef, which starts with its name
    (rb"\n" + _LENGTH + rb"[\x12\x1a\x22\x2a]", _META),  # a MetaInfoDef, which starts with its ops
)
_HEAD = 256

# What tables of names end with: the .index of a checkpoint, or all of it in the first version of checkpoints.
_TABLE_END = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"

_DATA_NAME = re.compile(r"\.data-\d+-of-\d+$")  # the weights of a checkpoint: nothing but numbers


def form_of(path: str) -> Form:
    """Returns the form of a file; `Form.GRAPH` for what is none that is known.

    Raises:
        AmctValueError: it may not be read, or has a form that is known and cannot be read; names the form and the
            remedy.
    """
    try:
        found = _form_of(path)
    except PermissionError as error:
        raise AmctValueError(
            f"{path} cannot be read (Permission denied); give yourself the right to read it"
        ) from error
    if isinstance(found, Foreign):
        raise AmctValueError(f"{path} {found.message}")
    return found


def refuse_checkpoint(prefix: str) -> None:
    """Raises `AmctValueError` if `prefix` is what a checkpoint's files start with, or the folder of one."""
    if os.path.isfile(f"{prefix}.index") or os.path.isfile(os.path.join(prefix, "checkpoint")):
        raise AmctValueError(f"{prefix} {_CHECKPOINT.message}")


def refuse_stand_ins(folder: str) -> None:
    """Raises `AmctValueError` if a file in the folder is a Git LFS pointer or the like instead of itself."""
    for path in sorted(os.path.join(folder, name) for name in os.listdir(folder)):
        found = _form_of(path) if os.path.isfile(path) else None
        if found in _STAND_INS:
            raise AmctValueError(f"{path} {found.message}")


def _form_of(path: str) -> Form | Foreign:
    with open(path, "rb") as file:
        head = file.read(_HEAD)
        file.seek(max(0, os.path.getsize(path) - len(_TABLE_END)))
        end = file.read()
    if end == _TABLE_END:
        return _CHECKPOINT
    found = next((form for start, form in _STARTS if re.match(start, head, re.DOTALL)), None)
    if found is Form.KERAS and not _is_keras(path):
        return _OTHER_ZIP
    if found in (None, Form.TEXT_GRAPH) and _DATA_NAME.search(path):
        return _CHECKPOINT
    return found or Form.GRAPH


def _is_keras(path: str) -> bool:
    """Tells whether a zip archive is a .keras file; one that is damaged counts as such."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "config.json" in archive.namelist()
    except zipfile.BadZipFile:
        return True
