"""The command inspect."""

from __future__ import annotations

from absl.flags import FlagValues
from rich.console import Console
from rich.table import Table
from rich.text import Text

from amct_tensorflow import progress
from amct_tensorflow.inspect_model import InputReport, LayerReport, ModelReport, Shape, inspect_model
from amct_tensorflow_cli.calibration import screen
from amct_tensorflow_cli.values import output_list

_KINDS = {
    "float": "a float model",
    "fake-quantized": "a model with fake-quant nodes: use the command convert",
    "calibration": "a calibration graph: start from the float model",
    "quantized": "a quantized model already",
}
# Wide enough for any name where there is no terminal: files and pipes have no edge.
_PIPE_WIDTH = 10_000
_BATCH = 32


def run(options: FlagValues) -> None:
    """Runs the command."""
    with screen(options.verbose):
        with progress.status(f"reading {options.model}"):
            outputs = None if options.outputs is None else output_list(options.outputs)
            report = inspect_model(options.model, outputs)
        console = Console(highlight=False)
        if not console.is_terminal:
            console = Console(highlight=False, width=_PIPE_WIDTH)
        console.print(_table(report.layers))
        for line in _totals(report):
            console.print(Text(line), soft_wrap=True)


def _table(layers: tuple[LayerReport, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("layer", "type", "weights (or output)", "int8", "batch norm"):
        table.add_column(heading, overflow="fold")
    for layer in layers:
        table.add_row(
            Text(layer.name),
            Text(layer.op_type),
            Text(_dimensions(layer)),
            Text(_int8(layer), style="" if layer.reason is None else "yellow"),
            Text(_batch_norm(layer), style="yellow" if layer.unfused_because else ""),
        )
    return table


def _int8(layer: LayerReport) -> str:
    if layer.quantized:
        return "is quantized"
    return "yes" if layer.reason is None else f"no: {layer.reason}"


def _batch_norm(layer: LayerReport) -> str:
    if layer.unfused_because is not None:
        return f"stays: {layer.unfused_because}"
    return "folded" if layer.batch_norm is not None else ""


def _dimensions(layer: LayerReport) -> str:
    if layer.weight_shape is not None:
        return _times(layer.weight_shape)
    return "" if layer.output_shape is None else f"({_times(layer.output_shape)})"


def _times(shape: Shape) -> str:
    return "×".join("?" if size is None else str(size) for size in shape)


def _totals(report: ModelReport) -> list[str]:
    layers = report.layers
    quantizable = sum(layer.quantizable for layer in layers)
    folded = sum(layer.batch_norm is not None for layer in layers)
    lines = [
        "",
        f"{report.model} is {_KINDS[report.kind]}, with {report.op_count} ops.",
        f"{quantizable} of {len(layers)} layers can be quantized; {folded} batch norms are folded into them.",
    ]
    if report.kind != "float":
        lines.append(f"{sum(layer.quantized for layer in layers)} layers are quantized already.")
    if report.kind == "float" and quantizable:
        lines += ["", "To quantize it, give the command calibration these options and your data:"]
        lines.append(f'  --outputs "{";".join(report.outputs)}"')
        lines.append(f'  --input_shape "{";".join(map(_input, report.inputs))}"')
    return lines


def _input(placeholder: InputReport) -> str:
    if placeholder.shape is None:
        return f"{placeholder.name.removesuffix(':0')}:?"
    sizes = [_BATCH if at == 0 and size is None else size for at, size in enumerate(placeholder.shape)]
    return f"{placeholder.name.removesuffix(':0')}:{','.join('?' if size is None else str(size) for size in sizes)}"
