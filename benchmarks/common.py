"""What the benchmarks share: where the real data are, timing, memory, and graphs."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared_data(name: str) -> Path:
    """Returns a file or folder of the shared data, or ends the program saying what is missing."""
    path = SHARED / "data" / name
    if not path.exists():
        sys.exit(f"skipped: {path} is not there; this benchmark needs the project's shared data")
    return path


def load_graph(path: Path) -> tf.Graph:
    """Reads a frozen graph."""
    graph_def = tf.compat.v1.GraphDef()
    graph_def.ParseFromString(path.read_bytes())
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(graph_def, name="")
    return graph


class Failure(NamedTuple):
    """Why a script came to nothing."""

    reason: str


def run_script(python: str, script: str, *arguments: str) -> str | Failure:
    """Runs a script in a process of its own and returns what it printed; if it failed, its last word."""
    done = subprocess.run([python, script, *arguments], capture_output=True, text=True)
    if done.returncode:
        return Failure((done.stderr.strip().splitlines() or ["it ended without a word"])[-1])
    return done.stdout


def seconds(work: Callable[[], object]) -> float:
    """Returns the wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def reset_peak_memory() -> None:
    """Makes `peak_memory` count from now on (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_memory() -> float:
    """Returns the peak resident memory in MB since the last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


def growth(call: Callable[[], object]) -> float:
    """Returns the peak resident memory of a call in MB, above the memory right before it."""
    before = resident_memory()
    reset_peak_memory()
    call()
    return peak_memory() - before


def resident_memory() -> float:
    """Returns the resident memory in MB, without what the allocator keeps for later."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    reset_peak_memory()
    return peak_memory()


def sqnr(reference: np.ndarray, other: np.ndarray) -> float:
    """Returns the signal to quantization noise ratio in dB."""
    noise = np.sum((reference.astype(np.float64) - other) ** 2)
    return float(10 * np.log10(np.sum(reference.astype(np.float64) ** 2) / noise))


def print_json(results: dict[str, object]) -> None:
    """Prints one JSON object with the figures and what they were measured on."""
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "tensorflow": tf.__version__}
    print(json.dumps({"on": machine, **results}, indent=2))
