"""Covariance and principal components: against NumPy, and against datasets whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gpu_ops import (
    BadSetting,
    Covariance,
    Determinism,
    EmptyDataset,
    NaNFound,
    Precision,
    ShapeMismatch,
    SpectralDataset,
    merge_nodes,
    principal_components,
    reduce_range,
    reference,
)
from gpu_ops.precision import gram
from gpu_ops.slices import sliced_gram

GPU_TO_GPU = Precision(determinism=Determinism.GPU_TO_GPU)


def covariance_of(values: torch.Tensor, rows: int, **settings: object) -> dict[str, torch.Tensor]:
    combiner = Covariance("x", **settings)
    blocks = [(i, {"x": part}) for i, part in enumerate(values.split(rows))]
    return combiner.present(merge_nodes(combiner, reduce_range(combiner, blocks)))


@pytest.mark.parametrize("rows", [1, 17, 400])
@pytest.mark.parametrize("level", list(Determinism))
def test_matches_the_reference(level: Determinism, rows: int) -> None:
    values = np.random.default_rng(2).normal(1e6, [1.0, 10.0, 0.1], (203, 3))
    answer = covariance_of(torch.from_numpy(values), rows, precision=Precision(determinism=level))
    wanted = reference.covariance(values)
    np.testing.assert_allclose(answer["covariance"].numpy(), wanted, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(answer["correlation"].diagonal().numpy(), 1.0, rtol=1e-12)


def test_columns_side_by_side() -> None:
    a, b = torch.randn(50, dtype=torch.float64), torch.randn(50, 2, dtype=torch.float64)
    combiner = Covariance(["a", "b"])
    answer = combiner.present(combiner.lift({"a": a, "b": b}))
    wanted = np.cov(torch.cat([a.unsqueeze(1), b], dim=1).numpy().T)
    np.testing.assert_allclose(answer["covariance"].numpy(), wanted, rtol=1e-12)


@pytest.mark.parametrize("level", [Determinism.RUN_TO_RUN, Determinism.GPU_TO_GPU])
def test_known_spectrum_is_found(level: Determinism) -> None:
    variances = torch.tensor([100.0, 25.0, 4.0, 1.0, 0.01], dtype=torch.float64)
    mean = torch.tensor([5.0, -3.0, 0.0, 100.0, 1.0], dtype=torch.float64)
    data = SpectralDataset(rows=3 * 256, columns=5, variances=variances, mean=mean, seed=4)
    answer = covariance_of(data.row_block(0, 768), 100, precision=Precision(determinism=level))
    torch.testing.assert_close(answer["mean"], mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(answer["covariance"], data.covariance(), rtol=1e-12, atol=1e-11)
    components = principal_components(answer["covariance"], count=4)
    torch.testing.assert_close(components.variances, variances[:4], rtol=1e-12, atol=0)
    assert float(components.shares[0]) == pytest.approx(100 / 130.01)
    largest = components.directions.abs().argmax(dim=0, keepdim=True)
    assert bool((components.directions.gather(0, largest) > 0).all())


def test_sliced_gram_is_accurate_and_symmetric() -> None:
    values = torch.from_numpy(np.random.default_rng(8).normal(0, [1e-9, 1.0, 1e12], (4096, 3)))
    product = sliced_gram(values)
    wanted = [[math.fsum((values[:, i] * values[:, j]).tolist()) for j in range(3)] for i in range(3)]
    scale = values.square().sum(dim=0).sqrt()
    error = (product - torch.tensor(wanted, dtype=torch.float64)).abs() / (scale.unsqueeze(0) * scale.unsqueeze(1))
    assert float(error.max()) < 1e-15
    assert torch.equal(product, product.T)


def test_sliced_gram_has_the_same_bits_in_any_row_order() -> None:
    values = torch.from_numpy(np.random.default_rng(9).lognormal(0, 4, (4000, 6)))
    shuffled = values[torch.randperm(4000, generator=torch.Generator().manual_seed(1))]
    assert torch.equal(sliced_gram(values), sliced_gram(shuffled))


def test_gram_of_infinite_column_is_nan_there_only() -> None:
    values = torch.tensor([[1.0, 2.0], [math.inf, 3.0]], dtype=torch.float64)
    product = gram(values, GPU_TO_GPU)
    assert product[1, 1] == 13.0
    assert bool(product[0].isnan().all())


def test_nan_rows() -> None:
    values = torch.tensor([[1.0, 2.0], [math.nan, 9.0], [3.0, 8.0], [5.0, 5.0]], dtype=torch.float64)
    with pytest.raises(NaNFound):
        covariance_of(values, 2)
    kept = values[[0, 2, 3]]
    for rows in (1, 3):
        answer = covariance_of(values, rows, nan_policy="omit")
        np.testing.assert_allclose(answer["covariance"].numpy(), np.cov(kept.numpy().T), rtol=1e-14)


def test_bad_input_is_refused_with_one_sentence() -> None:
    with pytest.raises(EmptyDataset):
        covariance_of(torch.ones(1, 2), 1)
    combiner = Covariance("x")
    with pytest.raises(ShapeMismatch, match="write all blocks with the same columns"):
        combiner.merge(combiner.lift({"x": torch.ones(2, 2)}), combiner.lift({"x": torch.ones(2, 3)}))
    with pytest.raises(ShapeMismatch, match="write the columns from the same rows"):
        Covariance(["a", "b"]).lift({"a": torch.ones(2), "b": torch.ones(3)})
    with pytest.raises(BadSetting, match="between 1 and 2"):
        principal_components(torch.eye(2), count=3)
    with pytest.raises(BadSetting):
        Covariance([])
