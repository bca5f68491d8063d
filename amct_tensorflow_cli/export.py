"""The command export."""

from __future__ import annotations

from absl.flags import FlagValues

import amct_tensorflow as amct
from amct_tensorflow import progress
from amct_tensorflow.export.report import ExportReport
from amct_tensorflow_cli.calibration import screen
from amct_tensorflow_cli.summary import print_files, print_listed, print_log
from amct_tensorflow_cli.values import output_list


def run(options: FlagValues) -> None:
    """Runs the command."""
    with screen(options.verbose):
        outputs = None if options.outputs is None else output_list(options.outputs)
        with progress.status(f"exporting {options.model}"):
            if options.format == "tensorflow":
                report = amct.export_tensorflow(options.model, options.save_path, outputs)
            elif options.format == "tflite":
                report = amct.export_tflite(options.model, options.save_path, outputs, integer_io=options.integer_io)
            else:
                opset = {} if options.opset is None else {"opset": options.opset}
                report = amct.export_onnx(options.model, options.save_path, outputs, **opset)
        _print_report(report)


def _print_report(report: ExportReport) -> None:
    in_float = report.in_float
    in_int8 = len(report.layers) - len(in_float)
    colon = ", in float:" if in_float else ""
    print(f"{in_int8} of {len(report.layers)} quantized layers run in int8 in {report.runtime}{colon}")
    print_listed([f"{layer.op_type} {layer.name}: {layer.reason}" for layer in in_float])
    for title, names in (("inputs", report.inputs), ("outputs", report.outputs)):
        print(f"{title}: {', '.join(names)}")
    print_files(dict.fromkeys(report.files, ""))
    print_log()
