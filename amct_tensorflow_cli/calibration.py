"""The command calibration."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol

import tensorflow as tf
from absl.flags import FlagValues

import amct_tensorflow as amct
from amct_tensorflow import progress
from amct_tensorflow.config import QuantConfig, default_config, write_config
from amct_tensorflow.create_config import simplified_config_of
from amct_tensorflow.data import CalibrationData, Preprocessing
from amct_tensorflow.files import warn_if_exists
from amct_tensorflow.graph.ends import only_natural_output, resolve_outputs
from amct_tensorflow.graph.model_file import import_graph, read_graph_def
from amct_tensorflow.inventory import Inventory
from amct_tensorflow.log import LOGGER
from amct_tensorflow_cli import evaluator as evaluators
from amct_tensorflow_cli.conf_file import CompressionConf, read_conf
from amct_tensorflow_cli.model_data import feeds, open_data
from amct_tensorflow_cli.summary import print_summary, result_path
from amct_tensorflow_cli.values import image_size, input_shapes, numbers, output_list, split_list

# Fewer samples than this say little about the range of values.
_FEW_SAMPLES = 16


@dataclasses.dataclass(frozen=True)
class _Job:
    """The options, parsed, those of the chip compiler's file among them."""

    model: str
    save_path: str
    outputs: list[str] | None
    evaluator: str | None
    data_paths: list[str]
    input_shape: dict[str, list[int]] | None
    data_types: list[str] | None
    preprocessing: Preprocessing
    calibration_config: str | None
    batch_num: int | None

    @classmethod
    def of(cls, options: FlagValues, conf: CompressionConf | None) -> _Job:
        shape = None if options.input_shape is None else input_shapes(options.input_shape)
        return cls(
            model=options.model,
            save_path=options.save_path,
            outputs=None if options.outputs is None else output_list(options.outputs),
            evaluator=options.evaluator,
            data_paths=split_list(options.data_dir or "") if conf is None else conf.data_paths,
            input_shape=shape if conf is None else conf.input_shape,
            data_types=None if options.data_types is None else split_list(options.data_types),
            preprocessing=_preprocessing(options),
            calibration_config=options.calibration_config if conf is None else conf.config_file,
            batch_num=options.batch_num,
        )

    @property
    def config_file(self) -> str:
        return result_path(self.model, self.save_path, "config.json")

    @property
    def record_file(self) -> str:
        return result_path(self.model, self.save_path, "record.txt")


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
    with contextlib.ExitStack() as stack:
        with progress.status(f"reading {job.model}"):
            model = _Model.load(job)
            feeder = _feeder(job, model, stack)
        config = _plan(job, model.graph)
        feeder.prepare(config.batch_num)  # too few data are found before anything is written
        warn_if_exists(job.config_file, "calibration")
        write_config(job.config_file, config)
        balanced = sum(layer.dmq_balancer_param is not None for layer in config.layers.values())
        if balanced:
            with progress.status("inserting balance ops"):
                before = _Model.load(job)
                amct.quantize_preprocess(before.graph, job.config_file, job.record_file, before.op_names)
            feeder.run(before, f"balancing {balanced} layers")
        with progress.status("inserting calibration ops"):
            amct.quantize_model(model.graph, job.config_file, job.record_file, model.op_names)
        feeder.run(model, f"calibrating {len(config.layers)} layers")
    with progress.status("saving"):
        amct.save_model(job.model, model.op_names, job.record_file, job.save_path)
    print_summary(job.model, job.save_path, [job.config_file, job.record_file], feeder.hints())


@dataclasses.dataclass(frozen=True)
class _Model:
    """A graph and the tensors to fetch from it."""

    graph: tf.Graph
    outputs: list[tf.Tensor]

    @classmethod
    def load(cls, job: _Job) -> _Model:
        graph = import_graph(read_graph_def(job.model), job.model)
        names = job.outputs or [only_natural_output(graph, job.model)]
        return cls(graph, resolve_outputs(graph, names, job.model))

    @property
    def op_names(self) -> list[str]:
        return list(dict.fromkeys(tensor.op.name for tensor in self.outputs))


def _preprocessing(options: FlagValues) -> Preprocessing:
    return Preprocessing(
        size=None if options.image_size is None else image_size(options.image_size),
        mean=(0.0,) if options.mean is None else numbers(options.mean, "mean"),
        std=(1.0,) if options.std is None else numbers(options.std, "std"),
        channel_order=options.channel_order,
    )


def _plan(job: _Job, graph: tf.Graph) -> QuantConfig:
    """Returns the configuration. The command line's batch_num takes precedence over that of a .cfg."""
    inventory = Inventory.of(graph)
    if job.calibration_config is not None:
        config = simplified_config_of(inventory, job.calibration_config)
        return config if job.batch_num is None else dataclasses.replace(config, batch_num=job.batch_num)
    return default_config(
        inventory.traits, all_ops=inventory.all_ops, reasons=inventory.reasons, batch_num=job.batch_num or 1
    )


class _Feeder(Protocol):
    """What runs a graph on data."""

    def prepare(self, batch_num: int) -> None:
        """Raises `AmctError` for too few data, before anything is changed."""

    def run(self, model: _Model, text: str) -> None:
        """Runs the outputs batch_num times; `text` says what for."""

    def hints(self) -> list[str]:
        """Returns what the user should know of the data."""


def _feeder(job: _Job, model: _Model, stack: contextlib.ExitStack) -> _Feeder:
    if job.evaluator is not None:
        return _EvaluatorFeeder(job.evaluator, stack.enter_context(evaluators.loaded(job.evaluator)))
    data = open_data(
        model.graph,
        model.outputs,
        model=job.model,
        paths=job.data_paths,
        input_shape=job.input_shape,
        data_types=job.data_types,
        preprocessing=job.preprocessing,
    )
    return _DataFeeder(data, job.preprocessing)


class _EvaluatorFeeder:
    def __init__(self, path: str, evaluator: Any) -> None:
        self._path, self._evaluator = path, evaluator

    def prepare(self, batch_num: int) -> None:
        """Leaves it to the evaluator how many batches it runs; save_model tells if they were too few."""

    def run(self, model: _Model, text: str) -> None:
        with progress.status(f"{text} with {self._path}"):
            evaluators.calibrate(self._evaluator, self._path, model.graph, [tensor.name for tensor in model.outputs])

    def hints(self) -> list[str]:
        return []


class _DataFeeder:
    def __init__(self, data: CalibrationData, preprocessing: Preprocessing) -> None:
        self._data, self._preprocessing = data, preprocessing
        self._batch_num = self._batch_size = 0

    def prepare(self, batch_num: int) -> None:
        self._batch_num, self._batch_size = batch_num, self._data.batch_size(batch_num)
        self._data.batches(batch_num)

    def run(self, model: _Model, text: str) -> None:
        ops = [tensor.op for tensor in model.outputs]
        unit = "images" if self._data.has_images else "samples"
        with (
            tf.compat.v1.Session(graph=model.graph) as session,
            progress.batches(text, batches=self._batch_num, batch_size=self._batch_size, unit=unit) as advance,
        ):
            for feed in feeds(model.graph, self._data.batches(self._batch_num)):
                session.run(ops, feed)
                advance()

    def hints(self) -> list[str]:
        hints = []
        samples = self._batch_num * self._batch_size
        if samples < _FEW_SAMPLES:
            hints.append(f"it was calibrated on {samples} sample(s); 16 to 32 of all kinds give better scales")
        if self._data.has_images and (self._preprocessing.mean, self._preprocessing.std) == ((0.0,), (1.0,)):
            hints.append("images were fed as pixels of 0 to 255; give --mean and --std if the model takes other values")
        return hints
