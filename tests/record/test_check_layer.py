from __future__ import annotations

from dataclasses import replace

import pytest

from amct_tensorflow.errors import AmctRuntimeError
from amct_tensorflow.record import LayerRecord, check_layer

CONV = LayerRecord(scale_d=0.5, offset_d=0, scale_w=(1.0, 2.0, 3.0), offset_w=(0, 0, 0))
POOL = LayerRecord(scale_d=0.5, offset_d=0)
AS_CONV = {"op_type": "Conv2D", "has_weights": True, "channels": 3, "input_channels": 2, "supports_shift": True}
AS_POOL = {"op_type": "AvgPool", "has_weights": False, "channels": 1, "input_channels": 0, "supports_shift": False}


@pytest.mark.parametrize(
    ("record", "layer"),
    [
        (CONV, AS_CONV),
        (replace(CONV, shift_bit=(1, 2, 3)), AS_CONV),
        (replace(CONV, tensor_balance_factor=(1.0, 2.0)), AS_CONV),
        (replace(CONV, scale_w=(1.0,), offset_w=(0,)), AS_CONV),
        (replace(CONV, scale_w=(1.0,), offset_w=(0,)), AS_CONV | {"channels": 1}),
        (POOL, AS_POOL),
    ],
    ids=["per_channel", "shifted", "balanced", "per_tensor", "one_channel", "pool"],
)
def test_accepts(record, layer):
    check_layer("net/layer", record, **layer)


@pytest.mark.parametrize(
    ("record", "layer", "message"),
    [
        (
            replace(CONV, scale_d=None),
            AS_CONV,
            "cannot find scale_d of layer net/layer .*data calibration process!",
        ),
        (replace(POOL, offset_d=None), AS_POOL, "cannot find offset_d of layer net/layer in record_file"),
        (POOL, AS_CONV, "cannot find scale_w of layer net/layer in record_file"),
        (replace(CONV, offset_w=()), AS_CONV, "cannot find offset_w of layer net/layer in record_file"),
        (CONV, AS_POOL, "find undesirable scale_w of layer net/layer in record_file: AvgPool has no weights"),
        (replace(POOL, offset_w=(0,)), AS_POOL, "find undesirable offset_w of layer net/layer"),
        (
            replace(CONV, shift_bit=(0, 0, 0)),
            AS_CONV | {"op_type": "Conv3D", "supports_shift": False},
            "shift_bit is not support, please delete shift_bit of layer net/layer in record_file: Conv3D",
        ),
        (CONV, AS_CONV | {"channels": 4}, r"length\(3\) should be equal to 1 or to its 4 output .*net/layer"),
        (
            CONV,
            AS_CONV | {"op_type": "MatMul", "channels": 1},
            r"length\(3\) should be equal to 1 for the MatMul layer net/layer; match",
        ),
    ],
    ids=[
        "no_scale_d",
        "no_offset_d",
        "no_scale_w",
        "no_offset_w",
        "pool_with_scale_w",
        "pool_with_offset_w",
        "shift",
        "channels",
        "one_column",
    ],
)
def test_refuses(record, layer, message):
    with pytest.raises(AmctRuntimeError, match=message):
        check_layer("net/layer", record, **layer)
