"""What the command inspect prints of the layers of an int8 model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from amct_tensorflow.analysis.inspect_model import LayerReport, ModelReport
from amct_tensorflow.analysis.int8_facts import Int8Facts, Int8Input
from amct_tensorflow_cli.tables import WIDTH_FOR_TABLE

_HEADINGS = ("layer", "type", "input from", "to", "scale_d", "offset_d", "weights from", "to", "scale_w", "N", "note")
_SUSPICIOUS = "scale_d is 1: right for pixels of 0 to 255, else its input was always 0 or not calibrated"


def print_int8_layers(console: Console, report: ModelReport) -> None:
    """Prints a line for each quantized input of each layer, in a table where there is room."""
    rows = [row for layer in report.layers for row in _rows(layer)]
    for name, op_type, factors in report.inputs_alone:
        note = _note(factors) or "an input that is quantized alone"
        rows.append([name, op_type, *_of_input(factors), "", "", "", "", note])
    if console.width < WIDTH_FOR_TABLE:
        _print_lines(console, rows)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for at, heading in enumerate(_HEADINGS):
        table.add_column(heading, overflow="fold", justify="right" if 1 < at < len(_HEADINGS) - 1 else "left")
    for row in rows:
        table.add_row(*row[:-1], Text(row[-1], style="yellow"))
    console.print(table)


def _print_lines(console: Console, rows: Iterable[Sequence[str]]) -> None:
    for name, *figures in rows:
        console.print(Text(name), soft_wrap=True)
        words = [f"{heading} {figure}" for heading, figure in zip(_HEADINGS[1:], figures, strict=True) if figure]
        console.print(Text(f"  {', '.join(words)}"), soft_wrap=True)


def _rows(layer: LayerReport) -> list[list[str]]:
    if layer.facts is None:
        note = "its factors are in a form that is not known" if layer.quantized else f"float: {layer.reason}"
        return [[layer.name, layer.op_type, *[""] * 8, note]]
    first, *others = layer.facts.inputs
    rows = [[layer.name, layer.op_type, *_of_input(first), *_of_weights(layer.facts), _note(first)]]
    return rows + [[layer.name, layer.op_type, *_of_input(other), "", "", "", "", _note(other)] for other in others]


def _of_input(factors: Int8Input) -> list[str]:
    return [_number(factors.lowest), _number(factors.highest), _number(factors.scale), str(factors.offset)]


def _of_weights(facts: Int8Facts) -> list[str]:
    shifts = _span([str(shift) for shift in (min(facts.shift_bit), max(facts.shift_bit))])
    if facts.lowest_weight is None or facts.highest_weight is None:
        return ["", "", "", shifts]
    scales = _span([_number(scale) for scale in (min(facts.scale_w), max(facts.scale_w))])
    return [_number(facts.lowest_weight), _number(facts.highest_weight), scales, shifts]


def _note(factors: Int8Input) -> str:
    return _SUSPICIOUS if factors.is_suspicious else ""


def _span(ends: Sequence[str]) -> str:
    return " to ".join(dict.fromkeys(ends))


def _number(value: float) -> str:
    return f"{value:.4g}"
