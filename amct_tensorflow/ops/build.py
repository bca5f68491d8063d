"""Compiles the C++ ops against the TensorFlow that is installed, without importing it.

Used by setup.py, which loads this file by its path, and by the loader when the imported TensorFlow is not the
one the packaged library was built for. Hence: standard library only, no import from the package.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from pathlib import Path

OPS_DIR = Path(__file__).resolve().parent

# The same list as the srcs of //:libamct_ops.so in BUILD; a test compares the two.
SOURCES = (
    "calibration/c_api.cc",
    "calibration/record_book.cc",
    "calibration/rounding_book.cc",
    "kernels/activation_calibration.cc",
    "kernels/batch_norms.cc",
    "kernels/calibration.cc",
    "kernels/deployment.cc",
    "kernels/moments.cc",
    "numerics/dense.cc",
    "registrations/calibration.cc",
    "registrations/deployment.cc",
    "numerics/dense_avx2.cc",  # linked last, see there
)
HEADER_DIRS = ("calibration", "kernels", "numerics")

COMPILE_FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    # Let the compiler vectorize rounding and conversions; no flag that changes a result (no -ffast-math).
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    # The ABI settings TensorFlow's wheels have had since 2.9; importing it to ask costs seconds and 600 MB.
    "-D_GLIBCXX_USE_CXX11_ABI=1",
    "-DEIGEN_MAX_ALIGN_BYTES=64",
)

_FLAGS_ON_X86_64 = {"numerics/dense_avx2.cc": ("-mavx2", "-mfma")}


class BuildError(Exception):
    """The library cannot be built; the message is one sentence."""


@dataclasses.dataclass(frozen=True)
class TensorFlowInstall:
    """An installed TensorFlow: its version, e.g. ``2.16.1``, and its package folder."""

    version: str
    root: Path


def find_tensorflow(search: Iterable[str] | None = None) -> TensorFlowInstall | None:
    """Returns the installed TensorFlow, or None.

    An isolated build hides the environment's packages from `sys.path`, but not the folder they are in.
    """
    folders = list(search or [*sys.path, sysconfig.get_path("platlib"), sysconfig.get_path("purelib")])
    name = re.compile(r"tensorflow(?:_cpu|_intel|_cpu_aws|_rocm)?-(\d[^-]*)\.dist-info")
    for folder in map(Path, folders):
        if not (folder / "tensorflow" / "include").is_dir():
            continue
        for entry in sorted(folder.iterdir()):
            match = name.fullmatch(entry.name)
            if match:
                return TensorFlowInstall(match.group(1), folder / "tensorflow")
    return None


def headers() -> list[Path]:
    """Returns the C++ headers of the ops."""
    return sorted(path for folder in HEADER_DIRS for path in (OPS_DIR / folder).glob("*.h"))


def library_name(tensorflow_version: str) -> str:
    """Returns the library's file name; it carries the TensorFlow version and a digest of the sources.

    A library of other sources or for another TensorFlow is thus never picked up by mistake.
    """
    digest = hashlib.sha256()
    for path in [*headers(), *(OPS_DIR / source for source in SOURCES)]:
        digest.update(path.read_bytes())
    digest.update(" ".join(flag for source in SOURCES for flag in flags_of(source)).encode())
    return f"libamct_ops-{digest.hexdigest()[:12]}-tf{tensorflow_version}.so"


def flags_of(source: str) -> tuple[str, ...]:
    """Returns the flags that one of `SOURCES` is compiled with."""
    own = _FLAGS_ON_X86_64.get(source, ()) if platform.machine() in ("x86_64", "AMD64") else ()
    return (*COMPILE_FLAGS, *own)


def find_compiler() -> str:
    """Returns the C++ compiler: $CXX, else g++ or c++."""
    for candidate in (os.environ.get("CXX"), "g++", "c++"):
        if candidate and shutil.which(candidate.split()[0]):
            return candidate
    raise BuildError("no C++ compiler was found: install one (for example: apt-get install g++) and try again")


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    sys.stderr.write(result.stderr)
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or ["no output"])[-1]
        raise BuildError(f"the compiler failed ({last}); the full output is above")


def build_library(install: TensorFlowInstall, folder: Path) -> Path:
    """Compiles the ops for `install` into `folder` and returns the library's path.

    The file appears whole or not at all. Raises `BuildError`.
    """
    compiler = find_compiler().split()
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / library_name(install.version)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".build-") as scratch:
        objects = [str(Path(scratch, source.replace("/", "_")).with_suffix(".o")) for source in SOURCES]
        includes = ["-isystem", str(install.root / "include")]
        commands = [
            [*compiler, *flags_of(source), *includes, "-c", str(OPS_DIR / source), "-o", output]
            for source, output in zip(SOURCES, objects, strict=True)
        ]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(_run, commands))
        library = str(Path(scratch, target.name))
        # No rpath: the process has loaded libtensorflow_framework before it loads this.
        link = ["-shared", f"-L{install.root}", "-l:libtensorflow_framework.so.2", "-Wl,--no-undefined"]
        _run([*compiler, *objects, *link, "-o", library])
        os.replace(library, target)
    return target
