"""The statistics of batch norms that a calibration has found, as the jobs after update_batch_norms take them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

import tensorflow as tf

from amct_tensorflow.config import QuantConfig
from amct_tensorflow.errors import AmctRuntimeError
from amct_tensorflow.graph_passes.batch_norm_statistics import replaced_statistics
from amct_tensorflow.graph_passes.planning.find_batch_norms import BatchNorm, find_batch_norms
from amct_tensorflow.log import LOGGER
from amct_tensorflow.ops import flush_record
from amct_tensorflow.record import BatchNormStatistics, DamagedRounding, read_batch_norms, rounding_path

Statistics = Mapping[str, BatchNormStatistics]


def found_statistics(record_file: str) -> Statistics:
    """Returns the statistics that belong to a record, by batch norm; none if its batch norms keep theirs.

    Raises:
        AmctRuntimeError: the file beside the record cannot be read.
    """
    flush_record(os.path.realpath(record_file))
    try:
        return read_batch_norms(record_file)
    except DamagedRounding as error:
        raise AmctRuntimeError(
            f"{rounding_path(record_file)}, which has the statistics of batch norms, {error}: calibrate again, from "
            "update_batch_norms on"
        ) from error


def wanted_statistics(config: QuantConfig, record_file: str) -> Statistics:
    """Returns the statistics that belong to a record if the configuration wants new ones, else none.

    Raises:
        AmctRuntimeError: there are none, or they cannot be read.
    """
    statistics = found_statistics(record_file) if config.update_bn else {}
    if config.update_bn and not statistics:
        raise AmctRuntimeError(
            f"config_file indicates update_bn, but there are no statistics of batch norms beside record_file "
            f"{record_file}: call update_batch_norms with it and run its graph "
            f"{config.bn_update_config.bn_update_iterations} time(s) before, or set update_bn to false"
        )
    return statistics


@contextlib.contextmanager
def taken_statistics(graph: tf.Graph, statistics: Statistics, record_file: str, module: str) -> Iterator[None]:
    """Gives the batch norms of a graph their new statistics; after an error they have the old ones again.

    Raises:
        AmctRuntimeError: they are those of another model.
    """
    if not statistics:
        yield
        return
    batch_norms, _ = find_batch_norms(graph)
    _check_fit(batch_norms, statistics, record_file)
    with replaced_statistics(batch_norms, statistics):
        _report(batch_norms, statistics, module)
        yield


def _check_fit(batch_norms: list[BatchNorm], statistics: Statistics, record_file: str) -> None:
    channels = {batch_norm.name: batch_norm.channels for batch_norm in batch_norms}
    for name, found in statistics.items():
        if channels.get(name) != found.mean.size:
            lacks = f"has {channels[name]} there" if name in channels else "has no such batch norm"
            raise AmctRuntimeError(
                f"{rounding_path(record_file)} has statistics of {found.mean.size} channels of batch norm {name}, but "
                f"the model {lacks}: give the model that was calibrated, or call update_batch_norms on this one"
            )


def _report(batch_norms: list[BatchNorm], statistics: Statistics, module: str) -> None:
    others = [batch_norm.name for batch_norm in batch_norms if batch_norm.name not in statistics]
    not_run = f"; those that were not run keep theirs: {', '.join(others)}" if others else ""
    LOGGER.push_info_message(
        f"{len(statistics)} of {len(batch_norms)} batch norms have the statistics of the calibration data{not_run}",
        module,
    )
