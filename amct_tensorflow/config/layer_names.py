"""Why a name cannot stand where a layer of the graph is expected."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from amct_tensorflow.config.quant_config import LayerTraits
from amct_tensorflow.config.schema import check_not_repeated
from amct_tensorflow.errors import AmctValueError, did_you_mean


@dataclass(frozen=True)
class LayerNames:
    """The operations of the graph.

    Attributes:
        layers: the quantizable ones, in graph order.
        all_ops: the names of all.
        reasons: why an operation of a known type cannot be quantized, in words.
        tensor_reason: returns why an input of an operation cannot be quantized alone, in words, or None.
    """

    layers: Mapping[str, LayerTraits]
    all_ops: Collection[str]
    reasons: Mapping[str, str]
    tensor_reason: Callable[[str, int], str | None] = lambda name, index: None

    def check_exists(self, name: str, where: str) -> None:
        """Raises AmctValueError if the graph has no operation of this name; suggests one of the layers."""
        if name not in self.layers and name not in self.all_ops:
            hint = did_you_mean(name, self.layers) or "; correct or remove the name"
            raise AmctValueError(f"Layer {name} does not exist in the graph, but is named in {where}{hint}")

    def check_quantizable(self, name: str, where: str) -> None:
        """Raises AmctValueError, with the reason, if the name is not that of a quantizable layer."""
        self.check_exists(name, where)
        if name not in self.layers:
            reason = self.reasons.get(name, "operations of its type are not quantized")
            raise AmctValueError(f"Layer {name} does not support quantization, {reason}; remove it from {where}")

    def check_tensor(self, name: str, index: int, where: str) -> None:
        """Raises AmctValueError, with the reason, for an input that cannot be quantized alone."""
        self.check_exists(name, where)
        reason = self.tensor_reason(name, index)
        if reason is not None:
            raise AmctValueError(f"Input {index} of {name} cannot be quantized, {reason}; remove it from {where}")

    def check_all_quantizable(self, names: Iterable[str], where: str) -> None:
        """Raises AmctValueError if a name is repeated or not that of a quantizable layer."""
        names = list(names)
        check_not_repeated(names, where)
        for name in names:
            self.check_quantizable(name, where)

    def check_all_fusable(self, names: Iterable[str], where: str) -> None:
        """Raises AmctValueError if a name is repeated or not that of an operation that can take a batch norm."""
        names = list(names)
        check_not_repeated(names, where)
        for name in names:
            self._check_fusable(name, where)

    def _check_fusable(self, name: str, where: str) -> None:
        """Raises AmctValueError if the name is not that of an operation that can take a batch norm.

        A layer that cannot be quantized may still be fused, so one with a reason is accepted.
        """
        self.check_exists(name, where)
        if name in self.layers and not self.layers[name].fusable:
            why = f"{self.layers[name].op_type} takes no batch norm"
        elif name not in self.layers and name not in self.reasons:
            why = "operations of its type take no batch norm"
        else:
            return
        raise AmctValueError(f"Layer {name} does not support fusion, {why}; remove it from {where}")
