from __future__ import annotations

import json

import pytest

from amct_tensorflow.errors import AmctTypeError, AmctValueError


def conv(**entry):
    return {"net/conv": entry}


def activation(**params):
    return conv(activation_quant_params=params)


def weight(layer="net/conv", **params):
    return {layer: {"weight_quant_params": params}}


def update(**settings) -> dict:
    return {"update_bn": True, "bn_update_config": settings}


def tensor(**item):
    return {"tensor_quantize": [{"layer_name": "net/relu", "input_index": 0, **item}]}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            {"batch_nun": 1, **conv()},
            "batch_nun is an invalid layer name or parameter .*did you mean 'batch_num'",
        ),
        ({"conv": {}}, r"conv is an invalid layer name .*config\.json; did you mean 'net/conv'"),
        (
            {"qqq": {}},
            r"qqq is an invalid layer name or parameter of config file .*config\.json; correct or remove",
        ),
        ({"weight_offset": False, **conv()}, "weight_offset is an invalid layer name or parameter"),
        (
            {"net/dynamic": {}},
            "Layer net/dynamic does not support quantization, its weights .* constant; remove .* config file",
        ),
        (
            {"net/relu": {}},
            "Layer net/relu does not support quantization, operations of its type",
        ),
        (
            conv(quant_enabel=True),
            "Unknown parameter quant_enabel in layer net/conv of config file .*did you mean 'quant_enable'",
        ),
        (
            activation(xyz=1),
            "Unknown parameter xyz in activation_quant_params of layer net/conv .*ones are num_bits, act",
        ),
        (weight(channelwise=True), "Unknown parameter channelwise in weight_quant_params .*'channel_wise'"),
        (tensor(index=0), r"Unknown parameter index in tensor_quantize\[0\] of config file"),
        (
            tensor(activation_quant_params={"xyz": 1}),
            r"Unknown parameter xyz in activation_quant_params of tensor_quantize\[0\]",
        ),
    ],
    ids=[
        "global",
        "layer",
        "no_suggestion",
        "weight_offset",
        "not_quantizable",
        "other_type",
        "layer_key",
        "activation",
        "weight",
        "tensor",
        "tensor_activation",
    ],
)
def test_unknown(read, document, message):
    with pytest.raises(AmctValueError, match=message):
        read(document)


@pytest.mark.parametrize(
    ("document", "field"),
    [
        *[({"version": bad}, "version") for bad in (True, 1.0, "1", None)],
        *[({"batch_num": bad}, "batch_num") for bad in (True, 2.0, "2", [1], float("nan"))],
        *[
            ({field: bad}, field)
            for field in ("activation_offset", "joint_quant", "shift_n", "do_fusion", "bias_correction", "update_bn")
            for bad in (1, "true", None)
        ],
        *[({field: bad}, field) for field in ("target", "weight_rounding") for bad in (1, True, None)],
        ({"fakequant_precision_mode": 1}, "fakequant_precision_mode"),
        *[({"skip_fusion_layers": bad}, "skip_fusion_layers") for bad in ("net/conv", [1], {})],
        *[({"tensor_quantize": bad}, "tensor_quantize") for bad in ({}, [1], "x")],
        ({"bn_update_config": []}, "bn_update_config"),
        (update(bn_update_iterations=1.0), "bn_update_iterations"),
        (update(bn_moving_average_fraction="0.5"), "bn_moving_average_fraction"),
        (update(bn_dump_dir=None), "bn_dump_dir"),
        ({"net/conv": []}, "net/conv"),
        ({"net/conv": None}, "net/conv"),
        (conv(quant_enable=1), "quant_enable"),
        (conv(dmq_balancer_param="0.5"), "dmq_balancer_param"),
        (conv(activation_quant_params=[]), "activation_quant_params"),
        (conv(weight_quant_params=None), "weight_quant_params"),
        (activation(num_bits=8.0), "num_bits"),
        (activation(act_algo=1), "act_algo"),
        (activation(max_percentile=True), "max_percentile"),
        (activation(max_percentile="1"), "max_percentile"),
        (activation(min_percentile=[1]), "min_percentile"),
        (activation(search_range=1.0), "search_range"),
        (activation(search_range=[0.5, True]), "search_range"),
        (activation(search_range=["0.7", "1.3"]), "search_range"),
        (activation(search_step=None), "search_step"),
        (activation(num_of_bins=1024.0), "num_of_bins"),
        (activation(asymmetric=0), "asymmetric"),
        (weight(num_bits="8"), "num_bits"),
        (weight(wts_algo=None), "wts_algo"),
        (weight(channel_wise=1), "channel_wise"),
        (weight(weight_rounding=None), "weight_rounding"),
        (weight(bias_correction=1), "bias_correction"),
        (weight(wts_algo="nuq_quantize", num_steps=16.0), "num_steps"),
        (weight(wts_algo="nuq_quantize", num_of_iteration=True), "num_of_iteration"),
        (tensor(layer_name=1), "layer_name"),
        (tensor(input_index=True), "input_index"),
        (tensor(activation_quant_params=1), "activation_quant_params"),
    ],
    ids=lambda case: json.dumps(case) if isinstance(case, dict) else "",
)
def test_wrong_type(read, document, field):
    with pytest.raises(AmctTypeError, match=rf"Type of {field} should be .*, but is .* in .*config\.json"):
        read({**conv(), **document})


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({"version": 2}, "version"),
        ({"batch_num": 0}, "batch_num"),
        ({"batch_num": -3}, "batch_num"),
        ({"batch_num": 2**31}, "batch_num"),
        *[({"weight_rounding": bad}, "weight_rounding") for bad in ("up", "Nearest", "")],
        *[({"target": bad}, "target") for bad in ("cpu", "ONNXRuntime", "")],
        ({"fakequant_precision_mode": "fp16"}, "fakequant_precision_mode"),
        *[(update(bn_update_iterations=bad), "bn_update_iterations") for bad in (0, 1000, -1)],
        *[(update(bn_moving_average_fraction=bad), "bn_moving_average_fraction") for bad in (0, 1, float("nan"))],
        (update(bn_dump_dir="a\0b"), "bn_dump_dir"),
        *[(conv(dmq_balancer_param=bad), "dmq_balancer_param") for bad in (0.19, 0.81, 1, float("nan"))],
        *[(activation(num_bits=bad), "num_bits") for bad in (0, 2, 7)],
        (activation(act_algo="kl"), "act_algo"),
        *[
            (activation(**{field: bad}), field)
            for field in ("max_percentile", "min_percentile")
            for bad in (0.5, 1.0000001, -1, float("nan"), float("inf"))
        ],
        *[
            (activation(search_range=bad), "search_range")
            for bad in (
                [],
                [0.7],
                [0.7, 1.0, 1.3],
                [0, 1],
                [-1, 1],
                [1.3, 0.7],
                [1, 1],
                [1, float("inf")],
                [float("nan"), 1],
                [1, 10**400],
            )
        ],
        *[(activation(search_step=bad), "search_step") for bad in (0, -0.01, float("nan"), float("inf"))],
        (activation(search_step=0.61), "search_step"),
        (activation(search_range=[0.99, 0.995]), "search_step"),
        (activation(num_of_bins=1000), "num_of_bins"),
        *[(weight(num_bits=bad), "num_bits") for bad in (5, 16)],
        (weight(wts_algo="ada_quantize"), "wts_algo"),
        (weight(weight_rounding="up"), "weight_rounding"),
        (weight(wts_algo="nuq_quantize", num_steps=8), "num_steps"),
        *[(weight(wts_algo="nuq_quantize", num_of_iteration=bad), "num_of_iteration") for bad in (-1, 6)],
        (tensor(input_index=-1), "input_index"),
        (tensor(activation_quant_params={"act_algo": "hfmg", "num_of_bins": 1}), "num_of_bins"),
    ],
    ids=lambda case: json.dumps(case)[:80] if isinstance(case, dict) else "",
)
def test_out_of_range(read, document, field):
    with pytest.raises(AmctValueError, match=rf"The {field} must be .*, but is .* in .*config\.json"):
        read({**conv(), **document})


def test_where_is_said_from_the_inside_out(read):
    with pytest.raises(AmctValueError, match="in activation_quant_params of layer net/conv of config file "):
        read(activation(max_percentile=2))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"num_of_bins": 4096, "search_step": 0.01},
            "search_step and num_of_bins can not appear at same time",
        ),
        (
            {"act_algo": "hfmg", "max_percentile": 1},
            "max_percentile and act_algo hfmg can not appear at same time",
        ),
        (
            {"act_algo": "ifmr", "num_of_bins": 4096},
            "act_algo ifmr and num_of_bins can not appear at same time",
        ),
    ],
    ids=["parameters", "hfmg", "ifmr"],
)
def test_parameters_of_two_activation_algorithms(read, params, message):
    with pytest.raises(AmctValueError, match=f"{message}, .* in activation_quant_params of layer net/conv of config"):
        read(activation(**params))


@pytest.mark.parametrize("where", [activation, lambda **params: tensor(activation_quant_params=params)])
def test_bins_without_hfmg(read, where):
    message = "num_of_bins is for hfmg and not valid for act_algo ifmr, add act_algo hfmg or remove num_of_bins, in "
    with pytest.raises(AmctValueError, match=message + r"activation_quant_params of .* of config file .*config\.json"):
        read({**conv(), **where(num_of_bins=4096)})


@pytest.mark.parametrize("key", ["num_steps", "num_of_iteration"])
@pytest.mark.parametrize("algorithm", [{}, {"wts_algo": "arq_quantize"}], ids=["default", "explicit"])
def test_parameters_of_two_weight_algorithms(read, key, algorithm):
    value = {"num_steps": 16, "num_of_iteration": 1}[key]
    message = f"remove {key}, .* not valid for wts_algo arq_quantize, in weight_quant_params of layer net/conv"
    with pytest.raises(AmctValueError, match=message):
        read(weight(**algorithm, **{key: value}))


def test_channel_wise_without_weights(read):
    message = (
        "channel_wise must be False for layer type AvgPool without weights in weight_quant_params of layer net/pool of "
        "config file .*; set it to false"
    )
    with pytest.raises(AmctValueError, match=message):
        read(weight("net/pool", channel_wise=True))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "conv",
            "Layer conv does not exist in the graph, .* skip_fusion_layers of .*did you mean 'net/conv'",
        ),
        (
            "net/pool",
            "Layer net/pool does not support fusion, AvgPool takes no .*; remove .* skip_fusion_layers",
        ),
        ("net/relu", "Layer net/relu does not support fusion, .* skip_fusion_layers of config file"),
    ],
    ids=["unknown", "pool", "relu"],
)
def test_skip_fusion_layers(read, name, message):
    with pytest.raises(AmctValueError, match=message):
        read({"skip_fusion_layers": [name], **conv()})


@pytest.mark.parametrize("key", ["layer_name", "input_index"])
def test_incomplete_tensor(read, key):
    document = tensor()
    del document["tensor_quantize"][0][key]
    with pytest.raises(AmctValueError, match=rf"{key} is missing in tensor_quantize\[0\] of config file"):
        read({**document, **conv()})


def test_tensor_of_an_unknown_layer(read):
    with pytest.raises(
        AmctValueError, match=r"Layer pool does not exist .* tensor_quantize\[0\] .*did you mean 'net/pool'"
    ):
        read(tensor(layer_name="pool"))


def test_a_tensor_that_cannot_be_quantized(read):
    message = r"^Input 2 of net/relu cannot be quantized, it has no input 2 .*; remove it from tensor_quantize\[0\] of"
    with pytest.raises(AmctValueError, match=message):
        read({**tensor(input_index=2), **conv()})


def test_a_tensor_twice(read):
    twice = [{"layer_name": "net/relu", "input_index": index} for index in (0, 1, 0)]
    message = "Please delete repeated items in tensor_quantize of config file .*, repeated items are net/relu:0$"
    with pytest.raises(AmctValueError, match=message):
        read({"tensor_quantize": twice, **conv()})


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (
            {"fakequant_precision_mode": "FORCE_FP16_QUANT"},
            'fakequant_precision_mode .* in config file .*; set it to "DEFAULT"',
        ),
        (
            tensor(activation_quant_params={"num_bits": 16}),
            r"num_bits 16 in activation_quant_params of tensor_quantize\[0\] of config file .*; set it to 8",
        ),
        (activation(num_bits=16), "num_bits 16 in activation_quant_params of layer net/conv .*; set it to 8"),
        (activation(act_algo="hfmg", num_bits=4), "num_bits 4 in activation_quant_params of layer net/conv .*; set it"),
        (weight(num_bits=4), "num_bits 4 in weight_quant_params of layer net/conv .*; set it to 8"),
        (
            weight(wts_algo="nuq_quantize", num_steps=32, num_of_iteration=0),
            'wts_algo .*nuq_quantize.* of layer net/conv .*; set it to "arq_quantize"',
        ),
    ],
    ids=[
        "fp16",
        "tensor_bits",
        "activation_bits",
        "hfmg_bits",
        "weight_bits",
        "nuq",
    ],
)
def test_not_supported_yet(read, document, message):
    with pytest.raises(AmctValueError, match="is not supported yet") as caught:
        read({**conv(), **document})
    assert caught.match(message.replace("; ", " is not supported yet; "))


def test_illegal_values_are_told_before_unsupported_ones(read):
    with pytest.raises(AmctValueError, match="max_percentile must be"):
        read({"fakequant_precision_mode": "FORCE_FP16_QUANT", **activation(max_percentile=2)})
