"""Moments: certified series, odd shapes against the plain reference, and how the bits hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gpu_ops import (
    Covariance,
    Determinism,
    EmptyDataset,
    Moments,
    NaNFound,
    Precision,
    compose,
    merge_nodes,
    reduce_range,
    reference,
    same_bits,
)


def in_blocks(values: torch.Tensor, rows: int) -> list[tuple[int, dict[str, torch.Tensor]]]:
    return [(i, {"x": part}) for i, part in enumerate(values.split(rows))]


def moments_of(values: torch.Tensor, rows: int = 100, **settings: object) -> dict[str, torch.Tensor]:
    combiner = Moments("x", **settings)
    return combiner.present(merge_nodes(combiner, reduce_range(combiner, in_blocks(values, rows))))


def log_relative_error(value: float, certified: float) -> float:
    """Number of correct digits, at most 15."""
    return 15.0 if value == certified else min(15.0, -math.log10(abs(value - certified) / abs(certified)))


def numacc_series(centre: float, spread: float, pairs: int) -> torch.Tensor:
    """The form of NIST's NumAcc sets: the centre, then below and above it in turn."""
    return torch.tensor([centre] + [centre - spread, centre + spread] * pairs, dtype=torch.float64)


# mean and standard deviation are certified by NIST (Statistical Reference Datasets, univariate summary statistics);
# the least number of correct digits is what float64 can hold for the set.
CERTIFIED = {
    "NumAcc1": (torch.tensor([10000001.0, 10000003.0, 10000002.0], dtype=torch.float64), 10000002.0, 1.0, 14.9),
    "NumAcc2": (numacc_series(1.2, 0.1, 500), 1.2, 0.1, 14.0),
    "NumAcc3": (numacc_series(1000000.2, 0.1, 500), 1000000.2, 0.1, 9.0),
    "NumAcc4": (numacc_series(10000000.2, 0.1, 500), 10000000.2, 0.1, 8.0),
}


@pytest.mark.parametrize("rows", [1, 7, 100, 5000])
@pytest.mark.parametrize("level", list(Determinism))
@pytest.mark.parametrize("name", CERTIFIED)
def test_certified_digits(name: str, level: Determinism, rows: int) -> None:
    values, mean, deviation, digits = CERTIFIED[name]
    answer = moments_of(values, rows, precision=Precision(determinism=level))
    assert log_relative_error(float(answer["mean"]), mean) >= 14.9
    assert log_relative_error(float(answer["std"]), deviation) >= digits


def test_sum_of_squares_would_fail_the_certified_set() -> None:
    values, _, deviation, _ = CERTIFIED["NumAcc4"]
    naive = ((values * values).sum() - values.sum() ** 2 / len(values)) / (len(values) - 1)
    assert log_relative_error(math.sqrt(max(float(naive), 0.0)), deviation) < 2


@pytest.mark.parametrize("shape", [(1,), (2,), (4095,), (4097,), (12301,), (999, 3), (8193, 5)])
@pytest.mark.parametrize("level", list(Determinism))
def test_odd_shapes_match_the_reference(shape: tuple[int, ...], level: Determinism) -> None:
    values = torch.from_numpy(np.random.default_rng(5).normal(3.0, 2.0, shape))
    answer = moments_of(values, 1000, precision=Precision(determinism=level))
    for column in range(shape[1] if len(shape) > 1 else 1):
        flat = values[:, column] if len(shape) > 1 else values
        count, mean, variance = reference.moments(flat.numpy())
        got = {key: float(value.reshape(-1)[column]) for key, value in answer.items()}
        assert got["count"] == count
        assert got["mean"] == pytest.approx(mean, rel=1e-14)
        assert got["variance"] == pytest.approx(variance, rel=1e-13, nan_ok=True)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float16, torch.bfloat16, torch.float32])
def test_every_dtype_is_summed_in_float64(dtype: torch.dtype) -> None:
    values = torch.arange(100).to(dtype)
    answer = moments_of(values, 33)
    assert answer["mean"].dtype == torch.float64
    assert float(answer["mean"]) == 49.5


@pytest.mark.parametrize("level", [Determinism.RUN_TO_RUN, Determinism.GPU_TO_GPU])
def test_bits_do_not_follow_the_number_of_threads(level: Determinism) -> None:
    values = torch.from_numpy(np.random.default_rng(1).lognormal(0.0, 5.0, 300_001))
    precision = Precision(determinism=level)
    combiner = compose(x=Moments("x", precision=precision), m=Covariance("m", precision=precision))
    matrix = torch.from_numpy(np.random.default_rng(2).lognormal(0.0, 5.0, (20_001, 37)))
    before = torch.get_num_threads()
    partials = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            partials.append(combiner.lift({"x": values, "m": matrix}))
    finally:
        torch.set_num_threads(before)
    assert same_bits(partials[0], partials[1])
    assert same_bits(partials[0], partials[2])


def test_nan_policy() -> None:
    values = torch.tensor([1.0, math.nan, 3.0, 5.0])
    with pytest.raises(NaNFound, match="holds 1 NaN; clean the data"):
        moments_of(values, 2)
    omitted = moments_of(values, 2, nan_policy="omit")
    assert (int(omitted["count"]), float(omitted["mean"]), float(omitted["variance"])) == (3, 3.0, 4.0)
    assert math.isnan(float(moments_of(values, 2, nan_policy="propagate")["mean"]))


def test_omit_with_a_block_of_only_nan() -> None:
    values = torch.tensor([math.nan, math.nan, 2.0, 4.0])
    assert float(moments_of(values, 2, nan_policy="omit")["mean"]) == 3.0
    assert float(moments_of(values.flip(0), 2, nan_policy="omit")["mean"]) == 3.0


def test_infinity_reaches_the_mean() -> None:
    values = torch.tensor([math.inf, 1.0, 2.0, 3.0])
    assert float(moments_of(values, 2)["mean"]) == math.inf
    assert float(moments_of(values.flip(0), 1)["mean"]) == math.inf
    assert math.isnan(float(moments_of(torch.tensor([math.inf, -math.inf]), 1)["mean"]))


def test_nothing_is_refused_with_one_sentence() -> None:
    combiner = Moments("x")
    with pytest.raises(EmptyDataset, match="give at least one block"):
        combiner.present(combiner.zero())
    with pytest.raises(EmptyDataset):
        moments_of(torch.empty(0))
    assert math.isnan(float(moments_of(torch.tensor([2.0]))["variance"]))


def test_composed_in_one_pass() -> None:
    combiner = compose(first=Moments("x"), again=Moments("x", ddof=0))
    answer = combiner.present(combiner.lift({"x": torch.tensor([1.0, 3.0])}))
    assert float(answer["first.variance"]) == 2.0
    assert float(answer["again.variance"]) == 1.0
