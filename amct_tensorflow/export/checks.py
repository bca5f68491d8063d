"""What the export jobs check alike."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable

from amct_tensorflow.errors import AmctRuntimeError, AmctValueError
from amct_tensorflow.files import is_same_file
from amct_tensorflow.graph.sources import ModelSource

_MOST_SHOWN = 5


def require(extra: str, *modules: str) -> None:
    """Raises `AmctRuntimeError` if a module that the extra of this name installs is missing."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise AmctRuntimeError(
            f"{' and '.join(missing)} is needed for that and not installed: run pip install 'amct_tensorflow[{extra}]'"
        )


def file_of(save_path: str, suffix: str, model: ModelSource) -> str:
    """Returns the file to write, with its ending.

    Raises:
        AmctValueError: it has no name, or is the model itself.
    """
    if os.path.basename(save_path) in ("", suffix):
        raise AmctValueError(f"save_path '{save_path}' has no file name: give the path of the file to write")
    path = save_path if save_path.endswith(suffix) else save_path + suffix
    if isinstance(model, str) and is_same_file(model, path):
        raise AmctValueError(f"save_path {save_path} would overwrite the model {model}: choose another name")
    return path


def refuse_ops(ops: Iterable[str], what: str) -> None:
    """Raises `AmctValueError` if there are ops, each type and name, that a format of models does not have."""
    names = list(ops)
    if names:
        more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
        raise AmctValueError(
            f"{what} cannot express {', '.join(names[:_MOST_SHOWN])}{more}: name outputs in front of it, and compute "
            "the rest outside of the model"
        )
