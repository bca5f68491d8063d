"""Runs a calibration of one layer by its ops, and returns what the file beside the record says of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from amct_tensorflow import ops
from amct_tensorflow.record import LayerRounding, read_rounding
from amct_tensorflow.stencils import Stencil, WeightLayout, layout_of


def matrix_layout(weights: np.ndarray) -> WeightLayout:
    """Of the weights of a MatMul."""
    return layout_of(weights.shape, (1,), 0, 1, is_kernel=False)


def window_of(layout: WeightLayout, stencil: Stencil | None) -> dict[str, Any]:
    """Returns the attributes of InputMoments that say how a kernel goes over the input."""
    if stencil is None:
        return {"kernel": [], "strides": [], "dilations": []}
    return {
        "kernel": layout.kernel,
        "strides": stencil.strides,
        "dilations": stencil.dilations,
        "padding": stencil.padding,
        "explicit_paddings": stencil.explicit_paddings,
        "transposed": stencil.transposed,
    }


def input_moments(book: ops.RecordBook, x: Any, **attributes: Any) -> Any:
    """Runs InputMoments for layers of a book, by default for a product of matrices."""
    defaults = {"layers": ["layer"], "batch_num": 1, "groups": 1, "most_block": 1024}
    defaults |= {"kernel": [], "strides": [], "dilations": []}
    return ops.tensorflow_ops().input_moments(
        x, record_file=book.path, generation=book.generation, **(defaults | attributes)
    )


def quant_ifmr(book: ops.RecordBook, x: Any, batch_num: int = 1, layers: Sequence[str] = ("layer",)) -> Any:
    """Runs QuantIfmr, with the range of all values."""
    return ops.tensorflow_ops().quant_ifmr(
        x,
        record_file=book.path,
        generation=book.generation,
        layers=list(layers),
        batch_num=batch_num,
        search_start=1.0,
        search_end=1.0,
    )


def open_rounding(
    folder: Path,
    weights: np.ndarray | None,
    scales: Any,
    *,
    layers: Sequence[str] = ("layer",),
    layout: WeightLayout | None = None,
    channel_axes: Sequence[int] = (),
    compensate: bool = True,
    correct_bias: bool = True,
    batch_num: int = 1,
) -> ops.RecordBook:
    """Opens a calibration whose layers share weights that are to be rounded."""
    book = ops.RecordBook(str(folder / "record.txt"), batch_num=batch_num)
    for layer in layers:
        book.add_layer(layer, scale_w=scales, wants_weights=True, wants_shift=False, skip_fusion=False)
    assert weights is not None
    book.add_rounding(
        layers,
        moments=layers,
        layout=(layout or matrix_layout(weights)).numbers(),
        weights=weights,
        shape=weights.shape,
        scales=scales,
        channel_axes=channel_axes,
        compensate=compensate,
        correct_bias=correct_bias,
    )
    book.write()
    return book


def round_layer(
    folder: Path,
    batches: Sequence[np.ndarray],
    weights: np.ndarray,
    scales: Any = (1.0,),
    *,
    layout: WeightLayout | None = None,
    stencil: Stencil | None = None,
    data_format: str = "NHWC",
    most_block: int = 1024,
    **options: Any,
) -> LayerRounding:
    """A calibration with these batches from its start to its end."""
    layout = layout or matrix_layout(weights)
    book = open_rounding(folder, weights, scales, layout=layout, batch_num=len(batches), **options)
    for batch in batches:
        x = tf.constant(batch, tf.float32)
        quant_ifmr(book, x, len(batches))
        input_moments(
            book,
            x,
            batch_num=len(batches),
            groups=layout.groups,
            most_block=most_block,
            data_format=data_format,
            **window_of(layout, stencil),
        )
    book.close()
    found = read_rounding(book.path)
    assert found is not None and found["layer"] is not None
    return found["layer"]
