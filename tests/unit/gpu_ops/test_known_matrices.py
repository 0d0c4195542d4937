"""Random numbers by counter, and the matrices and datasets with known answers made from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gpu_ops import BadSetting, SpectralDataset, SpectralMatrix, integers, philox_words, signs, uniform
from gpu_ops.philox import philox_block


def words_of(counter: tuple[int, ...], key: tuple[int, int]) -> list[int]:
    state = tuple(torch.tensor([word], dtype=torch.int64) for word in counter)
    return [int(word) for word in philox_block(state, key)]


def test_known_answers_of_philox() -> None:
    """The vectors that the authors publish with their Random123 library."""
    assert words_of((0, 0, 0, 0), (0, 0)) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    ones = 0xFFFFFFFF
    assert words_of((ones,) * 4, (ones, ones)) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    pi_counter = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    assert words_of(pi_counter, (0xA4093822, 0x299F31D0)) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


@pytest.mark.parametrize("first", [0, 1, 3, 4, 1001, 2**40 + 5])
def test_any_part_is_a_part_of_the_whole(first: int) -> None:
    start = first - first % 4
    whole = philox_words(42, start, 64)
    assert torch.equal(philox_words(42, first, 17), whole[first - start : first - start + 17])
    assert torch.equal(uniform(42, first, 9), uniform(42, first, 30)[:9])


def test_numbers_look_random() -> None:
    numbers = uniform(7, 0, 40_000)
    assert float(numbers.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(numbers.var()) == pytest.approx(1 / 12, abs=0.002)
    assert 0 <= float(numbers.min()) < float(numbers.max()) < 1
    assert abs(float(signs(7, 0, 40_000).double().mean())) < 0.02
    dice = integers(7, 0, 6000, low=1, high=7)
    assert sorted(set(dice.tolist())) == [1, 2, 3, 4, 5, 6]
    assert int(torch.bincount(dice)[1:].min()) > 850
    assert not torch.equal(uniform(8, 0, 10), uniform(7, 0, 10))


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (7, 7), (33, 5), (50, 1), (64, 31)])
def test_spectrum_by_svd(rows: int, columns: int) -> None:
    singular_values = torch.linspace(10.0, 0.5, columns, dtype=torch.float64)
    matrix = SpectralMatrix(rows=rows, columns=columns, singular_values=singular_values, seed=3)
    found = np.linalg.svd(matrix.row_block(0, rows).numpy(), compute_uv=False)
    np.testing.assert_allclose(found, singular_values.numpy(), rtol=1e-13)


def test_any_rectangle_has_the_bits_of_the_whole() -> None:
    matrix = SpectralMatrix(rows=41, columns=13, singular_values=torch.rand(13, dtype=torch.float64), seed=9)
    whole = matrix.row_block(0, 41)
    for rows, columns in [(slice(0, 5), slice(3, 9)), (slice(10, 20), slice(0, 13)), (slice(40, 41), slice(12, 13))]:
        assert torch.equal(matrix.tile(rows, columns), whole[rows, columns])


def test_a_block_of_a_huge_matrix_costs_a_block() -> None:
    matrix = SpectralMatrix(rows=2**40, columns=100, singular_values=torch.ones(100, dtype=torch.float64))
    assert matrix.row_block(2**39, 3).shape == (3, 100)


@pytest.mark.parametrize(("rows", "columns"), [(2, 1), (64, 7), (96, 31)])
def test_dataset_has_the_promised_mean_and_covariance(rows: int, columns: int) -> None:
    variances = torch.logspace(2, -1, columns, dtype=torch.float64)
    mean = torch.arange(columns, dtype=torch.float64)
    data = SpectralDataset(rows=rows, columns=columns, variances=variances, mean=mean, seed=5)
    values = torch.cat([data.row_block(first, 1) for first in range(rows)])
    assert torch.equal(values, data.row_block(0, rows))
    torch.testing.assert_close(values.mean(dim=0), mean, rtol=0, atol=1e-12)
    sample = torch.cov(values.T).reshape(columns, columns)
    torch.testing.assert_close(sample, data.covariance(), rtol=1e-12, atol=1e-11)
    found = torch.linalg.eigvalsh(data.covariance()).flip(0)
    torch.testing.assert_close(found, variances, rtol=1e-11, atol=1e-13)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(BadSetting, match="rows >= columns"):
        SpectralMatrix(rows=2, columns=3, singular_values=torch.ones(3))
    with pytest.raises(BadSetting, match="singular_values"):
        SpectralMatrix(rows=3, columns=3, singular_values=torch.ones(2))
    with pytest.raises(BadSetting, match="power of two above the 4 columns"):
        SpectralDataset(rows=12, columns=4, variances=torch.ones(4), mean=torch.zeros(4))
    matrix = SpectralMatrix(rows=4, columns=3, singular_values=torch.ones(3))
    with pytest.raises(BadSetting, match="a range within"):
        matrix.row_block(3, 2)
    with pytest.raises(BadSetting, match="seed"):
        uniform(-1, 0, 1)
    with pytest.raises(BadSetting, match="2\\^31"):
        integers(0, 0, 1, low=5, high=5)
