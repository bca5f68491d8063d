"""The command convert."""

from __future__ import annotations

from absl.flags import FlagValues

import amct_tensorflow as amct
from amct_tensorflow import progress
from amct_tensorflow.graph.ends import only_natural_output
from amct_tensorflow.graph.model_file import import_graph, read_graph_def
from amct_tensorflow_cli.calibration import screen
from amct_tensorflow_cli.summary import print_summary, result_path
from amct_tensorflow_cli.values import output_list


def run(options: FlagValues) -> None:
    """Runs the command."""
    with screen(options.verbose):
        model, save_path = options.model, options.save_path
        outputs = _outputs(options)
        with progress.status(f"converting {model}"):
            if options.record_file is not None:
                others: list[str] = []
                amct.convert_model(model, outputs, options.record_file, save_path)
            else:
                others = [result_path(model, save_path, "record.txt")]
                amct.convert_qat_model(model, outputs, save_path, record_file=others[0])
        print_summary(model, save_path, others, [])


def _outputs(options: FlagValues) -> list[str]:
    """Returns the op names of the outputs."""
    if options.outputs is not None:
        return [name.partition(":")[0] for name in output_list(options.outputs)]
    with progress.status(f"reading {options.model}"):
        return [only_natural_output(import_graph(read_graph_def(options.model), options.model), options.model)]
