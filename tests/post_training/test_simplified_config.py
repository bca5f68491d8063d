"""create_quant_config with a simplified configuration."""

from __future__ import annotations

import json

import pytest
from small_graphs import CONV_NET_LAYERS, conv_net

import amct_tensorflow as amct
from amct_tensorflow.errors import AmctRuntimeError, AmctTypeError, AmctValueError
from amct_tensorflow.log import LOGGER


@pytest.fixture(scope="module")
def graph():
    return conv_net()


@pytest.fixture
def create(tmp_path, graph):
    """Calls create_quant_config with a configuration of this text; returns config.json."""

    def call(text: str, **arguments: object) -> dict:
        (tmp_path / "quant.cfg").write_text(text)
        config_file = tmp_path / "out" / "config.json"
        amct.create_quant_config(str(config_file), graph, config_defination=str(tmp_path / "quant.cfg"), **arguments)
        return json.loads(config_file.read_text())

    return call


@pytest.fixture
def logged(monkeypatch) -> list[str]:
    """The warnings."""
    lines: list[str] = []
    monkeypatch.setattr(LOGGER, "push_warning_message", lambda message, module_name: lines.append(message))
    return lines


def test_an_empty_one_gives_the_defaults_to_the_byte(create, graph, tmp_path):
    create("")
    amct.create_quant_config(str(tmp_path / "default.json"), graph)
    assert (tmp_path / "out" / "config.json").read_bytes() == (tmp_path / "default.json").read_bytes()


def test_every_part(create):
    document = create("""
        batch_num: 4
        activation_offset: false
        do_fusion: false
        weight_rounding: nearest
        skip_layers: "head/pool"
        skip_fusion_layers: "block/conv"
        common_config { hfmg_quantize { } arq_quantize { channel_wise: true bias_correction: false } }
        override_layer_types {
          layer_type: "Conv2D"
          calibration_config { hfmg_quantize { num_of_bins: 1024 asymmetric: true } dmq_balancer { } }
        }
        override_layer_configs {
          layer_name: "head/fc"
          calibration_config { ifmr_quantize { search_range_start: 0.6 search_step: 0.05 } }
        }
    """)
    assert list(document)[-2:] == ["block/conv", "head/fc"]
    assert document == {
        "version": 1,
        "batch_num": 4,
        "target": "ascend",
        "activation_offset": False,
        "joint_quant": False,
        "shift_n": True,
        "do_fusion": False,
        "weight_rounding": "nearest",
        "bias_correction": True,
        "skip_fusion_layers": ["block/conv"],
        "block/conv": {
            "quant_enable": True,
            "dmq_balancer_param": 0.5,
            "activation_quant_params": {"num_bits": 8, "act_algo": "hfmg", "num_of_bins": 1024, "asymmetric": True},
            "weight_quant_params": {
                "num_bits": 8,
                "wts_algo": "arq_quantize",
                "channel_wise": True,
                "bias_correction": False,
            },
        },
        "head/fc": {
            "quant_enable": True,
            "activation_quant_params": {
                "num_bits": 8,
                "act_algo": "ifmr",
                "max_percentile": 0.999999,
                "min_percentile": 0.999999,
                "search_range": [0.6, 1.3],
                "search_step": 0.05,
            },
            "weight_quant_params": {
                "num_bits": 8,
                "wts_algo": "arq_quantize",
                "channel_wise": False,
                "bias_correction": False,
            },
        },
    }


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"skip_layers": ["head/fc"]}, "skip_layers"),
        ({"skip_layers": ["unknown"], "batch_num": 3}, "skip_layers, batch_num"),
        ({"activation_offset": False}, "activation_offset"),
        (
            {"skip_layers": ["head/fc"], "batch_num": 0, "activation_offset": False},
            "skip_layers, batch_num, activation_offset",
        ),
    ],
    ids=["skip_layers", "two", "activation_offset", "all"],
)
def test_other_arguments_are_ignored_with_a_warning(create, logged, tmp_path, arguments, names):
    document = create("batch_num: 2", **arguments)
    assert (document["batch_num"], document["activation_offset"]) == (2, True)
    assert list(document)[-3:] == CONV_NET_LAYERS
    assert logged == [f"{names}: ignored beside config_defination; set it in {tmp_path / 'quant.cfg'}"]


@pytest.mark.parametrize("arguments", [{}, {"skip_layers": []}, {"skip_layers": None, "batch_num": 1}], ids=str)
def test_no_warning_of_defaults(create, logged, arguments):
    create("", **arguments)
    assert logged == []


def test_types_of_the_table_that_the_graph_has_not(create):
    assert list(create('skip_layer_types: "DepthwiseConv2dNative"'))[-3:] == CONV_NET_LAYERS


def test_an_error_leaves_no_file(create, tmp_path):
    with pytest.raises(AmctValueError, match=r"^The batch_num must be .* in config_defination .*quant\.cfg$"):
        create("batch_num: 0")
    assert not (tmp_path / "out").exists()


def test_missing_file(graph, tmp_path):
    message = r"^config_defination .*none\.cfg cannot be read \(No such file or directory\); correct the path, or pass "
    with pytest.raises(AmctRuntimeError, match=message):
        amct.create_quant_config(str(tmp_path / "c.json"), graph, config_defination=str(tmp_path / "none.cfg"))
    assert not (tmp_path / "c.json").exists()


@pytest.mark.parametrize("name", ["", "."], ids=["empty", "folder"])
def test_not_a_file(graph, tmp_path, name):
    with pytest.raises(AmctValueError, match=r"^config_defination '\.?' is a folder or empty: give the path of a file"):
        amct.create_quant_config(str(tmp_path / "c.json"), graph, config_defination=name)


def test_not_a_path(graph, tmp_path):
    with pytest.raises(AmctTypeError, match="config_defination must be str, not int"):
        amct.create_quant_config(str(tmp_path / "c.json"), graph, config_defination=1)


def test_it_would_be_overwritten(graph, tmp_path):
    path = tmp_path / "quant.cfg"
    path.write_text("batch_num: 2")
    with pytest.raises(AmctValueError, match=r"^config_defination and config_file are both .*quant\.cfg: "):
        amct.create_quant_config(str(path), graph, config_defination=str(tmp_path / "." / "quant.cfg"))
    assert path.read_text() == "batch_num: 2"


def test_common_balancing_is_for_layers_with_weights(tmp_path, capsys):
    graph = conv_net()
    (tmp_path / "a.cfg").write_text("common_config { dmq_balancer { } }")
    amct.create_quant_config(str(tmp_path / "c.json"), graph, config_defination=str(tmp_path / "a.cfg"))
    written = json.loads((tmp_path / "c.json").read_text())
    assert [name for name in CONV_NET_LAYERS if "dmq_balancer_param" in written[name]] == ["block/conv", "head/fc"]
    assert "dmq_balancer_param" not in capsys.readouterr().err
