from __future__ import annotations

import pytest

from amct_tensorflow.config import BnUpdateConfig, HfmgParams, IfmrParams, default_config, read_config
from amct_tensorflow.errors import AmctRuntimeError, AmctTypeError, AmctValueError


def test_what_is_left_out_takes_its_default(read, layers, graph):
    expected = default_config(layers, **graph)
    assert read({name: {} for name in layers}) == expected


def test_layers_come_in_graph_order_and_missing_ones_stay_out(read):
    assert list(read({"net/logits": {}, "net/conv": {}}).layers) == ["net/conv", "net/logits"]


def test_global_values(read):
    config = read(
        {
            "version": 1,
            "batch_num": 16,
            "target": "onnxruntime",
            "activation_offset": False,
            "joint_quant": False,
            "shift_n": False,
            "do_fusion": False,
            "weight_rounding": "nearest",
            "bias_correction": False,
            "fakequant_precision_mode": "DEFAULT",
            "skip_fusion_layers": ["net/fc", "net/conv"],
            "tensor_quantize": [],
            "net/conv": {"quant_enable": True},
        }
    )
    assert (config.batch_num, config.target, config.activation_offset) == (16, "onnxruntime", False)
    assert (config.shift_n, config.do_fusion) == (False, False)
    assert (config.weight_rounding, config.bias_correction) == ("nearest", False)
    assert config.skip_fusion_layers == ("net/fc", "net/conv")


@pytest.mark.parametrize("shift_n", [True, False])
@pytest.mark.parametrize("target", ["ascend", "onnxruntime"])
def test_what_a_target_means(read, target, shift_n):
    config = read({"target": target, "shift_n": shift_n, "net/conv": {}})
    assert config.searches_shifts == (target == "ascend" and shift_n)
    assert config.quantizes_results == (target == "onnxruntime")


def test_layer_values(read):
    entry = {
        "quant_enable": True,
        "activation_quant_params": {
            "num_bits": 8,
            "act_algo": "ifmr",
            "max_percentile": 1,
            "min_percentile": 0.9,
            "search_range": [1, 2],
            "search_step": 1,
            "asymmetric": False,
        },
        "weight_quant_params": {"num_bits": 8, "wts_algo": "arq_quantize", "channel_wise": False},
    }
    layer = read({"net/conv": entry}).layers["net/conv"]
    assert layer.activation.max_percentile == 1.0
    assert layer.activation.min_percentile == 0.9
    assert layer.activation.search_range == (1.0, 2.0)
    assert layer.activation.search_step == 1.0
    assert layer.activation.asymmetric is False
    assert layer.weights.channel_wise is False
    assert isinstance(layer.activation.max_percentile, float)


@pytest.mark.parametrize("bins", [None, 1024, 2048, 4096, 8192])
def test_hfmg(read, bins):
    given = {} if bins is None else {"num_of_bins": bins}
    config = read({"net/conv": {"activation_quant_params": {"act_algo": "hfmg", **given}}, "net/fc": {}})
    assert config.layers["net/conv"].activation == HfmgParams(8, "hfmg", bins or 4096, asymmetric=True)
    assert isinstance(config.layers["net/fc"].activation, IfmrParams)


@pytest.mark.parametrize("strength", [0.2, 0.5, 0.8])
def test_dmq(read, logged, strength):
    config = read({"net/conv": {"dmq_balancer_param": strength}, "net/fc": {}})
    assert config.layers["net/conv"].dmq_balancer_param == strength
    assert config.layers["net/fc"].dmq_balancer_param is None
    assert logged == []


def test_dmq_of_a_layer_without_weights_is_removed(read, logged):
    config = read({"net/conv": {"dmq_balancer_param": 0.5}, "net/pool": {"dmq_balancer_param": 0.5}})
    assert config.layers["net/pool"].dmq_balancer_param is None
    (line,) = logged
    assert line.startswith("dmq_balancer_param of layer net/pool of config file ")
    assert line.endswith("config.json is removed: AvgPool has no weights to balance")


def test_new_statistics_of_batch_norms(read, logged):
    usual, chosen = {}, {"bn_update_iterations": 999, "bn_moving_average_fraction": 0.9, "bn_dump_dir": "dump"}
    for given, expected in ((usual, BnUpdateConfig(30, 0.5)), (chosen, BnUpdateConfig(999, 0.9, "dump"))):
        config = read({"update_bn": True, "bn_update_config": given, "net/conv": {}})
        assert (config.update_bn, config.bn_update_config) == (True, expected)
    assert logged == []


def test_how_to_update_does_not_count_without_update_bn(read, logged):
    config = read({"bn_update_config": {"bn_update_iterations": 5}, "net/conv": {}})
    assert (config.update_bn, config.bn_update_config) == (False, BnUpdateConfig(30, 0.5))
    [line] = logged
    assert line.startswith("bn_update_config of ") and line.endswith("has no effect, because update_bn is not true")


@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("own", [None, True, False])
def test_asymmetric_of_a_layer_wins(read, offset, own):
    params = {} if own is None else {"asymmetric": own}
    config = read({"activation_offset": offset, "net/conv": {"activation_quant_params": params}})
    assert config.layers["net/conv"].activation.asymmetric is (offset if own is None else own)


@pytest.mark.parametrize("own", [None, "compensated", "nearest"])
@pytest.mark.parametrize("common", [None, "compensated", "nearest"])
def test_weight_rounding_of_a_layer_wins(read, common, own):
    document = {} if common is None else {"weight_rounding": common}
    params = {} if own is None else {"weight_rounding": own}
    config = read({**document, "net/conv": {"weight_quant_params": params}, "net/fc": {}})
    assert config.layers["net/conv"].weights.weight_rounding == (own or common or "compensated")
    assert config.layers["net/fc"].weights.weight_rounding == (common or "compensated")


@pytest.mark.parametrize("own", [None, True, False])
@pytest.mark.parametrize("common", [True, False])
def test_bias_correction_of_a_layer_wins(read, common, own):
    params = {} if own is None else {"bias_correction": own}
    config = read({"bias_correction": common, "net/conv": {"weight_quant_params": params}, "net/fc": {}})
    assert config.layers["net/conv"].weights.bias_correction is (common if own is None else own)
    assert config.layers["net/fc"].weights.bias_correction is common


def test_disabled_layers_are_kept(read):
    config = read({"net/conv": {"quant_enable": False}, "net/fc": {}})
    assert {name: layer.quant_enable for name, layer in config.layers.items()} == {
        "net/conv": False,
        "net/fc": True,
    }


def test_weight_parameters_of_average_pooling_are_ignored(read):
    config = read({"net/pool": {"weight_quant_params": {"num_bits": 8, "channel_wise": False}}, "net/conv": {}})
    assert config.layers["net/pool"].weights is None


@pytest.mark.parametrize("given", [{}, {"channel_wise": False}, {"channel_wise": True}], ids=["", "false", "true"])
def test_matmul_is_channel_wise_where_that_is_said(read, given):
    weights = read({"net/fc": {"weight_quant_params": given}}).layers["net/fc"].weights
    assert weights.channel_wise is given.get("channel_wise", False)


def test_a_layer_that_feeds_softmax_may_be_set_channel_wise(read):
    assert read({"net/logits": {}}).layers["net/logits"].weights.channel_wise is False
    forced = {"net/logits": {"weight_quant_params": {"channel_wise": True}}}
    assert read(forced).layers["net/logits"].weights.channel_wise is True


def test_a_layer_that_cannot_be_quantized_may_skip_fusion(read):
    config = read({"skip_fusion_layers": ["net/dynamic"], "net/conv": {}})
    assert config.skip_fusion_layers == ("net/dynamic",)


@pytest.mark.parametrize(
    "params",
    [
        {"search_range": [0.8, 1.0], "search_step": 0.2},
        {"max_percentile": 0.5000001},
        {"search_range": [1e-30, 1000.0]},
    ],
    ids=["step_as_wide_as_range", "low_percentile", "wide_range"],
)
def test_accepts_limits(read, params):
    read({"net/conv": {"activation_quant_params": params}})


def test_missing_file(tmp_path, layers, graph):
    with pytest.raises(AmctRuntimeError, match=r"config file .*none\.json cannot be read .*create_quant_config"):
        read_config(tmp_path / "none.json", layers, **graph, tensor_reason=lambda name, index: None)


def test_directory(tmp_path, layers, graph):
    with pytest.raises(AmctRuntimeError, match=r"cannot be read .*directory"):
        read_config(tmp_path, layers, **graph, tensor_reason=lambda name, index: None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1 column 1"),
        ('{\n  "version": 1,\n}', "line [23] column"),
        ('{"version": 1', "line 1 column"),
        ("{'version': 1}", "line 1 column 2"),
        (b"\xff\xfe\x00", "codec can't decode"),
        ('{"version": ' + "1" * 5000 + "}", "digits"),
        ("[" * 100_000, "recursion"),
    ],
    ids=[
        "empty",
        "trailing_comma",
        "truncated",
        "single_quotes",
        "binary",
        "endless_number",
        "endless_nesting",
    ],
)
def test_not_json(read, text, message):
    with pytest.raises(AmctValueError, match=rf"config file .*config\.json is not valid JSON, .*{message}"):
        read(text)


@pytest.mark.parametrize("text", ["[]", "1", "null", '"x"'])
def test_not_an_object(read, text):
    with pytest.raises(AmctTypeError, match=r"config file .*config\.json should hold one JSON object"):
        read(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"batch_num": 1, "batch_num": 2, "net/conv": {}}',
            r"in config file .*json, repeated items are batch_num",
        ),
        ('{"net/conv": {}, "net/conv": {}}', r"in config file .*json, repeated items are net/conv"),
        (
            '{"net/conv": {"quant_enable": true, "quant_enable": false}}',
            "in layer net/conv of config file .*repeated items are quant_enable",
        ),
        (
            '{"net/conv": {"weight_quant_params": {"num_bits": 8, "num_bits": 8}}}',
            "in weight_quant_params of layer net/conv of config file .*repeated items are num_bits",
        ),
        (
            '{"skip_fusion_layers": ["net/fc", "net/conv", "net/fc"], "net/conv": {}}',
            "in skip_fusion_layers of config file .*repeated items are net/fc",
        ),
    ],
    ids=["global", "layer", "layer_key", "parameter", "skip_fusion_layers"],
)
def test_repeated(read, text, message):
    with pytest.raises(AmctValueError, match=f"Please delete repeated items {message}"):
        read(text)


@pytest.mark.parametrize("document", [{}, {"net/conv": {"quant_enable": False}}], ids=["no_layer", "disabled"])
def test_nothing_enabled(read, document):
    message = r"No quant enable layer in quant config file, please check the quant config file\..*config\.json"
    with pytest.raises(AmctRuntimeError, match=message):
        read(document)
