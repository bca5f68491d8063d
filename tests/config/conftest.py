"""A small graph, and reading a config.json for it."""

from __future__ import annotations

import json

import pytest

from amct_tensorflow.config import LayerTraits, QuantConfig, read_config, simplified_config
from amct_tensorflow.log import LOGGER

CONV = LayerTraits("Conv2D", has_weights=True, channel_wise=True, fusable=True)
LOGITS = LayerTraits("Conv2D", has_weights=True, channel_wise=False, fusable=True, one_scale=True)
MATMUL = LayerTraits("MatMul", has_weights=True, channel_wise=False, fusable=True)
POOL = LayerTraits("AvgPool", has_weights=False, channel_wise=False, fusable=False)
LAYERS = {"net/conv": CONV, "net/pool": POOL, "net/fc": MATMUL, "net/logits": LOGITS}


def tensor_reason(name: str, index: int) -> str | None:
    """Which single inputs can be quantized: two of one op."""
    return None if name == "net/relu" and index < 2 else f"it has no input {index} that can be"


@pytest.fixture
def layers() -> dict[str, LayerTraits]:
    """The quantizable layers: one of each kind, `net/logits` feeding Softmax."""
    return LAYERS


@pytest.fixture
def graph() -> dict:
    """What else the functions want to know of the graph."""
    return {
        "all_ops": [*LAYERS, "net/relu", "net/dynamic"],
        "reasons": {"net/dynamic": "its weights are not constant"},
    }


@pytest.fixture
def read(tmp_path, graph):
    """Reads a config.json with this content: a document, or text as it is."""

    def read_content(content) -> QuantConfig:
        path = tmp_path / "config.json"
        text = content if isinstance(content, (str, bytes)) else json.dumps(content)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_config(path, LAYERS, **graph, tensor_reason=tensor_reason)

    return read_content


@pytest.fixture
def simplified(tmp_path, graph):
    """Applies a simplified configuration with this content to the small graph."""

    def apply(content: str | bytes) -> QuantConfig:
        path = tmp_path / "quant.cfg"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        op_types = ["Conv2D", "DepthwiseConv2dNative", "MatMul", "AvgPool"]
        return simplified_config(path, LAYERS, **graph, tensor_reason=tensor_reason, op_types=op_types)

    return apply


@pytest.fixture
def logged(monkeypatch) -> list[str]:
    """The warnings."""
    lines: list[str] = []
    monkeypatch.setattr(LOGGER, "push_warning_message", lambda message, module_name: lines.append(message))
    return lines
