"""Smallest and largest value, exactly, and on request where they stand.

Ties go to the smallest row number, so the answer depends on the data only.
Shape suffixes: N rows, D columns.
"""

from __future__ import annotations

import torch

from gpu_ops.columns import numeric_column, row_numbers
from gpu_ops.combiner import Block, Partial
from gpu_ops.errors import EmptyDataset
from gpu_ops.nan_policy import NanPolicy, policy_of, refuse_nan

_NO_POSITION = torch.iinfo(torch.int64).max


class MinMax:
    """min and max of a column in its own dtype; argmin and argmax if row numbers are given."""

    def __init__(
        self,
        column: str,
        *,
        nan_policy: str | NanPolicy = NanPolicy.RAISE,
        position_column: str | None = None,
    ) -> None:
        self.column = column
        self.nan_policy = policy_of(nan_policy)
        self.position_column = position_column

    def zero(self) -> Partial:
        """The empty partial."""
        return {}

    def lift(self, block: Block) -> Partial:
        """Extremes of one block. Without positions one pass over the block, with them three."""
        values_ND = numeric_column(block, self.column)
        rows = values_ND.shape[0]
        if rows == 0:
            return {}
        nan_ND = values_ND.isnan()
        nan_D = nan_ND.sum(dim=0)
        low_ND = high_ND = values_ND
        if self.nan_policy is NanPolicy.OMIT and values_ND.dtype.is_floating_point:
            low_ND = torch.where(nan_ND, torch.inf, values_ND)
            high_ND = torch.where(nan_ND, -torch.inf, values_ND)
        partial = {"min": low_ND.amin(dim=0), "max": high_ND.amax(dim=0), "nan_count": nan_D}
        partial["count"] = rows - nan_D if self.nan_policy is NanPolicy.OMIT else torch.full_like(nan_D, rows)
        if self.position_column is not None:
            numbers_N = row_numbers(block, self.position_column, rows)
            left_out_ND = nan_ND if self.nan_policy is NanPolicy.OMIT else None
            partial["argmin"] = _first_position(values_ND, partial["min"], numbers_N, left_out_ND)
            partial["argmax"] = _first_position(values_ND, partial["max"], numbers_N, left_out_ND)
        return partial

    def merge(self, left: Partial, right: Partial) -> Partial:
        """The better of both sides; exact, so any order gives the same."""
        if not left or not right:
            return right or left
        merged = {key: left[key] + right[key] for key in ("count", "nan_count")}
        for key, position_key, is_less in (("min", "argmin", True), ("max", "argmax", False)):
            better = _is_better(right[key], left[key], is_less=is_less)
            if position_key in left:
                tied = ~better & ~_is_better(left[key], right[key], is_less=is_less)
                better = better | (tied & (right[position_key] < left[position_key]))
                merged[position_key] = torch.where(better, right[position_key], left[position_key])
            merged[key] = torch.where(better, right[key], left[key])
        return merged

    def guard(self, partial: Partial) -> None:
        """Raise NaNFound under the policy `raise`."""
        refuse_nan(self.column, partial["nan_count"], self.nan_policy)

    def present(self, partial: Partial) -> dict[str, torch.Tensor]:
        """min, max [, argmin, argmax]. Raises EmptyDataset, NaNFound."""
        if not partial or not bool(partial["count"].all()):
            raise EmptyDataset(f"The minimum of column {self.column!r}")
        self.guard(partial)
        return {key: partial[key] for key in ("min", "max", "argmin", "argmax") if key in partial}


def _first_position(
    values_ND: torch.Tensor, extreme_D: torch.Tensor, numbers_N: torch.Tensor, left_out_ND: torch.Tensor | None
) -> torch.Tensor:
    hit_ND = (values_ND == extreme_D) | (values_ND.isnan() & extreme_D.isnan())
    if left_out_ND is not None:
        hit_ND = hit_ND & ~left_out_ND
    numbers_ND = numbers_N if values_ND.dim() == 1 else numbers_N.unsqueeze(1).expand_as(hit_ND)
    return torch.where(hit_ND, numbers_ND, _NO_POSITION).amin(dim=0)


def _is_better(challenger: torch.Tensor, holder: torch.Tensor, *, is_less: bool) -> torch.Tensor:
    """Strictly better; NaN beats every number, as it spreads under `propagate`."""
    ordered = challenger < holder if is_less else challenger > holder
    return ordered | (challenger.isnan() & ~holder.isnan())
