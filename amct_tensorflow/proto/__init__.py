"""The protobuf messages of record files and simplified configurations, made at run time from a descriptor set.

There is no generated ``_pb2`` code that could disagree with the protobuf release beside TensorFlow, and the
messages live in a pool of their own, so that another package with the same .proto files does not clash.
"""

from __future__ import annotations

import functools
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from amct_tensorflow.errors import AmctRuntimeError
from amct_tensorflow.proto import compile as _compile

__all__ = ["record_message", "simplified_config_message"]


def record_message() -> type[Any]:
    """Returns the class of the whole record file, ``InnerScaleOffsetRecord``.

    It is a superset of ``ScaleOffsetRecord``, the form that users write for convert_model, and reads both.

    Raises:
        AmctRuntimeError: the compiled descriptor set is missing and cannot be made here.
    """
    return _message("InnerScaleOffsetRecord")


def simplified_config_message() -> type[Any]:
    """Returns the class of a whole simplified configuration, ``AMCTConfig``.

    Raises:
        AmctRuntimeError: the compiled descriptor set is missing and cannot be made here.
    """
    return _message("AMCTConfig")


@functools.cache
def _message(name: str) -> type[Any]:
    message: type[Any] = message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"AMCTTensorflow.{name}"))
    return message


@functools.cache
def _pool() -> descriptor_pool.DescriptorPool:
    """Returns the private pool with every message of the .proto files."""
    pool = descriptor_pool.DescriptorPool()
    # protoc writes imported files first, the order in which a pool wants them.
    for file in descriptor_pb2.FileDescriptorSet.FromString(_descriptor_set()).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


def _descriptor_set() -> bytes:
    """Returns the compiled .proto files, compiling them first in a source tree where that is still to be done."""
    path = _compile.descriptor_set()
    try:
        if not path.exists():
            _compile.compile_protos()
        return path.read_bytes()
    except (OSError, RuntimeError) as error:
        raise AmctRuntimeError(
            f"the compiled protobuf messages {path} are missing and cannot be made, "
            f"{error}; run 'pip install --force-reinstall --no-deps .' in the source tree of amct_tensorflow"
        ) from error
