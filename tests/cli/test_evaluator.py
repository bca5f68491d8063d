"""Evaluator files, as the vendor's tool takes them."""

from __future__ import annotations

import builtins
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from amct_tensorflow.common.auto_calibration import AutoCalibrationEvaluatorBase

# In the manner of the vendor's sample: TensorFlow 1 names, no base class, a helper beside it.
VENDOR_STYLE = """
import os
import numpy as np
import tensorflow as tf
from pixels import make

tf.logging.set_verbosity(tf.logging.ERROR)
BATCH_NUM = 2


class Evaluator():
    def __init__(self, size):
        self.size = size

    def calibration(self, graph, infer_output):
        assert tf.get_default_graph() is graph
        config = tf.ConfigProto()
        config.gpu_options.allow_growth = True
        with tf.Session(config=config) as sess:
            sess.run(tf.global_variables_initializer())
            for _ in range(BATCH_NUM):
                sess.run(infer_output, feed_dict={'x:0': make(self.size)})
        print('calibrated', infer_output, tf.__version__, tf.train.Saver.__name__, tf.nn.relu.__name__)


customize_evaluator = Evaluator(4)
"""
PIXELS = """
import numpy as np
import tensorflow as tf

def make(size):
    from tensorflow import ConfigProto
    import tensorflow.compat.v1 as tf1
    assert ConfigProto is tf1.ConfigProto
    with tf.Session(graph=tf.Graph()):
        return np.random.default_rng(0).standard_normal((size, 8, 8, 3)).astype(np.float32)
"""


@pytest.fixture
def run(model, tmp_path):
    """Writes an evaluator and returns the arguments that use it."""

    def write(content: str, *options: object) -> tuple[object, ...]:
        folder = tmp_path / "evaluators"
        folder.mkdir(exist_ok=True)
        (folder / "eva.py").write_text(content)
        (folder / "pixels.py").write_text(PIXELS)
        return ("calibration", "--model", model, "--save_path", "out/m", "--evaluator", folder / "eva.py", *options)

    return write


@pytest.mark.parametrize("imported", ["from pixels import make", "from .pixels import make", "from . import pixels"])
def test_vendor_style(cli, run, imported):
    text = VENDOR_STYLE.replace("from pixels import make", imported)
    text = text.replace("make(", "pixels.make(") if imported.endswith("pixels") else text
    path, modules, importing = list(sys.path), set(sys.modules), builtins.__import__
    code, out, err = cli(*run(text, "--batch_num", 2))
    assert code == 0, err
    assert f"calibrated ['out:0'] {tf.__version__} Saver relu" in out
    assert "3 of 3 layers are quantized" in out
    left = [name for name in set(sys.modules) - modules if name.startswith(("pixels", "amct_tensorflow_evaluator"))]
    assert sys.path == path and not left
    assert builtins.__import__ is importing and not hasattr(tf, "Session")


def test_too_few_batches(failing, run):
    line = failing(*run(VENDOR_STYLE, "--batch_num", 3))
    assert "calibration is not finished" in line and "2 of 3 batches seen" in line


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("x = 1", "has no customize_evaluator: create the object"),
        ("customize_evaluator = 1", "has no method calibration"),
        ("x = (\n", "cannot be loaded in line 1: SyntaxError: "),
        ("\n\nimport nowhere", "cannot be loaded in line 3: ModuleNotFoundError: No module named 'nowhere'"),
        ("raise SystemExit(3)", "cannot be loaded in line 1: SystemExit: 3"),
        (VENDOR_STYLE.replace("BATCH_NUM = 2", "").replace("import os", "BATCH_NUM = 1 / 0"), "ZeroDivisionError"),
        (VENDOR_STYLE.replace("self.size)", "0)"), "eva.py failed in line 22: "),
        (VENDOR_STYLE.replace("'x:0'", "'y:0'"), "eva.py failed in line 22: TypeError: Cannot interpret feed_dict key"),
        (VENDOR_STYLE.replace("tf.ConfigProto", "tf.Konfig"), "failed in line 17: AttributeError: "),
    ],
    ids=["none", "no_method", "syntax", "import", "exit", "load", "empty_batch", "name", "attribute"],
)
def test_errors(failing, run, content, words):
    assert words in failing(*run(content))


def test_missing_file(failing, run):
    *options, path = run("")
    path.unlink()
    assert f"evaluator {path} does not exist" in failing(*options, path)


def test_another_suffix(failing, run):
    *options, path = run("")
    assert "its name must end in .py" in failing(*options, path.rename(Path(path).with_suffix(".txt")))


@pytest.mark.parametrize("method", ["calibration", "evaluate", "metric_eval"])
def test_the_base_class_does_nothing(method):
    with pytest.raises(NotImplementedError, match=f"define {method}"):
        getattr(AutoCalibrationEvaluatorBase(), method)(None, None)
