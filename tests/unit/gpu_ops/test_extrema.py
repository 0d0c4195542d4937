"""MinMax: exact in every dtype, and the first position among equals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gpu_ops import EmptyDataset, MinMax, NaNFound, merge_nodes, reduce_range


def extremes(values: torch.Tensor, rows: int, **settings: object) -> dict[str, torch.Tensor]:
    combiner = MinMax("x", position_column="row", **settings)
    starts = range(0, max(len(values), 1), rows)
    blocks = [{"x": values[start : start + rows], "row": torch.tensor([start])} for start in starts]
    return combiner.present(merge_nodes(combiner, reduce_range(combiner, enumerate(blocks))))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [1, 13, 1000])
def test_matches_numpy(dtype: torch.dtype, rows: int) -> None:
    values = torch.from_numpy(np.random.default_rng(3).integers(-50, 50, 701)).to(dtype)  # many ties
    answer = extremes(values, rows)
    assert answer["min"].dtype == dtype
    assert int(answer["argmin"]) == int(np.argmin(values.numpy()))
    assert int(answer["argmax"]) == int(np.argmax(values.numpy()))
    assert answer["max"] == values.max()


def test_matrix_gives_one_answer_per_column() -> None:
    values = torch.tensor([[1.0, 9.0], [5.0, 2.0], [1.0, 9.0]])
    answer = extremes(values, 2)
    assert answer["min"].tolist() == [1.0, 2.0]
    assert answer["argmin"].tolist() == [0, 1]
    assert answer["argmax"].tolist() == [1, 0]


def test_large_integers_stay_exact() -> None:
    values = torch.tensor([2**62, 2**62 + 1, 2**62 - 1])
    assert int(extremes(values, 2)["max"]) == 2**62 + 1


def test_nan_policy() -> None:
    values = torch.tensor([4.0, math.nan, 7.0, 1.0])
    with pytest.raises(NaNFound):
        extremes(values, 2)
    omitted = extremes(values, 2, nan_policy="omit")
    assert (float(omitted["min"]), float(omitted["max"]), int(omitted["argmax"])) == (1.0, 7.0, 2)
    spread = extremes(values, 2, nan_policy="propagate")
    assert math.isnan(float(spread["max"]))
    assert int(spread["argmin"]) == 1


def test_nothing_left_is_refused() -> None:
    with pytest.raises(EmptyDataset):
        extremes(torch.tensor([math.nan, math.nan]), 1, nan_policy="omit")
    with pytest.raises(EmptyDataset):
        extremes(torch.empty(0), 4)
