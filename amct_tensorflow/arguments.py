"""Checks of the arguments of public functions."""

from __future__ import annotations

import functools
import inspect
import numbers
import os
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from amct_tensorflow.errors import AmctRuntimeError, AmctTypeError, AmctValueError

Function = TypeVar("Function", bound=Callable[..., Any])


def check_types(**types: type | tuple[type, ...]) -> Callable[[Function], Function]:
    """Makes a function raise `AmctTypeError` for arguments that are not of the types given by name.

    bool does not pass as int. None passes only if it is the parameter's default. NumPy's bool and integers become
    Python's, a Path a string. All strings are paths, in which a NUL character is an `AmctValueError`.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            bound = _bind(signature, args, kwargs)
            if bound is None:
                return function(*args, **kwargs)  # Python's own error names the function
            for name, value in bound.arguments.items():
                optional = value is None and signature.parameters[name].default is None
                if name in types and not optional:
                    bound.arguments[name] = _checked(function.__name__, name, value, types[name])
            return function(*bound.args, **bound.kwargs)

        return typing.cast(Function, checked)

    return decorate


def _bind(signature: inspect.Signature, args: Any, kwargs: Any) -> inspect.BoundArguments | None:
    """Returns which argument is for which parameter, None if they do not fit."""
    try:
        return signature.bind(*args, **kwargs)
    except TypeError:
        return None


def _checked(function: str, name: str, value: Any, expected: type | tuple[type, ...]) -> Any:
    expected = expected if isinstance(expected, tuple) else (expected,)
    value = _as_python(value, expected)
    if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
        names = " or ".join(kind.__name__ for kind in expected)
        raise AmctTypeError(f"Func {function} argument {name} must be {names}, not {type(value).__name__}")
    if isinstance(value, str) and "\0" in value:
        raise AmctValueError(f"Func {function} argument {name} has a NUL character, as no path may: remove it")
    return value


def _as_python(value: Any, expected: tuple[type, ...]) -> Any:
    """Returns NumPy's bool and integers as Python's, and a Path as str, where these are expected."""
    if str in expected and isinstance(value, os.PathLike):
        return os.fspath(value)
    if bool in expected and isinstance(value, np.bool_):
        return bool(value)
    if int in expected and isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    return value


def check_graph(graph: tf.Graph) -> None:
    """Raises `AmctRuntimeError` for a graph that cannot be edited."""
    if graph.finalized:
        raise AmctRuntimeError(
            "the graph is finalized and cannot be modified: call this function before Session managers or "
            "graph.finalize(), or import its GraphDef into a new tf.Graph"
        )


def output_names(outputs: Any, *, argument: str) -> list[str]:
    """Returns the names in a list of names of ops or tensors, operations or tensors: ``op`` or ``op:0``.

    Raises:
        AmctTypeError: not a list or tuple, or another kind of item.
        AmctValueError: it is empty.
    """
    if not isinstance(outputs, (list, tuple)):
        raise AmctTypeError(f"{argument} must be a list of op names, not {type(outputs).__name__}")
    if not outputs:
        raise AmctValueError(f"{argument} is empty: give the names of the model's output ops")
    names = []
    for output in outputs:
        name = output if isinstance(output, str) else getattr(output, "name", None)
        if not isinstance(name, str):
            raise AmctTypeError(f"{argument} must hold op names, not {type(output).__name__}")
        names.append(name)
    return names


def check_file_path(path: str, argument: str) -> None:
    """Raises `AmctValueError` for an empty path or one that is a folder."""
    if not path or os.path.isdir(path):
        raise AmctValueError(f"{argument} '{path}' is a folder or empty: give the path of a file")
