"""GroupBySum: exact integers, floats with bits of their own, codes that are checked."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gpu_ops import (
    BadSetting,
    CodeOutOfRange,
    EmptyDataset,
    GroupBySum,
    NaNFound,
    NotNumeric,
    SumOverflow,
    merge_nodes,
    reduce_range,
    reference,
)
from gpu_ops.slices import group_sums


def grouped(combiner: GroupBySum, table: dict[str, torch.Tensor], rows: int) -> dict[str, torch.Tensor]:
    length = len(next(iter(table.values())))
    starts = range(0, length, rows)
    blocks = [{name: column[start : start + rows] for name, column in table.items()} for start in starts]
    return combiner.present(merge_nodes(combiner, reduce_range(combiner, enumerate(blocks))))


def random_table(rows: int = 1009) -> dict[str, torch.Tensor]:
    random = np.random.default_rng(11)
    return {
        "flag": torch.from_numpy(random.integers(0, 3, rows).astype(np.int8)),
        "status": torch.from_numpy(random.integers(0, 2, rows)),
        "cents": torch.from_numpy(random.integers(-(10**15), 10**15, rows)),
        "price": torch.from_numpy(random.lognormal(0, 6, rows)),
    }


@pytest.mark.parametrize("rows", [1, 50, 2000])
def test_matches_the_reference(rows: int) -> None:
    table = random_table()
    combiner = GroupBySum(keys={"flag": 3, "status": 2}, values=["cents", "price"])
    answer = grouped(combiner, table, rows)
    arrays = {name: column.numpy() for name, column in table.items()}
    wanted = reference.group_by_sum(
        {"flag": arrays["flag"], "status": arrays["status"]}, {"cents": arrays["cents"], "price": arrays["price"]}
    )
    assert len(wanted) == 6
    for group in range(6):
        expected = wanted[int(answer["key.flag"][group]), int(answer["key.status"][group])]
        assert int(answer["count"][group]) == expected["count"]
        assert int(answer["sum.cents"][group]) == expected["sum.cents"]
        assert float(answer["sum.price"][group]) == pytest.approx(expected["sum.price"], rel=1e-14)


def test_float_sums_of_a_block_have_the_same_bits_in_any_order() -> None:
    table = random_table(20_000)
    order = torch.randperm(20_000, generator=torch.Generator().manual_seed(7))
    codes = table["flag"].to(torch.int64)
    assert torch.equal(group_sums(table["price"], codes, 3), group_sums(table["price"][order], codes[order], 3))


def test_float_sums_cancel_exactly() -> None:
    values = torch.tensor([1e16, 1.0, -1e16, 1e-3], dtype=torch.float64)
    sums = group_sums(values, torch.zeros(4, dtype=torch.int64), 1)
    assert float(sums[0]) == pytest.approx(math.fsum(values.tolist()), abs=1e-7)


def test_sum_over_more_rows_than_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpu_ops.slices.SUM_ROWS_MAX", 16)
    values = torch.arange(100, dtype=torch.float64)
    sums = group_sums(values, (torch.arange(100) % 3), 3)
    assert sums.tolist() == [float(sum(range(r, 100, 3))) for r in range(3)]


def test_intermediate_overflow_is_harmless_and_a_final_one_is_refused() -> None:
    big = 2**62
    key = torch.zeros(4, dtype=torch.int64)
    combiner = GroupBySum(keys={"k": 1}, values=["v"])
    answer = grouped(combiner, {"k": key, "v": torch.tensor([big, big, big, -big - 1])}, 1)
    assert answer["sum.v"].tolist() == [2**63 - 1]
    with pytest.raises(SumOverflow, match="use a coarser scale"):
        grouped(combiner, {"k": key, "v": torch.tensor([big, big, big, -big])}, 2)


def test_sum_up_to_the_last_value_of_64_bits() -> None:
    values = torch.tensor([2**62, 2**62 - 1, -(2**62), -(2**62)])
    combiner = GroupBySum(keys={"k": 2}, values=["v"])
    answer = grouped(combiner, {"k": torch.tensor([0, 0, 1, 1]), "v": values}, 1)
    assert answer["sum.v"].tolist() == [2**63 - 1, -(2**63)]


def test_empty_groups_are_listed() -> None:
    answer = grouped(GroupBySum(keys={"k": 3}), {"k": torch.tensor([2, 2])}, 1)
    assert answer["key.k"].tolist() == [0, 1, 2]
    assert answer["count"].tolist() == [0, 0, 2]


def test_nan_policy() -> None:
    table = {"k": torch.tensor([0, 0, 1]), "v": torch.tensor([1.0, math.nan, 4.0])}
    with pytest.raises(NaNFound):
        grouped(GroupBySum(keys={"k": 2}, values=["v"]), table, 2)
    omitted = grouped(GroupBySum(keys={"k": 2}, values=["v"], nan_policy="omit"), table, 2)
    assert omitted["sum.v"].tolist() == [1.0, 4.0]
    assert omitted["count.v"].tolist() == [1, 1]
    spread = grouped(GroupBySum(keys={"k": 2}, values=["v"], nan_policy="propagate"), table, 2)
    assert math.isnan(spread["sum.v"][0])
    assert float(spread["sum.v"][1]) == 4.0


def test_infinity_stays_in_its_group() -> None:
    values = torch.tensor([math.inf, 1.0, 2.0], dtype=torch.float64)
    assert group_sums(values, torch.tensor([0, 1, 1]), 2).tolist() == [math.inf, 3.0]


@pytest.mark.parametrize("codes", [[0, 3], [-1, 0]])
def test_codes_outside_the_range_are_refused(codes: list[int]) -> None:
    with pytest.raises(CodeOutOfRange, match="1 rows have a code outside"):
        grouped(GroupBySum(keys={"k": 3}), {"k": torch.tensor(codes)}, 2)


def test_bad_input_is_refused_with_one_sentence() -> None:
    with pytest.raises(NotNumeric, match="integer dtype"):
        GroupBySum(keys={"k": 3}).lift({"k": torch.tensor([1.0])})
    with pytest.raises(EmptyDataset):
        GroupBySum(keys={"k": 3}).present({})
    with pytest.raises(BadSetting):
        GroupBySum(keys={})
    with pytest.raises(BadSetting, match="number of groups"):
        GroupBySum(keys={"a": 10_000, "b": 10_000})
