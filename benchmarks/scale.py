"""Time and memory on large models, as a table of what is asked for and what was measured.

1. ResNet152 and EfficientNetB7 of keras.applications with random weights, frozen: seconds of each call, and how the
   first run of the calibration graph in a session compares with that of the float graph.
2. Chains of 500, 1000 and 2000 blocks of convolution, batch norm and Relu: seconds of each call, and by how much
   they grow when the chain doubles.
3. A model of a few large weights: the peak memory of quantize_model and of save_model in sizes of its .pb.

Each model is measured in a process of its own, in which a small model ran before, so that TensorFlow is warm. The
memory of a call is its peak resident memory (VmHWM) less the resident memory right before it. Before save_model, the
process has imported TensorFlow and this package and no more. Before quantize_model it also has the user's graph, which
holds the weights once: that graph is counted on top in the line "with the graph".
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import tensorflow as tf
from common import growth, load_graph, resident_memory, seconds

import amct_tensorflow as amct

IMAGE = 64  # pixels a side: what is measured does not depend on it, but for the run of the graph
KERAS_MODELS = {"ResNet152": 6.0, "EfficientNetB7": 20.0}  # seconds asked for quantize_model and save_model together
SLOWEST_START, LARGEST_START = 1.3, 1.2  # time and memory of the first calibration run, in those of the float graph's

CHAINS, CHAIN_CHANNELS = (500, 1000, 2000), 8
LARGEST_RATIO = 2.3

HEAVY_LAYERS, HEAVY_CHANNELS = 5, 4096  # 320 MB
LARGEST_PEAK = 3.0

Row: TypeAlias = tuple[str, str, str]  # what, asked, measured

INPUT, OUTPUT = "input", "output"
ROUNDS = 3
CALIBRATION = "one calibration run"
FIRST_RUNS = FLOAT_GRAPH, CALIBRATION_GRAPH = "first run of the float graph", "first run of the calibration graph"
CALLS = ("create_quant_config", "quantize_model", CALIBRATION, "save_model")


def write_keras_model(name: str, path: Path, image: int = IMAGE, batch: int | None = 1) -> None:
    """Freezes a model of keras.applications, for images of this size, in batches of any size if it is None."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    model = getattr(tf.keras.applications, name)(weights=None, input_shape=(image, image, 3))
    shape = tf.TensorSpec([batch, image, image, 3], tf.float32, name=INPUT)
    network = tf.function(lambda data: tf.identity(model(data, training=False), name=OUTPUT))
    frozen = convert_variables_to_constants_v2(network.get_concrete_function(shape))
    path.write_bytes(frozen.graph.as_graph_def().SerializeToString())


def write_chain(blocks: int, channels: int, path: Path) -> None:
    """Writes a chain of so many blocks of a 1 x 1 convolution, a batch norm and a Relu."""
    random = np.random.default_rng(blocks)
    with tf.Graph().as_default() as graph:
        data = tf.compat.v1.placeholder(tf.float32, [1, 4, 4, channels], INPUT)
        for block in range(blocks):
            with tf.name_scope(f"block{block}"):
                kernel = random.standard_normal([1, 1, channels, channels], np.float32) / np.float32(channels**0.5)
                gamma, beta, mean = random.uniform(0.5, 1.5, [3, channels]).astype(np.float32)
                data = tf.nn.conv2d(data, kernel, 1, "SAME")
                data, _, _ = tf.compat.v1.nn.fused_batch_norm(data, gamma, beta, mean, gamma, is_training=False)
                data = tf.nn.relu(data)
        tf.identity(data, OUTPUT)
    path.write_bytes(graph.as_graph_def().SerializeToString())


def calls_of(model: Path, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yields the four calls, in the order in which they must be made."""
    config, record, prefix = str(folder / "config.json"), str(folder / "record.txt"), str(folder / "model")
    graph = load_graph(model)
    image = np.random.default_rng(0).uniform(-1, 1, graph.get_tensor_by_name(f"{INPUT}:0").shape.as_list())

    def calibrate() -> None:
        with tf.compat.v1.Session(graph=graph) as session:
            session.run(f"{OUTPUT}:0", {f"{INPUT}:0": image})

    yield "create_quant_config", lambda: amct.create_quant_config(config, graph)
    yield "quantize_model", lambda: amct.quantize_model(graph, config, record)
    yield CALIBRATION, calibrate
    yield "save_model", lambda: amct.save_model(str(model), [OUTPUT], record, prefix)


def warm_up(folder: Path) -> None:
    """Makes TensorFlow and the package do all once."""
    (folder / "small").mkdir()
    write_chain(2, 4, folder / "small" / "model.pb")
    for _, call in calls_of(folder / "small" / "model.pb", folder / "small"):
        call()


def measure_times(model: Path, folder: Path) -> dict[str, float]:
    """Returns the seconds of each call, the least of several rounds: what else the machine does only adds to them."""
    rounds: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        rounds.append({})
        for name, call in calls_of(model, folder):
            gc.collect()  # no call pays for the graphs of others
            rounds[-1][name] = seconds(call)
    return {name: min(times[name] for times in rounds) for name in CALLS}


def measure_memory(model: Path, folder: Path, measured: str) -> dict[str, float]:
    """Makes one of the calls and returns its peak in MB; save_model wants the record that `measure_times` left."""
    if measured == "save_model":
        record, prefix = str(folder / "record.txt"), str(folder / "model")
        return {measured: growth(lambda: amct.save_model(str(model), [OUTPUT], record, prefix))}
    bare = resident_memory()
    graph = load_graph(model)
    loaded = resident_memory() - bare
    config, record = str(folder / "config.json"), str(folder / "other_record.txt")
    peak = growth(lambda: amct.quantize_model(graph, config, record))
    return {measured: peak, "with the graph": loaded + peak}


def measure_first_run(model: Path, folder: Path, graph: str) -> dict[str, float]:
    """Runs a graph in a fresh session and returns the seconds, and the peak in MB; wants `measure_times`' config."""
    calls = dict(calls_of(model, folder))
    if graph == CALIBRATION_GRAPH:
        calls["quantize_model"]()
    found: dict[str, float] = {}
    found["memory"] = growth(lambda: found.update(time=seconds(calls[CALIBRATION])))
    return found


def in_new_process(model: Path, what: str) -> dict[str, float]:
    """Returns what `what` measures of a model, which is alone in its folder but for its results."""
    command = [sys.executable, __file__, "--model", str(model), "--measure", what]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def measure(model: Path, what: str) -> None:
    """Prints what is measured of a model, in the process of its own."""
    amct.set_logging_level("error", "error")
    with tempfile.TemporaryDirectory() as scratch:
        warm_up(Path(scratch))
    if what == "times":
        measured = measure_times(model, model.parent)
    else:
        measured = (measure_first_run if what in FIRST_RUNS else measure_memory)(model, model.parent, what)
    print(json.dumps(measured))


def keras_rows(folder: Path) -> Iterator[Row]:
    """Measures the models of keras.applications."""
    for name, longest in KERAS_MODELS.items():
        model = folder / name / "float.pb"
        model.parent.mkdir()
        write_keras_model(name, model)
        times = in_new_process(model, "times")
        yield from ((f"{name}: {call}, s", "", f"{times[call]:.2f}") for call in CALLS)
        both = times["quantize_model"] + times["save_model"]
        yield f"{name}: quantize_model and save_model, s", f"<= {longest:.0f}", f"{both:.2f}"
        plain, ours = (in_new_process(model, graph) for graph in FIRST_RUNS)
        for what, asked in {"time": SLOWEST_START, "memory": LARGEST_START}.items():
            label = f"{name}: first run of the calibration graph, {what} / float graph"
            yield label, f"<= {asked}", f"{ours[what] / plain[what]:.2f}"


def chain_rows(folder: Path) -> Iterator[Row]:
    """Measures the chains."""
    times = {}
    for blocks in CHAINS:
        model = folder / f"chain{blocks}" / "float.pb"
        model.parent.mkdir()
        write_chain(blocks, CHAIN_CHANNELS, model)
        times[blocks] = in_new_process(model, "times")
        yield from ((f"chain of {blocks}: {call}, s", "", f"{times[blocks][call]:.2f}") for call in CALLS)
    for call in CALLS:
        for half, whole in itertools.pairwise(CHAINS):
            ratio = times[whole][call] / times[half][call]
            yield f"{call}, time of {whole} / {half} blocks", f"<= {LARGEST_RATIO}", f"{ratio:.2f}"


def memory_rows(folder: Path) -> Iterator[Row]:
    """Measures the model of large weights."""
    model = folder / "heavy" / "float.pb"
    model.parent.mkdir()
    write_chain(HEAVY_LAYERS, HEAVY_CHANNELS, model)
    in_new_process(model, "times")  # leaves the configuration and the record
    size = model.stat().st_size / 2**20
    yield "size of the .pb of large weights, MB", "", f"{size:.0f}"
    for what in ("quantize_model", "save_model"):
        for name, peak in in_new_process(model, what).items():
            asked = f"<= {LARGEST_PEAK:.0f}" if name == what else ""
            label = what if name == what else f"{what} {name}"
            yield f"{label}: peak memory, in sizes of the .pb", asked, f"{peak / size:.2f}"


def main() -> None:
    """Measures everything and prints the table, or one part in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, help="which part to measure; default: all")
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        measure(arguments.model, arguments.measure)
        return
    print(f"TensorFlow {tf.__version__}, {os.cpu_count()} cores")
    print(f"{'':72}{'asked':>8}{'measured':>10}")
    for part in PARTS if arguments.part is None else [arguments.part]:
        with tempfile.TemporaryDirectory() as scratch:
            for what, asked, measured in PARTS[part](Path(scratch)):
                print(f"{what:72}{asked:>8}{measured:>10}", flush=True)


PARTS = {"keras": keras_rows, "chains": chain_rows, "memory": memory_rows}

if __name__ == "__main__":
    main()
