from __future__ import annotations

import json
from dataclasses import replace

import pytest

from amct_tensorflow.config import BnUpdateConfig, HfmgParams, LayerTraits, default_config, read_config, write_config
from amct_tensorflow.errors import AmctRuntimeError

CONV = LayerTraits("Conv2D", has_weights=True, channel_wise=True, fusable=True)
POOL = LayerTraits("AvgPool", has_weights=False, channel_wise=False, fusable=False)
LAYERS = {"net/conv": CONV, "a_pool": POOL}
GRAPH = {"all_ops": list(LAYERS), "reasons": {}}


def no_reason(name, index):
    return None


# Layout and order of the keys are those of the vendor's config.json; target, shift_n, weight_rounding and
# bias_correction are our own.
GOLDEN = """\
{
    "version":1,
    "batch_num":2,
    "target":"ascend",
    "activation_offset":true,
    "joint_quant":false,
    "shift_n":true,
    "do_fusion":true,
    "weight_rounding":"compensated",
    "bias_correction":true,
    "skip_fusion_layers":[],
    "net/conv":{
        "quant_enable":true,
        "activation_quant_params":{
            "num_bits":8,
            "act_algo":"ifmr",
            "max_percentile":0.999999,
            "min_percentile":0.999999,
            "search_range":[
                0.7,
                1.3
            ],
            "search_step":0.01
        },
        "weight_quant_params":{
            "num_bits":8,
            "wts_algo":"arq_quantize",
            "channel_wise":true
        }
    },
    "a_pool":{
        "quant_enable":true,
        "activation_quant_params":{
            "num_bits":8,
            "act_algo":"ifmr",
            "max_percentile":0.999999,
            "min_percentile":0.999999,
            "search_range":[
                0.7,
                1.3
            ],
            "search_step":0.01
        }
    }
}"""


def test_golden(tmp_path):
    write_config(tmp_path / "config.json", default_config(LAYERS, **GRAPH, batch_num=2))
    assert (tmp_path / "config.json").read_bytes() == GOLDEN.encode()


def changed_config():
    config = default_config(LAYERS, **GRAPH, batch_num=3, activation_offset=False)
    conv = config.layers["net/conv"]
    conv = replace(
        conv,
        activation=replace(conv.activation, search_range=(0.8, 1.2), asymmetric=True),
        weights=replace(conv.weights, channel_wise=False),
    )
    layers = {"net/conv": conv, "a_pool": replace(config.layers["a_pool"], quant_enable=False)}
    return replace(config, shift_n=False, do_fusion=False, skip_fusion_layers=("net/conv",), layers=layers)


def test_what_was_written_is_read_again(tmp_path):
    path = tmp_path / "config.json"
    write_config(path, changed_config())
    assert read_config(path, LAYERS, **GRAPH, tensor_reason=no_reason) == changed_config()


def test_asymmetric_is_written_where_it_differs(tmp_path):
    write_config(tmp_path / "config.json", changed_config())
    assert (tmp_path / "config.json").read_text().count('"asymmetric":true') == 1


ROUNDING = {"weight_rounding": ("compensated", "nearest"), "bias_correction": (True, False)}


@pytest.mark.parametrize("of_layer", [0, 1], ids=["layer_usual", "layer_other"])
@pytest.mark.parametrize("of_all", [0, 1], ids=["global_usual", "global_other"])
@pytest.mark.parametrize("field", ROUNDING)
def test_rounding_of_a_layer_is_written_where_it_differs(tmp_path, field, of_all, of_layer):
    values = ROUNDING[field]
    config = default_config(LAYERS, **GRAPH)
    conv = config.layers["net/conv"]
    conv = replace(conv, weights=replace(conv.weights, **{field: values[of_layer]}))
    config = replace(config, **{field: values[of_all]}, layers={**config.layers, "net/conv": conv})
    path = tmp_path / "config.json"
    write_config(path, config)
    document = json.loads(path.read_text())
    of_weights = {"num_bits": 8, "wts_algo": "arq_quantize", "channel_wise": True}
    expected = of_weights if of_layer == of_all else {**of_weights, field: values[of_layer]}
    assert (document[field], document["net/conv"]["weight_quant_params"]) == (values[of_all], expected)
    assert read_config(path, LAYERS, **GRAPH, tensor_reason=no_reason) == config


GOLDEN_DMQ = """\
    "skip_fusion_layers":[],
    "net/conv":{
        "quant_enable":true,
        "dmq_balancer_param":0.5,
        "activation_quant_params":{
            "num_bits":8,
            "act_algo":"hfmg",
            "num_of_bins":1024
        },
        "weight_quant_params":{
"""


def test_hfmg_and_dmq(tmp_path):
    config = default_config(LAYERS, **GRAPH)
    conv = replace(
        config.layers["net/conv"],
        activation=HfmgParams(8, "hfmg", 1024, asymmetric=True),
        dmq_balancer_param=0.5,
    )
    config = replace(config, layers={**config.layers, "net/conv": conv})
    path = tmp_path / "config.json"
    write_config(path, config)
    assert GOLDEN_DMQ in path.read_text()
    assert read_config(path, LAYERS, **GRAPH, tensor_reason=no_reason) == config


GOLDEN_UPDATE = """\
    "skip_fusion_layers":[],
    "update_bn":true,
    "bn_update_config":{
        "bn_update_iterations":7,
        "bn_moving_average_fraction":0.9%s
    },
    "net/conv":{
"""


@pytest.mark.parametrize(("folder", "line"), [(None, ""), ("dump", ',\n        "bn_dump_dir":"dump"')])
def test_new_statistics(tmp_path, folder, line):
    update = BnUpdateConfig(7, 0.9, folder)
    config = replace(default_config(LAYERS, **GRAPH), update_bn=True, bn_update_config=update)
    path = tmp_path / "config.json"
    write_config(path, config)
    assert GOLDEN_UPDATE % line in path.read_text()
    assert read_config(path, LAYERS, **GRAPH, tensor_reason=no_reason) == config


def test_layer_names_are_utf8(tmp_path):
    path = tmp_path / "config.json"
    layers = {"层/conv": CONV}
    write_config(path, default_config(layers, all_ops=list(layers), reasons={}))
    assert "层/conv".encode() in path.read_bytes()
    read = read_config(path, layers, all_ops=list(layers), reasons={}, tensor_reason=no_reason)
    assert list(read.layers) == ["层/conv"]


def test_parent_directories_are_created_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "new" / "deeper" / "config.json"
    for batch_num in (1, 2):
        write_config(path, default_config(LAYERS, **GRAPH, batch_num=batch_num))
    assert '"batch_num":2' in path.read_text()
    assert [entry.name for entry in path.parent.iterdir()] == ["config.json"]


def test_a_relative_path_without_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_config("config.json", default_config(LAYERS, **GRAPH))
    assert (tmp_path / "config.json").is_file()


def test_a_symbolic_link_is_followed(tmp_path):
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    write_config(tmp_path / "link.json", default_config(LAYERS, **GRAPH))
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").is_file()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    path.write_text("old")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full_disk)
    with pytest.raises(AmctRuntimeError, match=r"config\.json cannot be written \(No space left on device\)"):
        write_config(path, default_config(LAYERS, **GRAPH))
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("name", ["", "file/config.json"], ids=["a_directory", "below_a_file"])
def test_unwritable_path(tmp_path, name):
    (tmp_path / "file").write_text("")
    path = tmp_path / name
    with pytest.raises(AmctRuntimeError) as caught:
        write_config(path, default_config(LAYERS, **GRAPH))
    assert str(caught.value).startswith(f"config file {path} cannot be written")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
