from __future__ import annotations

import pytest

from amct_tensorflow.config import (
    BnUpdateConfig,
    IfmrParams,
    LayerConfig,
    QuantConfig,
    WeightParams,
    default_config,
)
from amct_tensorflow.errors import AmctTypeError, AmctValueError


@pytest.fixture
def default(layers, graph):
    """Calls default_config for the small graph."""

    def call(**arguments) -> QuantConfig:
        return default_config(layers, **graph, **arguments)

    return call


def test_defaults(default):
    activation = IfmrParams(
        num_bits=8,
        act_algo="ifmr",
        max_percentile=0.999999,
        min_percentile=0.999999,
        search_range=(0.7, 1.3),
        search_step=0.01,
        asymmetric=True,
    )
    rounding = {"weight_rounding": "compensated", "bias_correction": True}
    assert default() == QuantConfig(
        version=1,
        batch_num=1,
        target="ascend",
        activation_offset=True,
        joint_quant=False,
        tensor_quantize=(),
        shift_n=True,
        do_fusion=True,
        **rounding,
        update_bn=False,
        bn_update_config=BnUpdateConfig(30, 0.5),
        skip_fusion_layers=(),
        layers={
            "net/conv": LayerConfig(True, activation, WeightParams(8, "arq_quantize", channel_wise=True, **rounding)),
            "net/pool": LayerConfig(True, activation, None),
            "net/fc": LayerConfig(True, activation, WeightParams(8, "arq_quantize", channel_wise=False, **rounding)),
            "net/logits": LayerConfig(
                True, activation, WeightParams(8, "arq_quantize", channel_wise=False, **rounding)
            ),
        },
    )


def test_arguments_are_taken(default):
    config = default(skip_layers=["net/pool"], batch_num=4, activation_offset=False, target="onnxruntime")
    assert (config.batch_num, config.activation_offset, config.target) == (4, False, "onnxruntime")
    assert list(config.layers) == ["net/conv", "net/fc", "net/logits"]
    assert not any(layer.activation.asymmetric for layer in config.layers.values())


@pytest.mark.parametrize("none", [None, [], ()], ids=repr)
def test_nothing_to_skip(default, layers, none):
    assert list(default(skip_layers=none).layers) == list(layers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"batch_num": True},
            "Type of batch_num should be an integer, but is bool True in create_quant_config",
        ),
        ({"batch_num": 1.0}, "Type of batch_num should be an integer, but is float"),
        ({"batch_num": "1"}, "Type of batch_num"),
        ({"activation_offset": 1}, "Type of activation_offset should be true or false, but is int 1"),
        ({"activation_offset": None}, "Type of activation_offset"),
        ({"skip_layers": "net/conv"}, "Type of skip_layers should be a list of strings, but is str"),
        ({"skip_layers": ["net/conv", 1]}, "Type of skip_layers should be a list of strings"),
    ],
    ids=str,
)
def test_wrong_type(default, arguments, message):
    with pytest.raises(AmctTypeError, match=message):
        default(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_num": 0}, "The batch_num must be greater than zero .*but is 0"),
        ({"batch_num": -1}, "The batch_num must be greater than zero"),
        ({"batch_num": 2**31}, "The batch_num must be .*at most 2147483647"),
        (
            {"skip_layers": ["conv"]},
            "Layer conv does not exist in the graph, .* skip_layers .*; did you mean 'net/conv'",
        ),
        ({"skip_layers": ["net/conv:0"]}, "Layer net/conv:0 .*did you mean 'net/conv'"),
        ({"skip_layers": ["xyz"]}, "Layer xyz does not exist in the graph, .* skip_layers .*; correct"),
        (
            {"skip_layers": ["net/dynamic"]},
            "Layer net/dynamic does not support quantization, its weights are not constant; remove",
        ),
        (
            {"skip_layers": ["net/relu"]},
            "Layer net/relu does not support quantization, operations of its type",
        ),
        (
            {"skip_layers": ["net/conv", "net/pool", "net/conv", "net/conv"]},
            "Please delete repeated items in skip_layers of .*, repeated items are net/conv$",
        ),
    ],
    ids=str,
)
def test_illegal_value(default, arguments, message):
    with pytest.raises(AmctValueError, match=message):
        default(**arguments)


def test_no_layer_is_left(default, layers):
    with pytest.raises(AmctValueError, match=r"^Except skip_layers, no layer needs to quantize\."):
        default(skip_layers=list(layers))


def test_no_layer_in_the_graph(graph):
    with pytest.raises(AmctValueError) as caught:
        default_config({}, **graph)
    message = "No layer support quantization in the graph. (net/dynamic: its weights are not constant)"
    assert str(caught.value) == message


def test_no_layer_and_no_reason():
    with pytest.raises(AmctValueError, match=r"^No layer support quantization in the graph\.$"):
        default_config({}, all_ops=[], reasons={})


def test_only_a_few_reasons_are_shown():
    reasons = {f"conv{index}": "why" for index in range(5)}
    with pytest.raises(AmctValueError, match=r"conv0: why; conv1: why; conv2: why; …\)$"):
        default_config({}, all_ops=list(reasons), reasons=reasons)
