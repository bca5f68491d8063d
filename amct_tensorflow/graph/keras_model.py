"""Keras models of Keras 3 and of tf_keras: loading their files, and freezing them for inference."""

from __future__ import annotations

import contextlib
import inspect
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import tensorflow as tf
from tensorflow.python.eager import context

from amct_tensorflow.errors import AmctValueError, reason_of
from amct_tensorflow.graph.file_forms import Form
from amct_tensorflow.graph.freeze import freeze
from amct_tensorflow.graph.model_file import GraphDef
from amct_tensorflow.graph.tidy import unused_name

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
KERAS_SUFFIXES = {Form.HDF5: ".h5", Form.KERAS: ".keras"}
_NUMBERS = "object_name_uids"  # where Keras 3 counts the layers of each kind


@runtime_checkable
class KerasModel(Protocol):
    """A Keras model, of Keras 3 or of tf_keras, told by what it has, so that no Keras need be imported."""

    name: str

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Computes the outputs."""

    def get_layer(self, *args: Any, **kwargs: Any) -> Any:
        """Returns a layer; a layer itself has no such method."""

    def get_config(self) -> Any:
        """Returns what it is made of."""


def load_keras(path: str, form: Form) -> KerasModel:
    """Loads a file of one of the `KERAS_SUFFIXES` with the Keras that TensorFlow uses.

    Raises:
        AmctValueError: Keras cannot load it.
    """
    with context.eager_mode(), _names_from_the_start(), _named(path, KERAS_SUFFIXES[form]) as named:
        try:
            return tf.keras.models.load_model(named, compile=False)
        except Exception as error:  # Keras raises errors of all kinds
            reason = reason_of(error).replace(named, path)
            raise AmctValueError(
                f"Keras cannot load {path} ({type(error).__name__}: {reason}): if the file is whole, load it in "
                "Python, with its custom_objects or the Keras it was saved with, and pass the model itself"
            ) from error


@contextlib.contextmanager
def _named(path: str, suffix: str) -> Iterator[str]:
    """Gives a path of the file that ends in `suffix`: Keras goes by the name."""
    if path.endswith(suffix):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        link = os.path.join(folder, f"model{suffix}")
        os.symlink(os.path.abspath(path), link)
        yield link


def freeze_keras(model: KerasModel, where: str) -> GraphDef:
    """Returns the frozen graph of a model in inference mode.

    Placeholders are called like the Keras inputs: the keys where the model takes a dictionary, or else the names of its
    Input layers. Outputs are called like the keys where it returns a dictionary, or else like the layers they come
    from. A subclassed model has neither: input, or input_0, input_1, …, and output, or output_0, output_1, ….

    Raises:
        AmctValueError: its inputs are not known yet, or it cannot be frozen.
    """
    arguments = _arguments(model, where)
    _check_arguments(model, len(arguments), where)
    flat = tf.nest.flatten(arguments)
    names = _input_names(model, arguments)
    specs = {name: _spec(spec, model) for name, spec in zip(names, flat, strict=True)}
    training = {"training": False} if "training" in inspect.signature(model.call).parameters else {}  # type: ignore[attr-defined]

    def call(tensors: Sequence[tf.Tensor]) -> Mapping[str, tf.Tensor]:
        results = model(*tf.nest.pack_sequence_as(arguments, list(tensors)), **training)
        return dict(zip(_output_names(model, results), tf.nest.flatten(results), strict=True))

    with _names_from_the_start():  # of layers that are made in its call
        return freeze(call, specs, where)


@contextlib.contextmanager
def _names_from_the_start() -> Iterator[None]:
    """Makes Keras 3 number the layers without a name of their own as if there were no others in the process.

    Else the layers inside of a custom layer would be called otherwise each time that a file is loaded.
    """
    try:
        from keras.src.backend.common import global_state
    except ImportError:  # another Keras
        yield
        return
    numbers = global_state.get_global_attribute(_NUMBERS)
    global_state.set_global_attribute(_NUMBERS, defaultdict(int))
    try:
        yield
    finally:
        global_state.set_global_attribute(_NUMBERS, numbers)


def _arguments(model: Any, where: str) -> list[Any]:
    """Returns a structure of specs for each positional argument of the model's call."""
    if getattr(model, "inputs", None):
        return [model.inputs[0] if _is_sequential(model) else model.input]
    shapes = None
    if hasattr(model, "save_spec"):  # tf_keras
        shapes = model.save_spec()
        if shapes is not None:
            return list(shapes[0])
    elif model.built:
        config = model.get_build_config() or {}
        shapes = config.get("shapes_dict") or {"input": config.get("input_shape")}
        if None not in shapes.values():
            return [_specs(shape, model.input_dtype) for shape in shapes.values()]
    raise AmctValueError(f"{where} does not know the shapes of its inputs yet: call it once, on a batch of data")


def _check_arguments(model: Any, known: int, where: str) -> None:
    """Raises `AmctValueError` for a call that takes more tensors than the model tells of."""
    parameters = list(inspect.signature(model.call).parameters.values())
    wanted = [item for item in parameters if item.kind in _POSITIONAL and item.default is item.empty]
    if len(wanted) > known:
        names = ", ".join(item.name for item in wanted)
        raise AmctValueError(
            f"{where} takes {len(wanted)} arguments ({names}), and only the shape of the first is known: give its call "
            "one list or dictionary of tensors"
        )


def _spec(spec: Any, model: Any) -> tf.TensorSpec:
    """Returns the spec of an input. A Sequential model takes its batch size from the first batch: leave it open."""
    shape = [None, *spec.shape[1:]] if _is_sequential(model) else spec.shape
    return tf.TensorSpec(shape, spec.dtype)


def _is_sequential(model: Any) -> bool:
    return any(kind.__name__ == "Sequential" for kind in type(model).__mro__)


def _specs(shape: Any, dtype: str) -> Any:
    """Returns the specs for a structure of shapes; the first dimension is the batch, of any size."""
    if isinstance(shape, Mapping):
        return {key: _specs(item, dtype) for key, item in shape.items()}
    if all(size is None or isinstance(size, int) for size in shape):
        return tf.TensorSpec([None, *shape[1:]], dtype)
    return [_specs(item, dtype) for item in shape]


def _input_names(model: Any, arguments: Sequence[Any]) -> list[str]:
    flat = tf.nest.flatten(arguments)
    if len(arguments) == 1 and isinstance(arguments[0], Mapping) and len(arguments[0]) == len(flat):
        return sorted(arguments[0])
    histories = [getattr(spec, "_keras_history", None) for spec in flat]
    if all(histories):
        return [_layer(history).name for history in histories]
    return _numbered("input", len(flat))


def _layer(history: Any) -> Any:
    """Returns the layer that a symbolic tensor of Keras comes from; Keras 3 calls it an operation."""
    return history.operation if hasattr(history, "operation") else history.layer


def _output_names(model: Any, results: Any) -> list[str]:
    flat = tf.nest.flatten(results)
    if isinstance(results, Mapping) and len(results) == len(flat):
        return sorted(results)
    symbolic = getattr(model, "outputs", None) or ()
    histories = [getattr(tensor, "_keras_history", None) for tensor in symbolic]
    if len(histories) == len(flat) and all(histories):
        taken: set[str] = set()
        return [unused_name(_layer(history).name, taken) for history in histories]
    return _numbered("output", len(flat))


def _numbered(word: str, count: int) -> list[str]:
    return [word] if count == 1 else [f"{word}_{number}" for number in range(count)]
