"""Which layers of an exported model a runtime computes in int8, and why not the others."""

from __future__ import annotations

import dataclasses

from amct_tensorflow.log import LOGGER


@dataclasses.dataclass(frozen=True)
class ExportedLayer:
    """A layer of an exported model.

    Attributes:
        name: its name in the TensorFlow graph.
        op_type: its type there.
        reason: why the runtime computes it in float; None if it does so in int8.
    """

    name: str
    op_type: str
    reason: str | None = None


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What an export did.

    Attributes:
        runtime: the runtime that the files are for.
        files: the paths of the files that were written.
        layers: the quantized layers of the model, in graph order.
        inputs: how the inputs are called in the file.
        outputs: how the outputs are called in the file, in the order in which they were named.
    """

    runtime: str
    files: tuple[str, ...]
    layers: tuple[ExportedLayer, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def in_float(self) -> list[ExportedLayer]:
        """The layers that the runtime computes in float."""
        return [layer for layer in self.layers if layer.reason is not None]


def log_report(report: ExportReport, module: str) -> None:
    """Logs a line for each layer, and how many of them there are."""
    for layer in report.layers:
        how = "int8" if layer.reason is None else f"left float because {layer.reason}"
        LOGGER.push_info_message(f"{layer.op_type} {layer.name}: {how}", module)
    total = len(report.layers)
    in_int8 = total - len(report.in_float)
    LOGGER.push_info_message(f"{in_int8} of {total} quantized layers run in int8 in {report.runtime}", module)
