"""The job create_quant_config."""

from __future__ import annotations

import tensorflow as tf

from amct_tensorflow.arguments import check_file_path, check_types
from amct_tensorflow.config import default_config, write_config
from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.files import warn_if_exists
from amct_tensorflow.inventory import Inventory
from amct_tensorflow.log import LOGGER

_MODULE = "create_quant_config"


@check_types(config_file=str, graph=tf.Graph, skip_layers=(list, tuple), activation_offset=bool, config_defination=str)
def create_quant_config(
    config_file: str,
    graph: tf.Graph,
    skip_layers: list[str] | None = None,
    batch_num: int = 1,
    activation_offset: bool = True,
    config_defination: str | None = None,
) -> None:
    """Writes the quantization configuration of a graph, with an entry for every quantizable layer.

    Args:
        config_file: path of the JSON file to write; folders are made, an existing file is overwritten.
        graph: the graph to scan; not changed.
        skip_layers: names of layers to leave in float; they get no entry.
        batch_num: number of calibration runs, above 0. batch_num times the batch size should be 16 to 32 images.
        activation_offset: whether activations are quantized asymmetrically.
        config_defination: path of a simplified configuration; not supported yet.

    Raises:
        AmctTypeError: an argument has the wrong type.
        AmctValueError: an argument is out of range, a name in skip_layers is unknown, not quantizable or repeated,
            no layer is left to quantize, or the graph is already quantized.
        AmctRuntimeError: config_file cannot be written.
    """
    check_file_path(config_file, "config_file")
    if config_defination is not None:
        raise AmctValueError(
            f"config_defination '{config_defination}': simplified configurations are not supported yet, pass "
            "None and edit the config_file that is written"
        )
    inventory = Inventory.of(graph)
    config = default_config(
        inventory.traits,
        all_ops=inventory.all_ops,
        reasons=inventory.reasons,
        skip_layers=skip_layers,
        batch_num=batch_num,
        activation_offset=activation_offset,
    )
    warn_if_exists(config_file, _MODULE)
    write_config(config_file, config)
    LOGGER.push_info_message(
        f"{config_file} is written: {len(config.layers)} layers to quantize, batch_num {config.batch_num}",
        _MODULE,
    )
