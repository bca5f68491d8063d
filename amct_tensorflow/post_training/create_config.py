"""The job create_quant_config."""

from __future__ import annotations

import os

import tensorflow as tf

from amct_tensorflow.arguments import check_file_path, check_types
from amct_tensorflow.config import QuantConfig, default_config, simplified_config, write_config
from amct_tensorflow.config.fields import ASCEND
from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.files import warn_if_exists
from amct_tensorflow.inventory import Inventory
from amct_tensorflow.layers import quantizable_types
from amct_tensorflow.log import LOGGER

_MODULE = "create_quant_config"


@check_types(
    config_file=str,
    graph=tf.Graph,
    skip_layers=(list, tuple),
    batch_num=int,
    activation_offset=bool,
    config_defination=str,
    target=str,
)
def create_quant_config(
    config_file: str,
    graph: tf.Graph,
    skip_layers: list[str] | None = None,
    batch_num: int = 1,
    activation_offset: bool = True,
    config_defination: str | None = None,
    target: str = ASCEND,
) -> None:
    """Writes the quantization configuration of a graph, with an entry for every quantizable layer.

    Args:
        config_file: path of the JSON file to write; folders are made, an existing file is overwritten.
        graph: the graph to scan; not changed.
        skip_layers: names of layers to leave in float; they get no entry.
        batch_num: number of calibration runs, above 0. batch_num times the batch size should be 16 to 32 images.
        activation_offset: whether activations are quantized asymmetrically.
        config_defination: path of a simplified configuration, protobuf text of the message AMCTConfig in
            proto/calibration_config_tf.proto. It says everything, so skip_layers, batch_num, activation_offset and
            target are ignored beside it.
        target: what will run the int8 model: ``ascend``, or ``onnxruntime``, for which the inputs of the additions
            behind convolutions are quantized, too, and no shifts are searched.

    Raises:
        AmctTypeError: an argument has the wrong type.
        AmctValueError: an argument is out of range, a name in skip_layers is unknown, not quantizable or repeated,
            config_defination says something wrong or not supported yet, no layer is left to quantize, or the graph is
            already quantized.
        AmctRuntimeError: config_file cannot be written, or config_defination cannot be read.
    """
    check_file_path(config_file, "config_file")
    inventory = Inventory.of(graph)
    if config_defination is None:
        config = default_config(
            inventory.traits,
            all_ops=inventory.all_ops,
            reasons=inventory.reasons,
            skip_layers=skip_layers,
            batch_num=batch_num,
            activation_offset=activation_offset,
            target=target,
        )
    else:
        changed = {
            "skip_layers": bool(skip_layers),
            "batch_num": batch_num != 1,
            "activation_offset": not activation_offset,
            "target": target != ASCEND,
        }
        _check_beside_simplified(config_defination, config_file, [name for name, is_set in changed.items() if is_set])
        config = simplified_config_of(inventory, config_defination)
    warn_if_exists(config_file, _MODULE)
    write_config(config_file, config)
    LOGGER.push_info_message(
        f"{config_file} is written: {len(config.layers)} layers to quantize, batch_num {config.batch_num}",
        _MODULE,
    )


def simplified_config_of(inventory: Inventory, config_defination: str) -> QuantConfig:
    """Reads a simplified configuration for the graph behind the inventory."""
    return simplified_config(
        config_defination,
        inventory.traits,
        all_ops=inventory.all_ops,
        reasons=inventory.reasons,
        tensor_reason=inventory.reason_against_tensor,
        op_types=quantizable_types(),
    )


def _check_beside_simplified(config_defination: str, config_file: str, ignored: list[str]) -> None:
    """Checks the other arguments that are given with a simplified configuration."""
    check_file_path(config_defination, "config_defination")
    if os.path.realpath(config_defination) == os.path.realpath(config_file):
        raise AmctValueError(
            f"config_defination and config_file are both {config_file}: config.json would overwrite it, "
            "give another config_file"
        )
    if ignored:
        LOGGER.push_warning_message(
            f"{', '.join(ignored)}: ignored beside config_defination; set it in {config_defination}",
            _MODULE,
        )
