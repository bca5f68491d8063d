"""The protobuf messages of the record file, made at run time from the descriptor set `amct.desc`.

There is no generated ``_pb2`` code that could disagree with the protobuf release beside TensorFlow, and the
messages live in a pool of their own, so that another package with the same .proto files does not clash.
"""

from __future__ import annotations

import functools
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from amct_tensorflow.errors import AmctRuntimeError
from amct_tensorflow.proto import compile as _compile

__all__ = ["record_message"]


@functools.cache
def record_message() -> type[Any]:
    """Returns the class of the whole record file, ``InnerScaleOffsetRecord``.

    It is a superset of ``ScaleOffsetRecord``, the form that users write for convert_model, and reads both.

    Raises:
        AmctRuntimeError: the compiled descriptor set is missing and cannot be made here.
    """
    name = "AMCTTensorflow.InnerScaleOffsetRecord"
    message: type[Any] = message_factory.GetMessageClass(_pool().FindMessageTypeByName(name))
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
    """Returns the content of `amct.desc`, compiling it first in a source tree that was never built."""
    try:
        if not _compile.DESCRIPTOR_SET.exists():
            _compile.compile_protos()
        return _compile.DESCRIPTOR_SET.read_bytes()
    except (OSError, RuntimeError) as error:
        raise AmctRuntimeError(
            f"the compiled protobuf messages {_compile.DESCRIPTOR_SET} are missing and cannot be made, "
            f"{error}; run 'pip install --force-reinstall --no-deps .' in the source tree of amct_tensorflow"
        ) from error
