"""The command convert."""

from __future__ import annotations

from collections.abc import Iterator

from absl.flags import FlagValues

import amct_tensorflow as amct
from amct_tensorflow import progress
from amct_tensorflow.analysis.inspect_model import FAKE_QUANTIZED, NOT_NEEDED, inspect_model
from amct_tensorflow.log import LOG_FILE
from amct_tensorflow.model import Model, model_size
from amct_tensorflow.post_training.deploy import ResultFiles
from amct_tensorflow.record import read_record
from amct_tensorflow.staging import check_writable
from amct_tensorflow_cli.calibration import screen
from amct_tensorflow_cli.summary import Summary, print_summary
from amct_tensorflow_cli.values import output_list


def run(options: FlagValues) -> None:
    """Runs the command."""
    with screen(options.verbose):
        path, save_path = options.model, options.save_path
        results = ResultFiles.of(save_path, path)
        made = results.model.removesuffix("quantized.pb") + "record.txt"
        check_writable(made)
        with progress.status(f"converting {path}"):
            outputs = None if options.outputs is None else output_list(options.outputs)
            model = Model.load(path, outputs, options.signature)
            others: tuple[str, ...] = ()
            if options.record_file is not None:
                record_file, unrecorded = options.record_file, "the record has no factors for it"
                amct.convert_model(model.source, model.output_names, record_file, save_path)
            else:
                record_file, others, unrecorded = made, (made,), f"it lacks fake-quant ops, see {LOG_FILE}"
                amct.convert_qat_model(model.source, model.output_names, save_path, record_file=record_file)
        print_summary(
            Summary(
                model=results.model,
                float_size=model_size(model.source),
                files=(results.model, results.mapping, *others),
                layers=list(_layers(model, record_file, unrecorded)),
            )
        )


def _layers(model: Model, record_file: str, unrecorded: str) -> Iterator[tuple[str, str, str | None]]:
    recorded = {name for name, record in read_record(record_file).items() if not record.is_empty}
    for layer in inspect_model(model.source, model.output_names).layers:
        reason = layer.reason
        if layer.name in recorded and reason != NOT_NEEDED:
            reason = None
        elif reason in (None, FAKE_QUANTIZED):
            reason = unrecorded
        yield layer.op_type, layer.name, reason
