"""The blocked product and Freivalds' check: odd tilings against the plain product, exact integers, planted errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gpu_ops import (
    BadSetting,
    Determinism,
    NotNumeric,
    Precision,
    ShapeMismatch,
    TileLoader,
    Tiling,
    freivalds,
    product_tiles,
    reference,
)
from gpu_ops.precision import product


def loader(matrix: torch.Tensor) -> TileLoader:
    return lambda rows, columns: matrix[rows, columns]


def random_matrix(rows: int, columns: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, columns)))


def multiplied(tiling: Tiling, a: torch.Tensor, b: torch.Tensor, **settings: object) -> torch.Tensor:
    c = torch.full((tiling.m, tiling.n), torch.nan, dtype=torch.float64)
    for i, j, tile in product_tiles(tiling, load_a=loader(a), load_b=loader(b), device="cpu", **settings):
        c[tiling.rows(i), tiling.columns(j)] = tile
    return c


@pytest.mark.parametrize("tiles", [(1, 1, 1), (3, 4, 2), (7, 5, 11), (100, 100, 100)])
def test_matches_the_reference(tiles: tuple[int, int, int]) -> None:
    a, b = random_matrix(7, 5, 1), random_matrix(5, 11, 2)
    tiling = Tiling(7, 5, 11, *tiles)
    np.testing.assert_allclose(multiplied(tiling, a, b).numpy(), reference.product(a.numpy(), b.numpy()), rtol=1e-12)


def test_integers_are_exact() -> None:
    a = torch.randint(-999, 999, (37, 53), generator=torch.Generator().manual_seed(1))
    b = torch.randint(-999, 999, (53, 29), generator=torch.Generator().manual_seed(2))
    assert torch.equal(multiplied(Tiling(37, 53, 29, 10, 8, 7), a, b).to(torch.int64), a @ b)


def test_chosen_tiles_have_the_same_bits_as_in_the_whole() -> None:
    a, b = random_matrix(20, 30, 3), random_matrix(30, 20, 4)
    tiling = Tiling(20, 30, 20, 8, 7, 6)
    whole = multiplied(tiling, a, b)
    chosen = [(2, 3), (0, 1)]
    parts = list(product_tiles(tiling, load_a=loader(a), load_b=loader(b), device="cpu", tiles=chosen, readers=2))
    assert [(i, j) for i, j, _ in parts] == chosen
    for i, j, tile in parts:
        assert torch.equal(tile, whole[tiling.rows(i), tiling.columns(j)])


@pytest.mark.parametrize("level", list(Determinism))
def test_every_level_matches_numpy(level: Determinism) -> None:
    a, b = random_matrix(30, 9001, 5) * torch.logspace(-9, 9, 30).unsqueeze(1), random_matrix(9001, 20, 6)
    made = product(a, b, Precision(determinism=level)).numpy()
    scale = np.linalg.norm(a.numpy(), axis=1)[:, None] * np.linalg.norm(b.numpy(), axis=0)
    assert np.abs((made - a.numpy() @ b.numpy()) / scale).max() < 1e-15


def test_bits_do_not_follow_the_number_of_threads() -> None:
    a, b = random_matrix(37, 20_001, 5), random_matrix(20_001, 23, 6)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = product(a, b, Precision())
        torch.set_num_threads(3)
        three = product(a, b, Precision())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(one, three)


def test_infinity_spoils_its_row_and_column_only() -> None:
    a = torch.tensor([[1.0, math.inf], [2.0, 3.0]], dtype=torch.float64)
    made = product(a, torch.eye(2, dtype=torch.float64), Precision(determinism=Determinism.GPU_TO_GPU))
    assert bool(made[0].isnan().all())
    assert made[1].tolist() == [2.0, 3.0]


def test_float32_accumulation_on_request() -> None:
    a, b = random_matrix(4, 6, 5), random_matrix(6, 3, 6)
    settings = {"precision": Precision(accumulate=torch.float32)}
    tiling = Tiling(4, 6, 3, 4, 6, 3)
    (_, _, tile), *_ = product_tiles(tiling, load_a=loader(a), load_b=loader(b), device="cpu", **settings)
    assert tile.dtype == torch.float32


def test_predicted_work() -> None:
    tiling = Tiling(10, 20, 30, 5, 20, 10)
    assert tiling.grid == (2, 1, 3)
    assert tiling.flops == 12_000
    assert tiling.bytes_read(8) == 8 * (3 * 200 + 2 * 600)


def test_bad_input_is_refused() -> None:
    with pytest.raises(BadSetting, match="1 or more"):
        Tiling(1, 0, 1, 1, 1, 1)
    a = torch.ones(4, 4)
    with pytest.raises(ShapeMismatch, match="A tile of A"):
        multiplied(Tiling(5, 4, 4, 5, 4, 4), a, a)
    with pytest.raises(NotNumeric):
        multiplied(Tiling(4, 4, 4, 4, 4, 4), a > 0, a)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_freivalds_accepts_the_product(dtype: torch.dtype) -> None:
    a, b = random_matrix(61, 43, 7).to(dtype), random_matrix(43, 38, 8).to(dtype)
    tiling = Tiling(61, 43, 38, 16, 16, 16)
    result = freivalds(tiling, load_a=loader(a), load_b=loader(b), load_c=loader(a @ b))
    assert result.is_equal
    assert result.worst < 1
    assert result.miss_probability < 1e-6


@pytest.mark.parametrize("error", [1e-9, 5.0, float("nan"), float("inf")])
def test_freivalds_catches_a_planted_error(error: float) -> None:
    a, b = random_matrix(61, 43, 7), random_matrix(43, 38, 8)
    c = a @ b
    c[47, 11] += error
    result = freivalds(Tiling(61, 43, 38, 16, 16, 16), load_a=loader(a), load_b=loader(b), load_c=loader(c))
    assert not result.is_equal
    assert result.worst_row == 47


def test_freivalds_catches_two_swapped_rows() -> None:
    a, b = random_matrix(12, 9, 1), random_matrix(9, 12, 2)
    c = (a @ b)[[1, 0, *range(2, 12)]]
    tiling = Tiling(12, 9, 12, 5, 5, 5)
    assert not freivalds(tiling, load_a=loader(a), load_b=loader(b), load_c=loader(c)).is_equal
    with pytest.raises(BadSetting, match="rounds"):
        freivalds(tiling, load_a=loader(a), load_b=loader(b), load_c=loader(c), rounds=0)
