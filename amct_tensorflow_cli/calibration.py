"""The command calibration."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Any

from absl.flags import FlagValues

import amct_tensorflow as amct
from amct_tensorflow import progress
from amct_tensorflow.data import DataFiles
from amct_tensorflow.log import LOGGER
from amct_tensorflow.model import model_size
from amct_tensorflow_cli import evaluator as evaluators
from amct_tensorflow_cli.conf_file import CompressionConf, read_conf
from amct_tensorflow_cli.summary import Summary, print_summary
from amct_tensorflow_cli.values import image_size, input_shapes, numbers, output_list, split_list


@dataclasses.dataclass(frozen=True)
class _Job:
    """The options, parsed, those of the chip compiler's file among them."""

    model: str
    signature: str | None
    save_path: str
    outputs: list[str] | None
    evaluator: str | None
    data_paths: list[str]
    input_shape: dict[str, list[int]] | None
    data_types: list[str] | None
    preprocessing: dict[str, Any]
    calibration_config: str | None
    batch_num: int | None
    target: str | None

    @classmethod
    def of(cls, options: FlagValues, conf: CompressionConf | None) -> _Job:
        shape = None if options.input_shape is None else input_shapes(options.input_shape)
        return cls(
            model=options.model,
            signature=options.signature,
            save_path=options.save_path,
            outputs=None if options.outputs is None else output_list(options.outputs),
            evaluator=options.evaluator,
            data_paths=split_list(options.data_dir or "") if conf is None else conf.data_paths,
            input_shape=shape if conf is None else conf.input_shape,
            data_types=None if options.data_types is None else split_list(options.data_types),
            preprocessing=_preprocessing(options),
            calibration_config=options.calibration_config if conf is None else conf.config_file,
            batch_num=options.batch_num,
            target=options.target if options["target"].present else None,
        )

    def data(self, stack: contextlib.ExitStack) -> Any:
        """Returns what the model is calibrated with; the evaluator's file stays loaded until the stack is closed."""
        if self.evaluator is not None:
            return stack.enter_context(evaluators.loaded(self.evaluator))
        return DataFiles(
            self.data_paths, input_shape=self.input_shape, data_types=self.data_types, **self.preprocessing
        )


def run(options: FlagValues) -> None:
    """Runs the command."""
    conf = None if options.compression_optimize_conf is None else read_conf(options.compression_optimize_conf)
    with screen(options.verbose, None if conf is None else conf.log):
        for note in () if conf is None else conf.notes:
            LOGGER.push_info_message(f"{options.compression_optimize_conf}: {note}", "calibration")
        _run(_Job.of(options, conf))


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


def _run(job: _Job) -> None:
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        result = amct.quantize(
            job.model,
            job.data(stack),
            job.save_path,
            outputs=job.outputs,
            batch_num=job.batch_num,
            config=job.calibration_config,
            target=job.target,
            signature=job.signature,
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


def _preprocessing(options: FlagValues) -> dict[str, Any]:
    return {
        "image_size": None if options.image_size is None else image_size(options.image_size),
        "mean": 0.0 if options.mean is None else numbers(options.mean, "mean"),
        "std": 1.0 if options.std is None else numbers(options.std, "std"),
        "channel_order": options.channel_order,
    }
