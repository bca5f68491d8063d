"""Many threads run ops of many layers at once, while others write the record file and read it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from amct_tensorflow import ops
from amct_tensorflow.record import LayerRecord, read_record

LAYERS = [f"net/layer_{i}/Conv2D" for i in range(24)]
BATCHES = 8


def activation(layer: int, batch: int) -> np.ndarray:
    """Returns values whose union over all batches spans 0..layer + 1."""
    return np.linspace(0, (layer + 1) * (batch + 1) / BATCHES, 500, dtype=np.float32)


def expected_record(layer: int) -> LayerRecord:
    scale_d = float(np.float32(layer + 1) / np.float32(255))
    return LayerRecord(
        scale_d=scale_d,
        offset_d=-128,
        scale_w=(1.0, 1.0),
        offset_w=(0, 0),
        shift_bit=(1, 1),
        tensor_balance_factor=(float(np.sqrt(np.float32(layer + 1))),),
    )


@pytest.fixture
def book(open_book):
    book = open_book(*LAYERS, batch_num=BATCHES, scale_w=[1.0, 1.0], wants_shift=True, wants_balance=True)
    book.write()
    return book


@pytest.fixture
def reader(book):
    """Parses the record file without a break; an error, or a factor that is wrong, fails the test."""
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            assert_consistent(read_record(book.path))

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(read)
        yield
        stop.set()
        result.result()
    assert_consistent(read_record(book.path))


def assert_consistent(records: dict[str, LayerRecord]) -> None:
    """Each factor is absent or final."""
    assert list(records) == LAYERS
    for i, record in enumerate(records.values()):
        expected = expected_record(i)
        if record.scale_d is None:
            expected = replace(expected, scale_d=None, offset_d=None)
        if not record.shift_bit:
            expected = replace(expected, shift_bit=())
        if not record.tensor_balance_factor:
            expected = replace(expected, tensor_balance_factor=())
        assert record == expected


@pytest.fixture
def writer(book):
    """Writes the file without a break, as save_model in another thread might."""
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            book.write()
            ops.flush_record(book.path)
            assert 0 <= ops.batches_seen(book.path, LAYERS[0]) <= BATCHES

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(write)
        yield
        stop.set()
        result.result()


def calibration_graph(book: ops.RecordBook):
    """Returns a graph of independent layers, its placeholders and its outputs."""
    kernels = ops.tensorflow_ops()
    common = {"record_file": book.path, "generation": book.generation, "batch_num": BATCHES}
    with tf.Graph().as_default() as graph:
        inputs, outputs = [], []
        for layer in LAYERS:
            x = tf.compat.v1.placeholder(tf.float32, [None])
            y, scale, _ = kernels.quant_ifmr(x, layers=[layer], search_start=1.0, search_end=1.0, **common)
            y = kernels.dmq_balance(
                tf.reshape(y, [-1, 1]), [1.0], layer=layer, migration_strength=0.5, channel_axis=1, **common
            )
            pairs = tf.reshape(y, [-1, 2])
            inputs.append(x)
            outputs.append(kernels.search_n(pairs, scale, tf.constant([1.0, 1.0]), layer=layer, **common))
    return graph, inputs, outputs


@pytest.mark.usefixtures("reader", "writer")
def test_sessions_run_from_many_threads(book):
    graph, inputs, outputs = calibration_graph(book)
    with tf.compat.v1.Session(graph=graph) as session, ThreadPoolExecutor(4) as pool:

        def run(batch: int) -> None:
            feeds = {x: activation(layer, batch) for layer, x in enumerate(inputs)}
            for y, x in zip(session.run(outputs, feeds), inputs, strict=True):
                np.testing.assert_array_equal(y.ravel(), feeds[x])

        list(pool.map(run, range(BATCHES)))
    assert_complete(book)


def assert_complete(book: ops.RecordBook) -> None:
    records = read_record(book.path)
    assert records == {layer: expected_record(i) for i, layer in enumerate(LAYERS)}
    assert [ops.batches_seen(book.path, layer) for layer in LAYERS] == [BATCHES] * len(LAYERS)


@pytest.mark.usefixtures("reader")
def test_layers_run_from_many_threads(book, quant_ifmr, search_n, dmq_balance):
    options = {"batch_num": BATCHES, "search_start": 1.0, "search_end": 1.0}

    def run(task: tuple[int, int]) -> None:
        layer, batch = task
        x = activation(layer, batch)
        quant_ifmr(book, x, layers=[LAYERS[layer]], **options)
        search_n(book, x.reshape(-1, 2), scale_w=[1, 1], layer=LAYERS[layer], batch_num=BATCHES)
        dmq_balance(book, x.reshape(-1, 1), weight_max=[1], layer=LAYERS[layer], batch_num=BATCHES)

    tasks = [(layer, batch) for batch in range(BATCHES) for layer in range(len(LAYERS))]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, tasks))
    assert_complete(book)


def test_one_layer_from_many_threads(open_book, quant_activation):
    """Exactly batch_num batches count, whoever brings them."""
    book = open_book(batch_num=50)
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(lambda i: quant_activation(book, np.full(100, i + 1, np.float32), batch_num=50), range(80))
        finals = {(result.scale.numpy(), int(result.offset)) for result in list(results)[-4:]}
    assert ops.batches_seen(book.path, "layer") == 50
    record = read_record(book.path)["layer"]
    assert (np.float32(record.scale_d), record.offset_d) in finals


def test_opening_again_while_ops_run(open_book, quant_ifmr):
    """Ops of the older generation end quietly; the new calibration is not touched by them."""
    older = open_book(batch_num=1000)
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            quant_ifmr(older, [5.0], batch_num=1000)

    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(run) for _ in range(3)]
        try:
            for _ in range(20):
                newer = open_book(batch_num=1)
                assert ops.batches_seen(newer.path, "layer") == 0
                quant_ifmr(newer, [0.0, 3.0], search_start=1.0, search_end=1.0)
                assert read_record(newer.path)["layer"].scale_d == float(np.float32(3) / np.float32(255))
        finally:
            stop.set()
        for result in running:
            result.result()
