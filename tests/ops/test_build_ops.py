"""The build without Bazel: what it compiles, what it finds, and what it says when it cannot."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from amct_tensorflow.ops import build

BUILD_FILE = build.OPS_DIR.parents[1] / "BUILD"
INSTALL = build.TensorFlowInstall("2.21.0", Path("/site-packages/tensorflow"))


@pytest.fixture(scope="module")
def bazel() -> str:
    if not BUILD_FILE.is_file():
        pytest.skip("needs the repository, not the installed package")
    return BUILD_FILE.read_text()


def test_bazel_has_the_same_sources(bazel):
    sources = re.findall(r'"amct_tensorflow/ops/(.*?\.cc)"', bazel)
    assert sorted(sources) == sorted(build.SOURCES)


def test_bazel_has_the_same_headers(bazel):
    patterns = re.findall(r'"(amct_tensorflow/ops/.*?\.h)"', bazel)
    found = [path for pattern in patterns for path in BUILD_FILE.parent.glob(pattern)]
    assert sorted(found) == build.headers()


def test_every_source_is_compiled_and_every_header_counts():
    assert sorted(build.OPS_DIR / source for source in build.SOURCES) == sorted(build.OPS_DIR.rglob("*.cc"))
    assert build.headers() == sorted(build.OPS_DIR.rglob("*.h"))
    assert len(build.headers()) > 5


def test_numerics_and_calibration_know_no_tensorflow():
    """They are compiled alone by the tests, and could be by others; the numerics take Eigen, which is headers only."""
    for folder, others in (("numerics", "tensorflow|absl|unsupported"), ("calibration", "tensorflow|absl|Eigen")):
        for path in (build.OPS_DIR / folder).iterdir():
            assert not re.search(rf"#include [<\"]({others})", path.read_text()), path


def test_library_name_carries_the_version():
    assert build.library_name("2.16.1") != build.library_name("2.21.0")
    assert re.fullmatch(r"libamct_ops-[0-9a-f]{12}-tf2\.16\.1\.so", build.library_name("2.16.1"))
    assert build.library_name("2.16.1") == build.library_name("2.16.1")


@pytest.mark.parametrize("folder", ["numerics", "calibration", "kernels", "registrations"])
def test_library_name_carries_the_sources(monkeypatch, tmp_path, folder):
    copy = tmp_path / "ops"
    for path in [*build.OPS_DIR.rglob("*.h"), *build.OPS_DIR.rglob("*.cc")]:
        target = copy / path.relative_to(build.OPS_DIR)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    name = build.library_name("2.21.0")
    monkeypatch.setattr(build, "OPS_DIR", copy)
    assert build.library_name("2.21.0") == name
    changed = next((copy / folder).iterdir())
    changed.write_text(changed.read_text() + "\n")
    assert build.library_name("2.21.0") != name


def test_library_name_carries_the_flags(monkeypatch):
    name = build.library_name("2.21.0")
    monkeypatch.setattr(build, "COMPILE_FLAGS", (*build.COMPILE_FLAGS, "-g"))
    assert build.library_name("2.21.0") != name


def test_no_flag_changes_a_result():
    assert not {"-ffast-math", "-Ofast", "-funsafe-math-optimizations", "-march=native"} & set(build.COMPILE_FLAGS)
    assert "-ffp-contract=off" in build.COMPILE_FLAGS


def test_finds_the_tensorflow_of_the_environment():
    install = build.find_tensorflow()
    assert install.version == tf.__version__
    assert install.root == Path(tf.__file__).parent


def test_finds_tensorflow_without_importing_it():
    code = "import sys; sys.path.insert(0, sys.argv[1]); import build; print(build.find_tensorflow().version)"
    code += "; print('tensorflow' in sys.modules)"
    command = [sys.executable, "-c", code, str(build.OPS_DIR)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.split() == [tf.__version__, "False"]


def make_install(folder: Path, distribution: str) -> None:
    (folder / "tensorflow" / "include").mkdir(parents=True, exist_ok=True)
    (folder / f"{distribution}.dist-info").mkdir()


@pytest.mark.parametrize(
    ("distribution", "version"),
    [
        ("tensorflow-2.16.1", "2.16.1"),
        ("tensorflow_cpu-2.20.0", "2.20.0"),
        ("tensorflow-2.21.0rc1", "2.21.0rc1"),
        ("tensorflow_estimator-2.15.0", None),
        ("tensorflow_io_gcs_filesystem-0.37.1", None),
    ],
    ids=str,
)
def test_finds_tensorflow_by_its_metadata(tmp_path, distribution, version):
    make_install(tmp_path, distribution)
    expected = version and build.TensorFlowInstall(version, tmp_path / "tensorflow")
    assert build.find_tensorflow([str(tmp_path / "none"), str(tmp_path)]) == expected


def test_finds_no_tensorflow_without_headers(tmp_path):
    (tmp_path / "tensorflow-2.16.1.dist-info").mkdir()
    assert build.find_tensorflow([str(tmp_path)]) is None


@pytest.fixture
def no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)


@pytest.mark.usefixtures("no_compiler")
def test_no_compiler(tmp_path):
    with pytest.raises(build.BuildError, match=r"^no C\+\+ compiler was found: install one .*g\+\+.* try again$"):
        build.find_compiler()
    with pytest.raises(build.BuildError, match="no C"):
        build.build_library(INSTALL, tmp_path / "cache")


@pytest.fixture
def fake_compiler(no_compiler, monkeypatch, tmp_path):
    """Makes a compiler out of a line of shell; returns its path."""

    def make(line: str, name: str = "g++") -> Path:
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{line}\n")
        program.chmod(0o755)
        return program

    return make


@pytest.mark.parametrize("name", ["g++", "c++"])
def test_compiler_of_the_path(fake_compiler, name):
    fake_compiler("true", name)
    assert build.find_compiler() == name


def test_compiler_of_the_environment(fake_compiler, monkeypatch):
    fake_compiler("true")
    monkeypatch.setenv("CXX", f"{fake_compiler('true', 'my-c++')} -m64")
    assert build.find_compiler().endswith("my-c++ -m64")
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert build.find_compiler() == "g++"


# Writes its arguments to $LOG and to the file after -o; the shell's own commands only, PATH has no others.
COMPILES = 'echo "$@" >> "$LOG"; while [ "$1" != -o ]; do shift; done; echo library > "$2"'


def test_builds_with_the_compiler(fake_compiler, monkeypatch, tmp_path):
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    monkeypatch.setenv("CXX", f"{fake_compiler(COMPILES)} --extra")
    library = build.build_library(INSTALL, tmp_path / "new" / "cache")
    assert library == tmp_path / "new" / "cache" / build.library_name("2.21.0")
    assert library.read_text() == "library\n"
    assert list(library.parent.iterdir()) == [library]
    commands = (tmp_path / "log").read_text().splitlines()
    assert len(commands) == len(build.SOURCES) + 1
    assert all(command.startswith("--extra ") for command in commands)
    compiled = [command for command in commands if " -c " in command]
    assert len(compiled) == len(build.SOURCES)
    assert all("-isystem /site-packages/tensorflow/include" in command for command in compiled)
    assert all(flag in command for flag in build.COMPILE_FLAGS for command in compiled)
    with_avx2 = [command for command in compiled if "-mavx2 -mfma" in command]
    assert len(with_avx2) == (platform.machine() == "x86_64")
    assert all("numerics/dense_avx2.cc" in command for command in with_avx2)
    linked = [Path(word).name for word in commands[-1].split() if word.endswith(".o")]
    assert linked[-1] == "numerics_dense_avx2.o"
    assert "-shared -L/site-packages/tensorflow -l:libtensorflow_framework.so.2" in commands[-1]


@pytest.mark.parametrize("when", ["-c", "-shared"], ids=["compiling", "linking"])
def test_says_why_the_compiler_failed(fake_compiler, monkeypatch, tmp_path, capfd, when):
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    fails = f'case " $* " in *" {when} "*) echo first line >&2; echo out of memory >&2; exit 1;; esac'
    fake_compiler(f"{fails}; {COMPILES}")
    with pytest.raises(build.BuildError, match=r"^the compiler failed \(out of memory\); the full output is above$"):
        build.build_library(INSTALL, tmp_path / "cache")
    assert "first line" in capfd.readouterr().err
    assert list((tmp_path / "cache").iterdir()) == []  # neither half a library nor rubbish
