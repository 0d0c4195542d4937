"""TopK: the same rows whatever the blocks, also when values tie."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gpu_ops import BadSetting, ColumnMissing, EmptyDataset, NaNFound, TopK, merge_nodes, reduce_range, reference


def best(combiner: TopK, values: torch.Tensor, rows: int) -> dict[str, torch.Tensor]:
    blocks = [
        {"x": values[start : start + rows], "row": torch.arange(start, min(start + rows, len(values)))}
        for start in range(0, max(len(values), 1), rows)
    ]
    return combiner.present(merge_nodes(combiner, reduce_range(combiner, enumerate(blocks))))


@pytest.mark.parametrize("is_largest", [True, False])
@pytest.mark.parametrize("rows", [1, 9, 400])
@pytest.mark.parametrize("count", [1, 5, 300, 1000])
def test_matches_the_reference_with_ties(count: int, rows: int, is_largest: bool) -> None:
    values = torch.from_numpy(np.random.default_rng(12).integers(0, 20, 301))
    combiner = TopK("x", count, is_largest=is_largest, position_column="row", carry=["row"])
    answer = best(combiner, values, rows)
    wanted_values, wanted_rows = reference.top_k(values.tolist(), count, is_largest=is_largest)
    assert answer["values"].tolist() == wanted_values
    assert answer["positions"].tolist() == wanted_rows
    assert answer["carry.row"].tolist() == wanted_rows


def test_nan_policy() -> None:
    values = torch.tensor([1.0, math.nan, 3.0, 2.0])
    with pytest.raises(NaNFound):
        best(TopK("x", 2), values, 2)
    assert best(TopK("x", 2, nan_policy="omit"), values, 2)["values"].tolist() == [3.0, 2.0]
    spread = best(TopK("x", 2, nan_policy="propagate", position_column="row"), values, 2)
    assert spread["positions"].tolist() == [1, 2]


def test_bad_input_is_refused() -> None:
    with pytest.raises(BadSetting):
        TopK("x", 0)
    with pytest.raises(EmptyDataset):
        TopK("x", 3).present({})
    with pytest.raises(ColumnMissing, match="it has: x"):
        TopK("x", 1, carry=["name"]).lift({"x": torch.ones(2)})
