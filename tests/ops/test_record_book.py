"""The record file from the first write to the last, and progress."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from amct_tensorflow import ops
from amct_tensorflow.errors import AmctRuntimeError
from amct_tensorflow.record import LayerRecord, read_record, read_rounding

FRESH = """\
record {
  key: "net/conv"
  value {
    scale_w: 0.5
    scale_w: 0.1000000015
    offset_w: 0
    offset_w: 0
  }
}
record {
  key: "net/pool"
  value {
    skip_fusion: true
  }
}
"""

COMPLETE = """\
record {
  key: "net/conv"
  value {
    scale_d: 0.01176470611
    offset_d: -128
    scale_w: 0.5
    scale_w: 0.1000000015
    offset_w: 0
    offset_w: 0
    shift_bit: 1
    shift_bit: 2
  }
}
record {
  key: "net/pool"
  value {
    scale_d: 0.01568627544
    offset_d: -64
    skip_fusion: true
  }
}
"""

BALANCED = """\
record {
  key: "net/conv"
  value {
    scale_d: 0.01176470611
    offset_d: -128
    scale_w: 0.5
    offset_w: 0
    shift_bit: 0
    tensor_balance_factor: 0.25
    tensor_balance_factor: 0.1000000015
    skip_fusion: true
  }
}
"""

MIN_MAX = {"search_start": 1.0, "search_end": 1.0}


@pytest.fixture
def two_layers(tmp_path):
    book = ops.RecordBook(str(tmp_path / "record.txt"), batch_num=1)
    book.add_layer("net/conv", scale_w=[0.5, 0.1], wants_weights=True, wants_shift=True, skip_fusion=False)
    book.add_layer("net/pool", scale_w=None, wants_weights=False, wants_shift=False, skip_fusion=True)
    yield book
    book.close()


def test_opening_writes_nothing(two_layers):
    assert not Path(two_layers.path).exists()


def test_layout_before(two_layers):
    two_layers.write()
    assert Path(two_layers.path).read_text() == FRESH


def test_layout_after(two_layers, quant_ifmr, search_n):
    two_layers.write()
    quant_ifmr(two_layers, [0.0, 3.0], layers=["net/conv"], **MIN_MAX)
    quant_ifmr(two_layers, [-1.0, 3.0], layers=["net/pool"], **MIN_MAX)
    search_n(two_layers, [[32768.0, 65537.0], [32767.0, 65537.0]], scale_w=[1, 1], layer="net/conv")
    assert Path(two_layers.path).read_text() == COMPLETE
    assert read_record(two_layers.path) == {
        "net/conv": LayerRecord(
            scale_d=float(np.float32(3) / np.float32(255)),
            offset_d=-128,
            scale_w=(0.5, float(np.float32(0.1))),
            offset_w=(0, 0),
            shift_bit=(1, 2),
        ),
        "net/pool": LayerRecord(scale_d=float(np.float32(4) / np.float32(255)), offset_d=-64, skip_fusion=True),
    }


def test_layout_with_known_balance_factors(open_book, quant_ifmr):
    book = open_book("net/conv", scale_w=[0.5], balance_factors=[0.25, 0.1], skip_fusion=True, zero_shifts=1)
    quant_ifmr(book, [0.0, 3.0], layers=["net/conv"], **MIN_MAX)
    assert Path(book.path).read_text() == BALANCED


def test_layout_of_balance_factors_alone(open_balance_book, dmq_balance):
    book = open_balance_book("net/conv")
    book.write()
    assert Path(book.path).read_text() == 'record {\n  key: "net/conv"\n  value {\n  }\n}\n'
    dmq_balance(book, [[0.25, 1.0]], weight_max=[4.0, 1.0], layer="net/conv")
    lines = "    tensor_balance_factor: 0.25\n    tensor_balance_factor: 1\n"
    assert Path(book.path).read_text() == f'record {{\n  key: "net/conv"\n  value {{\n{lines}  }}\n}}\n'


def test_is_readable_between(two_layers, quant_ifmr):
    two_layers.write()
    assert [record.is_empty for record in read_record(two_layers.path).values()] == [False, True]
    quant_ifmr(two_layers, [0.0, 3.0], layers=["net/pool"])
    ops.flush_record(two_layers.path)
    assert [record.scale_d is None for record in read_record(two_layers.path).values()] == [True, False]


def test_flush_brings_what_was_not_written_yet(two_layers, quant_ifmr):
    """Results that follow each other closely are written with the last of them; a run that stops flushes."""
    two_layers.write()
    quant_ifmr(two_layers, [0.0, 3.0], layers=["net/pool"])
    ops.flush_record(two_layers.path)
    assert Path(two_layers.path).read_text().count("scale_d") == 1


def test_flush_writes_nothing_new(two_layers):
    two_layers.write()
    Path(two_layers.path).unlink()
    ops.flush_record(two_layers.path)
    assert not Path(two_layers.path).exists()


def test_flush_of_a_record_that_no_one_calibrates(tmp_path):
    ops.flush_record(str(tmp_path / "record.txt"))
    assert list(tmp_path.iterdir()) == []


def test_write_needs_an_open_book(two_layers):
    two_layers.close()
    with pytest.raises(AmctRuntimeError, match=f"no calibration is open for {two_layers.path}"):
        two_layers.write()


def names_beside(path):
    return sorted(entry.name for entry in Path(path).parent.iterdir())


def test_leaves_no_other_file(two_layers, quant_ifmr):
    for _ in range(3):
        two_layers.write()
    assert names_beside(two_layers.path) == ["record.txt"]
    quant_ifmr(two_layers, [1.0], layers=["net/conv", "net/pool"])
    ops.flush_record(two_layers.path)
    assert names_beside(two_layers.path) == ["record.txt", "record.txt.safetensors"]
    assert read_rounding(two_layers.path) == {"net/conv": None}  # it asked for no rounding


def test_without_weights_there_is_no_file_beside_the_record(open_book, quant_ifmr):
    book = open_book("net/pool", scale_w=None, wants_weights=False)
    quant_ifmr(book, [1.0], layers=["net/pool"])
    assert names_beside(book.path) == ["record.txt"]


def test_a_new_calibration_removes_the_file_beside_the_record(open_book, quant_ifmr):
    quant_ifmr(open_book(), [1.0])
    book = open_book()
    assert names_beside(book.path) == ["record.txt", "record.txt.safetensors"]  # as long as the record is the old one
    book.write()
    assert names_beside(book.path) == ["record.txt"]


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\\n", "größe/层", "x" * 500, "conv{1} #2"])
def test_layer_names_of_any_kind(open_book, quant_ifmr, name):
    book = open_book(name)
    quant_ifmr(book, [1.0], layers=[name])
    assert list(read_record(book.path)) == [name]
    assert ops.batches_seen(book.path, name) == 1


@pytest.mark.parametrize("folder", ["with space", "größe", 'quote"d'])
def test_paths_of_any_kind(open_book, quant_ifmr, tmp_path, folder):
    (tmp_path / folder).mkdir()
    book = open_book(path=f"{folder}/record.txt")
    quant_ifmr(book, [1.0])
    assert list(read_record(book.path)) == ["layer"]


def test_layers_that_share_an_op(open_book, quant_ifmr):
    book = open_book("a", "b", "c", batch_num=2)
    for seen in (1, 2):
        quant_ifmr(book, [0.0, 3.0 * seen], layers=["a", "c"], batch_num=2, **MIN_MAX)
        assert [ops.batches_seen(book.path, layer) for layer in "abc"] == [seen, 0, seen]
    ops.flush_record(book.path)
    records = read_record(book.path)
    assert records["a"] == records["c"]
    assert records["a"].scale_d == float(np.float32(6) / np.float32(255))
    assert records["b"].scale_d is None


def test_batches_wanted(open_book, tmp_path):
    assert ops.batches_wanted(open_book(batch_num=7).path) == 7
    assert ops.batches_wanted(str(tmp_path / "other.txt")) == -1


def test_batches_seen(open_book, quant_ifmr, tmp_path):
    book = open_book(batch_num=2)
    for seen in (0, 1, 2, 2):  # the last is one too many
        assert ops.batches_seen(book.path, "layer") == seen
        quant_ifmr(book, [1.0], batch_num=2)
    assert ops.batches_seen(book.path, "other") == -1
    assert ops.batches_seen(str(tmp_path / "other.txt"), "layer") == -1


def test_batches_seen_by_both_ops(open_book, quant_ifmr, search_n):
    book = open_book(batch_num=3, wants_shift=True)
    for _ in range(2):
        quant_ifmr(book, [1.0], batch_num=3)
    assert ops.batches_seen(book.path, "layer") == 0
    search_n(book, [[1.0]], scale_w=[1], batch_num=3)
    assert ops.batches_seen(book.path, "layer") == 1


def test_batches_seen_of_a_layer_that_is_only_balanced(open_balance_book, dmq_balance):
    book = open_balance_book(batch_num=2)
    for seen in (0, 1, 2, 2):
        assert ops.batches_seen(book.path, "layer") == seen
        dmq_balance(book, [[1.0]], weight_max=[1.0], batch_num=2)


def test_batches_seen_of_a_layer_that_is_balanced_too(open_book, quant_ifmr, dmq_balance):
    book = open_book(batch_num=2, wants_balance=True)
    quant_ifmr(book, [1.0], batch_num=2)
    assert ops.batches_seen(book.path, "layer") == 0
    dmq_balance(book, [[1.0]], weight_max=[1.0], batch_num=2)
    assert ops.batches_seen(book.path, "layer") == 1


def test_the_record_of_one_path_does_not_touch_another(open_book, quant_ifmr):
    books = [open_book(path=name) for name in ("a.txt", "b.txt")]
    quant_ifmr(books[0], [1.0])
    assert [ops.batches_seen(book.path, "layer") for book in books] == [1, 0]
    assert not Path(books[1].path).exists()


def test_progress_outlives_sessions(open_book):
    """A session per batch, as some evaluation scripts have it."""
    book = open_book(batch_num=3)
    with tf.Graph().as_default() as graph:
        x = tf.compat.v1.placeholder(tf.float32)
        y, _, _ = ops.tensorflow_ops().quant_ifmr(
            x, record_file=book.path, generation=book.generation, layers=["layer"], batch_num=3, **MIN_MAX
        )
    for batch in ([0, 1.0], [0, 7.0], [0, 2.0]):
        with tf.compat.v1.Session(graph=graph) as session:
            session.run(y, {x: batch})
    assert read_record(book.path)["layer"].scale_d == float(np.float32(7) / np.float32(255))


def test_opening_again_starts_again(open_book, quant_ifmr):
    first = open_book(batch_num=2)
    quant_ifmr(first, [0.0, 100.0], batch_num=2)
    second = open_book(batch_num=2)
    assert second.generation != first.generation
    assert ops.batches_seen(second.path, "layer") == 0
    for _ in range(2):
        quant_ifmr(second, [0.0, 3.0], batch_num=2, **MIN_MAX)
    assert read_record(second.path)["layer"].scale_d == float(np.float32(3) / np.float32(255))


OPTIONS = {"search_n": {"scale_w": [1.0]}, "dmq_balance": {"weight_max": [1.0] * 3}}


@pytest.mark.parametrize("op", ["quant_ifmr", "quant_hfmg", "quant_arq", "search_n", "dmq_balance"])
def test_ops_of_the_older_generation_only_pass_data_on(open_book, request, op):
    run = request.getfixturevalue(op)
    options = OPTIONS.get(op, {})
    older = open_book(scale_w=None, wants_shift=True, wants_balance=True)
    newer = open_book(scale_w=None, wants_shift=True, wants_balance=True)
    x = np.float32([[127, -1, 0]])  # whole numbers of scale 1: QuantArq changes nothing
    result = run(older, x, **options)
    np.testing.assert_array_equal(getattr(result, "y", result), x)
    assert ops.batches_seen(newer.path, "layer") == 0
    ops.flush_record(newer.path)
    assert not Path(newer.path).exists()
    newer.write()
    assert not any(factor in Path(newer.path).read_text() for factor in ("scale", "balance"))


@pytest.mark.parametrize("older", [[float("nan")], [], [1e12]], ids=["nan", "empty", "too_large"])
def test_ops_of_the_older_generation_do_not_judge(open_book, quant_activation, older):
    book = open_book()
    open_book()
    assert quant_activation(book, older).y.shape == (len(older),)


def test_write_to_a_folder_that_is_not_there(open_book):
    book = open_book(path="none/record.txt")
    with pytest.raises(AmctRuntimeError, match=f"^record_file {book.path} cannot be written .*No such file.*folder"):
        book.write()


def test_an_op_cannot_write(open_book, quant_activation):
    book = open_book(path="none/record.txt")
    # What comes first of the two files: who finds a finished record finds the other, too.
    message = f"the file beside record_file {book.path}.safetensors cannot be written .*No such file.*writable folder"
    with pytest.raises(tf.errors.PermissionDeniedError, match=message):
        quant_activation(book, [1.0])


def test_an_op_of_a_layer_without_weights_cannot_write(open_book, quant_activation):
    book = open_book(path="none/record.txt", scale_w=None, wants_weights=False)
    with pytest.raises(tf.errors.PermissionDeniedError, match=f"record_file {book.path} cannot be written"):
        quant_activation(book, [1.0])


def test_a_path_that_is_a_folder(open_book, tmp_path):
    (tmp_path / "record.txt").mkdir()
    with pytest.raises(AmctRuntimeError, match=f"record_file {tmp_path}/record.txt cannot be written"):
        open_book().write()
    assert [path.name for path in tmp_path.iterdir()] == ["record.txt"]


def test_results_that_could_not_be_written_are_not_lost(open_book, quant_ifmr, tmp_path):
    book = open_book(path="later/record.txt")
    with pytest.raises(tf.errors.PermissionDeniedError):
        quant_ifmr(book, [0.0, 3.0], **MIN_MAX)
    with pytest.raises(AmctRuntimeError, match="cannot be written"):
        ops.flush_record(book.path)
    (tmp_path / "later").mkdir()
    ops.flush_record(book.path)
    assert read_record(book.path)["layer"].offset_d == -128
