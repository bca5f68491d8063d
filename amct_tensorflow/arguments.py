"""Checks of the arguments of public functions."""

from __future__ import annotations

import functools
import inspect
import os
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import tensorflow as tf

from amct_tensorflow.errors import AmctRuntimeError, AmctTypeError, AmctValueError

Function = TypeVar("Function", bound=Callable[..., Any])


def check_types(**types: type | tuple[type, ...]) -> Callable[[Function], Function]:
    """Makes a function raise `AmctTypeError` for arguments that are not of the types given by name.

    bool does not pass as int. None passes only if it is the parameter's default.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            arguments = signature.bind(*args, **kwargs).arguments
            for name, value in arguments.items():
                optional = value is None and signature.parameters[name].default is None
                if name in types and not optional:
                    _check_type(function.__name__, name, value, types[name])
            return function(*args, **kwargs)

        return typing.cast(Function, checked)

    return decorate


def _check_type(function: str, name: str, value: Any, expected: type | tuple[type, ...]) -> None:
    expected = expected if isinstance(expected, tuple) else (expected,)
    if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
        names = " or ".join(kind.__name__ for kind in expected)
        raise AmctTypeError(f"Func {function} argument {name} must be {names}, not {type(value).__name__}")


def check_graph(graph: tf.Graph) -> None:
    """Raises `AmctRuntimeError` for a graph that cannot be edited."""
    if graph.finalized:
        raise AmctRuntimeError(
            "the graph is finalized and cannot be modified: call this function before Session managers or "
            "graph.finalize(), or import its GraphDef into a new tf.Graph"
        )


def output_names(outputs: Any, *, argument: str) -> list[str]:
    """Returns the op names behind a list of names, ``name:0`` strings, operations or tensors.

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
        names.append(name.partition(":")[0])
    return names


def check_file_path(path: str, argument: str) -> None:
    """Raises `AmctValueError` for an empty path or one that is a folder."""
    if not path or os.path.isdir(path):
        raise AmctValueError(f"{argument} '{path}' is a folder or empty: give the path of a file")
