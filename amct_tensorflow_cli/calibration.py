"""The command calibration."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from absl.flags import FlagValues

import amct_tensorflow as amct
from amct_tensorflow import progress
from amct_tensorflow.config import QuantConfig, default_config, write_config
from amct_tensorflow.data import Preprocessing
from amct_tensorflow.errors import AmctValueError
from amct_tensorflow.files import warn_if_exists
from amct_tensorflow.graph.edit import upstream
from amct_tensorflow.inventory import Inventory
from amct_tensorflow.log import LOGGER
from amct_tensorflow.post_training.create_config import simplified_config_of
from amct_tensorflow.post_training.observe import check_beside
from amct_tensorflow.progress import counted
from amct_tensorflow.record import rounding_path
from amct_tensorflow_cli import evaluator as evaluators
from amct_tensorflow_cli.conf_file import CompressionConf, read_conf
from amct_tensorflow_cli.feeders import DataFeeder, EvaluatorFeeder, Feeder
from amct_tensorflow_cli.model import Model
from amct_tensorflow_cli.model_data import open_data
from amct_tensorflow_cli.staging import check_writable, staged
from amct_tensorflow_cli.summary import Summary, print_summary, result_path
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
    preprocessing: Preprocessing
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

    @property
    def config_file(self) -> str:
        return result_path(self.model, self.save_path, "config.json")

    @property
    def record_file(self) -> str:
        return result_path(self.model, self.save_path, "record.txt")

    def load(self) -> Model:
        """Reads the model."""
        model = Model.load(self.model, self.outputs, self.signature)
        if model.kind == "fake-quantized":
            raise AmctValueError(
                f"{self.model} was trained with fake-quant ops, whose ranges give its scales: use the command convert"
            )
        return model


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
    if verbose or level is not None:
        amct.set_logging_level("debug" if verbose else str(level), "debug" if verbose else "info")
        yield
        return
    amct.set_logging_level("warning", "info")
    with progress.calm_screen():
        yield


def _run(job: _Job) -> None:
    files = [job.config_file, job.record_file, rounding_path(job.record_file)]
    for path in files:
        check_writable(path)
    check_beside(job.record_file, "save_path")
    started = time.monotonic()
    with contextlib.ExitStack() as stack:
        with progress.status(f"reading {job.model}"):
            model = job.load()
            feeder = _feeder(job, model, stack)
        config = _plan(job, model.graph)
        feeder.prepare(config.batch_num)  # too few data are found before anything is written
        config_file, record_file, _ = stack.enter_context(staged(files))
        write_config(config_file, config)
        _calibrate(model, feeder, config, config_file, record_file)
        with progress.status("saving"):
            amct.save_model(model.source, model.output_names, record_file, job.save_path)
        for path in files:
            warn_if_exists(path, "calibration")
    seconds = time.monotonic() - started
    print_summary(
        Summary(
            model,
            job.save_path,
            job.record_file,
            others=files,
            unrecorded="the configuration leaves it out",
            facts=[f"calibrated with {feeder.used()} in {seconds:.1f} s"],
            hints=feeder.hints(),
        )
    )


def _calibrate(model: Model, feeder: Feeder, config: QuantConfig, config_file: str, record_file: str) -> None:
    """Fills the record."""
    balanced = sum(layer.dmq_balancer_param is not None for layer in config.layers.values())
    if balanced:
        with progress.status("inserting balance ops"):
            before = model.again()
            amct.quantize_preprocess(before.graph, config_file, record_file, before.output_names)
        feeder.run(before, f"balancing {counted(balanced, 'layer')}")
    with progress.status("inserting calibration ops"):
        needed = upstream(tensor.op for tensor in model.outputs)
        amct.quantize_model(model.graph, config_file, record_file, model.output_names)
    layers = sum(layer.quant_enable and name in needed for name, layer in config.layers.items())
    feeder.run(model, f"calibrating {counted(layers, 'layer')}")


def _preprocessing(options: FlagValues) -> Preprocessing:
    return Preprocessing(
        size=None if options.image_size is None else image_size(options.image_size),
        mean=(0.0,) if options.mean is None else numbers(options.mean, "mean"),
        std=(1.0,) if options.std is None else numbers(options.std, "std"),
        channel_order=options.channel_order,
    )


def _plan(job: _Job, graph: tf.Graph) -> QuantConfig:
    """Returns the configuration. What the command line says takes precedence over a .cfg."""
    inventory = Inventory.of(graph)
    if job.calibration_config is not None:
        config = simplified_config_of(inventory, job.calibration_config)
    else:
        config = default_config(inventory.traits, all_ops=inventory.all_ops, reasons=inventory.reasons)
    given: dict[str, Any] = {"batch_num": job.batch_num, "target": job.target}
    return dataclasses.replace(config, **{name: value for name, value in given.items() if value is not None})


def _feeder(job: _Job, model: Model, stack: contextlib.ExitStack) -> Feeder:
    if job.evaluator is not None:
        return EvaluatorFeeder(job.evaluator, stack.enter_context(evaluators.loaded(job.evaluator)))
    data = open_data(
        model.graph,
        model.outputs,
        model=job.model,
        paths=job.data_paths,
        input_shape=job.input_shape,
        data_types=job.data_types,
        preprocessing=job.preprocessing,
    )
    return DataFeeder(data, job.preprocessing)
