"""Reading the file of a simplified configuration."""

from __future__ import annotations

import os
import re
from typing import Any

from google.protobuf import text_format

from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.files import read_file
from amct_tensorflow.log import LOGGER
from amct_tensorflow.proto import simplified_config_message


def read_simplified(path: str | os.PathLike[str], source: str) -> Any:
    """Reads a simplified configuration, protobuf text format.

    Args:
        path: the file.
        source: the file in words, for the messages.

    Returns:
        The AMCTConfig, complete and without the fields that are not supported yet.

    Raises:
        AmctRuntimeError: the file cannot be read.
        AmctValueError: it cannot be parsed, a required field is missing, or a field is not supported.
    """
    content = read_file(path, kind="config_defination", remedy="correct the path, or pass None for the defaults")
    try:
        config = text_format.Parse(content.decode("utf-8-sig"), simplified_config_message()())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise AmctValueError(
            f"{source} cannot be parsed, line:column and reason: {_reason(error)}; correct it"
        ) from error
    if config.HasField("nuq_config"):
        raise AmctValueError(f"nuq_config in {source} is not supported yet; remove it")
    missing = config.FindInitializationErrors()
    if missing:
        raise AmctValueError(f"{', '.join(missing)} is missing in {source}; add it")
    _check_deprecated(config, source)
    if config.skip_approximation_layers:
        _warn(f"skip_approximation_layers in {source} has no effect here, because no operation is approximated")
    return config


def _reason(error: Exception) -> str:
    """Returns what protobuf says, and the legal values, of which it says nothing."""
    reason = str(error).rstrip(".")
    found = re.search(r'Enum type "(?P<name>[\w.]+)" has no value ', reason)
    if found is None:
        return reason
    values = simplified_config_message().DESCRIPTOR.file.pool.FindEnumTypeByName(found["name"]).values
    quotes = ", without quotes" if 'no value named "' in reason else ""
    return f"{reason}: it must be {' or '.join(value.name for value in values)}{quotes}"


def _check_deprecated(config: Any, source: str) -> None:
    """Warns of the fields that `common_config` and `override_layer_types` took the place of, or refuses them.

    As the vendor's tool does, beside the former or any override they are ignored. On their own they would have an
    effect.
    """
    given = [name for name in ("conv_calibration_config", "fc_calibration_config") if config.HasField(name)]
    if not given:
        return
    names = " and ".join(given)
    if not (config.HasField("common_config") or config.override_layer_types or config.override_layer_configs):
        raise AmctValueError(f"{source} has the deprecated {names}; use common_config and override_layer_types instead")
    _warn(f"{source} has the deprecated {names}, ignored because common_config or an override exists")


def _warn(message: str) -> None:
    LOGGER.push_warning_message(message, "create_quant_config")
