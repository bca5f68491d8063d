"""What the record file says about one layer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerRecord:
    """The factors of one layer; a field that the file does not have is None, empty or False.

    An activation x is quantized as ``round(x / scale_d) + offset_d``, a weight w as ``round(w / scale_w)``.
    Factors of the weights have one value, or one per output channel.

    Attributes:
        scale_d: scale of the activations.
        offset_d: offset of the activations.
        scale_w: scales of the weights.
        offset_w: offsets of the weights, zeros.
        shift_bit: N by which the accumulator is shifted right, per weight factor.
        skip_fusion: whether batch norm must not be folded into the layer.
        cluster: centers of non-uniformly quantized weights.
        tensor_balance_factor: factors moved from the activations to the weights, one per input channel.
        dst_type: integer type of the layer, ``"INT8"``.
        act_type: integer type of the activations.
        wts_type: integer type of the weights.
    """

    scale_d: float | None = None
    offset_d: int | None = None
    scale_w: tuple[float, ...] = ()
    offset_w: tuple[int, ...] = ()
    shift_bit: tuple[int, ...] = ()
    skip_fusion: bool = False
    cluster: tuple[int, ...] = ()
    tensor_balance_factor: tuple[float, ...] = ()
    dst_type: str | None = None
    act_type: str | None = None
    wts_type: str | None = None

    @property
    def is_empty(self) -> bool:
        """Whether the layer has no quantization factors: it was never calibrated, or only balanced."""
        factors = (self.scale_w, self.offset_w, self.shift_bit)
        return self.scale_d is None and self.offset_d is None and not any(factors)
