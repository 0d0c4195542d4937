"""Every combiner obeys the laws, and the checker finds one that does not; blocks that do not fit are refused."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from gpu_ops import (
    BadSetting,
    Block,
    ColumnMissing,
    Combiner,
    Covariance,
    Determinism,
    GroupBySum,
    Histogram,
    LawBroken,
    MinMax,
    Moments,
    NotNumeric,
    Partial,
    Precision,
    ShapeMismatch,
    TopK,
    check_laws,
    compose,
)

GPU_TO_GPU = Precision(determinism=Determinism.GPU_TO_GPU)
COMBINERS: dict[str, Combiner] = {
    "moments": Moments("x"),
    "moments_gpu_to_gpu": Moments("x", precision=GPU_TO_GPU, nan_policy="omit"),
    "extrema": MinMax("x", position_column="row"),
    "covariance": Covariance(["x", "m"], ddof=0),
    "covariance_gpu_to_gpu": Covariance(["x", "m"], ddof=0, precision=GPU_TO_GPU),
    "group_by": GroupBySum(keys={"k": 3, "j": 2}, values=["x", "n"]),
    "histogram": Histogram("x", -1.0, 1.0, 5),
    "top_k": TopK("x", 3, position_column="row", carry=["k"]),
}
COMBINERS["composed"] = compose(**COMBINERS)


@st.composite
def blocks(draw: st.DrawFn) -> list[Block]:
    """Three to five blocks of one to seven rows, with global row numbers and repeated values."""
    sizes = draw(st.lists(st.integers(1, 7), min_size=3, max_size=5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scale = draw(st.sampled_from([1.0, 1e-8, 1e8]))
    made, first = [], 0
    for rows in sizes:
        coarse = torch.randint(-4, 5, (rows,), generator=generator).double()
        made.append(
            {
                "x": coarse * scale,
                "m": torch.rand(rows, 2, generator=generator, dtype=torch.float64),
                "k": torch.randint(0, 3, (rows,), generator=generator),
                "j": torch.randint(0, 2, (rows,), generator=generator),
                "n": torch.randint(-(2**40), 2**40, (rows,), generator=generator),
                "row": torch.arange(first, first + rows),
            }
        )
        first += rows
    return made


@pytest.mark.parametrize("name", COMBINERS)
@settings(max_examples=15, deadline=None)
@given(blocks=blocks())
def test_laws(name: str, blocks: list[Block]) -> None:
    check_laws(COMBINERS[name], blocks)


class Sums(Moments):
    """A base for broken combiners: sums a column."""

    def __init__(self) -> None:
        super().__init__("x")

    def lift(self, block: Block) -> Partial:
        return {"sum": block["x"].sum()}

    def merge(self, left: Partial, right: Partial) -> Partial:
        if not left or not right:
            return right or left
        return {"sum": left["sum"] + right["sum"]}

    def present(self, partial: Partial) -> dict[str, torch.Tensor]:
        return dict(partial)


class Halved(Sums):
    def merge(self, left: Partial, right: Partial) -> Partial:
        return {"sum": (left["sum"] + right["sum"]) / 2} if left and right else right or left


class InPlace(Sums):
    def merge(self, left: Partial, right: Partial) -> Partial:
        if not left or not right:
            return right or left
        left["sum"] += right["sum"]
        return left


class NoIdentity(Sums):
    def merge(self, left: Partial, right: Partial) -> Partial:
        nothing = {"sum": torch.tensor(1.0)}
        return {"sum": (left or nothing)["sum"] + (right or nothing)["sum"]}


class Borrowed(Sums):
    def lift(self, block: Block) -> Partial:
        return {"sum": block["x"][0]}


@pytest.mark.parametrize(
    ("combiner", "law"),
    [
        (Halved(), "associativity"),
        (InPlace(), "purity"),
        (NoIdentity(), "identity"),
        (Borrowed(), "ownership"),
    ],
)
def test_a_broken_combiner_is_found(combiner: Combiner, law: str) -> None:
    three = [{"x": torch.tensor([float(i), 2.0])} for i in range(1, 4)]
    check_laws(Sums(), three)
    with pytest.raises(LawBroken, match=f"The law '{law}' is broken"):
        check_laws(combiner, three)


def test_too_few_blocks_prove_nothing() -> None:
    with pytest.raises(BadSetting, match="at least 3"):
        check_laws(Moments("x"), [{"x": torch.ones(1)}])


@pytest.mark.parametrize(
    "combiner", [Moments("x"), MinMax("x"), Covariance("x"), Histogram("x", 0, 1, 2), TopK("x", 1)]
)
def test_columns_that_do_not_fit_are_refused(combiner: Combiner) -> None:
    with pytest.raises(
        ColumnMissing, match="The block has no column 'x' \\(it has: y\\); correct the column's name\\."
    ):
        combiner.lift({"y": torch.ones(2)})
    for dtype in (torch.bool, torch.complex64):
        with pytest.raises(NotNumeric, match="convert it to an integer or floating dtype first"):
            combiner.lift({"x": torch.ones(2, dtype=dtype)})
    with pytest.raises(ShapeMismatch):
        combiner.lift({"x": torch.tensor(1.0)})


def test_compose_refuses_names_that_would_clash() -> None:
    with pytest.raises(BadSetting, match="without"):
        compose(**{"a.b": Moments("x")})
    with pytest.raises(BadSetting, match="at least one combiner"):
        compose()


@pytest.mark.parametrize("word", ["drop", "", "OMIT "])
def test_unknown_policy_is_refused(word: str) -> None:
    with pytest.raises(BadSetting, match="'raise', 'omit' or 'propagate'"):
        Moments("x", nan_policy=word)


def test_levels_that_contradict_are_refused() -> None:
    with pytest.raises(BadSetting, match="gpu_to_gpu"):
        Precision(determinism=Determinism.GPU_TO_GPU, is_tf32_allowed=True)
    with pytest.raises(BadSetting):
        Precision(accumulate=torch.float16)
    assert math.isclose(
        1.0, float(Moments("x", ddof=0).present(Moments("x").lift({"x": torch.tensor([1.0, 3.0])}))["std"])
    )
