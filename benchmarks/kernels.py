"""Time of the calibration kernels against NumPy yardsticks, and the weight factors against the vendor's.

Prints one JSON object. The ratios are medians of runs in turns.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from common import SHARED, load_graph, print_json, seconds, shared_data

import amct_tensorflow as amct
from amct_tensorflow import ops
from amct_tensorflow.record import read_record

REPEATS = 9
VALUES = 25_000_000  # 100 MB


def calibration(op: str, values: np.ndarray, record: str, **options: int) -> Callable[[], None]:
    """Returns a calibration of one batch."""
    tensor = tf.constant(values)

    def calibrate() -> None:
        book = ops.RecordBook(record, batch_num=1)
        book.add_layer("layer", scale_w=None, wants_weights=False, wants_shift=False, skip_fusion=False)
        getattr(ops.tensorflow_ops(), op)(
            tensor, record_file=record, generation=book.generation, layers=["layer"], batch_num=1, **options
        )

    return calibrate


def ratio(ours: Callable[[], None], plain: Callable[[], None]) -> float:
    """Returns the time of one function over that of the other."""
    ours()
    plain()
    times = [(seconds(plain), seconds(ours)) for _ in range(REPEATS)]
    return round(statistics.median(our for _, our in times) / statistics.median(plain for plain, _ in times), 2)


def ifmr_against_min_max(values: np.ndarray, record: str) -> float:
    """Returns the time of one QuantIfmr over that of np.min and np.max."""

    def min_max() -> None:
        np.min(values)
        np.max(values)

    return ratio(calibration("quant_ifmr", values, record), min_max)


def hfmg_against_ifmr(values: np.ndarray, record: str) -> float:
    """Returns the time of one QuantHfmg, with most bins, over that of one QuantIfmr."""
    return ratio(calibration("quant_hfmg", values, record, num_of_bins=8192), calibration("quant_ifmr", values, record))


def scales_against_vendor(folder: Path) -> dict[str, object]:
    """Compares scale_w of the Conv2D layers of MobileNetV2 with the record that the vendor published."""
    graph = load_graph(shared_data("mobilenet_v2/mobilenet_v2_1.0_224_frozen.pb"))
    convolutions = [op.name for op in graph.get_operations() if op.type == "Conv2D"]
    config, record = str(folder / "config.json"), str(folder / "record.txt")
    amct.create_quant_config(config, graph)
    amct.quantize_model(graph, config, record)
    ours, theirs = read_record(record), read_record(shared_data("mobilenet_v2/record_quantized.txt"))
    per_channel = [name for name in convolutions if len(theirs[name].scale_w) > 1]
    ratios = np.concatenate([np.array(ours[name].scale_w) / theirs[name].scale_w for name in per_channel])
    equal = np.abs(ratios - 1) <= 1e-5
    tied = np.abs(ratios - 127 / 128) <= 1e-5
    return {
        "layers": len(per_channel),
        "factors": len(ratios),
        "equal to 1e-5": round(float(np.mean(equal)), 5),
        "off by 127/128": int(np.sum(tied)),
        "other": int(np.sum(~equal & ~tied)),
        "factors of the logits layer": [len(ours[name].scale_w) for name in convolutions if name not in per_channel],
    }


def main() -> None:
    """Measures everything."""
    amct.set_logging_level("error", "error")
    generator = np.random.default_rng(0)
    normal = generator.standard_normal(VALUES, np.float32)
    with tempfile.TemporaryDirectory() as scratch:
        record = str(Path(scratch, "kernel_record.txt"))
        relu6 = np.clip(3 * normal, 0, 6)
        results: dict[str, object] = {
            "QuantIfmr / (np.min + np.max), 100 MB": {
                "normal": ifmr_against_min_max(normal, record),
                "relu6": ifmr_against_min_max(relu6, record),
            },
            "QuantHfmg of 8192 bins / QuantIfmr": {
                "normal, 100 MB": hfmg_against_ifmr(normal, record),
                "relu6, 100 MB": hfmg_against_ifmr(relu6, record),
                "normal, 0.6 MB": hfmg_against_ifmr(normal[:150_000], record),
            },
        }
        if SHARED.exists():
            results["scale_w against the vendor's record"] = scales_against_vendor(Path(scratch))
    print_json(results)


if __name__ == "__main__":
    main()
