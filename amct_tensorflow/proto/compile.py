"""Compiles the .proto files of this folder into one descriptor set, `amct.desc`.

setup.py loads this file by its path while the package is not importable yet, so it imports nothing of it.
``python amct_tensorflow/proto/compile.py`` does the same by hand, after a .proto file was edited.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
DESCRIPTOR_SET = FOLDER / "amct.desc"


def compile_protos(output: Path | None = None) -> Path:
    """Writes the descriptor set of all .proto files of this folder, imports included.

    A descriptor set is data, unlike generated ``_pb2`` code, which runs only with the protobuf release that
    it was generated for or a later one. The file appears under its name when it is complete, so that several
    processes may compile at once.

    Args:
        output: the file to write; `amct.desc` beside the .proto files if not given.

    Returns:
        The path of the file written.

    Raises:
        RuntimeError: grpcio-tools is not installed or protoc refused a file; the message quotes it.
        OSError: `output` cannot be written.
    """
    output = DESCRIPTOR_SET if output is None else output
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


if __name__ == "__main__":
    print(compile_protos())
