"""The real ops, and their NumPy twin, against the outputs of the vendor's original kernels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy_twin as twin
import pytest

from amct_tensorflow import ops
from amct_tensorflow.record import read_batch_norms


def ifmr_options(case: dict) -> dict:
    return {key: case[key] for key in ("with_offset", "num_bits", "search_step", "max_percentile", "min_percentile")}


def describe(case: dict) -> str:
    return f"seed {case['seed']}: {case['dist']} {case['shape']} x {len(case['gain'])}"


def test_quant_ifmr(golden, calibrate):
    wrong = []
    for case, batches in golden("ifmr"):
        start, end = case["search_range"]
        scale, offset = calibrate(batches, **ifmr_options(case), search_start=start, search_end=end)
        same = offset == case["offset_d"] and np.isclose(scale, case["scale_d"], rtol=1e-6, atol=0)
        if not same and not is_near_tie(case, batches, scale, offset):
            wrong.append(f"{describe(case)}: {scale}, {offset}, not {case['scale_d']}, {case['offset_d']}")
    assert not wrong


def is_near_tie(case: dict, batches: list[np.ndarray], scale: np.float32, offset: int) -> bool:
    """Whether the factors are those of a candidate within 0.1 % of the best over all values."""
    values = np.concatenate([batch.ravel() for batch in batches])
    candidates = twin.ifmr_candidates(values, **ifmr_options(case), search_range=case["search_range"])
    losses = twin.ifmr_losses(values, candidates)
    return any(
        candidate.scale is not None
        and np.isclose(scale, candidate.scale, rtol=1e-6, atol=0)
        and offset == candidate.offset
        and loss <= losses.min() * 1.001
        for candidate, loss in zip(candidates, losses, strict=True)
    )


def test_ifmr_twin(golden):
    """The reference itself, where it is cheap: what the other tests rest on."""
    cases = [(case, batches) for case, batches in golden("ifmr") if sum(batch.size for batch in batches) < 30000]
    assert len(cases) > 50
    for case, batches in cases:
        values = np.concatenate([batch.ravel() for batch in batches])
        best = twin.ifmr(values, **ifmr_options(case), search_range=case["search_range"])
        near = is_near_tie(case, batches, np.float32(case["scale_d"]), case["offset_d"])
        assert near or best.offset == case["offset_d"], describe(case)
        assert near or np.isclose(best.scale, case["scale_d"], rtol=1e-6, atol=0), describe(case)


def hfmg_options(case: dict) -> dict:
    return {key: case[key] for key in ("with_offset", "num_bits", "num_of_bins")}


def assert_same_factors(case: dict, factors: tuple[np.float32 | None, int]) -> None:
    scale, offset = factors
    assert scale == pytest.approx(case["scale_d"], rel=1e-5), describe(case)
    assert offset == case["offset_d"], describe(case)


def test_quant_hfmg(golden, calibrate, quant_hfmg):
    for case, batches in golden("hfmg"):
        assert_same_factors(case, calibrate(batches, op=quant_hfmg, **hfmg_options(case)))


def test_hfmg_twin(golden):
    for case, batches in golden("hfmg"):
        assert_same_factors(case, twin.hfmg(batches, **hfmg_options(case)))


def weights_of(make: Callable[[dict], list[np.ndarray]], case: dict) -> np.ndarray:
    weight_case = {"seed": case["seed"] + 1, "dist": case["weight_dist"], "shape": case["weight_shape"]}
    return make(weight_case)[0]


def test_dmq_balance(golden, golden_batches, find_balance_factors):
    for case, batches in golden("dmq"):
        weight_max = np.abs(weights_of(golden_batches, case)).max(axis=(0, 1, 3))
        factors = find_balance_factors(batches, weight_max, migration_strength=case["migration_strength"])
        np.testing.assert_allclose(factors, case["tensor_balance_factor"], rtol=1e-5, err_msg=describe(case))


def test_batch_norm_statistics(golden, open_batch_norms, batch_norm_statistics):
    for case, batches in golden("bn_update"):
        mean, variance = (np.full(case["shape"][-1], case[key]) for key in ("start_mean", "start_variance"))
        book = open_batch_norms(batch_num=len(batches), mean=mean, variance=variance)
        for batch in batches:
            fraction = case["moving_average_fraction"]
            batch_norm_statistics(book, batch, batch_num=len(batches), fraction=fraction)
        found = read_batch_norms(book.path)["bn"]
        for key in ("mean", "variance"):
            expected = case["caffe"][key]
            np.testing.assert_allclose(getattr(found, key), expected, rtol=1e-5, atol=1e-6, err_msg=describe(case))


def test_dmq_twin(golden, golden_batches):
    for case, batches in golden("dmq"):
        weight_max = np.abs(weights_of(golden_batches, case)).max(axis=(0, 1, 3))
        act_max = np.abs(np.concatenate(batches)).max(axis=(0, 1, 2))
        factors = twin.balance_factors(act_max, weight_max, case["migration_strength"])
        np.testing.assert_allclose(factors, case["tensor_balance_factor"], rtol=1e-5, err_msg=describe(case))


def arq_axes(case: dict) -> list[int]:
    return [case["channel_axis"]] if case["channel_wise"] else []


def test_quant_arq(golden, open_book, quant_arq):
    for case, (weights,) in golden("arq"):
        result = quant_arq(open_book(scale_w=None), weights, channel_axes=arq_axes(case), num_bits=case["num_bits"])
        np.testing.assert_allclose(result.scale, case["scale_w"], rtol=1e-6, atol=0, err_msg=describe(case))


def test_arq_through_ctypes(golden):
    for case, (weights,) in golden("arq"):
        scales = ops.arq_scales(weights, arq_axes(case), layer="conv", num_bits=case["num_bits"])
        np.testing.assert_allclose(scales, case["scale_w"], rtol=1e-6, atol=0, err_msg=describe(case))


def test_arq_twin(golden):
    for case, (weights,) in golden("arq"):
        scales = twin.arq_scales(weights, arq_axes(case), case["num_bits"])
        np.testing.assert_allclose(scales, case["scale_w"], rtol=1e-6, atol=0, err_msg=describe(case))


def test_search_n(golden, find_shifts):
    equal = []
    for case, batches in golden("searchn"):
        equal += np.equal(find_shifts(batches, case["deq_scale"]), case["shift_bit"]).tolist()
    assert len(equal) >= 100
    assert np.mean(equal) >= 0.99


def test_search_n_twin(golden):
    equal = []
    for case, batches in golden("searchn"):
        shifts = twin.search_n(batches, np.array(case["deq_scale"], np.float32))
        equal += np.equal(shifts, case["shift_bit"]).tolist()
    assert np.mean(equal) >= 0.99
