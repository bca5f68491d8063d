"""Builds the package: compiles the .proto files and, if TensorFlow is installed, the C++ ops.

Everything declarative is in pyproject.toml.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def load(path: str) -> ModuleType:
    """Imports one file of the package, which itself cannot be imported before TensorFlow is there."""
    spec = importlib.util.spec_from_file_location(f"_amct_build_{Path(path).stem}", ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class BuildWithOps(build_py):
    """build_py plus the compiled descriptors and the op library."""

    def run(self) -> None:
        """Compiles the descriptors before the files are collected, the ops after."""
        load("amct_tensorflow/proto/compile.py").compile_protos()
        super().run()
        self._build_ops()

    def _build_ops(self) -> None:
        build = load("amct_tensorflow/ops/build.py")
        target = build.OPS_DIR if self.editable_mode else Path(self.build_lib) / "amct_tensorflow" / "ops"
        install = build.find_tensorflow()
        if install is None:
            print("TensorFlow is not installed: the ops are compiled when amct_tensorflow is first imported")
            return
        if (target / build.library_name(install.version)).exists():
            return
        for stale in target.glob("libamct_ops-*.so"):
            stale.unlink()
        print(f"compiling the ops for TensorFlow {install.version}")
        try:
            build.build_library(install, target)
        except build.BuildError as error:
            print(f"the ops are not compiled, the first import will try again: {error}")


class WheelWithOps(bdist_wheel):
    """The library depends on the platform, but not on the Python version."""

    def get_tag(self) -> tuple[str, str, str]:
        """Returns (python, abi, platform)."""
        return "py3", "none", super().get_tag()[2]


class BinaryDistribution(Distribution):
    """Makes the wheel platform-specific although there is no extension module."""

    def has_ext_modules(self) -> bool:
        """Says yes: the library is one, for the wheel's purposes."""
        return True


setup(cmdclass={"build_py": BuildWithOps, "bdist_wheel": WheelWithOps}, distclass=BinaryDistribution)
