"""Freivalds' check (1977): is C = A·B, without multiplying the matrices again.

For a random vector r of signs, C·r = A·(B·r) holds if C is right, and fails with probability at least 1/2 if any entry
is wrong. So r rounds let an error through with probability 2^-r, for O(n²) work a round instead of O(n³). In floating
point the two sides differ by rounding; the allowed difference of row i is the proven bound

    (k + n + 2) · eps · [ (|A|·(|B|·1))_i + (|C|·1)_i ],

so a correct product never fails, and what hides below the bound is no larger than rounding could have made it.

Names of tensors: r_NR holds R vectors at once, one per column.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gpu_ops.errors import BadSetting
from gpu_ops.philox import signs
from gpu_ops.tiling import TileLoader, Tiling, load_checked

ROUNDS_MAX = 256  # 2^-256 is beyond any doubt


@dataclass(frozen=True, slots=True)
class FreivaldsResult:
    """`worst` is the largest difference as a share of its bound: at most 1 when equal."""

    is_equal: bool
    worst: float
    worst_row: int
    rounds: int

    @property
    def miss_probability(self) -> float:
        """Probability that an error larger than the bound went unseen."""
        return 2.0**-self.rounds


def freivalds(
    tiling: Tiling, *, load_a: TileLoader, load_b: TileLoader, load_c: TileLoader, rounds: int = 20, seed: int = 0
) -> FreivaldsResult:
    """Check C = A·B from tiles, in float64 on the tiles' device; each matrix is read once.

    FLOPs: about 2·(R+1) per entry of A, B and C. A product that was formed in lower precision than float64 is judged by
    the precision of C's dtype. Raises BadSetting for rounds outside 1..256, ShapeMismatch for a wrong tile.
    """
    if not 1 <= rounds <= ROUNDS_MAX:
        raise BadSetting("rounds", rounds, f"between 1 and {ROUNDS_MAX}")
    r_NR = signs(seed, 0, tiling.n * rounds).to(torch.float64).reshape(tiling.n, rounds)
    grid_m, grid_k, grid_n = tiling.grid
    b_rows = [tiling.inner(p) for p in range(grid_k)]
    a_rows = [tiling.rows(i) for i in range(grid_m)]
    c_columns = [tiling.columns(j) for j in range(grid_n)]
    br_KR, b_bound_K, _ = _times(load_b, "B", b_rows, c_columns, r_NR, torch.ones(tiling.n, dtype=torch.float64))
    abr_MR, a_bound_M, _ = _times(load_a, "A", a_rows, b_rows, br_KR, b_bound_K)
    cr_MR, c_bound_M, eps = _times(load_c, "C", a_rows, c_columns, r_NR, torch.ones(tiling.n, dtype=torch.float64))
    allowed_M = (tiling.k + tiling.n + 2) * eps * (a_bound_M + c_bound_M)
    difference_M = (cr_MR - abr_MR).abs().amax(dim=1)
    share_M = torch.where(difference_M > 0, difference_M / allowed_M, 0.0).nan_to_num(nan=torch.inf)
    share_M = torch.where(difference_M.isnan(), torch.inf, share_M)
    worst, worst_row = share_M.max(dim=0)
    return FreivaldsResult(is_equal=bool(worst <= 1), worst=float(worst), worst_row=int(worst_row), rounds=rounds)


def _times(
    load: TileLoader,
    name: str,
    row_slices: list[slice],
    column_slices: list[slice],
    vectors_KR: torch.Tensor,
    magnitudes_K: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """X·V, |X|·magnitudes, and the rounding unit of X's dtype, from tiles; the results are on the CPU."""
    product_MR = torch.zeros(row_slices[-1].stop, vectors_KR.shape[1], dtype=torch.float64)
    bound_M = torch.zeros(row_slices[-1].stop, dtype=torch.float64)
    eps = torch.finfo(torch.float64).eps
    for rows in row_slices:
        for columns in column_slices:
            tile = load_checked(name, load, rows, columns)
            if tile.dtype.is_floating_point:
                eps = max(eps, torch.finfo(tile.dtype).eps)
            tile_MK = tile.to(torch.float64)
            product_MR[rows] += (tile_MK @ vectors_KR[columns].to(tile.device)).cpu()
            bound_M[rows] += (tile_MK.abs() @ magnitudes_K[columns].to(tile.device)).cpu()
    return product_MR, bound_M, eps
