"""Whose scales a record has: of weights with or without their batch norm, or of none that the model has."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import tensorflow as tf
from fusing import plan

from amct_tensorflow.errors import AmctRuntimeError
from amct_tensorflow.graph_passes.planning.match_record import belongs_to_unfused, check_fit, check_own_scales
from amct_tensorflow.graph_passes.workspace import Layer
from amct_tensorflow.ops import arq_scales

tf1 = tf.compat.v1

# Rules by which scales are made, for weights as [weights of a channel, channels]


def exact(weights):
    return np.maximum(weights.max(axis=0) / 127, weights.min(axis=0) / -128)


def largest(weights):
    return np.abs(weights).max(axis=0) / 127


def least_squares(weights):
    """The scale with the least error, of 41 candidates."""
    candidates = [largest(weights) * share for share in np.linspace(0.3, 1.1, 41)]
    errors = [((np.clip(np.round(weights / s), -128, 127) * s - weights) ** 2).sum(axis=0) for s in candidates]
    return np.take_along_axis(np.array(candidates), np.argmin(errors, axis=0)[None], axis=0)[0]


RULES: dict[str, Callable] = {
    "exact": exact,
    "always_127": largest,
    "always_128": lambda w: np.abs(w).max(axis=0) / 128,
    "power_of_two": lambda w: 2.0 ** np.ceil(np.log2(largest(w))),
    "head_room_1.2": lambda w: 1.2 * exact(w),
    "head_room_2": lambda w: 2 * exact(w),
    "clip_0.85": lambda w: 0.85 * exact(w),
    "clip_0.7": lambda w: 0.7 * exact(w),
    "three_sigma": lambda w: 3 * w.std(axis=0) / 127,
    "percentile_99": lambda w: np.quantile(np.abs(w), 0.99, axis=0) / 127,
    "least_squares": least_squares,
}
EXACT_RULES = ("exact", "always_127", "always_128")
CHANNELS = 16
GAMMAS: dict[str, Callable] = {
    "small": lambda random: random.uniform(0.02, 0.6, CHANNELS),
    "tiny": lambda random: random.uniform(0.005, 0.05, CHANNELS),
    "mixed": lambda random: random.uniform(0.2, 3, CHANNELS),
    "big": lambda random: random.uniform(2, 30, CHANNELS),
    "around_one": lambda random: random.uniform(0.5, 2, CHANNELS),
    "negative": lambda random: random.uniform(-1, 1, CHANNELS),
    "zeros": lambda random: random.uniform(0.2, 3, CHANNELS) * (np.arange(CHANNELS) % 4 > 0),
    "alike_30": lambda random: 30 * random.uniform(0.9, 1.1, CHANNELS),
    "alike_0.03": lambda random: 0.03 * random.uniform(0.9, 1.1, CHANNELS),
}
SHAPES = {
    "conv_1": (3, 3, 1, CHANNELS),
    "conv_8": (3, 3, 8, CHANNELS),
    "conv_32": (3, 3, 32, CHANNELS),
    "depthwise": (3, 3, CHANNELS, 1),
    "depthwise_2": (3, 3, CHANNELS // 2, 2),
    "matmul": (64, CHANNELS),
}
WEIGHTS: dict[str, Callable] = {
    "normal": lambda random, shape: random.standard_normal(shape),
    "student": lambda random, shape: random.standard_t(4, shape),
}


def graph_of(kind: str, follower: str = "batch_norm") -> tf.Graph:
    """A layer of the kind, and what may be folded into it."""
    shape = SHAPES[kind]
    with tf.Graph().as_default() as graph:
        weights = tf.constant(np.ones(shape, np.float32))
        inputs = [None, shape[0]] if kind == "matmul" else [None, 8, 8, shape[2]]
        x = tf1.placeholder(tf.float32, inputs, name="x")
        if kind == "matmul":
            y = tf.reshape(tf.matmul(x, weights, name="layer"), [-1, 1, 1, CHANNELS])
        elif kind.startswith("conv"):
            y = tf.nn.conv2d(x, weights, 1, "SAME", name="layer")
        else:
            y = tf1.nn.depthwise_conv2d_native(x, weights, [1, 1, 1, 1], "SAME", name="layer")
        ones, zeros = np.ones(CHANNELS, np.float32), np.zeros(CHANNELS, np.float32)
        if follower == "batch_norm":
            y = tf1.nn.fused_batch_norm(y, ones, zeros, zeros, ones, is_training=False, name="bn")[0]
        elif follower == "mul":
            y = tf.multiply(y, tf.constant(ones), name="mul")
        tf.identity(y, name="out")
    return graph


@dataclasses.dataclass(frozen=True)
class Forms:
    """A layer whose batch norm is folded, and the same without, to be given weights and scales."""

    fused: Layer
    unfused: Layer

    @classmethod
    def of(cls, kind: str, follower: str = "batch_norm") -> Forms:
        graph = graph_of(kind, follower)
        fused, unfused = (plan(graph, fuse=fuse)[1]["layer"] for fuse in (True, False))
        assert (fused.folded is None) == (follower == "none") and unfused.folded is None
        return cls(fused, unfused)

    def given(self, weights: np.ndarray, gamma: np.ndarray) -> Forms:
        weights = weights.astype(np.float32)
        factor = gamma.astype(np.float32).reshape(self.fused.along_channels()[-weights.ndim :])
        return Forms(
            dataclasses.replace(self.fused, weights=weights * factor),
            dataclasses.replace(self.unfused, weights=weights),
        )

    def with_scales(self, scales: np.ndarray) -> Forms:
        axes = self.fused.channel_axes if scales.size > 1 else ()
        made = [
            dataclasses.replace(form, scale_w=scales.astype(np.float32), channel_axes=axes)
            for form in (self.fused, self.unfused)
        ]
        return Forms(*made)

    def chosen(self) -> tuple[Layer, Layer]:
        """The form that is taken, and the other."""
        return (
            (self.unfused, self.fused) if belongs_to_unfused(self.fused, self.unfused) else (self.fused, self.unfused)
        )


def in_columns(layer: Layer) -> np.ndarray:
    """The weights as [weights of a channel, channels]; one column for layers that have one scale."""
    if not layer.channel_axes:
        return layer.weights.reshape(-1, 1)
    return layer.weights.reshape(-1, CHANNELS)


def made_by(rule: str, layer: Layer) -> np.ndarray:
    """Scales by the rule; as in ARQ, 1 where that is too small for a record."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = np.float32(RULES[rule](in_columns(layer).astype(np.float64)))
    return np.where(scales < 2.0**-23, np.float32(1), scales)


def sqnr(layer: Layer) -> float:
    weights = in_columns(layer).astype(np.float64)
    error = np.clip(np.round(weights / layer.scale_w), -128, 127) * layer.scale_w - weights
    return 10 * np.log10(np.sum(weights**2) / np.sum(error**2))


def honest_cases(kind: str, gamma: str, rule: str, seeds: int) -> Iterator[tuple[Forms, Layer]]:
    """Yields a layer in both forms, and the form that its scales were made for."""
    empty = Forms.of(kind)
    for seed, distribution in itertools.product(range(seeds), WEIGHTS):
        random = np.random.default_rng(seed)
        weights = random.uniform(0.02, 1) * WEIGHTS[distribution](random, SHAPES[kind])
        forms = empty.given(weights, GAMMAS[gamma](random))
        for made_for in ("fused", "unfused"):
            scaled = forms.with_scales(made_by(rule, getattr(forms, made_for)))
            yield scaled, getattr(scaled, made_for)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("kind", SHAPES)
def test_honest_scales_are_known_and_never_refused(kind, gamma, rule):
    for forms, truth in honest_cases(kind, gamma, rule, seeds=4):
        chosen, other = forms.chosen()
        check_fit(chosen, other)
        if chosen is not truth:  # then it does not matter: one scale says little, powers of two spread like factors do
            assert sqnr(chosen) > sqnr(truth) - (6.1 if kind == "matmul" else 1)
            assert rule == "power_of_two" or kind == "matmul"
            if rule in EXACT_RULES:
                assert np.abs(chosen.weights).max() / 127 / chosen.scale_w == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("kind", SHAPES)
def test_a_fold_that_makes_no_difference(kind):
    """Whoever's the scales are, both forms fit, and the fused one is faster."""
    random = np.random.default_rng(0)
    forms = Forms.of(kind).given(random.standard_normal(SHAPES[kind]), np.full(CHANNELS, -1))
    for rule in RULES:
        scaled = forms.with_scales(made_by(rule, forms.unfused))
        assert belongs_to_unfused(scaled.fused, scaled.unfused) is None


# Channels whose scales were made up


def columns(values: dict[int, float]) -> np.ndarray:
    """Ones, but for the channels named."""
    return np.array([values.get(channel, 1.0) for channel in range(CHANNELS)])


@pytest.mark.parametrize("made_for", ["fused", "unfused"])
@pytest.mark.parametrize("dead", [0.0, 1e-20, 1e-7], ids=str)
@pytest.mark.parametrize("where", ["weights", "gamma", "both"])
@pytest.mark.parametrize("gamma", [0.1, 5], ids=str)
def test_dead_channels_prove_nothing(gamma, where, dead, made_for):
    """With the scale 1, as ARQ has it, or with that of another channel."""
    random = np.random.default_rng(3)
    weights = random.standard_normal(SHAPES["conv_8"]) * columns({3: dead} if where != "gamma" else {})
    gammas = gamma * random.uniform(0.6, 1.6, CHANNELS) * columns({5: dead} if where != "weights" else {})
    forms = Forms.of("conv_8").given(weights, gammas)
    scales = made_by("exact", getattr(forms, made_for))
    for substitute in (1.0, scales[0], 1e-6):
        scaled = forms.with_scales(np.where(scales == 1, substitute, scales))
        chosen, other = scaled.chosen()
        assert chosen is getattr(scaled, made_for)
        assert check_fit(chosen, other) is None


@pytest.mark.parametrize("factor", [1e-5, 1e-7])
def test_a_batch_norm_that_switches_all_off(factor):
    random = np.random.default_rng(0)
    forms = Forms.of("conv_8").given(random.standard_normal(SHAPES["conv_8"]), np.full(CHANNELS, factor))
    for made_for in ("fused", "unfused"):
        scaled = forms.with_scales(made_by("exact", getattr(forms, made_for)))
        assert scaled.chosen()[0] is getattr(scaled, made_for)


def test_a_layer_of_dead_channels():
    forms = Forms.of("conv_8", "none").given(np.full(SHAPES["conv_8"], 1e-9), np.ones(CHANNELS))
    layer = forms.with_scales(np.ones(CHANNELS)).unfused
    assert check_fit(layer, None) is None
    check_own_scales(layer)


# Scales that belong to neither form


def unfused_layer(kind: str, rule: str = "exact", *, factor: float = 1, spread: float = 0) -> Layer:
    """A layer without batch norm, its scales made by the rule and multiplied."""
    random = np.random.default_rng(7)
    weights = random.standard_normal((int(np.prod(SHAPES[kind])) // CHANNELS, CHANNELS))
    weights = (weights * np.exp(spread * random.standard_normal(CHANNELS))).reshape(SHAPES[kind])
    forms = Forms.of(kind, "none").given(weights, np.ones(CHANNELS))
    return forms.with_scales(factor * made_by(rule, forms.unfused)).unfused


@pytest.mark.parametrize("kind", SHAPES)
def test_scales_that_are_off_by_a_factor(kind):
    with pytest.raises(
        AmctRuntimeError, match=r"^the weights of layer layer keep an SQNR of only 0\.0 dB under scale_w"
    ):
        check_fit(unfused_layer(kind, factor=1000), None)
    assert re.fullmatch(
        r"scale_w of layer layer uses only 1.\..% of the int8 range: smaller scales would be more accurate",
        str(check_fit(unfused_layer(kind, factor=1 / 0.13), None)),
    )
    with pytest.raises(
        AmctRuntimeError, match=r"SQNR of only [123]\.. dB .*, being .*1.* times as large as it allows: "
    ):
        check_fit(unfused_layer(kind, factor=0.1), None)
    with pytest.raises(AmctRuntimeError, match=r"SQNR of only"):
        check_fit(unfused_layer(kind, factor=1e-4), None)


@pytest.mark.parametrize("kind", [kind for kind in SHAPES if kind != "matmul"])
@pytest.mark.parametrize("seed", range(20))
def test_scales_that_are_shuffled(kind, seed):
    layer = unfused_layer(kind, spread=1)
    layer.scale_w = np.random.default_rng(seed).permutation(layer.scale_w)
    try:
        assert "clips" in str(check_fit(layer, None))
    except AmctRuntimeError as error:
        assert "keep an SQNR of only" in str(error)


def test_head_room_is_no_reason_to_warn():
    for rule in ("head_room_1.2", "head_room_2", "power_of_two"):
        assert check_fit(unfused_layer("conv_8", rule), None) is None


def test_weights_that_are_no_numbers():
    layer = unfused_layer("conv_8")
    layer.weights[0, 0, 0, 0] = np.nan
    with pytest.raises(AmctRuntimeError, match="the weights of layer layer keep an SQNR of only nan dB"):
        check_fit(layer, None)


# The words


@pytest.mark.parametrize(("follower", "words"), [("batch_norm", "batch norm bn"), ("mul", "Mul mul")])
def test_words_for_what_is_folded(follower, words):
    random = np.random.default_rng(0)
    forms = Forms.of("conv_8", follower).given(
        random.standard_normal(SHAPES["conv_8"]), np.geomspace(0.1, 10, CHANNELS)
    )
    scaled = forms.with_scales(made_by("exact", forms.unfused))
    assert re.fullmatch(
        words + r" is not folded: scale_w of the record is of the weights without it, with it they are 0\.1\d* to "
        r"\d+(\.\d+)? times what the scales allow",
        str(belongs_to_unfused(scaled.fused, scaled.unfused)),
    )
    scaled = forms.with_scales(1e-4 * made_by("exact", forms.unfused))
    for form, other in ((scaled.fused, scaled.unfused), (scaled.unfused, scaled.fused)):
        with pytest.raises(AmctRuntimeError) as caught:
            check_fit(form, other)
        assert re.fullmatch(
            r"the weights of layer layer keep an SQNR of only 0\.0 dB under scale_w of the record, being .* to .* "
            rf"times as large as it allows with {words} folded in, 1e\+04 to 1\.01e\+04 times without: the record is "
            r"of another model, or of weights that were changed since; compute its factors from this model",
            str(caught.value),
        )


# What save_model asks of the record of a calibration


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("distribution", WEIGHTS)
def test_own_scales_are_never_refused(kind, distribution):
    empty = Forms.of(kind, "none")
    for seed in range(20):
        random = np.random.default_rng(seed)
        weights = WEIGHTS[distribution](random, SHAPES[kind]) * 10.0 ** random.uniform(-7, 2)
        layer = empty.given(weights, np.ones(CHANNELS)).unfused
        layer.scale_w = arq_scales(layer.weights, layer.channel_axes, layer="layer")
        check_own_scales(layer)


@pytest.mark.parametrize(
    ("factor", "words"),
    [
        (0.9, r"are up to 1\.1\d times as large as scale_w of the record allows"),
        (1.2, r"use only 0\.83\d? of the int8 range"),
    ],
)
def test_weights_that_were_trained_on(factor, words):
    layer = unfused_layer("conv_8")
    assert layer.scale_w is not None
    layer.scale_w[4] *= factor
    with pytest.raises(
        AmctRuntimeError, match=f"^the weights of layer layer {words}.*: the record is of another model"
    ):
        check_own_scales(layer)
