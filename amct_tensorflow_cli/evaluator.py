"""Evaluators: Python files of the user's that feed the data of a calibration."""

from __future__ import annotations

import builtins
import contextlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import tensorflow as tf

from amct_tensorflow.errors import AmctError, AmctRuntimeError, AmctValueError
from amct_tensorflow_cli.failures import describe

_OBJECT = "customize_evaluator"
# The file is a module of this package, whose folder is the file's: both `import x` and `from . import x` find x there.
_PACKAGE = "amct_tensorflow_evaluator"


class TensorFlow1Names:
    """The module tensorflow, also with the names that only TensorFlow 1 had at their place: tf.Session."""

    def __init__(self, modern: ModuleType, legacy: Any) -> None:
        self._modern, self._legacy = modern, legacy

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._modern, name, None)
        if found is None:
            return getattr(self._legacy, name)
        legacy = getattr(self._legacy, name, None)
        if isinstance(found, ModuleType) and legacy is not None:
            return TensorFlow1Names(found, legacy)
        return found


@contextlib.contextmanager
def loaded(path: str) -> Iterator[Evaluator]:
    """Loads the file and gives its object `customize_evaluator`; its folder is importable meanwhile.

    Raises:
        AmctValueError: the file cannot be loaded, or the object is missing or has no method calibration.
    """
    folder = os.path.dirname(os.path.abspath(path))
    before = set(sys.modules)
    sys.path.insert(0, folder)
    try:
        with _old_names_for(folder):
            yield Evaluator(_evaluator_of(_load(path, folder), path), path)
    finally:
        sys.path.remove(folder)
        for name in _modules_in(folder, before):
            del sys.modules[name]


class Evaluator:
    """The user's object. Its errors name the line of the file."""

    def __init__(self, evaluator: Any, path: str) -> None:
        self._evaluator, self._path = evaluator, path

    def __str__(self) -> str:
        return self._path

    def calibration(self, graph: tf.Graph, outputs: list[str]) -> None:
        """Runs the outputs of a graph.

        Raises:
            AmctRuntimeError: the object raises an error.
        """
        path = self._path
        try:
            self._evaluator.calibration(graph, outputs)
        except (AmctError, tf.errors.OpError) as error:
            reason = describe(error) if isinstance(error, tf.errors.OpError) else str(error)
            raise AmctRuntimeError(f"evaluator {path} failed{_line(error, path)}: {reason}") from error
        except (Exception, SystemExit) as error:
            raise _failure(f"evaluator {path} failed", path, error) from error


def _load(path: str, folder: str) -> ModuleType:
    if os.path.isdir(path):
        raise AmctValueError(f"evaluator {path} is a folder: give the path of a Python file")
    if not os.path.isfile(path):
        raise AmctValueError(f"evaluator {path} does not exist: give the path of a Python file")
    package = ModuleType(_PACKAGE)
    package.__path__ = [folder]
    sys.modules[_PACKAGE] = package
    name = f"{_PACKAGE}.{os.path.splitext(os.path.basename(path))[0]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise AmctValueError(f"evaluator {path} is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise _failure(f"evaluator {path} cannot be loaded", path, error) from error
    return module


def _evaluator_of(module: ModuleType, path: str) -> Any:
    evaluator = getattr(module, _OBJECT, None)
    if evaluator is None:
        raise AmctValueError(f"evaluator {path} has no {_OBJECT}: create the object at the end of the file")
    if not callable(getattr(evaluator, "calibration", None)):
        raise AmctValueError(f"{_OBJECT} of {path} has no method calibration(self, graph, outputs): define it")
    return evaluator


def _modules_in(folder: str, before: set[str]) -> list[str]:
    """Returns the modules of the folder that were imported since."""
    return [
        name
        for name in set(sys.modules) - before
        if name.partition(".")[0] == _PACKAGE or _is_in(folder, getattr(sys.modules[name], "__file__", None))
    ]


def _is_in(folder: str, file: str | None) -> bool:
    return file is not None and os.path.abspath(file).startswith(os.path.join(folder, ""))


@contextlib.contextmanager
def _old_names_for(folder: str) -> Iterator[None]:
    """Lets ``import tensorflow`` in the files of the folder, and nowhere else, give `TensorFlow1Names`."""
    names, original = TensorFlow1Names(tf, tf.compat.v1), builtins.__import__

    def importing(name: str, variables: Any = None, *others: Any, **more: Any) -> Any:
        module = original(name, variables, *others, **more)
        return names if module is tf and _is_in(folder, (variables or {}).get("__file__")) else module

    builtins.__import__ = importing  # type: ignore[assignment]
    try:
        yield
    finally:
        builtins.__import__ = original


def _failure(what: str, path: str, error: BaseException) -> AmctRuntimeError:
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": .")
    return AmctRuntimeError(f"{what}{_line(error, path)}: {reason}; with -v the traceback is printed")


def _line(error: BaseException, path: str) -> str:
    """Returns where in the file an error arose, in words."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return f" in line {error.lineno}"
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if os.path.realpath(frame.filename) == os.path.realpath(path)
    ]
    return f" in line {lines[-1]}" if lines else ""
