"""What a calibration logs: what is done, and the warnings at its end."""

from __future__ import annotations

import numpy as np
import pytest

from amct_tensorflow.record import read_record

MIN_MAX = {"search_start": 1.0, "search_end": 1.0}


@pytest.mark.parametrize("algorithm", ["ifmr", "hfmg"])
def test_says_what_is_done(open_book, request, messages, algorithm):
    run = request.getfixturevalue(f"quant_{algorithm}")
    run(open_book("net/a", "net/b"), [0.0, 3.0], layers=["net/a", "net/b"])
    infos = [message for level, message in messages if level == 1]
    assert infos == [
        f"Do layer {layer} activation calibration with {algorithm} success!" for layer in ("net/a", "net/b")
    ]
    debug = [message for level, message in messages if level == 0]
    assert len(debug) == 2 and all("scale_d 0.01" in message and "offset_d -128" in message for message in debug)


def test_says_what_is_balanced(open_balance_book, dmq_balance, messages):
    dmq_balance(open_balance_book("net/a"), [[1.0]], weight_max=[1.0], layer="net/a")
    assert messages == [(1, "Do layer net/a dmq balance calibration success!")]


@pytest.mark.parametrize("value", [0, 1e-12, -1e-12, 1e-44])
@pytest.mark.parametrize("batches", [1, 3])
def test_warns_of_an_activation_that_is_always_zero(open_book, quant_activation, warnings, batches, value):
    """Or next to nothing: it is recorded, and becomes zero, all the same."""
    book = open_book("net/a", "net/b", batch_num=batches)
    for _ in range(batches):
        quant_activation(book, np.full((2, 3), value, np.float32), layers=["net/a", "net/b"], batch_num=batches)
    (warning,) = warnings()
    assert 'layers "net/a", "net/b" was zero' in warning
    assert "scale 1.0" in warning and "skip_layers" in warning
    assert read_record(book.path)["net/a"].scale_d == 1


@pytest.mark.parametrize("values", [[0, 1.0], [-1.0], [1e-4], [0, 255.0], [-128.0]], ids=str)
def test_does_not_warn_of_an_activation_that_is_not_zero(open_book, quant_ifmr, warnings, values):
    """Nor of one whose own scale is 1.0."""
    quant_ifmr(open_book(), values, **MIN_MAX)
    assert warnings() == []


def noise(seed: int, size: int = 1000) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


@pytest.mark.parametrize("size", [1, 1000, 300_000])
def test_warns_of_identical_batches(open_book, quant_activation, warnings, size):
    book = open_book("a", "b", batch_num=3)
    for _ in range(3):
        quant_activation(book, noise(0, size), layers=["a"], batch_num=3)
    assert warnings() == []  # not before all layers are done
    for _ in range(3):
        quant_activation(book, noise(1, size), layers=["b"], batch_num=3)
    (warning,) = warnings()
    assert f"the 3 calibration batches of {book.path} were all identical" in warning


def test_warns_of_identical_batches_beside_a_dead_layer(open_book, quant_activation, warnings):
    book = open_book("a", "dead", batch_num=2)
    for _ in range(2):
        quant_activation(book, noise(0), layers=["a"], batch_num=2)
        quant_activation(book, [0.0], layers=["dead"], batch_num=2)
    assert sorted("identical" in warning for warning in warnings()) == [False, True]


def one_hot(seed: int) -> np.ndarray:
    words = np.zeros((32, 50_000), np.float32)
    words[np.arange(32), np.random.default_rng(seed).integers(0, 50_000, 32)] = 1
    return words


def permuted(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(1000).astype(np.float32)


DIFFERENT = {
    "noise": noise,
    "large_noise": lambda seed: noise(seed, 300_000),
    "same_values_in_another_order": permuted,
    "same_values_of_another_length": lambda seed: np.ones(10 + seed, np.float32),
    "one_hot": one_hot,
    "images": lambda seed: np.full((4, 100, 100, 3), seed + 1, np.float32),
}


@pytest.mark.parametrize("batch", DIFFERENT.values(), ids=DIFFERENT)
def test_does_not_warn_of_different_batches(open_book, quant_activation, warnings, batch):
    book = open_book(batch_num=2)
    for seed in range(2):
        quant_activation(book, batch(seed), batch_num=2)
    assert warnings() == []


def test_does_not_warn_if_one_layer_differs(open_book, quant_activation, warnings):
    """A layer whose input is constant, say fed by constants, is no sign of identical batches."""
    book = open_book("constant", "varied", batch_num=2)
    for seed in range(2):
        quant_activation(book, [1.0], layers=["constant"], batch_num=2)
        quant_activation(book, noise(seed), layers=["varied"], batch_num=2)
    assert warnings() == []


def test_does_not_warn_of_a_single_batch(open_book, quant_ifmr, warnings):
    quant_ifmr(open_book(), noise(0))
    assert warnings() == []


@pytest.mark.parametrize("dead", [False, True], ids=["", "beside_a_dead_layer"])
@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)], ids=["identical", "different"])
def test_identical_batches_of_layers_that_are_only_balanced(open_balance_book, dmq_balance, warnings, seeds, dead):
    book = open_balance_book("a", "b", batch_num=2)
    for seed in seeds:
        dmq_balance(book, noise(seed).reshape(-1, 1), weight_max=[1.0], layer="a", batch_num=2)
        b = np.zeros((3, 1), np.float32) if dead else noise(2).reshape(-1, 1)
        dmq_balance(book, b, weight_max=[1.0], layer="b", batch_num=2)
    assert ["identical" in warning for warning in warnings()] == [True] * (seeds == (0, 0))
