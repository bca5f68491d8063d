"""The job compare_models: where an int8 model loses accuracy, layer by layer, on real data."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from amct_tensorflow import progress
from amct_tensorflow.analysis.differences import Difference, add_sums
from amct_tensorflow.analysis.pairs import LayerPair, OutputPair, Pairs, pair_models
from amct_tensorflow.arguments import check_types
from amct_tensorflow.data.feeds import feed_of
from amct_tensorflow.data.given import Data, open_data
from amct_tensorflow.errors import AmctRuntimeError, AmctValueError, sentence_of
from amct_tensorflow.files import write_file
from amct_tensorflow.graph.edit import at_root
from amct_tensorflow.graph.sessions import lean_session
from amct_tensorflow.graph.sources import MODEL_TYPES, ModelSource

Totals: TypeAlias = Mapping[str, npt.NDArray[np.float64]]


@dataclasses.dataclass(frozen=True)
class ComparedLayer:
    """What a quantized layer loses.

    Attributes:
        name: the layer's name.
        op_type: its type.
        tensor: name of the tensor of the first model that its result stands for.
        own: the difference that the layer itself makes: it reads what the first model computes.
        accumulated: the difference as the model runs: that of the layers before it, too.
        saturated: the share of the values of its input that are beyond the int8 range, and clipped.
    """

    name: str
    op_type: str
    tensor: str
    own: Difference
    accumulated: Difference
    saturated: float


@dataclasses.dataclass(frozen=True)
class ComparedOutput:
    """An output of both models.

    Attributes:
        name: the tensor's name.
        difference: between both.
        agreement: the share of samples with the same top-1, where it has class scores, [batch, classes]; else None.
    """

    name: str
    difference: Difference
    agreement: float | None


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `compare_models` finds.

    Attributes:
        layers: the quantized layers, in the order in which they run.
        outputs: the outputs.
        samples: how many samples were compared.
    """

    layers: tuple[ComparedLayer, ...]
    outputs: tuple[ComparedOutput, ...]
    samples: int

    @property
    def worst_first(self) -> tuple[ComparedLayer, ...]:
        """The layers by what they lose themselves, the most first."""
        return tuple(sorted(self.layers, key=lambda layer: layer.own.sqnr))

    def to_json(self) -> str:
        """Returns all of it as JSON, the worst layers first; a number that is not finite is null there."""
        found = {
            "samples": self.samples,
            "outputs": [dataclasses.asdict(output) for output in self.outputs],
            "layers": [dataclasses.asdict(layer) for layer in self.worst_first],
        }
        return json.dumps(_finite(found), indent=1) + "\n"

    def save(self, path: str) -> None:
        """Writes `to_json` to a file.

        Raises:
            AmctRuntimeError: it cannot be written.
        """
        write_file(path, self.to_json().encode(), kind="comparison")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@check_types(float_model=MODEL_TYPES, quantized_model=str, batch_num=int)
def compare_models(
    float_model: ModelSource,
    quantized_model: str,
    data: Data,
    outputs: Sequence[Any] | None = None,
    *,
    batch_num: int | None = None,
) -> Comparison:
    """Runs a float model and its int8 model on the same data and tells how far apart they are, layer by layer.

    Both run in one graph, an op of the first model only when what was computed before it has been compared, and only
    sums come out: memory is what a few tensors of one batch take beside the weights.

    Args:
        float_model: the model to compare with, as `load_graph` takes it; or an int8 model, another one of the same
            float model: a path with its ``_quant.json`` beside it.
        quantized_model: path of ``<prefix>_quantized.pb``, of this package or of the vendor's tool, with
            ``<prefix>_quant.json`` beside it.
        data: as for `quantize`; all of them are used.
        outputs: names of the outputs of both models; by default all ops of the int8 model that nothing consumes.
        batch_num: how many batches of the data are used, where not all are.

    Raises:
        AmctTypeError, AmctValueError: an argument, a model or the data cannot be used, or the models do not belong
            together.
        AmctRuntimeError: the file beside a model is missing or damaged, or a model cannot run on the data.
    """
    if batch_num is not None and batch_num < 1:
        raise AmctValueError(f"batch_num is {batch_num}: give a number above 0, or leave it out for all data")
    pairs = pair_models(float_model, quantized_model, outputs)
    ends = [output.reference for output in pairs.outputs]
    batches = open_data(data, pairs.graph, ends, pairs.name).batches(batch_num)
    totals, samples = _run(pairs, batches)
    return Comparison(
        tuple(_layer(pair, totals) for pair in pairs.layers),
        tuple(_output(pair, totals) for pair in pairs.outputs),
        samples,
    )


def _run(pairs: Pairs, batches: Iterable[Any]) -> tuple[Totals, int]:
    """Returns the sums over all batches, by the names of their tensors, and the number of samples."""
    sums = [tensor for pair in pairs.layers for tensor in (pair.own, pair.accumulated)]
    sums += [pair.sums for pair in pairs.outputs]
    counts = [pair.clipped for pair in pairs.layers] + [pair.same for pair in pairs.outputs if pair.same is not None]
    with at_root(pairs.graph):
        fetches = [tf.stack(sums), tf.stack(counts)]
    found, samples = [np.zeros(tensor.shape.as_list()) for tensor in fetches], 0
    with contextlib.closing(lean_session(pairs.graph)) as session, progress.status("comparing"):
        for batch in batches:
            feed = feed_of(pairs.graph, pairs.inputs, batch, pairs.name)
            try:
                of_batch = session.run(fetches, feed)
            except tf.errors.OpError as error:
                raise AmctRuntimeError(f"{pairs.name} cannot run on the data: {sentence_of(error)}") from error
            found = [add_sums(found[0], of_batch[0]), found[1] + of_batch[1]]
            samples += max((len(array) for array in feed.values() if array.ndim), default=1)
    names = [tensor.name for tensor in (*sums, *counts)]
    return dict(zip(names, [*found[0], *found[1]], strict=True)), samples


def _layer(pair: LayerPair, totals: Totals) -> ComparedLayer:
    clipped, count = totals[pair.clipped.name]
    return ComparedLayer(
        pair.name,
        pair.op_type,
        pair.reference.name,
        Difference.of(totals[pair.own.name]),
        Difference.of(totals[pair.accumulated.name]),
        float(clipped / max(count, 1)),
    )


def _output(pair: OutputPair, totals: Totals) -> ComparedOutput:
    agreement = None
    if pair.same is not None:
        same, count = totals[pair.same.name]
        agreement = float(same / max(count, 1))
    return ComparedOutput(pair.reference.name, Difference.of(totals[pair.sums.name]), agreement)
