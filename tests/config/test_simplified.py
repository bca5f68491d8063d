from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amct_tensorflow.config import (
    BnUpdateConfig,
    HfmgParams,
    LayerConfig,
    LayerTraits,
    QuantConfig,
    default_config,
    simplified_config,
    write_config,
)

# Quoted by the vendor's samples, with a colon before braces and blanks around it.
YOLOV3 = """
common_config : {
  arq_quantize : {
    channel_wise : true
  }
  ifmr_quantize : {
    search_range_start : 0.7
    search_range_end : 1.3
    search_step : 0.01
    max_percentile : 0.999999
    min_percentile : 0.999999
  }
}
"""


@pytest.fixture
def default(layers, graph) -> QuantConfig:
    return default_config(layers, **graph)


def common(text: str) -> str:
    return f"common_config {{ {text} }}"


def override_type(op_type: str, text: str) -> str:
    return f'override_layer_types {{ layer_type: "{op_type}" calibration_config {{ {text} }} }}'


def override_layer(name: str, text: str) -> str:
    return f'override_layer_configs {{ layer_name: "{name}" calibration_config {{ {text} }} }}'


def params(config: QuantConfig, attribute: str) -> dict:
    """One activation parameter of each layer."""
    return {name: getattr(layer.activation, attribute, None) for name, layer in config.layers.items()}


def channel_wise(config: QuantConfig) -> dict:
    return {name: layer.weights.channel_wise for name, layer in config.layers.items() if layer.weights}


# What the file leaves out


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "\ufeff",
        "common_config { }",
        "common_config { ifmr_quantize { } arq_quantize { } }",
        "batch_num: 1 activation_offset: true joint_quant: false do_fusion: true fakequant_precision_mode: DEFAULT",
        override_layer("net/conv", ""),
        override_type("Conv2D", "ifmr_quantize { } arq_quantize { }"),
        common("ifmr_quantize { dst_type: INT8 } arq_quantize { quant_bits: 8 }"),
        YOLOV3,
    ],
    ids=["empty", "comment", "byte_order_mark", "common", "algorithms", "global", "layer", "type", "bits", "yolov3"],
)
def test_defaults_to_the_byte(simplified, default, tmp_path, text):
    config = simplified(text)
    assert config == default
    write_config(tmp_path / "simplified.json", config)
    write_config(tmp_path / "default.json", default)
    assert (tmp_path / "simplified.json").read_bytes() == (tmp_path / "default.json").read_bytes()


# Global fields


@pytest.mark.parametrize(
    ("text", "attribute", "value"),
    [
        ("batch_num: 16", "batch_num", 16),
        ("activation_offset: false", "activation_offset", False),
        ("target: onnxruntime", "target", "onnxruntime"),
        ("do_fusion: false", "do_fusion", False),
        ("weight_rounding: nearest", "weight_rounding", "nearest"),
        ("bias_correction: false", "bias_correction", False),
        (
            'skip_fusion_layers: "net/fc" skip_fusion_layers: "net/dynamic"',
            "skip_fusion_layers",
            ("net/fc", "net/dynamic"),
        ),
    ],
)
def test_global_fields(simplified, default, text, attribute, value):
    config = simplified(text)
    assert getattr(config, attribute) == value
    assert replace(config, **{attribute: getattr(default, attribute)}, layers=default.layers) == default


@pytest.mark.parametrize("offset", [True, False])
@pytest.mark.parametrize("own", [None, True, False])
@pytest.mark.parametrize("algorithm", ["ifmr_quantize", "hfmg_quantize"])
def test_asymmetric_follows_activation_offset(simplified, offset, own, algorithm):
    given = "" if own is None else f"asymmetric: {own}".lower()
    text = f"activation_offset: {offset} ".lower() + override_layer("net/conv", f"{algorithm} {{ {given} }}")
    expected = {"net/conv": offset if own is None else own, "net/pool": offset, "net/fc": offset, "net/logits": offset}
    assert params(simplified(text), "asymmetric") == expected


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('skip_layers: "net/fc"', ["net/conv", "net/pool", "net/logits"]),
        ('skip_layers: ["net/fc", "net/conv"]', ["net/pool", "net/logits"]),
        ('skip_layer_types: "Conv2D"', ["net/pool", "net/fc"]),
        ('skip_layer_types: "Conv2D" skip_layers: "net/conv"', ["net/pool", "net/fc"]),
        ('skip_layer_types: "Conv2D" skip_layers: "net/pool"', ["net/fc"]),
        ('skip_layer_types: "DepthwiseConv2dNative"', ["net/conv", "net/pool", "net/fc", "net/logits"]),
    ],
    ids=["layer", "layers", "type", "both", "type_and_layer", "type_that_the_graph_has_not"],
)
def test_skipping(simplified, default, text, left):
    assert simplified(text).layers == {name: default.layers[name] for name in left}


# Algorithms


@pytest.mark.parametrize(
    ("text", "attribute", "value"),
    [
        ("search_range_start: 0.5 search_range_end: 2", "search_range", (0.5, 2.0)),
        ("search_range_start: 0.8", "search_range", (0.8, 1.3)),
        ("search_range_end: 1.7", "search_range", (0.7, 1.7)),
        ("search_step: 0.03", "search_step", 0.03),
        ("max_percentile: 0.9999", "max_percentile", 0.9999),
        ("min_percentile: 1", "min_percentile", 1.0),
        ("asymmetric: false", "asymmetric", False),
    ],
)
def test_ifmr(simplified, default, text, attribute, value):
    """Numbers are as the user wrote them, not as float32 holds them."""
    activation = replace(default.layers["net/conv"].activation, **{attribute: value})
    config = simplified(common(f"ifmr_quantize {{ {text} }}"))
    assert {layer.activation for layer in config.layers.values()} == {activation}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", HfmgParams(8, "hfmg", 4096, asymmetric=True)),
        ("num_of_bins: 1024", HfmgParams(8, "hfmg", 1024, asymmetric=True)),
        ("asymmetric: false dst_type: INT8", HfmgParams(8, "hfmg", 4096, asymmetric=False)),
    ],
)
def test_hfmg(simplified, text, expected):
    config = simplified(common(f"hfmg_quantize {{ {text} }}"))
    assert {layer.activation for layer in config.layers.values()} == {expected}


@pytest.mark.parametrize(("text", "strength"), [("", 0.5), ("migration_strength: 0.7", 0.7)])
def test_dmq(simplified, logged, text, strength):
    config = simplified(override_layer("net/conv", f"dmq_balancer {{ {text} }}"))
    given = {name: layer.dmq_balancer_param for name, layer in config.layers.items()}
    assert given == {"net/conv": strength, "net/pool": None, "net/fc": None, "net/logits": None}
    assert logged == []


def test_dmq_of_all_layers_passes_over_those_without_weights(simplified, logged):
    config = simplified(common("dmq_balancer { }"))
    given = {name: layer.dmq_balancer_param for name, layer in config.layers.items()}
    assert given == {"net/conv": 0.5, "net/pool": None, "net/fc": 0.5, "net/logits": 0.5}
    assert logged == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("update_bn: true", BnUpdateConfig(30, 0.5)),
        (
            "update_bn: true bn_update_config { bn_update_iterations: 5 bn_moving_average_fraction: 0.7 "
            'bn_dump_dir: "a" }',
            BnUpdateConfig(5, 0.7, "a"),
        ),
    ],
)
def test_new_statistics_of_batch_norms(simplified, default, logged, text, expected):
    assert simplified(text) == replace(default, update_bn=True, bn_update_config=expected)
    assert logged == []


# Priorities

BINS = [f"hfmg_quantize {{ num_of_bins: {bins} }}" for bins in (1024, 2048, 8192)]


@pytest.mark.parametrize(
    ("texts", "bins"),
    [
        ([common(BINS[0])], (1024, 1024, 1024, 1024)),
        ([override_type("Conv2D", BINS[1])], (2048, None, None, 2048)),
        ([override_layer("net/conv", BINS[2])], (8192, None, None, None)),
        ([common(BINS[0]), override_type("Conv2D", BINS[1])], (2048, 1024, 1024, 2048)),
        ([common(BINS[0]), override_layer("net/conv", BINS[2])], (8192, 1024, 1024, 1024)),
        ([override_type("Conv2D", BINS[1]), override_layer("net/conv", BINS[2])], (8192, None, None, 2048)),
        (
            [override_layer("net/conv", BINS[2]), override_type("Conv2D", BINS[1]), common(BINS[0])],
            (8192, 1024, 1024, 2048),
        ),
    ],
    ids=["common", "type", "layer", "common_type", "common_layer", "type_layer", "all"],
)
def test_priorities(simplified, texts, bins):
    assert tuple(params(simplified(" ".join(texts)), "num_of_bins").values()) == bins


def test_an_override_leaves_the_algorithms_that_it_does_not_give(simplified):
    config = simplified(
        common("hfmg_quantize { num_of_bins: 1024 } arq_quantize { channel_wise: false }")
        + override_type("Conv2D", "dmq_balancer { migration_strength: 0.3 }")
        + override_layer("net/conv", "arq_quantize { channel_wise: true }")
    )
    conv = config.layers["net/conv"]
    assert conv == LayerConfig(
        True, HfmgParams(8, "hfmg", 1024, asymmetric=True), replace(conv.weights, channel_wise=True), 0.3
    )


def test_an_override_replaces_the_whole_algorithm(simplified, default):
    config = simplified(
        common("ifmr_quantize { search_step: 0.02 asymmetric: false } arq_quantize { channel_wise: false }")
        + override_layer("net/conv", "ifmr_quantize { max_percentile: 0.9 } arq_quantize { }")
    )
    conv = default.layers["net/conv"]
    assert config.layers["net/conv"] == replace(conv, activation=replace(conv.activation, max_percentile=0.9))
    assert config.layers["net/logits"].activation.search_step == 0.02


def test_overrides_of_several_types_and_layers(simplified):
    config = simplified(
        override_type("Conv2D", BINS[0])
        + override_type("MatMul", BINS[1])
        + override_type("DepthwiseConv2dNative", BINS[2])
        + override_layer("net/logits", BINS[2])
        + override_layer("net/pool", "ifmr_quantize { }")
    )
    assert tuple(params(config, "num_of_bins").values()) == (1024, None, 2048, 8192)


# channel_wise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (common("arq_quantize { channel_wise: true }"), (True, False, False)),
        (common("arq_quantize { channel_wise: false }"), (False, False, False)),
        (override_type("Conv2D", "arq_quantize { channel_wise: true }"), (True, False, False)),
        (override_type("Conv2D", "arq_quantize { channel_wise: false }"), (False, False, False)),
        (override_type("MatMul", "arq_quantize { channel_wise: false }"), (True, False, False)),
        (override_type("MatMul", "arq_quantize { channel_wise: true }"), (True, True, False)),
        (override_layer("net/fc", "arq_quantize { channel_wise: true }"), (True, True, False)),
        (
            override_type("MatMul", "arq_quantize { channel_wise: true }")
            + override_layer("net/fc", "arq_quantize { }"),
            (True, False, False),
        ),
        (override_layer("net/conv", "arq_quantize { channel_wise: false }"), (False, False, False)),
        (override_layer("net/logits", "arq_quantize { channel_wise: true }"), (True, False, True)),
        (
            common("arq_quantize { channel_wise: false }") + override_type("Conv2D", "hfmg_quantize { }"),
            (False, False, False),
        ),
    ],
    ids=[
        "common_true",
        "common_false",
        "type_true",
        "type_false",
        "matmul_false",
        "matmul_true",
        "matmul_layer_true",
        "matmul_layer_above_type",
        "layer_false",
        "layer_before_softmax",
        "common_below_type",
    ],
)
def test_channel_wise(simplified, text, expected):
    assert tuple(channel_wise(simplified(text)).values()) == expected


def test_channel_wise_of_a_type_is_for_its_layers_with_weights(tmp_path):
    """In attention, some BatchMatMulV2 have weights and some have two tensors."""
    layers = {
        "query": LayerTraits("BatchMatMulV2", has_weights=True, channel_wise=False, fusable=True),
        "scores": LayerTraits("BatchMatMulV2", has_weights=False, channel_wise=False, fusable=False, symmetric=True),
    }
    (tmp_path / "quant.cfg").write_text(override_type("BatchMatMulV2", "arq_quantize { channel_wise: true }"))
    config = simplified_config(
        tmp_path / "quant.cfg",
        layers,
        all_ops=layers,
        reasons={},
        tensor_reason=lambda name, index: None,
        op_types=["BatchMatMulV2"],
    )
    assert channel_wise(config) == {"query": True}


# How weights are rounded


def rounding(config: QuantConfig) -> dict:
    """How the weights of each layer are rounded, and whether its bias is corrected."""
    of_weights = {name: layer.weights for name, layer in config.layers.items() if layer.weights}
    return {name: (weights.weight_rounding, weights.bias_correction) for name, weights in of_weights.items()}


USUAL, NEITHER = ("compensated", True), ("nearest", False)
OFF = "weight_rounding: nearest bias_correction: false"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (OFF, (NEITHER, NEITHER, NEITHER)),
        ("weight_rounding: compensated bias_correction: true", (USUAL, USUAL, USUAL)),
        ("bias_correction: false", (("compensated", False),) * 3),
        (common(f"arq_quantize {{ {OFF} }}"), (NEITHER, NEITHER, NEITHER)),
        (override_type("Conv2D", f"arq_quantize {{ {OFF} }}"), (NEITHER, USUAL, NEITHER)),
        (override_layer("net/fc", f"arq_quantize {{ {OFF} }}"), (USUAL, NEITHER, USUAL)),
        (common(f"arq_quantize {{ {OFF} }}") + override_layer("net/fc", "arq_quantize { }"), (NEITHER, USUAL, NEITHER)),
        (common(f"arq_quantize {{ {OFF} }}") + override_layer("net/fc", "ifmr_quantize { }"), (NEITHER,) * 3),
        (
            override_layer("net/fc", "arq_quantize { weight_rounding: compensated }") + OFF,
            (NEITHER, ("compensated", False), NEITHER),
        ),
        (override_layer("net/fc", "arq_quantize { channel_wise: false }") + OFF, (NEITHER, NEITHER, NEITHER)),
    ],
    ids=[
        "global",
        "global_usual",
        "one_of_them",
        "common",
        "type",
        "layer",
        "layer_resets_common",
        "activation_of_layer",
        "layer_above_global",
        "layer_follows_global",
    ],
)
def test_rounding(simplified, text, expected):
    assert tuple(rounding(simplified(text)).values()) == expected


# Everything at once

FLAGS = st.sampled_from(["true", "false"])
BIN_COUNTS = st.sampled_from([1024, 2048, 4096, 8192])
ROUNDING = {"weight_rounding": st.sampled_from(["compensated", "nearest"]), "bias_correction": FLAGS}


def some(**fields: st.SearchStrategy) -> st.SearchStrategy[str]:
    """Text with any of the fields."""
    return st.fixed_dictionaries({}, optional=fields).map(
        lambda given: " ".join(f"{name}: {value}" for name, value in given.items())
    )


def decimals(low: str, high: str) -> st.SearchStrategy[Decimal]:
    return st.decimals(low, high, places=4)


IFMR = some(
    search_range_start=decimals("0.1", "0.9"),
    search_range_end=decimals("1.1", "3"),
    search_step=decimals("0.001", "0.2"),
    max_percentile=decimals("0.5001", "1"),
    min_percentile=decimals("0.5001", "1"),
    asymmetric=FLAGS,
    dst_type=st.just("INT8"),
)
ACTIVATION = st.one_of(
    st.just(""),
    IFMR.map("ifmr_quantize {{ {} }}".format),
    some(num_of_bins=BIN_COUNTS, asymmetric=FLAGS).map("hfmg_quantize {{ {} }}".format),
)
DMQ = st.one_of(st.just(""), some(migration_strength=decimals("0.2", "0.8")).map("dmq_balancer {{ {} }}".format))


def calibration(channel_wise: str = "true") -> st.SearchStrategy[str]:
    arq = some(channel_wise=st.sampled_from(["false", channel_wise]), quant_bits=st.just(8), **ROUNDING)
    weights = st.one_of(st.just(""), arq.map("arq_quantize {{ {} }}".format))
    return st.tuples(ACTIVATION, weights, DMQ).map(" ".join)


def maybe(strategy: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(st.just(""), strategy)


FILES = st.tuples(
    some(batch_num=st.integers(1, 2**31 - 1), activation_offset=FLAGS, do_fusion=FLAGS, **ROUNDING),
    maybe(st.sampled_from(["net/conv", "net/fc", "net/dynamic"]).map('skip_fusion_layers: "{}"'.format)),
    maybe(st.sampled_from(["net/pool", "net/fc"]).map('skip_layers: "{}"'.format)),
    maybe(st.just('skip_layer_types: "AvgPool"')),
    some(update_bn=FLAGS),
    some(bn_update_iterations=st.integers(1, 999), bn_moving_average_fraction=decimals("0.0001", "0.9999")).map(
        "bn_update_config {{ {} }}".format
    ),
    maybe(calibration().map(common)),
    maybe(calibration().map(lambda text: override_type("Conv2D", text))),
    maybe(calibration().map(lambda text: override_type("MatMul", text))),
    maybe(calibration().map(lambda text: override_layer("net/logits", text))),
    maybe(calibration("false").map(lambda text: override_layer("net/pool", text))),
).map("\n".join)


@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(text=FILES)
def test_config_json_says_the_same(simplified, read, tmp_path, text):
    config = simplified(text)
    write_config(tmp_path / "written.json", config)
    assert read((tmp_path / "written.json").read_bytes()) == config


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(step=st.decimals("0.0001", "0.6", places=6))
def test_numbers_are_those_that_were_written(simplified, step):
    config = simplified(common(f"ifmr_quantize {{ search_step: {step} }}"))
    assert config.layers["net/conv"].activation.search_step == float(step)


# Warnings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'skip_approximation_layers: "anything"',
            "skip_approximation_layers in config_defination {path} has no effect here, because no operation is "
            "approximated",
        ),
        (
            "common_config { } conv_calibration_config { hfmg_quantize { } } fc_calibration_config { }",
            "config_defination {path} has the deprecated conv_calibration_config and fc_calibration_config, ignored "
            "because common_config or an override exists",
        ),
        (
            "fc_calibration_config { }" + override_type("AvgPool", ""),
            "config_defination {path} has the deprecated fc_calibration_config, ignored because common_config or an "
            "override exists",
        ),
        (
            "conv_calibration_config { hfmg_quantize { } }" + override_layer("net/pool", ""),
            "config_defination {path} has the deprecated conv_calibration_config, ignored because common_config or an "
            "override exists",
        ),
    ],
    ids=["approximation", "beside_common", "beside_types", "beside_layers"],
)
def test_ignored_with_a_warning(simplified, default, logged, tmp_path, text, message):
    assert simplified(text) == default
    assert logged == [message.format(path=tmp_path / "quant.cfg")]


def test_an_override_of_a_skipped_layer_is_ignored_with_a_warning(simplified, logged, tmp_path):
    overrides = override_layer("net/pool", BINS[0]) + override_layer("net/fc", BINS[0])
    config = simplified(f'skip_layers: "net/pool" skip_layer_types: "MatMul" {overrides}')
    assert list(config.layers) == ["net/conv", "net/logits"]
    assert logged == [
        f"override_layer_configs of config_defination {tmp_path / 'quant.cfg'} has no effect on net/fc, net/pool, "
        "because the layer or its type is skipped"
    ]
