"""The command compare."""

from __future__ import annotations

from absl.flags import FlagValues
from rich.table import Table
from rich.text import Text

import amct_tensorflow as amct
from amct_tensorflow.analysis.compare_models import ComparedLayer, ComparedOutput
from amct_tensorflow.model import source_of
from amct_tensorflow.progress import counted
from amct_tensorflow_cli.calibration import screen
from amct_tensorflow_cli.data_options import data_files
from amct_tensorflow_cli.tables import WIDTH_FOR_TABLE, console_of_stdout
from amct_tensorflow_cli.values import output_list

_HEADINGS = ("layer", "type", "own dB", "accumulated dB", "cosine", "mean error", "largest", "clipped")


def run(options: FlagValues) -> None:
    """Runs the command."""
    with screen(options.verbose):
        found = amct.compare_models(
            source_of(options.model, options.signature),
            options.quantized,
            data_files(options),
            None if options.outputs is None else output_list(options.outputs),
            batch_num=options.batch_num,
        )
        if options.json is not None:
            found.save(options.json)
    console = console_of_stdout()
    if console.width < WIDTH_FOR_TABLE:
        for layer in found.worst_first:
            console.print(Text(layer.name), soft_wrap=True)
            words = (f"{heading} {figure}" for heading, figure in zip(_HEADINGS[1:], _figures(layer), strict=True))
            console.print(Text("  " + ", ".join(words)), soft_wrap=True)
    else:
        console.print(_table(found.worst_first))
    print(f"\nof {counted(found.samples, 'sample')}:")
    for output in found.outputs:
        print(f"  {_words(output)}")
    if options.json is not None:
        print(f"written: {options.json}")


def _table(layers: tuple[ComparedLayer, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for at, heading in enumerate(_HEADINGS):
        table.add_column(heading, overflow="fold", justify="right" if at > 1 else "left")
    for layer in layers:
        table.add_row(Text(layer.name), *_figures(layer))
    return table


def _figures(layer: ComparedLayer) -> tuple[str, ...]:
    own, accumulated = layer.own, layer.accumulated
    return (
        layer.op_type,
        f"{own.sqnr:.1f}",
        f"{accumulated.sqnr:.1f}",
        f"{accumulated.cosine:.5f}",
        f"{accumulated.mean:.3g}",
        f"{accumulated.largest:.3g}",
        f"{layer.saturated:.3%}",
    )


def _words(output: ComparedOutput) -> str:
    apart = output.difference
    words = [f"{apart.sqnr:.1f} dB", f"cosine {apart.cosine:.5f}", f"mean error {apart.mean:.3g}"]
    words.append(f"largest {apart.largest:.3g}")
    if output.agreement is not None:
        words.append(f"top-1 the same for {output.agreement:.2%}")
    return f"{output.name}: {', '.join(words)}"
