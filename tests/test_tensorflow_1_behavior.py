"""The jobs under tf.compat.v1.disable_v2_behavior(), where shapes are made of Dimension objects."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import numpy as np, sys
import tensorflow as tf
tf.compat.v1.disable_v2_behavior()
import amct_tensorflow as amct

v1 = tf.compat.v1
random = np.random.default_rng(0)

def build(unknown):
    with tf.Graph().as_default() as graph:
        x = v1.placeholder(tf.float32, [None] * 4 if unknown else [None, 8, 8, 4], name="x")
        y = tf.nn.conv2d(x, random.standard_normal((3, 3, 4, 6)).astype("f"), 1, "SAME", name="conv")
        y = tf.nn.bias_add(y, np.ones(6, "f"))
        y = v1.nn.fused_batch_norm(y, *[np.ones(6, "f")] * 4, is_training=False)[0]
        y = v1.nn.depthwise_conv2d_native(tf.nn.relu(y), np.ones((3, 3, 6, 2), "f"), [1] * 4, "SAME", name="depthwise")
        y = tf.reshape(y, tf.stack([tf.shape(y)[0], -1]))
        tf.matmul(y, random.standard_normal((768, 5)).astype("f"), name="out")
    return graph

for unknown in (False, True):
    random = np.random.default_rng(0)
    graph = build(unknown)
    with open("model.pb", "wb") as file:
        file.write(graph.as_graph_def().SerializeToString())
    with open("a.cfg", "w") as file:
        dmq = 'override_layer_configs { layer_name: "out" calibration_config { dmq_balancer { } } }'
        file.write(dmq + 'override_layer_configs { layer_name: "depthwise" calibration_config { dmq_balancer { } } }')
    amct.create_quant_config("c.json", graph, config_defination="a.cfg")
    x = random.standard_normal((4, 8, 8, 4)).astype("f")
    for step in (amct.quantize_preprocess, amct.quantize_model):
        random = np.random.default_rng(0)
        graph = build(unknown)
        step(graph, "c.json", "r.txt")
        with v1.Session(graph=graph) as session:
            expected = session.run("out:0", {"x:0": x})
    amct.save_model("model.pb", ["out"], "r.txt", "int8")
    with tf.Graph().as_default() as graph:
        graph_def = v1.GraphDef()
        graph_def.ParseFromString(open("int8_quantized.pb", "rb").read())
        tf.import_graph_def(graph_def, name="")
    with v1.Session(graph=graph) as session:
        actual = session.run("out:0", {"x:0": x})
    print("dB", 10 * np.log10(np.sum(expected**2) / np.sum((expected - actual) ** 2)))
"""


def test_the_jobs(tmp_path):
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r})\n{SCRIPT}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    decibels = [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("dB")]
    assert len(decibels) == 2 and min(decibels) > 30
