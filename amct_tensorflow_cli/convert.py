"""The command convert."""

from __future__ import annotations

from absl.flags import FlagValues

import amct_tensorflow as amct
from amct_tensorflow import progress
from amct_tensorflow.log import LOG_FILE
from amct_tensorflow_cli.calibration import screen
from amct_tensorflow_cli.model import Model
from amct_tensorflow_cli.staging import check_writable
from amct_tensorflow_cli.summary import Summary, print_summary, result_path
from amct_tensorflow_cli.values import output_list


def run(options: FlagValues) -> None:
    """Runs the command."""
    with screen(options.verbose):
        path, save_path = options.model, options.save_path
        made = result_path(path, save_path, "record.txt")
        check_writable(made)
        with progress.status(f"converting {path}"):
            model = Model.load(
                path, None if options.outputs is None else output_list(options.outputs), options.signature
            )
            if options.record_file is not None:
                record_file, others, unrecorded = options.record_file, [], "the record has no factors for it"
                amct.convert_model(model.source, model.output_names, record_file, save_path)
            else:
                record_file, others, unrecorded = made, [made], f"it lacks fake-quant ops, see {LOG_FILE}"
                amct.convert_qat_model(model.source, model.output_names, save_path, record_file=record_file)
        print_summary(Summary(model, save_path, record_file, others=others, unrecorded=unrecorded))
