"""The command inspect."""

from __future__ import annotations

import dataclasses

from absl.flags import FlagValues
from rich.console import Console
from rich.table import Table
from rich.text import Text

from amct_tensorflow import progress
from amct_tensorflow.analysis.inspect_model import LayerReport, ModelReport, Shape, inspect_model
from amct_tensorflow.analysis.run_times import BATCHES, run_times
from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.graph.sources import ModelSource
from amct_tensorflow.model import refuse_inputs, source_of
from amct_tensorflow_cli.calibration import screen
from amct_tensorflow_cli.int8_layers import print_int8_layers
from amct_tensorflow_cli.suggestions import closing_lines
from amct_tensorflow_cli.tables import WIDTH_FOR_TABLE, console_of_stdout
from amct_tensorflow_cli.values import output_list


def run(options: FlagValues) -> None:
    """Runs the command."""
    with screen(options.verbose):
        with progress.status(f"reading {options.model}"):
            outputs = None if options.outputs is None else output_list(options.outputs)
            source = source_of(options.model, options.signature)
            found = inspect_model(source, outputs)
            report = dataclasses.replace(found, model=options.model)
            refuse_inputs(report.outputs, [placeholder.name for placeholder in report.inputs])
        if options.time and report.kind != "quantized":
            raise AmctValueError(f"--time is for an int8 model, <save_path>_quantized.pb, and {options.model} is none")
        console = console_of_stdout()
        _print_layers(console, report)
        for line in closing_lines(report):
            console.print(Text(line), soft_wrap=True)
        if options.time:
            console.print()
            console.print(_times(source, outputs))


def _print_layers(console: Console, report: ModelReport) -> None:
    if report.kind == "quantized":
        print_int8_layers(console, report)
    elif report.kind == "exported":
        return  # what is left of its layers is in float on purpose
    elif console.width < WIDTH_FOR_TABLE:
        _print_lines(console, report.layers)
    elif report.layers:
        console.print(_table(report.layers, console.encoding))


def _table(layers: tuple[LayerReport, ...], encoding: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("layer", "type", "weights (or output)", "int8", "batch norm"):
        table.add_column(heading, overflow="fold")
    for layer in layers:
        table.add_row(
            Text(layer.name),
            Text(layer.op_type),
            Text(_dimensions(layer, encoding)),
            Text(_int8(layer), style=_style(layer.reason)),
            Text(_batch_norm(layer), style=_style(layer.unfused_because)),
        )
    return table


def _times(source: ModelSource, outputs: list[str] | None) -> Table:
    """Runs a model in all runtimes and returns how long it takes."""
    found = run_times(source, outputs, around=lambda runtime: progress.status(f"timing {runtime}"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("runtime")
    for batch in BATCHES:
        table.add_column(f"batch {batch}", justify="right")
    table.add_column("", overflow="fold")
    for line in found:
        times = [f"{line.milliseconds[batch]:.2f} ms" if line.milliseconds else "" for batch in BATCHES]
        table.add_row(line.runtime, *times, line.reason or "")
    return table


def _print_lines(console: Console, layers: tuple[LayerReport, ...]) -> None:
    """Prints the layers without a table; the terminal wraps long lines, so that names can be copied."""
    for layer in layers:
        console.print(Text(layer.name), soft_wrap=True)
        facts = Text(f"  {layer.op_type}  {_dimensions(layer, console.encoding)}  int8: ")
        facts.append(_int8(layer), _style(layer.reason))
        if _batch_norm(layer):
            facts.append("  batch norm: ").append(_batch_norm(layer), _style(layer.unfused_because))
        console.print(facts, soft_wrap=True)


def _style(reason: str | None) -> str:
    return "" if reason is None else "yellow"


def _int8(layer: LayerReport) -> str:
    if layer.quantized:
        return "is quantized"
    return "yes" if layer.reason is None else f"no: {layer.reason}"


def _batch_norm(layer: LayerReport) -> str:
    if layer.unfused_because is not None:
        return f"stays: {layer.unfused_because}"
    return "folded" if layer.batch_norm is not None else ""


def _dimensions(layer: LayerReport, encoding: str) -> str:
    times = "×" if encoding.startswith("utf") else "x"
    if layer.weight_shape is not None:
        return _joined(layer.weight_shape, times)
    return "" if layer.output_shape is None else f"({_joined(layer.output_shape, times)})"


def _joined(shape: Shape, times: str) -> str:
    return times.join("?" if size is None else str(size) for size in shape)
