"""Times one model in a process of its own: ``python time_model.py RUNTIME MODEL BATCH OUTPUT…``.

It is run by its path, and imports nothing of this package for runtimes that do not need it: beside TensorFlow in one
process, others take two to three times as long. It prints the median milliseconds of a run.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

_SECONDS, _LEAST_RUNS = 2.0, 5
_WARM_UP = 3

Run = Callable[[], Any]


def main(runtime: str, model: str, batch: str, *outputs: str) -> None:
    """Prints the time of the model."""
    run = _RUNTIMES[runtime](model, int(batch), outputs)
    for _ in range(_WARM_UP):
        run()
    times: list[float] = []
    while len(times) < _LEAST_RUNS or sum(times) < _SECONDS:
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    print(statistics.median(times) * 1000)


def _data(shape: Sequence[Any], dtype: Any, batch: int) -> np.ndarray:
    """Returns an input of the batch size; `shape` has something else than a number where a size is not known."""
    sizes = [int(size) if isinstance(size, (int, np.integer)) and size > 0 else 0 for size in shape]
    if sizes and not sizes[0]:
        sizes[0] = batch
    if 0 in sizes:
        raise SystemExit(f"the model leaves sizes of an input open: {list(shape)}")
    values = np.random.default_rng(0).uniform(-1, 1, sizes)
    return np.asarray(values if np.issubdtype(dtype, np.floating) else np.zeros(sizes), dtype)


def _tensorflow(model: str, batch: int, outputs: Sequence[str]) -> Run:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import tensorflow as tf

    import amct_tensorflow  # noqa: F401 - registers the ops of int8 models

    graph_def = tf.compat.v1.GraphDef()
    with open(model, "rb") as file:
        graph_def.ParseFromString(file.read())
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
    inputs = [op.outputs[0] for op in graph.get_operations() if op.type == "Placeholder"]
    session = tf.compat.v1.Session(graph=graph)
    call = session.make_callable(list(outputs), inputs)
    data = [_data(tensor.shape.as_list(), tensor.dtype.as_numpy_dtype, batch) for tensor in inputs]
    return lambda: call(*data)


def _onnxruntime(model: str, batch: int, _: Sequence[str]) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}
    types |= {f"tensor({name})": np.dtype(name).type for name in ("int64", "int32", "int8", "uint8")}
    data = {value.name: _data(value.shape, types.get(value.type, np.float32), batch) for value in session.get_inputs()}
    return lambda: session.run(None, data)


def _tflite(model: str, batch: int, _: Sequence[str]) -> Run:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter
    interpreter = Interpreter(model_path=model, num_threads=os.cpu_count())
    for detail in interpreter.get_input_details():
        data = _data(detail["shape_signature"], detail["dtype"], batch)
        interpreter.resize_tensor_input(detail["index"], data.shape)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], _data(detail["shape"], detail["dtype"], batch))
    return interpreter.invoke  # type: ignore[no-any-return]


_RUNTIMES = {"tensorflow": _tensorflow, "onnxruntime": _onnxruntime, "tflite": _tflite}

if __name__ == "__main__":
    main(*sys.argv[1:])
