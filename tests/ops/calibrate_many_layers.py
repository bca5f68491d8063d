"""Runs QuantIfmr for many layers, batch by batch: usage "calibrate_many_layers.py RECORD LAYERS BATCHES".

Started by test_record_survives_kill.py, which kills it. Layer i always sees the constants 0..i + 1, so that its
scale_d is (i + 1) / 255 and nothing else, once its last batch is there. Before the last layer it waits until its stdin
is closed, so that it is never done before it is killed.
"""

import sys

import numpy as np

from amct_tensorflow import ops


def main(record_file: str, layers: int, batches: int) -> None:
    ops.set_log_sink(lambda level, message: None)
    book = ops.RecordBook(record_file, batch_num=batches)
    names = [f"net/layer_{i}/Conv2D" for i in range(layers)]
    for name in names:
        book.add_layer(name, scale_w=np.ones(1), wants_weights=True, wants_shift=False, skip_fusion=False)
    book.write()
    for i, name in enumerate(names):
        if i == layers - 1:
            ops.flush_record(book.path)
            sys.stdin.read()
        for _ in range(batches):
            ops.tensorflow_ops().quant_ifmr(
                np.float32([0, i + 1]),
                record_file=book.path,
                generation=book.generation,
                layers=[name],
                batch_num=batches,
                search_start=1.0,
                search_end=1.0,
            )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
