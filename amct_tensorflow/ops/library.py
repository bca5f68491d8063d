"""Finds, or builds, the op library for the imported TensorFlow, and loads it once."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from amct_tensorflow import _version
from amct_tensorflow.errors import AmctRuntimeError
from amct_tensorflow.ops import build


def cache_dir() -> Path:
    """Returns the per-user folder that holds libraries built after installation."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "amct_tensorflow"


def _check_version(version: str) -> None:
    numbers = tuple(int(part) for part in version.split(".")[:2])
    if not _version.MIN_TENSORFLOW <= numbers <= _version.MAX_TENSORFLOW:
        low, high = (".".join(map(str, v)) for v in (_version.MIN_TENSORFLOW, _version.MAX_TENSORFLOW))
        raise AmctRuntimeError(
            f"amct_tensorflow {_version.__version__} supports TensorFlow {low} to {high}, but {version} is "
            f'imported: run pip install "tensorflow>={low},<{high}.99"'
        )


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keeps two processes from building the same library at once."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def library_path() -> Path:
    """Returns the library for the imported TensorFlow: packaged, cached, or built now into the cache.

    Raises:
        AmctRuntimeError: the version is not supported, or no library fits and none can be built.
    """
    version = tf.__version__
    _check_version(version)
    name = build.library_name(version)
    for folder in (build.OPS_DIR, cache_dir()):
        if (folder / name).exists():
            return folder / name
    try:
        with _locked(cache_dir()):
            if not (cache_dir() / name).exists():
                print(f"amct_tensorflow: compiling the ops for TensorFlow {version}, once …", file=sys.stderr)
                install = build.TensorFlowInstall(version, Path(tf.__file__).parent)
                build.build_library(install, cache_dir())
    except OSError as error:
        raise AmctRuntimeError(
            f"the ops of amct_tensorflow are not built for TensorFlow {version}, and {cache_dir()} cannot be written "
            f"({error.strerror}): set XDG_CACHE_HOME to a writable folder and import amct_tensorflow again"
        ) from error
    except build.BuildError as error:
        raise AmctRuntimeError(
            f"the ops of amct_tensorflow are not built for TensorFlow {version} and cannot be built in "
            f"{cache_dir()}: {error}"
        ) from error
    return cache_dir() / name


@functools.cache
def tensorflow_ops() -> Any:
    """Loads the library into TensorFlow and returns the module of its op wrappers."""
    path = library_path()
    try:
        return tf.load_op_library(str(path))
    except tf.errors.OpError as error:
        raise AmctRuntimeError(
            f"the op library {path.name} cannot be loaded ({error.message}): delete {path} and import "
            "amct_tensorflow again, which rebuilds it"
        ) from error


@functools.cache
def native() -> ctypes.CDLL:
    """Returns the library's plain C functions."""
    tensorflow_ops()
    return ctypes.CDLL(str(library_path()))
