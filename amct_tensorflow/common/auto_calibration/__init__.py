"""The base class of evaluators, under the path that user scripts of the vendor's tool import it from."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

__all__ = ["AutoCalibrationEvaluatorBase"]


class AutoCalibrationEvaluatorBase:
    """How a user's model is run and judged; subclasses say it."""

    def calibration(self, graph: tf.Graph, outputs: list[Any]) -> None:
        """Runs `outputs` of the calibration graph on batch_num batches.

        Args:
            graph: the calibration graph, which is the default graph meanwhile.
            outputs: names of the output tensors.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say how to calibrate: define calibration()")

    def evaluate(self, graph: tf.Graph, outputs: list[Any]) -> float:
        """Returns the metric of a graph, for example its accuracy."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to evaluate: define evaluate()")

    def metric_eval(self, original_metric: float, new_metric: float) -> tuple[bool, float]:
        """Returns whether the quantized model is good enough, and how much it loses."""
        raise NotImplementedError(f"{type(self).__name__} does not say what is good enough: define metric_eval()")
