"""Counts per interval: integers, so exact and independent of any order.

Intervals are half open, [edge, next edge), but the last one, which is closed: NumPy's rule.
Shape suffixes: N values of the block (a matrix is taken as one long column), B bins.
"""

from __future__ import annotations

import torch

from gpu_ops.columns import numeric_column
from gpu_ops.combiner import Block, Partial
from gpu_ops.errors import BadSetting, EmptyDataset, ShapeMismatch
from gpu_ops.nan_policy import NanPolicy, policy_of, refuse_nan

BINS_MAX = 1 << 24  # 16 Mi counters x 8 bytes = 128 MiB a partial


class Histogram:
    """counts [B], edges [B+1], below, above and nan_count of a column.

    Give either `low`, `high` and `bins`, or increasing `edges`.
    """

    def __init__(
        self,
        column: str,
        low: float | None = None,
        high: float | None = None,
        bins: int = 64,
        *,
        edges: torch.Tensor | None = None,
        nan_policy: str | NanPolicy = NanPolicy.RAISE,
    ) -> None:
        self.column = column
        self.nan_policy = policy_of(nan_policy)
        self.edges = _checked_edges(edges) if edges is not None else _even_edges(low, high, bins)
        self.n_bins = self.edges.shape[0] - 1

    def zero(self) -> Partial:
        """The empty partial."""
        return {}

    def lift(self, block: Block) -> Partial:
        """Counts of one block: a binary search per value, N·log2(B) comparisons, one pass."""
        values_N = numeric_column(block, self.column).reshape(-1)
        if values_N.shape[0] == 0:
            return {}
        edges = self.edges.to(values_N.device)
        values_N = values_N.to(torch.float64)
        slots_N = torch.bucketize(values_N, edges, right=True)  # 0 below, 1..B inside, B+1 from the last edge on
        slots_N = torch.where(values_N == edges[-1], self.n_bins, slots_N)
        slots_N = torch.where(values_N.isnan(), self.n_bins + 2, slots_N)
        counts = slots_N.new_zeros(self.n_bins + 3).index_add_(0, slots_N, torch.ones_like(slots_N))
        return {
            "counts": counts[1 : self.n_bins + 1],
            "below": counts[0],
            "above": counts[self.n_bins + 1],
            "nan_count": counts[self.n_bins + 2],
        }

    def merge(self, left: Partial, right: Partial) -> Partial:
        """Add the counters."""
        if not left or not right:
            return right or left
        if left["counts"].shape != right["counts"].shape:
            have, wanted = tuple(right["counts"].shape), tuple(left["counts"].shape)
            raise ShapeMismatch("The number of bins", have, wanted, "use the same edges in all steps")
        return {key: left[key] + right[key] for key in left}

    def guard(self, partial: Partial) -> None:
        """Raise NaNFound under the policy `raise`."""
        refuse_nan(self.column, partial["nan_count"], self.nan_policy)

    def present(self, partial: Partial) -> dict[str, torch.Tensor]:
        """counts, edges, below, above, nan_count. Raises EmptyDataset, NaNFound."""
        if not partial:
            raise EmptyDataset(f"The histogram of column {self.column!r}")
        self.guard(partial)
        return {**partial, "edges": self.edges.to(partial["counts"].device)}


def _checked_edges(edges: torch.Tensor) -> torch.Tensor:
    edges = edges.to(torch.float64).cpu()
    if edges.dim() != 1 or not 2 <= edges.shape[0] <= BINS_MAX + 1 or not bool((edges.diff() > 0).all()):
        raise BadSetting("edges", tuple(edges.shape), f"2 to {BINS_MAX + 1} strictly increasing numbers")
    return edges


def _even_edges(low: float | None, high: float | None, bins: int) -> torch.Tensor:
    if low is None or high is None or not low < high:
        raise BadSetting("low, high", (low, high), "two numbers with low < high, or give edges=")
    if not 1 <= bins <= BINS_MAX:
        raise BadSetting("bins", bins, f"between 1 and {BINS_MAX}")
    # Formed by elementwise operations on integers, not by a library's linspace, so each device has the same edges.
    steps = torch.arange(bins + 1, dtype=torch.float64)
    edges = low + (high - low) * (steps / bins)
    edges[-1] = high
    return edges
