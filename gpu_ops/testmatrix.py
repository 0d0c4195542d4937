"""Matrices and datasets whose answer is known beforehand, any part of which can be made from its place alone.

SpectralMatrix: A = (I - 2uuᵀ) · diag(s) · (I - 2vvᵀ) with unit vectors u, v. Both reflections are orthogonal, so s are
A's singular values, exactly in theory and to rounding in float64. The vectors have entries ±1/sqrt(length), signs from
a counter: their norm is 1 without a pass over them, and a block costs O(its entries) however large A is.

SpectralDataset: rows whose sample mean and sample covariance are known in closed form: columns of a Hadamard matrix are
orthogonal and have mean zero, so X = mean + H·diag(sqrt(variance·(m-1)/m))·(I - 2vvᵀ) has exactly the covariance
(I - 2vvᵀ)·diag(variances)·(I - 2vvᵀ) over its m rows.

Shape suffixes: M rows of a part, N columns of a part, D all columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gpu_ops.errors import BadSetting
from gpu_ops.philox import signs
from gpu_ops.precision import halving_sum

_ODD_STEP = 0x9E3779B1  # an odd number near 2^32 over the golden ratio: spreads the Hadamard columns in use


@dataclass(frozen=True)
class SpectralMatrix:
    """An m x n matrix, m >= n, with the given singular values [n]."""

    rows: int
    columns: int
    singular_values: torch.Tensor
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.rows >= self.columns >= 1:
            raise BadSetting("rows, columns", (self.rows, self.columns), "rows >= columns >= 1")
        if tuple(self.singular_values.shape) != (self.columns,) or bool((self.singular_values < 0).any()):
            raise BadSetting(
                "singular_values", tuple(self.singular_values.shape), f"{self.columns} numbers of 0 or more"
            )

    def row_block(self, first: int, count: int, *, device: torch.device | str = "cpu") -> torch.Tensor:
        """Rows first..first+count-1, float64 [M, D], in O(M·D)."""
        return self.tile(slice(first, first + count), slice(0, self.columns), device=device)

    def tile(self, rows: slice, columns: slice, *, device: torch.device | str = "cpu") -> torch.Tensor:
        """A rectangle of the matrix, float64 [M, N].

        With σ, τ the signs of u, v:  A_ij = s_i δ_ij + σ_i·(4c τ_j/(m·n) - 2 σ_j s_j/m) - 2 τ_i s_i τ_j/n
        (a row i >= n has no s_i),  c = Σ σ_j s_j τ_j.
        """
        _check_part(rows, self.rows, "rows")
        _check_part(columns, self.columns, "columns")
        sigma_M = self._sigma(rows.start, rows.stop - rows.start, device)
        sigma_N = self._sigma(columns.start, columns.stop - columns.start, device)
        tau_N = self._tau(columns.start, columns.stop - columns.start, device)
        s_N = self.singular_values.to(device=device, dtype=torch.float64)[columns]
        share = 4.0 / (self.rows * self.columns)
        from_u_N = tau_N * (self._coupling(device) * share) - sigma_N * s_N * (2.0 / self.rows)
        tile_MN = sigma_M.unsqueeze(1) * from_u_N.unsqueeze(0)
        if rows.start < self.columns:
            row_numbers_M = torch.arange(rows.start, min(rows.stop, self.columns), device=device)
            self._add_square_part(tile_MN[: row_numbers_M.shape[0]], row_numbers_M, columns, tau_N)
        return tile_MN

    def _add_square_part(
        self, tile_MN: torch.Tensor, row_numbers_M: torch.Tensor, columns: slice, tau_N: torch.Tensor
    ) -> None:
        """The two terms that only the first n rows have: the diagonal, and its reflection by v."""
        device = tile_MN.device
        first, count = int(row_numbers_M[0]), row_numbers_M.shape[0]
        s_M = self.singular_values.to(device=device, dtype=torch.float64)[first : first + count]
        tau_M = self._tau(first, count, device)
        tile_MN -= (s_M * tau_M * (2.0 / self.columns)).unsqueeze(1) * tau_N.unsqueeze(0)
        column_numbers_N = torch.arange(columns.start, columns.stop, device=device)
        is_diagonal_MN = row_numbers_M.unsqueeze(1) == column_numbers_N.unsqueeze(0)
        tile_MN += torch.where(is_diagonal_MN, s_M.unsqueeze(1), 0.0)

    def _sigma(self, first: int, count: int, device: torch.device | str) -> torch.Tensor:
        return signs(2 * self.seed, first, count, device=device).to(torch.float64)

    def _tau(self, first: int, count: int, device: torch.device | str) -> torch.Tensor:
        return signs(2 * self.seed + 1, first, count, device=device).to(torch.float64)

    def _coupling(self, device: torch.device | str) -> torch.Tensor:
        s_D = self.singular_values.to(device=device, dtype=torch.float64)
        return halving_sum(self._sigma(0, self.columns, device) * s_D * self._tau(0, self.columns, device))


@dataclass(frozen=True)
class SpectralDataset:
    """m rows of n columns with known sample mean and covariance (ddof 1).

    The largest power of two that divides `rows` must exceed `columns`; rows repeat with that period.
    """

    rows: int
    columns: int
    variances: torch.Tensor
    mean: torch.Tensor
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.period > self.columns >= 1:
            wanted = f"divisible by a power of two above the {self.columns} columns"
            raise BadSetting("rows", self.rows, wanted)
        for name in ("variances", "mean"):
            if tuple(getattr(self, name).shape) != (self.columns,):
                raise BadSetting(name, tuple(getattr(self, name).shape), f"{self.columns} numbers")
        if bool((self.variances < 0).any()):
            raise BadSetting("variances", "negative", "0 or more, each")

    @property
    def period(self) -> int:
        """The largest power of two that divides the number of rows."""
        return self.rows & -self.rows

    def row_block(self, first: int, count: int, *, device: torch.device | str = "cpu") -> torch.Tensor:
        """Rows first..first+count-1, float64 [M, D], in O(M·D)."""
        _check_part(slice(first, first + count), self.rows, "rows")
        row_numbers_M = torch.arange(first, first + count, device=device) % self.period
        codes_D = (torch.arange(1, self.columns + 1, device=device) * _ODD_STEP) % self.period
        hadamard_MD = 1.0 - 2.0 * _parity(row_numbers_M.unsqueeze(1) & codes_D.unsqueeze(0)).to(torch.float64)
        shrink = (self.rows - 1) / self.rows
        scaled_MD = hadamard_MD * (self.variances.to(device=device, dtype=torch.float64) * shrink).sqrt()
        return self._reflect(scaled_MD) + self.mean.to(device=device, dtype=torch.float64)

    def covariance(self) -> torch.Tensor:
        """The sample covariance, float64 [D, D]; its eigenvalues are the variances."""
        return self._reflect(self._reflect(torch.diag(self.variances.to(torch.float64))).T)

    def _reflect(self, rows_MD: torch.Tensor) -> torch.Tensor:
        """Multiply rows by I - 2vvᵀ; the dot product is a halving sum, so devices agree in every bit."""
        tau_D = signs(2 * self.seed + 1, 0, self.columns, device=rows_MD.device).to(torch.float64)
        dots_M = halving_sum((rows_MD * tau_D).T)
        return rows_MD - (dots_M * (2.0 / self.columns)).unsqueeze(1) * tau_D


def _parity(words: torch.Tensor) -> torch.Tensor:
    """Number of one bits modulo 2 of non-negative int64 words."""
    for shift in (32, 16, 8, 4, 2, 1):
        words = words ^ (words >> shift)
    return words & 1


def _check_part(part: slice, size: int, name: str) -> None:
    if not 0 <= part.start < part.stop <= size:
        raise BadSetting(name, (part.start, part.stop), f"a range within 0..{size} that is not empty")
