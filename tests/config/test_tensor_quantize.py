"""Inputs of single ops to quantize, in both forms of the configuration, and layers that must be symmetric."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from amct_tensorflow.config import (
    HfmgParams,
    IfmrParams,
    LayerTraits,
    TensorConfig,
    default_activation,
    default_config,
    read_config,
    write_config,
)

ITEM = {"layer_name": "net/relu", "input_index": 1}


def test_defaults(read):
    config = read({"tensor_quantize": [ITEM], "net/conv": {}})
    assert config.tensor_quantize == (TensorConfig("net/relu", 1, default_activation(True)),)


@pytest.mark.parametrize("offset", [True, False])
def test_it_follows_activation_offset_unless_it_says_otherwise(read, offset):
    items = [ITEM, {**ITEM, "input_index": 0, "activation_quant_params": {"asymmetric": not offset}}]
    config = read({"tensor_quantize": items, "activation_offset": offset, "net/conv": {}})
    assert [item.activation.asymmetric for item in config.tensor_quantize] == [offset, not offset]


def test_simplified(simplified):
    config = simplified(
        'tensor_quantize { layer_name: "net/relu" input_index: 0 ifmr_quantize { search_step: 0.02 } }'
        'tensor_quantize { layer_name: "net/relu" input_index: 1 hfmg_quantize { num_of_bins: 1024 } }'
        "joint_quant: true"
    )
    ifmr, hfmg = (item.activation for item in config.tensor_quantize)
    assert isinstance(ifmr, IfmrParams) and ifmr.search_step == 0.02
    assert isinstance(hfmg, HfmgParams) and hfmg.num_of_bins == 1024
    assert config.joint_quant


def test_what_was_written_is_read_again(tmp_path, layers, graph):
    items = (
        TensorConfig("net/relu", 0, HfmgParams(8, "hfmg", 2048, False)),
        TensorConfig("net/relu", 1, default_activation(True)),
    )
    config = replace(default_config(layers, **graph), tensor_quantize=items, joint_quant=True)
    write_config(tmp_path / "config.json", config)
    document = json.loads((tmp_path / "config.json").read_text())
    assert list(document).index("tensor_quantize") < list(document).index("net/conv")
    assert document["tensor_quantize"][0]["activation_quant_params"] == {
        "num_bits": 8,
        "act_algo": "hfmg",
        "num_of_bins": 2048,
        "asymmetric": False,
    }
    assert read_config(tmp_path / "config.json", layers, **graph, tensor_reason=lambda name, index: None) == config


PRODUCT = {
    "product": LayerTraits(
        "BatchMatMulV2",
        has_weights=False,
        channel_wise=False,
        fusable=False,
        symmetric=True,
    )
}


@pytest.mark.parametrize("offset", [True, False])
def test_a_symmetric_layer_does_not_follow_activation_offset(offset):
    config = default_config(PRODUCT, all_ops=["product"], reasons={}, activation_offset=offset)
    assert config.layers["product"].activation.asymmetric is False


def test_a_symmetric_layer_stays_so(tmp_path, logged):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"product": {"activation_quant_params": {"asymmetric": True}}}))
    config = read_config(path, PRODUCT, all_ops=["product"], reasons={}, tensor_reason=lambda name, index: None)
    assert config.layers["product"].activation.asymmetric is False
    assert len(logged) == 1 and logged[0].startswith(
        "asymmetric true in activation_quant_params of layer product of config file"
    )
    assert logged[0].endswith("has no effect: both inputs of a BatchMatMulV2 are quantized symmetrically")
