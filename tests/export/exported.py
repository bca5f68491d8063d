"""A small model that was calibrated, saved and exported, beside the int8 model that it was made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from hypothesis import HealthCheck, assume, given, settings
from random_graphs import random_nets
from small_models import Deployed, Net, batch, run, sqnr

from amct_tensorflow.errors import AmctRuntimeError

# The same values but for single roundings; the nets of families.py are too small for them to spread.
SAME = 60


class Exported:
    """An exported model; `run` is that of a subclass.

    Attributes:
        deployed: the int8 model that it was made of.
        report: what the export returned.
        path: the file.
    """

    def __init__(
        self,
        export: Callable[..., Any],
        build: Callable[[Any], Any],
        folder: Path,
        arguments: Mapping[str, Any],
        *,
        outputs: Sequence[str] = ("out",),
        **settings: Any,
    ) -> None:
        ops = list(dict.fromkeys(name.partition(":")[0] for name in outputs))
        self.deployed = Deployed(build, ops, folder, save_outputs=outputs, **{"target": "onnxruntime", **settings})
        self.report = export(str(self.deployed.file), str(folder / "model"), list(outputs), **arguments)
        self.path = Path(self.report.files[0])

    @property
    def reasons(self) -> dict[str, str | None]:
        """Why layers are computed in float, by name."""
        return {layer.name: layer.reason for layer in self.report.layers}

    @property
    def tensors(self) -> list[str]:
        """The names of the outputs in the int8 model."""
        return [name if ":" in name else f"{name}:0" for name in self.deployed.outputs]

    def run(self, data: np.ndarray | Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Returns what the exported model computes."""
        raise NotImplementedError

    def sqnr(self, data: np.ndarray | Mapping[str, np.ndarray]) -> float:
        """Returns the least SQNR of its outputs against those of the int8 model in TensorFlow."""
        return min(map(sqnr, run(self.deployed.graph, self.tensors, data), self.run(data)))


def each_random_graph(
    kind: Callable[..., Exported], tmp_path_factory: Any, target: str, check: Callable[[Any], None]
) -> None:
    """Exports random graphs and checks each; without shifts, which are not exported."""

    @settings(max_examples=15, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(random_nets())
    def export(net):
        with tf.Graph().as_default():
            net(Net())
        try:
            exported = kind(net, tmp_path_factory.mktemp("graph"), outputs=net.outputs, target=target, shift_n=False)
        except AmctRuntimeError as error:
            assume("nothing would be quantized" not in str(error))
            raise
        assert exported.sqnr(batch()) > 35  # some are partly in float16
        check(exported)

    export()
