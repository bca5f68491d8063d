"""What the tests of the ops share: calibrations of their own, and the messages that the ops log."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent))  # for numpy_twin: pytest's importlib mode leaves sys.path alone

import numpy as np
import pytest

from amct_tensorflow import ops
from amct_tensorflow.log import LOGGER
from amct_tensorflow.record import read_record


@pytest.fixture(autouse=True)
def messages() -> Iterator[list[tuple[int, str]]]:
    """The (level, message) pairs that the ops log during the test; they reach no log file."""
    logged: list[tuple[int, str]] = []
    ops.set_log_sink(lambda level, message: logged.append((level, message)))
    yield logged
    ops.set_log_sink(LOGGER.push_op_message)


@pytest.fixture
def warnings(messages: list[tuple[int, str]]) -> Callable[[], list[str]]:
    """Returns the messages of level WARNING and above so far."""
    return lambda: [message for level, message in messages if level >= 2]


@pytest.fixture
def open_book(tmp_path: Path) -> Iterator[Callable[..., ops.RecordBook]]:
    """Opens a calibration of some layers, with weight scale 1 each; all are closed after the test."""
    books = []

    def open_(*layers: str, batch_num: int = 1, path: Path | str = "record.txt", **options: Any) -> ops.RecordBook:
        book = ops.RecordBook(str(tmp_path / path), batch_num=batch_num)
        books.append(book)
        defaults = {"scale_w": [1.0], "wants_weights": True, "wants_shift": False, "skip_fusion": False}
        for layer in layers or ("layer",):
            book.add_layer(layer, **(defaults | options))
        return book

    yield open_
    for book in books:
        book.close()


@pytest.fixture
def quant_ifmr() -> Callable[..., Any]:
    """Runs QuantIfmr on one batch for layers of a book."""

    def run(book: ops.RecordBook, x: Any, *, layers: Sequence[str] = ("layer",), batch_num: int = 1, **options: Any):
        return ops.tensorflow_ops().quant_ifmr(
            np.asarray(x, np.float32) if isinstance(x, list | float) else x,
            record_file=book.path,
            generation=book.generation,
            layers=list(layers),
            batch_num=batch_num,
            **options,
        )

    return run


@pytest.fixture
def quant_arq() -> Callable[..., Any]:
    """Runs QuantArq on the weights of layers of a book."""

    def run(book: ops.RecordBook, weights: Any, *, layers: Sequence[str] = ("layer",), channel_axes=(), **options: Any):
        return ops.tensorflow_ops().quant_arq(
            np.asarray(weights, np.float32) if isinstance(weights, list) else weights,
            record_file=book.path,
            generation=book.generation,
            layers=list(layers),
            channel_axes=list(channel_axes),
            **options,
        )

    return run


@pytest.fixture
def search_n() -> Callable[..., Any]:
    """Runs SearchN on one output of a layer of a book."""

    def run(
        book: ops.RecordBook,
        x: Any,
        *,
        scale_w: Any,
        scale_d: float = 1.0,
        layer: str = "layer",
        batch_num: int = 1,
        **options: Any,
    ):
        return ops.tensorflow_ops().search_n(
            np.asarray(x, np.float32) if isinstance(x, list) else x,
            np.float32(scale_d),
            np.asarray(scale_w, np.float32),
            record_file=book.path,
            generation=book.generation,
            layer=layer,
            batch_num=batch_num,
            **options,
        )

    return run


@pytest.fixture
def calibrate(open_book: Callable[..., ops.RecordBook], quant_ifmr: Callable[..., Any]) -> Callable[..., Any]:
    """Runs QuantIfmr over the batches of a fresh calibration and returns the scale (float32) and the offset."""

    def run(batches: Sequence[np.ndarray], **options: Any) -> tuple[np.float32, int]:
        book = open_book(batch_num=len(batches))
        for batch in batches:
            factors = quant_ifmr(book, batch, batch_num=len(batches), **options)
        return factors.scale.numpy(), int(factors.offset)

    return run


@pytest.fixture
def find_shifts(open_book: Callable[..., ops.RecordBook], search_n: Callable[..., Any]) -> Callable[..., list[int]]:
    """Runs SearchN over the batches of a fresh calibration and returns the shifts that it records."""

    def run(batches: Sequence[np.ndarray], deq_scales: Any, **options: Any) -> list[int]:
        book = open_book(batch_num=len(batches), wants_shift=True, scale_w=np.ones(len(deq_scales)))
        for batch in batches:
            search_n(book, batch, scale_w=deq_scales, batch_num=len(batches), **options)
        return list(read_record(book.path)["layer"].shift_bit)

    return run
