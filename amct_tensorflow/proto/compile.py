"""Compiles the .proto files of this folder into one descriptor set, `amct-<digest>.desc`.

setup.py loads this file by its path while the package is not importable yet, so it imports nothing of it.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def descriptor_set() -> Path:
    """Returns the path of the descriptor set; its name carries a digest of the .proto files.

    One that was compiled from other .proto files is thus never picked up by mistake.
    """
    digest = hashlib.sha256()
    for path in sorted(FOLDER.glob("*.proto")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return FOLDER / f"amct-{digest.hexdigest()[:12]}.desc"


def compile_protos(output: Path | None = None) -> Path:
    """Writes the descriptor set of all .proto files of this folder, imports included.

    A descriptor set is data, unlike generated ``_pb2`` code, which runs only with the protobuf release that
    it was generated for or a later one. The file appears under its name when it is complete, so that several
    processes may compile at once.

    Args:
        output: the file to write. If not given it is `descriptor_set`, and those of other .proto files are removed.

    Returns:
        The path of the file written.

    Raises:
        RuntimeError: grpcio-tools is not installed or protoc refused a file; the message quotes it.
        OSError: `output` cannot be written.
    """
    if output is None:
        output = compile_protos(descriptor_set())
        for stale in set(FOLDER.glob("amct*.desc")) - {output}:
            stale.unlink(missing_ok=True)
        return output
    protos = sorted(path.name for path in FOLDER.glob("*.proto"))
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".amct_desc_") as scratch:
        unfinished = Path(scratch, output.name)
        # In a process of its own: protoc and TensorFlow each bring a copy of the protobuf C++ library.
        command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={FOLDER}", "--include_imports"]
        command += [f"--descriptor_set_out={unfinished}", *protos]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"protoc could not compile {', '.join(protos)}: {done.stderr.strip()}")
        os.replace(unfinished, output)
    return output
