"""Performing: a graph in reals says its factors as fake-quant ops, which TensorFlow's converter to TFLite reads.

    AscendQuant(x)  ->  FakeQuantWithMinMaxVars(x), from (-128 - offset_d) * scale_d to (127 - offset_d) * scale_d
    weights         ->  FakeQuantWithMinMaxVars or …PerChannel(weights), from -127 * scale_w to 127 * scale_w
                        (a plain constant where the channels are not the last axes)

TFLite's int8 operators have rules of their own for scales. Where these would change what is computed, a fence keeps the
converter from applying them, an op that it does not know and that is taken out afterwards. Cases:

1. AvgPool and ResizeBilinear have one scale for input and result, and would round to it once more. An AvgPool over the
   whole input becomes a Mean, whose scales may differ; all else gets a fence before and behind it.
2. Softmax, Sigmoid and Tanh round their result to the steps of a fixed range: likewise a fence.
3. An output without factors would be rounded where an AscendQuant reads it, too: a fence in front of it.
4. The scales of a transposed convolution cannot be told, so nothing may be folded into it: a fence behind it.
5. What moves data, or takes the largest of them, hands the scale of its result on to its input, also where others read
   this with other factors: a fence between them. Arithmetic hands nothing on.
6. Where it has the scale of its input, and floats read its result, too, factors behind it would be forgotten: a fence
   in front of these.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf

from amct_tensorflow.graph.edit import at_root, consumers, replace_uses, set_input, upstream
from amct_tensorflow.graph.ends import INPUT_TYPES
from amct_tensorflow.graph_passes.planning.find_deployed import DeployedLayer, IntegerWeights, offset_of, scale_of
from amct_tensorflow.layers import averaged_axes, channel_axes_of
from amct_tensorflow.ops import tensorflow_ops

FENCE = "AscendAntiQuant"  # one that computes nothing; those of the model are gone

_FAKE_QUANT = "FakeQuantWithMinMaxVars"
_PASSING_ON = ("Identity", "EnsureShape", "StopGradient")
_FOLDABLE = ("Add", "AddV2", "Sub", "Mul", "RealDiv", "FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
_ARITHMETIC = (
    *_FOLDABLE,
    *("AddN", "Square", "Sqrt", "Rsqrt", "Pow", "Neg", "Abs", "Exp", "Erf", "Mean", "Sum", "SquaredDifference"),
    *("BiasAdd", "Relu", "Relu6", "LeakyRelu", "Elu", "Sigmoid", "Tanh", "Shape"),
)
_OF_ONE_SCALE = ("Split", "SplitV", "Unpack")  # for all of their results
_RULES_OF_THEIR_OWN = ("AvgPool", "ResizeBilinear", "Softmax", "LogSoftmax", "Sigmoid", "Tanh")


def fake_quantize(
    graph: tf.Graph, layers: Sequence[DeployedLayer], outputs: Sequence[tf.Tensor], moved: Mapping[str, tf.Tensor]
) -> list[tf.Tensor]:
    """Runs the pass on a graph in reals.

    Args:
        graph: the graph.
        layers: its quantized layers.
        outputs: the tensors that were outputs of the deployed graph.
        moved: what restore_reals put in the place of ops, by their names.

    Returns:
        What now are the outputs, in the same order; those of floats are results of fences.
    """
    with at_root(graph):
        made = _averages(layers) | _fake_quants(graph)
        for name, tensor in made.items():
            replace_uses(graph.get_operation_by_name(name).outputs[0], tensor)
        for op in graph.get_operations():
            if op.type in _RULES_OF_THEIR_OWN and op.name not in made:
                behind = _fence(op.outputs[0])
                replace_uses(op.outputs[0], behind, but_not_in=[behind.op])
                set_input(op, 0, _fence(op.inputs[0]))
        ends = []
        for output in outputs:
            end = moved.get(output.op.name, output)
            end = made.get(end.op.name, end)
            ends.append(_fence(end) if end.dtype == tf.float32 else end)
        _keep_apart(layers)
        needed = upstream(end.op for end in ends)
        _separate_readers(graph, needed)
        _keep_factors(graph, needed, {layer.name for layer in layers})
        return ends


def _averages(layers: Sequence[DeployedLayer]) -> dict[str, tf.Tensor]:
    """Returns the means that compute the same as some layers, by their names."""
    axes = {layer: averaged_axes(layer.op) for layer in layers}
    return {
        layer.name: tf.reduce_mean(layer.op.inputs[0], along, keepdims=True, name=f"{layer.name}/Mean")
        for layer, along in axes.items()
        if along is not None
    }


def _fake_quants(graph: tf.Graph) -> dict[str, tf.Tensor]:
    return {op.name: _fake_quantized(op) for op in graph.get_operations() if op.type == "AscendQuant"}


def fake_quantized_weights(weights: IntegerWeights, name: str) -> tf.Tensor:
    """Returns weights in reals; `name` is that of the op that the converter makes its constant of.

    It makes just these integers of them, which must not have a -128, unless they have scales along other axes than the
    last ones: these it cannot be told, and finds scales of its own.
    """
    reals, end = weights.in_reals(), np.float32(127) * weights.scale
    axes = [axis for axis, size in enumerate(weights.scale.shape) if size > 1]
    if not axes:
        end = end.reshape(())
        return tf.quantization.fake_quant_with_min_max_vars(reals, -end, end, narrow_range=True, name=name)
    if axes[0] + len(axes) != reals.ndim:
        return tf.constant(reals, name=name)
    merged, end = reals.reshape(*reals.shape[: axes[0]], -1), end.reshape(-1)
    made = tf.quantization.fake_quant_with_min_max_vars_per_channel(merged, -end, end, narrow_range=True, name=name)
    return made if len(axes) == 1 else tf.reshape(made, reals.shape)


def _keep_apart(layers: Sequence[DeployedLayer]) -> None:
    """Puts fences between layers whose scales cannot be told, and arithmetic that would be folded into them."""
    for layer in layers:
        if layer.weight_input is None:
            continue
        rank = layer.op.inputs[layer.weight_input].shape.rank
        if channel_axes_of(layer.op)[-1] == rank - 1:
            continue
        for reader, index in _uses((layer.bias_add or layer.op).outputs[0]):
            if reader.type in _FOLDABLE:
                set_input(reader, index, _fence(reader.inputs[index]))


def _uses(tensor: tf.Tensor) -> Iterator[tuple[tf.Operation, int]]:
    """Yields (op, input index) of what reads a tensor, also behind ops that change nothing."""
    for reader, index in consumers(tensor):
        if reader.type in _PASSING_ON:
            yield from _uses(reader.outputs[0])
        else:
            yield reader, index


def _separate_readers(graph: tf.Graph, needed: Container[str]) -> None:
    """Puts fences between tensors that several of the ops that are needed read, and what hands scales on to them."""
    for op in graph.get_operations():
        if op.name not in needed or op.type in (_FAKE_QUANT, FENCE):
            continue
        for output in op.outputs:
            readers = [(reader, index) for reader, index in consumers(output) if reader.name in needed]
            handing_on = [use for use in readers if use[0].type not in (_FAKE_QUANT, FENCE, *_ARITHMETIC)]
            if op.type in _OF_ONE_SCALE:
                handing_on = readers
            elif op.type in INPUT_TYPES:
                handing_on = handing_on[1:]  # others read an input as it is, whatever one hands on
            if output.dtype == tf.float32 and (len(readers) > 1 or op.type in _OF_ONE_SCALE):
                for reader, index in handing_on:
                    set_input(reader, index, _fence(output))


def _keep_factors(graph: tf.Graph, needed: Container[str], layers: Container[str]) -> None:
    """Puts fences in front of factors of what has some already, being moved only, where others read that."""
    for op in graph.get_operations():
        if op.name in needed and op.name not in layers and op.inputs and _has_factors(op, layers):
            for output in op.outputs:
                readers = [(reader, index) for reader, index in consumers(output) if reader.name in needed]
                quants = [use for use in readers if use[0].type == _FAKE_QUANT]
                for reader, index in quants if len(readers) > 1 else ():
                    set_input(reader, index, _fence(output))


def _has_factors(op: tf.Operation, layers: Container[str]) -> bool:
    """Tells whether an op moves only what comes from a fake-quant op."""
    while op.name not in layers and op.type not in (_FAKE_QUANT, FENCE, *_ARITHMETIC) and op.inputs:
        op = op.inputs[0].op
        if op.type == _FAKE_QUANT:
            return True
    return False


def _fake_quantized(quant: tf.Operation) -> tf.Tensor:
    scale, offset = float(scale_of(quant)), offset_of(quant)
    low, high = ((integer - offset) * scale for integer in (-128, 127))
    return tf.quantization.fake_quant_with_min_max_vars(quant.inputs[0], low, high, name=f"{quant.name}/FakeQuant")


def _fence(tensor: tf.Tensor) -> tf.Tensor:
    return tensorflow_ops().ascend_anti_quant(tensor, scale=1.0, offset=0.0, name=f"{tensor.op.name}/fence")
