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
from amct_tensorflow.ops import build
from amct_tensorflow.record import read_balance_factors, read_record


@pytest.fixture(scope="session")
def compiler() -> list[str]:
    """The compiler, and where it finds Eigen: all that the C++ without TensorFlow needs."""
    try:
        command = build.find_compiler().split()
    except build.BuildError:
        pytest.skip("needs a C++ compiler")
    tensorflow = build.find_tensorflow()
    assert tensorflow is not None
    return [*command, "-isystem", str(tensorflow.root / "include")]


@pytest.fixture(scope="session")
def numerics() -> list[str]:
    """The sources that whatever includes the numerics is compiled with."""
    return sorted(str(path) for path in (build.OPS_DIR / "numerics").glob("*.cc"))


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
def open_balance_book(open_book: Callable[..., ops.RecordBook]) -> Callable[..., ops.RecordBook]:
    """Opens a calibration of layers that want balance factors only, as quantize_preprocess does."""
    wanted = {"wants_activation": False, "wants_weights": False, "wants_balance": True}
    return lambda *layers, **options: open_book(*layers, scale_w=None, **wanted, **options)


def activation_op(name: str) -> Callable[..., Any]:
    def run(book: ops.RecordBook, x: Any, *, layers: Sequence[str] = ("layer",), batch_num: int = 1, **options: Any):
        return getattr(ops.tensorflow_ops(), name)(
            np.asarray(x, np.float32) if isinstance(x, list | float) else x,
            record_file=book.path,
            generation=book.generation,
            layers=list(layers),
            batch_num=batch_num,
            **options,
        )

    return run


@pytest.fixture
def quant_ifmr() -> Callable[..., Any]:
    """Runs QuantIfmr on one batch for layers of a book."""
    return activation_op("quant_ifmr")


@pytest.fixture
def quant_hfmg() -> Callable[..., Any]:
    """Runs QuantHfmg on one batch for layers of a book."""
    return activation_op("quant_hfmg")


@pytest.fixture(params=["quant_ifmr", "quant_hfmg"])
def quant_activation(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Runs each op that finds the factors of activations."""
    return activation_op(request.param)


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
def dmq_balance() -> Callable[..., Any]:
    """Runs DmqBalance on one batch for a layer of a book."""

    def run(
        book: ops.RecordBook,
        x: Any,
        *,
        weight_max: Any,
        layer: str = "layer",
        batch_num: int = 1,
        migration_strength: float = 0.5,
        channel_axis: int = -1,
    ):
        return ops.tensorflow_ops().dmq_balance(
            np.asarray(x, np.float32) if isinstance(x, list) else x,
            np.asarray(weight_max, np.float32),
            record_file=book.path,
            generation=book.generation,
            layer=layer,
            batch_num=batch_num,
            migration_strength=migration_strength,
            channel_axis=channel_axis,
        )

    return run


@pytest.fixture
def open_batch_norms(open_book: Callable[..., ops.RecordBook]) -> Callable[..., ops.RecordBook]:
    """Opens a calibration of batch norms of 3 channels, which update_batch_norms does without any layer."""

    def open_(
        *names: str,
        batch_num: int = 1,
        mean: Sequence[float] = (0.25, -3, 0),
        variance: Sequence[float] = (1.5, 2, 0.1),
    ) -> ops.RecordBook:
        book = open_book(batch_num=batch_num, scale_w=None, wants_activation=False, wants_weights=False)
        for name in names or ("bn",):
            book.add_batch_norm(name, np.float32(mean), np.float32(variance), is_final=False)
        return book

    return open_


@pytest.fixture
def batch_norm_statistics() -> Callable[..., Any]:
    """Runs BatchNormStatistics on the moments of one batch, channels last, for a batch norm of a book."""

    def run(book: ops.RecordBook, x: Any, *, name: str = "bn", batch_num: int = 1, fraction: float = 0.5):
        rows = np.asarray(x, np.float32)
        rows = rows.reshape(-1, rows.shape[-1])
        mean = rows.sum(axis=0) / np.float32(max(1, len(rows)))
        return ops.tensorflow_ops().batch_norm_statistics(
            mean,
            np.square(rows - mean).sum(axis=0) / np.float32(max(1, len(rows))),
            np.int64(len(rows)),
            record_file=book.path,
            generation=book.generation,
            batch_norm=name,
            batch_num=batch_num,
            fraction=fraction,
        )

    return run


@pytest.fixture
def calibrate(open_book: Callable[..., ops.RecordBook], quant_ifmr: Callable[..., Any]) -> Callable[..., Any]:
    """Runs QuantIfmr, or another op, over the batches of a fresh calibration.

    Returns the scale (float32) and the offset.
    """

    def run(
        batches: Sequence[np.ndarray], *, op: Callable[..., Any] = quant_ifmr, **options: Any
    ) -> tuple[np.float32, int]:
        book = open_book(batch_num=len(batches))
        for batch in batches:
            factors = op(book, batch, batch_num=len(batches), **options)
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


@pytest.fixture
def find_balance_factors(
    open_balance_book: Callable[..., ops.RecordBook], dmq_balance: Callable[..., Any]
) -> Callable[..., list[float]]:
    """Runs DmqBalance over the batches of a fresh calibration and returns the factors that it records."""

    def run(batches: Sequence[np.ndarray], weight_max: Any, **options: Any) -> list[float]:
        book = open_balance_book(batch_num=len(batches))
        for batch in batches:
            dmq_balance(book, batch, weight_max=weight_max, batch_num=len(batches), **options)
        return list(read_balance_factors(book.path)["layer"])

    return run
