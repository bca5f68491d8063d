"""The calibration graph does not wait for the weights that it no longer reads."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from small_graphs import batch, conv_net, prepare, run

from amct_tensorflow.graph.edit import upstream
from amct_tensorflow.graph_passes.performing.drop_idle_waits import drop_idle_waits

tf1 = tf.compat.v1


def frozen_by_tf2() -> tf.Graph:
    """conv_net with a NoOp that waits for the weights, and an output that waits for it."""
    graph = conv_net()
    with graph.as_default():
        weights = graph.get_operation_by_name("block/weights")
        x = graph.get_operation_by_name("x")
        with tf.control_dependencies([tf.identity(weights.outputs[0], name="read"), x]):
            all_read = tf.no_op("all_read")
        with tf.control_dependencies([all_read]):
            tf.identity(graph.get_tensor_by_name("out:0"), name="result")
    return graph


def test_nothing_waits_for_the_weights():
    graph = frozen_by_tf2()
    before = run(graph, batch(), "result:0")
    drop_idle_waits(graph)
    assert all(not op.control_inputs for op in graph.get_operations())
    np.testing.assert_array_equal(run(graph, batch(), "result:0"), before)


def test_the_calibration_graph_does_not_need_the_float_weights(tmp_path):
    graph = frozen_by_tf2()
    prepare(graph, tmp_path)
    needed = upstream([graph.get_operation_by_name("result")])
    assert "block/weights" not in needed
    constants = [op for op in graph.get_operations() if op.type == "Const" and op.name in needed]
    assert {op.outputs[0].dtype for op in constants if op.outputs[0].shape.num_elements() > 10} == {tf.int8}


def test_what_orders_something_stays():
    with tf.Graph().as_default() as graph:
        x = tf1.placeholder(tf.float32, [], name="x")
        one = tf.constant(1.0, name="one")
        printed = tf.print(x)
        with tf.control_dependencies([printed, one.op]):
            result = tf.identity(x, name="result")
    drop_idle_waits(graph)
    assert [op.name for op in result.op.control_inputs] == [printed.name]
