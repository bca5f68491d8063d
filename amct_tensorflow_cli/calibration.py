"""The command calibration."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from absl.flags import FlagValues

import amct_tensorflow as amct
from amct_tensorflow import progress
from amct_tensorflow.log import LOGGER
from amct_tensorflow.model import model_size
from amct_tensorflow_cli import evaluator as evaluators
from amct_tensorflow_cli.conf_file import CompressionConf, read_conf
from amct_tensorflow_cli.data_options import data_files
from amct_tensorflow_cli.summary import Summary, print_summary
from amct_tensorflow_cli.values import output_list


def run(options: FlagValues) -> None:
    """Runs the command."""
    conf = None if options.compression_optimize_conf is None else read_conf(options.compression_optimize_conf)
    with screen(options.verbose, None if conf is None else conf.log):
        for note in () if conf is None else conf.notes:
            LOGGER.push_info_message(f"{options.compression_optimize_conf}: {note}", "calibration")
        _run(options, conf)


@contextlib.contextmanager
def screen(verbose: bool, level: str | None = None) -> Iterator[None]:
    """Sets what is printed: everything if `verbose`, or from `level` on, or only what the summary will not say."""
    calm = not verbose and level is None
    if calm:
        amct.set_logging_level("warning", "info")
    else:
        amct.set_logging_level("debug" if verbose else str(level), "debug" if verbose else "info")
    with progress.shown(), progress.calm_screen() if calm else contextlib.nullcontext():
        yield


def _run(options: FlagValues, conf: CompressionConf | None) -> None:
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        if options.evaluator is not None:
            data: Any = stack.enter_context(evaluators.loaded(options.evaluator))
        else:
            data = data_files(options, conf)
        result = amct.quantize(
            options.model,
            data,
            options.save_path,
            outputs=None if options.outputs is None else output_list(options.outputs),
            batch_num=options.batch_num,
            config=options.calibration_config if conf is None else conf.config_file,
            target=options.target if options["target"].present else None,
            signature=options.signature,
        )
    seconds = time.monotonic() - started
    print_summary(
        Summary(
            model=result.model,
            float_size=model_size(result.float_model),
            files=result.files,
            layers=[(layer.op_type, layer.name, layer.reason) for layer in result.layers],
            facts=[f"calibrated with {result.data} in {seconds:.1f} s"],
            hints=result.notes,
        )
    )
