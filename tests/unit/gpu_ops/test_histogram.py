"""Histogram: NumPy's rule for the edges, and counters that nothing can reorder."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gpu_ops import BadSetting, EmptyDataset, Histogram, NaNFound, ShapeMismatch, merge_nodes, reduce_range, reference


def counted(combiner: Histogram, values: torch.Tensor, rows: int) -> dict[str, torch.Tensor]:
    blocks = [(i, {"x": part}) for i, part in enumerate(values.split(rows))]
    return combiner.present(merge_nodes(combiner, reduce_range(combiner, blocks)))


@pytest.mark.parametrize("rows", [1, 37, 1000])
def test_matches_numpy_and_the_reference(rows: int) -> None:
    values = torch.from_numpy(np.random.default_rng(6).integers(-5, 25, 500) / 2.0)  # many values on edges
    answer = counted(Histogram("x", 0.0, 10.0, 7), values, rows)
    assert answer["counts"].tolist() == np.histogram(values.numpy(), bins=answer["edges"].numpy())[0].tolist()
    wanted = reference.histogram(values.numpy(), answer["edges"].numpy())
    assert (answer["counts"].tolist(), int(answer["below"]), int(answer["above"])) == wanted


def test_own_edges() -> None:
    answer = counted(Histogram("x", edges=torch.tensor([0.0, 1.0, 100.0])), torch.tensor([0, 1, 99, 100, 101]), 2)
    assert answer["counts"].tolist() == [1, 3]
    assert int(answer["above"]) == 1


def test_nan_policy() -> None:
    values = torch.tensor([0.5, math.nan])
    with pytest.raises(NaNFound):
        counted(Histogram("x", 0, 1, 2), values, 1)
    answer = counted(Histogram("x", 0, 1, 2, nan_policy="omit"), values, 1)
    assert (answer["counts"].tolist(), int(answer["nan_count"])) == ([0, 1], 1)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(BadSetting, match="low < high"):
        Histogram("x", 1.0, 1.0, 4)
    with pytest.raises(BadSetting, match="strictly increasing"):
        Histogram("x", edges=torch.tensor([0.0, 0.0]))
    with pytest.raises(BadSetting):
        Histogram("x", 0, 1, 0)
    with pytest.raises(EmptyDataset):
        Histogram("x", 0, 1, 2).present({})
    four, two = Histogram("x", 0, 1, 4), Histogram("x", 0, 1, 2)
    block = {"x": torch.tensor([0.5])}
    with pytest.raises(ShapeMismatch):
        four.merge(four.lift(block), two.lift(block))
