"""The C++ ops and numerics, as Python calls them.

Graph ops come from `tensorflow_ops()`; the functions below call the library's plain C functions and work
outside any graph or eager mode.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from amct_tensorflow.errors import AmctRuntimeError, AmctValueError
from amct_tensorflow.ops.library import native, tensorflow_ops

__all__ = [
    "AMCT_OP_TYPES",
    "RecordBook",
    "arq_scales",
    "batches_seen",
    "batches_wanted",
    "flush_record",
    "native",
    "quantize_weights",
    "restart_calibration",
    "set_log_sink",
    "tensorflow_ops",
    "weight_fingerprint",
]

# The ops that observe, and fill a record.
OBSERVER_OP_TYPES = (
    *("QuantIfmr", "QuantHfmg", "QuantArq", "SearchN"),
    *("DmqBalance", "InputMoments", "BatchNormStatistics"),
)
CALIBRATION_OP_TYPES = (*OBSERVER_OP_TYPES, "DequantArq")
DEPLOYMENT_OP_TYPES = ("AscendQuant", "AscendWeightQuant", "AscendDequant", "AscendAntiQuant")
AMCT_OP_TYPES = frozenset(CALIBRATION_OP_TYPES + DEPLOYMENT_OP_TYPES)

FloatArray = npt.NDArray[np.float32]


def _pass_gradient_through(op: tf.Operation, *gradients: tf.Tensor) -> list[tf.Tensor | None]:
    """An op that observes is the identity on its first input; its other inputs only inform it."""
    return [gradients[0], *[None] * (len(op.inputs) - 1)]


def _register_gradients() -> None:
    for op_type in OBSERVER_OP_TYPES:
        tf.RegisterGradient(op_type)(_pass_gradient_through)
    for op_type in ("DequantArq", *DEPLOYMENT_OP_TYPES):
        tf.no_gradient(op_type)


_register_gradients()


def _channel_view(shape: Sequence[int], channel_axes: Sequence[int]) -> tuple[int, int, int]:
    """Returns the sizes [outer, channels, inner] of a tensor whose channels are neighbouring axes."""
    if not channel_axes:
        return 1, 1, math.prod(shape)
    first, last = channel_axes[0], channel_axes[-1] + 1
    return math.prod(shape[:first]), math.prod(shape[first:last]), math.prod(shape[last:])


def _pointer(array: np.ndarray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def _view_arguments(shape: Sequence[int], channel_axes: Sequence[int]) -> list[ctypes.c_int64]:
    return [ctypes.c_int64(size) for size in _channel_view(shape, channel_axes)]


def arq_scales(weights: FloatArray, channel_axes: Sequence[int], *, layer: str, num_bits: int = 8) -> FloatArray:
    """Returns the symmetric weight scales of ARQ: one per channel, or one if `channel_axes` is empty.

    scale = w / (2^(b-1) - 1) for the weight w of largest magnitude if it is positive, else w / -2^(b-1); a
    scale below FLT_EPSILON becomes 1. Source: specification, section 3.

    Raises:
        AmctValueError: NaN or Inf in the weights, or a scale above 1 / FLT_EPSILON; names `layer`.
    """
    weights = np.ascontiguousarray(weights, np.float32)
    view = _view_arguments(weights.shape, channel_axes)
    scales = np.empty(view[1].value, np.float32)
    status = native().AmctArqScales(_pointer(weights), *view, num_bits, _pointer(scales))
    if status != 0:
        what = ("NaN or Inf", "a scale greater than 1 / FLT_EPSILON, which is not supported")[status - 1]
        raise AmctValueError(
            f'the weights of layer "{layer}" have {what}: repair them, or add the layer to skip_layers'
        )
    return scales


def quantize_weights(
    weights: FloatArray, scales: FloatArray, channel_axes: Sequence[int], *, num_bits: int = 8
) -> npt.NDArray[np.int8]:
    """Returns clip(round(w / scale)), int8 of the shape of `weights`."""
    weights = np.ascontiguousarray(weights, np.float32)
    scales = np.ascontiguousarray(scales, np.float32)
    view = _view_arguments(weights.shape, channel_axes)
    if scales.size != view[1].value:
        raise ValueError(f"{scales.size} scales for {view[1].value} channels")
    output = np.empty(weights.shape, np.int8)
    native().AmctQuantizeWeights(_pointer(weights), *view, _pointer(scales), num_bits, _pointer(output))
    return output


def weight_fingerprint(weights: FloatArray, scales: FloatArray, channel_axes: Sequence[int]) -> npt.NDArray[np.float64]:
    """Returns three numbers of weights in units of their scales, two of them linear, the last their sum of squares."""
    weights = np.ascontiguousarray(weights, np.float32)
    scales = np.ascontiguousarray(scales, np.float32)
    fingerprint = np.empty(3, np.float64)
    view = _view_arguments(weights.shape, channel_axes)
    native().AmctWeightFingerprint(_pointer(weights), *view, _pointer(scales), _pointer(fingerprint))
    return fingerprint


class RecordBook:
    """The calibration that fills one record file; see ops/calibration/record_book.h.

    Opening a book forgets an earlier one of the same path. The file is written by `write`, and later by the
    calibration ops that carry the book's `generation`.
    """

    def __init__(self, path: str, *, batch_num: int) -> None:
        self.path = path
        opener = native().AmctOpenRecordBook
        opener.restype = ctypes.c_int64
        self.generation = int(opener(path.encode(), ctypes.c_int64(batch_num)))

    def add_layer(
        self,
        layer: str,
        *,
        scale_w: FloatArray | None,
        wants_weights: bool,
        wants_shift: bool,
        skip_fusion: bool,
        zero_shifts: int = 0,
        wants_activation: bool = True,
        wants_balance: bool = False,
        balance_factors: FloatArray | None = None,
    ) -> None:
        """Adds the entry of a layer, with so many shifts of 0 if it is not to be shifted.

        What an op finds is wanted: the layer is complete once it is there. `scale_w` is None if an op finds it, or
        there are no weights; `balance_factors` likewise, or if the layer is not balanced.
        """
        scales = np.ascontiguousarray(() if scale_w is None else scale_w, np.float32)
        factors = np.ascontiguousarray(() if balance_factors is None else balance_factors, np.float32)
        native().AmctAddLayer(
            self.path.encode(),
            layer.encode(),
            _pointer(scales),
            ctypes.c_int64(scales.size),
            _pointer(factors),
            ctypes.c_int64(factors.size),
            int(wants_activation),
            int(wants_weights),
            int(wants_shift),
            int(wants_balance),
            int(skip_fusion),
            ctypes.c_int64(zero_shifts),
        )

    def add_rounding(
        self,
        layers: Sequence[str],
        *,
        moments: Sequence[str],
        layout: Sequence[int],
        weights: FloatArray | None,
        shape: Sequence[int],
        scales: FloatArray | None,
        channel_axes: Sequence[int],
        compensate: bool,
        correct_bias: bool,
    ) -> None:
        """Has the weights that layers share rounded when the last batch is in.

        Args:
            layers: the layers, which have their entries; an InputMoments op must name them.
            moments: for each of them, the first layer that the InputMoments op of its input names.
            layout: the numbers of a WeightLayout.
            weights: the weights; None if a QuantArq finds them, and their scales.
            shape: of the weights.
            scales: one, or one per channel.
            channel_axes: the axes that make up the channels; empty for one scale.
            compensate: whether the later weights make up for the errors of the earlier.
            correct_bias: whether a correction of the bias is wanted.
        """
        sizes = (ctypes.c_int64 * len(shape))(*shape)
        values = None if weights is None else np.ascontiguousarray(weights, np.float32)
        factors = None if scales is None else np.ascontiguousarray(scales, np.float32)
        native().AmctAddRoundingPlan(
            self.path.encode(),
            "\n".join(layers).encode(),
            "\n".join(moments).encode(),
            sizes,
            ctypes.c_int64(len(shape)),
            (ctypes.c_int64 * len(layout))(*layout),
            int(compensate),
            int(correct_bias),
            None if values is None else _pointer(values),
            *_view_arguments(shape, channel_axes),
            None if factors is None else _pointer(factors),
        )

    def add_batch_norm(self, name: str, mean: FloatArray, variance: FloatArray, *, is_final: bool) -> None:
        """Adds a batch norm: its final statistics, or those to start from, of which an op then finds new ones."""
        mean, variance = (np.ascontiguousarray(values, np.float32) for values in (mean, variance))
        native().AmctAddBatchNorm(
            self.path.encode(),
            name.encode(),
            _pointer(mean),
            _pointer(variance),
            ctypes.c_int64(mean.size),
            int(is_final),
        )

    def write(self) -> None:
        """Writes the record file with what is known by now.

        Raises:
            AmctRuntimeError: it cannot be written.
        """
        _write("AmctWriteRecord", self.path)

    def close(self) -> None:
        """Forgets the calibration; its ops then refuse to run."""
        native().AmctCloseRecordBook(self.path.encode())


def restart_calibration(path: str) -> None:
    """Forgets the batches that the calibration of this record has seen, as if it had just begun."""
    native().AmctRestartCalibration(path.encode())


def flush_record(path: str) -> None:
    """Writes what an open calibration knows beyond the file; nothing if there is nothing.

    Raises:
        AmctRuntimeError: the file cannot be written.
    """
    _write("AmctFlushRecord", path)


def _write(function: str, path: str) -> None:
    writer = getattr(native(), function)
    writer.restype = ctypes.c_char_p
    error = writer(path.encode())
    if error:
        raise AmctRuntimeError(error.decode())


def batches_wanted(path: str) -> int:
    """Returns the batch_num of the calibration that fills this record, -1 if it is not of this process."""
    counter = native().AmctBatchesWanted
    counter.restype = ctypes.c_int64
    return int(counter(path.encode()))


def batches_seen(path: str, layer: str) -> int:
    """Returns the batches that the layer's ops have seen, -1 if its calibration is not of this process."""
    counter = native().AmctBatchesSeen
    counter.restype = ctypes.c_int64
    return int(counter(path.encode(), layer.encode()))


_LogSink = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p)
_kept_sink: list[object] = []  # the library keeps the pointer only


def set_log_sink(sink: Callable[[int, str], None]) -> None:
    """Has messages of the ops passed to `sink(level, message)`, level 0 (debug) to 3 (error).

    They come from TensorFlow's threads while a session runs.
    """
    callback = _LogSink(lambda level, message: sink(level, message.decode()))
    native().AmctSetLogSink(callback)
    _kept_sink[:] = [callback]
