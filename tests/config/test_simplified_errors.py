from __future__ import annotations

import pytest

from amct_tensorflow.config import simplified_config
from amct_tensorflow.errors import AmctRuntimeError, AmctValueError


def common(text: str) -> str:
    return f"common_config {{ {text} }}"


def ifmr(text: str) -> str:
    return common(f"ifmr_quantize {{ {text} }}")


def override_type(op_type: str, text: str = "") -> str:
    return f'override_layer_types {{ layer_type: "{op_type}" calibration_config {{ {text} }} }} '


def override_layer(name: str, text: str = "") -> str:
    return f'override_layer_configs {{ layer_name: "{name}" calibration_config {{ {text} }} }} '


def tensor(text: str = "", name: str = "net/relu", index: int = 0) -> str:
    return f'tensor_quantize {{ layer_name: "{name}" input_index: {index} {text} }} '


# Of the vendor's ResNet-50 sample.
NUQ = """
activation_offset : true
batch_num : 1
nuq_config {
  mapping_file : "./src/nuq_conf/resnet-50_v1_quantized.json"
  nuq_quantize : {
    num_steps : 32
    num_of_iteration : 1
  }
}
"""


def check(simplified, path, text, message):
    """The message is complete; FILE stands for the configuration."""
    with pytest.raises(AmctValueError) as caught:
        simplified(text)
    assert str(caught.value) == message.replace("FILE", f"config_defination {path}")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "quant.cfg"


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("batch_nun: 1", 1, 'has no field named "batch_nun"'),
        ("batch_num: 1\n  do_fusion: maybe", 2, 'Expected "true" or "false"'),
        ("batch_num: 1 batch_num: 2", 1, 'should not have multiple "batch_num" fields'),
        ("batch_num: -1", 1, "Value out of range: -1"),
        ("batch_num: 1.5", 1, "Couldn't parse integer: 1.5"),
        ("fakequant_precision_mode: FP16", 1, "has no value named FP16"),
        ("weight_rounding: Nearest", 1, "has no value named Nearest: it must be compensated or nearest; correct it"),
        ('target: "ascend"', 1, "it must be ascend or onnxruntime, without quotes; correct it"),
        ("target: cpu", 1, "has no value named cpu: it must be ascend or onnxruntime; correct it"),
        ("weight_rounding: 7", 1, "has no value with number 7: it must be compensated or nearest; correct it"),
        (ifmr("dst_type: int8"), 1, "has no value named int8: it must be INT4 or INT8 or INT16; correct it"),
        (common("arq_quantize { bias_correction: no }"), 1, 'Expected "true" or "false"'),
        ("common_config {\n", 1, 'Expected "}"'),
        (common("ifmr_quantize { } hfmg_quantize { }"), 1, "another member of oneof"),
        (common("arq_quantize { } ada_quantize { }"), 1, "another member of oneof"),
        (tensor("ifmr_quantize { } hfmg_quantize { }"), 1, "another member of oneof"),
        (common("nuq_quantize { }"), 1, 'has no field named "nuq_quantize"'),
        ("weight_offset: true", 1, 'has no field named "weight_offset"'),
        ('skip_layers: "\\377"', 1, "utf-8"),
        (b"\xff", None, "codec can't decode"),
    ],
    ids=lambda value: value.decode("latin1") if isinstance(value, bytes) else str(value)[:40],
)
def test_not_the_text_of_a_configuration(simplified, text, line, reason):
    with pytest.raises(AmctValueError) as caught:
        simplified(text)
    place = "" if line is None else rf"{line}:\d+ : "
    assert caught.match(rf"^config_defination .*quant\.cfg cannot be parsed, line:column and reason: {place}")
    assert reason in str(caught.value)
    assert str(caught.value).endswith("; correct it")


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ("override_layer_types { calibration_config { } }", "override_layer_types[0].layer_type"),
        ('override_layer_types { layer_type: "Conv2D" }', "override_layer_types[0].calibration_config"),
        ("override_layer_configs { calibration_config { } }", "override_layer_configs[0].layer_name"),
        ('override_layer_configs { layer_name: "net/conv" }', "override_layer_configs[0].calibration_config"),
        ("tensor_quantize { input_index: 0 }", "tensor_quantize[0].layer_name"),
        (tensor() + 'tensor_quantize { layer_name: "net/relu" }', "tensor_quantize[1].input_index"),
        ("tensor_quantize { }", "tensor_quantize[0].layer_name, tensor_quantize[0].input_index"),
    ],
    ids=lambda value: value[:60],
)
def test_incomplete(simplified, path, text, missing):
    check(simplified, path, text, f"{missing} is missing in FILE; add it")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NUQ, "nuq_config in FILE is not supported yet; remove it"),
        ("nuq_config { }", "nuq_config in FILE is not supported yet; remove it"),
        (
            "fakequant_precision_mode: FORCE_FP16_QUANT",
            "fakequant_precision_mode 'FORCE_FP16_QUANT' in FILE is not supported yet; set it to \"DEFAULT\"",
        ),
        (common("ada_quantize { }"), "ada_quantize in common_config of FILE is not supported yet; remove it"),
        (
            override_type("Conv2D", "ada_quantize { }"),
            "ada_quantize in Conv2D in override_layer_types of FILE is not supported yet; remove it",
        ),
        *[
            (
                ifmr(f"dst_type: INT{bits}"),
                f"num_bits {bits} in ifmr_quantize {{dst_type: INT{bits}}} of common_config of FILE is not supported "
                "yet; set dst_type to INT8",
            )
            for bits in (4, 16)
        ],
        (
            override_layer("net/fc", "hfmg_quantize { dst_type: INT16 }"),
            "num_bits 16 in hfmg_quantize {dst_type: INT16} of net/fc in override_layer_configs of FILE is not "
            "supported yet; set dst_type to INT8",
        ),
        (
            override_type("MatMul", "arq_quantize { quant_bits: 4 }"),
            "num_bits 4 in arq_quantize {quant_bits: 4} of MatMul in override_layer_types of FILE is not supported "
            "yet; set it to 8",
        ),
        (
            tensor("ifmr_quantize { dst_type: INT16 }"),
            "num_bits 16 in ifmr_quantize {dst_type: INT16} of tensor_quantize[0] of FILE is not supported yet; "
            "set dst_type to INT8",
        ),
    ],
    ids=lambda value: value.strip()[:60],
)
def test_not_supported_yet(simplified, path, text, message):
    check(simplified, path, text, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_num: 0", "The batch_num must be greater than zero and at most 2147483647, but is 0 in FILE"),
        (
            "batch_num: 4294967295",
            "The batch_num must be greater than zero and at most 2147483647, but is 4294967295 in FILE",
        ),
        (
            ifmr("max_percentile: 0.5"),
            "The max_percentile must be greater than 0.5 and at most 1, but is 0.5 in ifmr_quantize "
            "{max_percentile: 0.5} of common_config of FILE",
        ),
        (
            ifmr("min_percentile: nan"),
            "The min_percentile must be greater than 0.5 and at most 1, but is nan in ifmr_quantize "
            "{min_percentile: nan} of common_config of FILE",
        ),
        (
            ifmr("search_range_start: 1.4"),
            "The search_range must be two numbers [start, end] with 0 < start < end, but is [1.4, 1.3] in "
            "ifmr_quantize {search_range_start: 1.4} of common_config of FILE",
        ),
        (
            ifmr("search_range_end: inf"),
            "The search_range must be two numbers [start, end] with 0 < start < end, but is [0.7, inf] in "
            "ifmr_quantize {search_range_end: inf} of common_config of FILE",
        ),
        (
            ifmr("search_step: 0"),
            "The search_step must be greater than zero, but is 0.0 in ifmr_quantize {search_step: 0.0} of "
            "common_config of FILE",
        ),
        (
            override_layer("net/conv", "ifmr_quantize { search_range_end: 0.8 search_step: 0.2 }"),
            "The search_step must be at most the width of search_range, 0.1, but is 0.2 in ifmr_quantize "
            "{search_range_end: 0.8 search_step: 0.2} of net/conv in override_layer_configs of FILE",
        ),
        (
            override_type("DepthwiseConv2dNative", "hfmg_quantize { num_of_bins: 1000 }"),
            "The num_of_bins must be 1024 or 2048 or 4096 or 8192, but is 1000 in hfmg_quantize {num_of_bins: 1000} of "
            "DepthwiseConv2dNative in override_layer_types of FILE",
        ),
        (
            common("arq_quantize { quant_bits: 5 }"),
            "The num_bits must be 4 or 6 or 7 or 8, but is 5 in arq_quantize {quant_bits: 5} of common_config of FILE",
        ),
        (
            common("dmq_balancer { migration_strength: 0.9 }"),
            "The dmq_balancer_param must be from 0.2 to 0.8, but is 0.9 in dmq_balancer {migration_strength: 0.9} of "
            "common_config of FILE",
        ),
        (
            tensor() + tensor("hfmg_quantize { num_of_bins: 1 }", index=1),
            "The num_of_bins must be 1024 or 2048 or 4096 or 8192, but is 1 in hfmg_quantize {num_of_bins: 1} of "
            "tensor_quantize[1] of FILE",
        ),
        *[
            (
                text,
                f"The channel_wise must be False for layer type AvgPool without weights in arq_quantize of {where} of "
                "FILE; set it to false",
            )
            for text, where in (
                (
                    override_layer("net/pool", "arq_quantize { channel_wise: true }"),
                    "net/pool in override_layer_configs",
                ),
                (
                    override_type("AvgPool", "arq_quantize { channel_wise: true }"),
                    "AvgPool in override_layer_types",
                ),
            )
        ],
    ],
    ids=lambda value: value.strip()[:60],
)
def test_out_of_range(simplified, path, text, message):
    check(simplified, path, text, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        *[
            (text, f"Layer conv does not exist in the graph, but is named in {where} of FILE; did you mean 'net/conv'?")
            for text, where in (
                ('skip_layers: "conv"', "skip_layers"),
                ('skip_fusion_layers: "conv"', "skip_fusion_layers"),
                (override_layer("conv"), "override_layer_configs"),
                (tensor(name="conv"), "tensor_quantize[0]"),
            )
        ],
        *[
            (
                text,
                "Layer net/dynamic does not support quantization, its weights are not constant; remove it from "
                f"{where} of FILE",
            )
            for text, where in (
                ('skip_layers: "net/dynamic"', "skip_layers"),
                (override_layer("net/dynamic"), "override_layer_configs"),
            )
        ],
        (
            'skip_fusion_layers: "net/pool"',
            "Layer net/pool does not support fusion, AvgPool takes no batch norm; remove it from skip_fusion_layers of "
            "FILE",
        ),
        *[
            (
                text,
                f"Layer type Conv3D does not support quantize, but is named in {where} of FILE; did you mean 'Conv2D'?",
            )
            for text, where in (
                ('skip_layer_types: "Conv3D"', "skip_layer_types"),
                (override_type("Conv3D"), "override_layer_types"),
            )
        ],
        (
            'skip_layer_types: "LSTM"',
            "Layer type LSTM does not support quantize, but is named in skip_layer_types of FILE; those that do are "
            "Conv2D, DepthwiseConv2dNative, MatMul, AvgPool",
        ),
    ],
    ids=lambda value: value.strip()[:60],
)
def test_unknown_names(simplified, path, text, message):
    check(simplified, path, text, message)


@pytest.mark.parametrize(
    ("text", "where", "item"),
    [
        ('skip_layers: "net/fc" skip_layers: "net/fc"', "skip_layers", "net/fc"),
        ('skip_layer_types: "MatMul" skip_layer_types: "MatMul"', "skip_layer_types", "MatMul"),
        ('skip_fusion_layers: ["net/fc", "net/conv", "net/fc"]', "skip_fusion_layers", "net/fc"),
        (override_type("Conv2D") * 2, "override_layer_types", "Conv2D"),
        (override_layer("net/fc") * 2, "override_layer_configs", "net/fc"),
        (tensor() + tensor(index=1) + tensor("hfmg_quantize { }"), "tensor_quantize", "net/relu:0"),
    ],
    ids=["layers", "types", "fusion", "override_types", "override_layers", "tensors"],
)
def test_repeated(simplified, path, text, where, item):
    check(simplified, path, text, f"Please delete repeated items in {where} of FILE, repeated items are {item}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'skip_layers: ["net/conv", "net/pool", "net/fc", "net/logits"]',
            "Except skip_layers, no layer needs to quantize. Leave some layer out of skip_layers of FILE",
        ),
        (
            'skip_layer_types: ["Conv2D", "MatMul", "AvgPool"] skip_layers: "net/fc"',
            "Except skip_types, no type need to quantize. Leave some type out of skip_layer_types of FILE",
        ),
        (
            'skip_layer_types: ["Conv2D", "AvgPool"] skip_layers: "net/fc"',
            "Except skip_layers, no layer needs to quantize. Leave some layer out of skip_layers of FILE",
        ),
    ],
    ids=["layers", "types", "both"],
)
def test_no_layer_is_left(simplified, path, text, message):
    check(simplified, path, text, message)


def test_a_tensor_that_cannot_be_quantized(simplified, path):
    message = (
        "Input 7 of net/relu cannot be quantized, it has no input 7 that can be; remove it from tensor_quantize[0]"
    )
    check(simplified, path, tensor("hfmg_quantize { }", index=7), f"{message} of FILE")


OTHERS = {"tensor_reason": lambda name, index: None, "op_types": ["Conv2D"]}


def test_no_layer_in_the_graph(path):
    path.write_text("")
    with pytest.raises(AmctValueError, match=r"^No layer support quantization in the graph\. \(net/conv: why\)$"):
        simplified_config(path, {}, all_ops=["net/conv"], reasons={"net/conv": "why"}, **OTHERS)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("conv_calibration_config { }", "conv_calibration_config"),
        ("fc_calibration_config { }", "fc_calibration_config"),
        ("conv_calibration_config { } fc_calibration_config { }", "conv_calibration_config and fc_calibration_config"),
    ],
    ids=["conv", "fc", "both"],
)
def test_deprecated_fields_that_would_have_an_effect(simplified, path, text, names):
    check(
        simplified, path, text, f"FILE has the deprecated {names}; use common_config and override_layer_types instead"
    )


def test_a_layer_with_the_name_of_a_global_parameter(layers, path):
    path.write_text("")
    with pytest.raises(AmctValueError, match=r"^batch_num is a global parameter, can not be a layer name"):
        simplified_config(path, {"batch_num": layers["net/conv"]}, all_ops=["batch_num"], reasons={}, **OTHERS)
    path.write_text('skip_layers: "batch_num"')
    names = {"batch_num": layers["net/conv"], "net/fc": layers["net/fc"]}
    config = simplified_config(path, names, all_ops=list(names), reasons={}, **OTHERS)
    assert list(config.layers) == ["net/fc"]


@pytest.mark.parametrize("name", ["none.cfg", "."], ids=["missing", "folder"])
def test_unreadable(tmp_path, layers, graph, name):
    message = r"^config_defination .* cannot be read \(.*\); correct the path, or pass None for the defaults$"
    with pytest.raises(AmctRuntimeError, match=message):
        simplified_config(tmp_path / name, layers, **graph, **OTHERS)
