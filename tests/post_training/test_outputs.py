"""What save_model, convert_model and convert_qat_model take for outputs: the three share it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from qat_graphs import fake_quant, per_channel, random
from small_graphs import freeze, load, write_record

import amct_tensorflow as amct
from amct_tensorflow.errors import AmctRuntimeError, AmctValueError
from amct_tensorflow.record import LayerRecord

tf1 = tf.compat.v1

SHAPE = [3, 3, 4, 6]
WEIGHTS = random("conv", SHAPE)
SCALE = max(WEIGHTS.max() / 127, WEIGHTS.min() / -128) / np.sqrt(1.001)  # the batch norm has an epsilon of 0.001
RECORD = {"conv": LayerRecord(scale_d=0.03, offset_d=0, scale_w=(float(SCALE),), offset_w=(0,), shift_bit=(1,))}
JOBS = ["save_model", "convert_model", "convert_qat_model"]


@pytest.fixture(params=JOBS)
def job(request) -> str:
    return request.param


def convert(job: str, folder: Path, outputs: list[str]) -> tf.Graph:
    """x -> conv -> bn, which is folded -> out (Split in two)."""
    trained = job == "convert_qat_model"
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [None, 8, 8, 4], name="x")
        y = tf.nn.conv2d(
            fake_quant(x, "fq") if trained else x,
            per_channel("conv", SHAPE) if trained else tf.constant(WEIGHTS),
            1,
            "SAME",
            name="conv",
        )
        ones, zeros = np.ones(6, np.float32), np.zeros(6, np.float32)
        y = tf1.nn.fused_batch_norm(y, ones, zeros, zeros, ones, is_training=False, name="bn")[0]
        tf.split(tf.nn.relu(y), 2, axis=3, name="out")
    model, record = freeze(graph, folder / "model.pb"), write_record(folder / "record.txt", RECORD)
    records = [] if trained else [record]
    getattr(amct, job)(model, outputs, *records, str(folder / "int8"))
    return load(folder / "int8_quantized.pb")


def nothing_written(folder: Path) -> bool:
    return not list(folder.glob("int8*"))


def test_an_op_and_its_second_output(job, tmp_path):
    saved = convert(job, tmp_path, ["out:1", "out"])
    assert "AscendDequant" in {op.type for op in saved.get_operations()}
    with tf1.Session(graph=saved) as session:
        first, second = session.run(["out:0", "out:1"], {"x:0": np.ones((1, 8, 8, 4), np.float32)})
    assert first.shape == second.shape == (1, 8, 8, 3) and (first != second).any()


@pytest.mark.parametrize("output", ["out:2", "bn:x"])
def test_an_output_that_the_op_does_not_have(job, tmp_path, output):
    with pytest.raises(
        AmctValueError, match=rf"output '{output}' does not exist in .*model\.pb: op '.*' has \d output"
    ):
        convert(job, tmp_path, [output])
    assert nothing_written(tmp_path)


def test_another_output_than_the_first_of_a_batch_norm_that_is_folded(job, tmp_path):
    message = (
        "output 'bn:1' cannot be saved: op 'bn' becomes part of a quantized layer, of whose outputs only the first"
    )
    with pytest.raises(AmctValueError, match=message):
        convert(job, tmp_path, ["bn:1", "out"])
    assert nothing_written(tmp_path)


@pytest.mark.parametrize("job", ["save_model", "convert_model"])
def test_outputs_that_need_no_layer_of_the_record(job, tmp_path):
    with pytest.raises(
        AmctRuntimeError, match=r"the outputs x of .*model\.pb need none of the 1 layers that .*record\.txt has factors"
    ):
        convert(job, tmp_path, ["x"])
    assert nothing_written(tmp_path)
