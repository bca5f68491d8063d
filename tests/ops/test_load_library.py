"""Which library is loaded: packaged, cached or built now; and the one sentence if there is none."""

from __future__ import annotations

import ctypes
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tensorflow as tf
from packaging.requirements import Requirement

from amct_tensorflow.errors import AmctRuntimeError
from amct_tensorflow.ops import build, library

OTHER_VERSION = "2.20.99"  # supported, but no library was ever built for it


@pytest.fixture
def cache(monkeypatch, tmp_path) -> Path:
    """An empty cache, for a TensorFlow that has no library."""
    monkeypatch.setattr(tf, "__version__", OTHER_VERSION)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "amct_tensorflow"


@pytest.fixture
def builds(monkeypatch) -> list[tuple[build.TensorFlowInstall, Path]]:
    """What was built, by a function that only makes the file."""
    built = []

    def fake_build(install: build.TensorFlowInstall, folder: Path) -> Path:
        built.append((install, folder))
        (folder / build.library_name(install.version)).write_text("library")
        return folder / build.library_name(install.version)

    monkeypatch.setattr(build, "build_library", fake_build)
    return built


def message_of(error: pytest.ExceptionInfo) -> str:
    """Returns the message, which is one sentence on one line."""
    message = str(error.value)
    assert "\n" not in message
    assert ". " not in message
    return message


@pytest.mark.parametrize("version", ["2.15.1", "2.22.0", "1.15.5", "3.0.0", "2.22.0-rc1", "2.9.0"])
def test_version_that_is_not_supported(cache, builds, monkeypatch, version):
    monkeypatch.setattr(tf, "__version__", version)
    with pytest.raises(AmctRuntimeError) as error:
        library.library_path()
    message = message_of(error)
    assert "supports TensorFlow 2.16 to 2.21" in message and f"but {version} is imported" in message
    assert builds == []
    assert not cache.exists()


def test_the_remedy_for_a_version_works(cache, monkeypatch):
    """What the message tells the user to install is a requirement that pip takes, for these versions."""
    monkeypatch.setattr(tf, "__version__", "2.15.1")
    with pytest.raises(AmctRuntimeError) as error:
        library.library_path()
    (requirement,) = re.findall(r'pip install "(.*?)"', str(error.value))
    specifier = Requirement(requirement).specifier
    assert list(specifier.filter(["2.15.1", "2.16.0", "2.21.0", "2.21.1", "2.22.0"])) == ["2.16.0", "2.21.0", "2.21.1"]


@pytest.mark.parametrize("version", ["2.16.0", "2.16.2", "2.19.1", "2.21.0", "2.21.0-rc0", "2.20.0-dev20250101"])
def test_versions_that_are_supported(cache, builds, monkeypatch, version):
    monkeypatch.setattr(tf, "__version__", version)
    assert library.library_path().name == build.library_name(version)


def test_builds_into_the_cache_once(cache, builds, capsys):
    path = library.library_path()
    assert path == cache / build.library_name(OTHER_VERSION)
    assert builds == [(build.TensorFlowInstall(OTHER_VERSION, Path(tf.__file__).parent), cache)]
    assert f"compiling the ops for TensorFlow {OTHER_VERSION}, once" in capsys.readouterr().err
    assert library.library_path() == path
    assert len(builds) == 1
    assert capsys.readouterr().err == ""


def test_uses_the_cache(cache, builds, capsys):
    cache.mkdir()
    (cache / build.library_name(OTHER_VERSION)).write_text("library")
    assert library.library_path() == cache / build.library_name(OTHER_VERSION)
    assert builds == []
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["libamct_ops-000000000000-tf2.20.99.so", "libamct_ops.so"])
def test_does_not_use_a_library_of_other_sources(cache, builds, name):
    cache.mkdir()
    (cache / name).write_text("library")
    library.library_path()
    assert len(builds) == 1


def test_prefers_the_packaged_library(cache, builds, monkeypatch, tmp_path):
    name = build.library_name(OTHER_VERSION)
    cache.mkdir()
    (tmp_path / "packaged").mkdir()
    for folder in (cache, tmp_path / "packaged"):
        (folder / name).write_text("library")
    monkeypatch.setattr(build, "library_name", lambda version: name)
    monkeypatch.setattr(build, "OPS_DIR", tmp_path / "packaged")
    assert library.library_path() == tmp_path / "packaged" / name
    assert builds == []


@pytest.mark.parametrize("cache_home", [None, ""], ids=["unset", "empty"])
def test_cache_without_xdg(monkeypatch, tmp_path, cache_home):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if cache_home is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", cache_home)
    assert library.cache_dir() == tmp_path / ".cache" / "amct_tensorflow"


def test_builds_once_from_many_threads(cache, builds, monkeypatch):
    """As from many processes: the lock is the file's."""
    together = threading.Barrier(4)

    def load(_: int) -> Path:
        together.wait()
        return library.library_path()

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(load, range(4))) == {cache / build.library_name(OTHER_VERSION)}
    assert len(builds) == 1


def test_no_library_and_no_compiler(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(AmctRuntimeError) as error:
        library.library_path()
    message = message_of(error)
    assert f"not built for TensorFlow {OTHER_VERSION} and cannot be built in {cache}" in message
    assert "install one (for example: apt-get install g++)" in message


def test_no_library_and_no_place_for_one(cache, builds, tmp_path):
    cache.write_text("a file")
    with pytest.raises(AmctRuntimeError) as error:
        library.library_path()
    message = message_of(error)
    assert f"{cache} cannot be written" in message and "set XDG_CACHE_HOME to a writable folder" in message
    assert builds == []


def test_a_compiler_that_fails(cache, monkeypatch):
    def fail(install: build.TensorFlowInstall, folder: Path) -> Path:
        raise build.BuildError("the compiler failed (out of memory); the full output is above")

    monkeypatch.setattr(build, "build_library", fail)
    with pytest.raises(AmctRuntimeError) as error:
        library.library_path()
    assert "the compiler failed (out of memory)" in message_of(error)


def test_a_library_that_is_broken(cache, builds):
    """Not through the function's cache, which has the library of this process."""
    with pytest.raises(AmctRuntimeError) as error:
        library.tensorflow_ops.__wrapped__()
    path = cache / build.library_name(OTHER_VERSION)
    assert f"the op library {path.name} cannot be loaded" in str(error.value)
    assert f"delete {path}" in str(error.value)


def test_is_loaded_once():
    assert library.tensorflow_ops() is library.tensorflow_ops()
    assert library.native() is library.native()
    assert isinstance(library.native(), ctypes.CDLL)
