"""The fields of config.json, in the order in which they are written.

Source: vendor documentation of config.json (quantization configuration file); `target`, `shift_n`, `weight_rounding`
and `bias_correction` are our own, `update_bn` and `bn_update_config` those of the vendor's tool for Caffe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from amct_tensorflow.config.schema import (
    BOOL,
    INTEGER,
    NUMBER,
    NUMBERS,
    OBJECT,
    OBJECTS,
    REQUIRED,
    STRING,
    STRINGS,
    Field,
    Rule,
    Schema,
    one_of,
)

_INT32_LARGEST = 2**31 - 1

# What will run the int8 model.
ASCEND, ONNXRUNTIME = "ascend", "onnxruntime"

_PERCENTILE = Rule("greater than 0.5 and at most 1", lambda value: 0.5 < value <= 1)
_SEARCH_RANGE = Rule(
    "two numbers [start, end] with 0 < start < end",
    lambda value: len(value) == 2 and 0 < value[0] < value[1] < math.inf,
)

_ROUNDING = one_of("compensated", "nearest")

_MOST_CANDIDATES = 100_000

# A simplified configuration gives start and end apart, and one of them may be missing.
DEFAULT_SEARCH_RANGE = (0.7, 1.3)


def _activation_conflict(given: Mapping[str, Any], values: Mapping[str, Any]) -> str | None:
    ifmr_only = ("max_percentile", "min_percentile", "search_range", "search_step")
    ifmr = [key for key in ifmr_only if key in given]
    hfmg = [key for key in ("num_of_bins",) if key in given]
    if "act_algo" in given:
        (ifmr if given["act_algo"] == "ifmr" else hfmg).append(f"act_algo {given['act_algo']}")
    if ifmr and hfmg:
        names = f"{', '.join(ifmr)} and {', '.join(hfmg)}"
        return f"{names} can not appear at same time, keep those of one algorithm,"
    if hfmg and values["act_algo"] != "hfmg":
        return "num_of_bins is for hfmg and not valid for act_algo ifmr, add act_algo hfmg or remove num_of_bins,"
    # In decimal, as the user wrote it: in binary, 1.0 - 0.8 is a little less than a step of 0.2.
    start, end, step = (Decimal(repr(value)) for value in (*values["search_range"], values["search_step"]))
    if step > end - start:
        return f"The search_step must be at most the width of search_range, {end - start}, but is {step}"
    if end - start > _MOST_CANDIDATES * step:
        return f"The search_step {step} makes more than {_MOST_CANDIDATES} candidates of search_range, enlarge it,"
    return None


def _weight_conflict(given: Mapping[str, Any], values: Mapping[str, Any]) -> str | None:
    nuq = [key for key in ("num_steps", "num_of_iteration") if key in given]
    if nuq and values["wts_algo"] != "nuq_quantize":
        names, algorithm = " and ".join(nuq), values["wts_algo"]
        return f"remove {names}, which is for nuq_quantize and not valid for wts_algo {algorithm},"
    return None


GLOBAL = Schema(
    (
        Field("version", INTEGER, one_of(1), default=1),
        Field(
            "batch_num",
            INTEGER,
            Rule(f"greater than zero and at most {_INT32_LARGEST}", lambda value: 0 < value <= _INT32_LARGEST),
            default=1,
        ),
        Field("target", STRING, one_of(ASCEND, ONNXRUNTIME), default=ASCEND),
        Field("activation_offset", BOOL, default=True),
        Field("joint_quant", BOOL, default=False),
        Field("shift_n", BOOL, default=True),
        Field("do_fusion", BOOL, default=True),
        Field("weight_rounding", STRING, _ROUNDING, default="compensated"),
        Field("bias_correction", BOOL, default=True),
        Field("update_bn", BOOL, default=False),
        Field("bn_update_config", OBJECT, default={}),
        Field(
            "fakequant_precision_mode",
            STRING,
            one_of("DEFAULT", "FORCE_FP16_QUANT"),
            default="DEFAULT",
            works="DEFAULT",
        ),
        Field("skip_fusion_layers", STRINGS, default=()),
        Field("tensor_quantize", OBJECTS, default=()),
    )
)

BN_UPDATE = Schema(
    (
        Field(
            "bn_update_iterations",
            INTEGER,
            Rule("greater than 0 and less than 1000", lambda value: 0 < value < 1000),
            default=30,
        ),
        Field(
            "bn_moving_average_fraction",
            NUMBER,
            Rule("greater than 0 and less than 1", lambda value: 0 < value < 1),
            default=0.5,
        ),
        Field("bn_dump_dir", STRING, Rule("a path without a NUL character", lambda value: "\0" not in value)),
    )
)

LAYER = Schema(
    (
        Field("quant_enable", BOOL, default=True),
        Field(
            "dmq_balancer_param",
            NUMBER,
            Rule("from 0.2 to 0.8", lambda value: 0.2 <= value <= 0.8),
        ),
        Field("activation_quant_params", OBJECT, default={}),
        Field("weight_quant_params", OBJECT, default={}),
    )
)

ACTIVATION = Schema(
    (
        Field("num_bits", INTEGER, one_of(4, 8, 16), default=8, works=8),
        Field("act_algo", STRING, one_of("ifmr", "hfmg"), default="ifmr"),
        Field("max_percentile", NUMBER, _PERCENTILE, default=0.999999),
        Field("min_percentile", NUMBER, _PERCENTILE, default=0.999999),
        Field("search_range", NUMBERS, _SEARCH_RANGE, default=DEFAULT_SEARCH_RANGE),
        Field("search_step", NUMBER, Rule("greater than zero", lambda value: 0 < value < math.inf), default=0.01),
        Field("num_of_bins", INTEGER, one_of(1024, 2048, 4096, 8192), default=4096),
        Field("asymmetric", BOOL),  # a missing one follows activation_offset
    ),
    _activation_conflict,
)

# Fields of the weights of a layer for which there is a global one of the same name.
OF_WEIGHTS = ("weight_rounding", "bias_correction")

WEIGHT = Schema(
    (
        Field("num_bits", INTEGER, one_of(4, 6, 7, 8), default=8, works=8),
        Field(
            "wts_algo",
            STRING,
            one_of("arq_quantize", "nuq_quantize"),
            default="arq_quantize",
            works="arq_quantize",
        ),
        Field("channel_wise", BOOL),  # a missing one follows the type of the layer
        Field("weight_rounding", STRING, _ROUNDING),  # these follow the global ones
        Field("bias_correction", BOOL),
        Field("num_steps", INTEGER, one_of(16, 32), works=None),
        Field("num_of_iteration", INTEGER, Rule("from 0 to 5", lambda value: 0 <= value <= 5), works=None),
    ),
    _weight_conflict,
)

TENSOR = Schema(
    (
        Field("layer_name", STRING, default=REQUIRED),
        Field("input_index", INTEGER, Rule("zero or greater", lambda value: value >= 0), default=REQUIRED),
        Field("activation_quant_params", OBJECT, default={}),
    )
)
