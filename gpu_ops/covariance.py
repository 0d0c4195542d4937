"""Covariance in one pass by centred Gram matrices, and principal components from it.

One pass over the store suffices while D² fits the device: a block contributes its centred XᵀX, and two partials are
joined with the outer product of the difference of their means (Chan's formula for matrices). The price is the squared
condition number: a component whose variance is below about 1e-16 of the largest drowns in rounding.

Shape suffixes: N rows, D columns, K components.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gpu_ops.columns import matrix_of
from gpu_ops.combiner import Block, Partial
from gpu_ops.errors import BadSetting, EmptyDataset, ShapeMismatch
from gpu_ops.nan_policy import NanPolicy, policy_of, refuse_nan
from gpu_ops.precision import Precision, column_sums, gram


class Covariance:
    """count, mean [D], covariance [D, D] and correlation [D, D] of columns taken side by side.

    `omit` leaves out each row that holds any NaN.
    """

    def __init__(
        self,
        columns: str | Sequence[str],
        *,
        nan_policy: str | NanPolicy = NanPolicy.RAISE,
        precision: Precision | None = None,
        ddof: int = 1,
    ) -> None:
        self.columns = (columns,) if isinstance(columns, str) else tuple(columns)
        if not self.columns:
            raise BadSetting("columns", "empty", "at least one column's name")
        self.nan_policy = policy_of(nan_policy)
        self.precision = precision or Precision()
        self.ddof = ddof

    def zero(self) -> Partial:
        """The empty partial."""
        return {}

    def lift(self, block: Block) -> Partial:
        """Centred Gram matrix of one block: 2·N·D² FLOPs on 8·N·D bytes; below some 5000 columns the bus is slower."""
        values_ND = matrix_of(block, self.columns, self.precision.accumulate)
        if values_ND.shape[0] == 0:
            return {}
        nan_rows_N = values_ND.isnan().any(dim=1)
        nan_count = nan_rows_N.sum()
        kept_N1 = (~nan_rows_N).unsqueeze(1) if self.nan_policy is NanPolicy.OMIT else None
        rows = torch.full_like(nan_count, values_ND.shape[0])
        count = rows - nan_count if kept_N1 is not None else rows
        if kept_N1 is not None:
            values_ND = torch.where(kept_N1, values_ND, 0.0)
        divisor = count.clamp(min=1).to(values_ND.dtype)
        mean_D = column_sums(values_ND, self.precision) / divisor
        centred_ND = values_ND - mean_D
        if kept_N1 is not None:
            centred_ND = torch.where(kept_N1, centred_ND, 0.0)
        rest_D = column_sums(centred_ND, self.precision)  # zero but for the rounding of the mean
        scatter_DD = gram(centred_ND, self.precision) - _outer(rest_D, rest_D) / divisor
        mean_D = mean_D + torch.where(rest_D.isfinite(), rest_D, 0.0) / divisor  # an infinite mean needs no correction
        return {"count": count, "mean": mean_D, "scatter": scatter_DD, "nan_count": nan_count}

    def merge(self, left: Partial, right: Partial) -> Partial:
        """Chan's formula with the outer product of the difference of the means: 3·D² FLOPs."""
        if not left or not right:
            return right or left
        if left["mean"].shape != right["mean"].shape:
            have, wanted = right["mean"].shape[0], left["mean"].shape[0]
            raise ShapeMismatch(
                "The number of columns of a block", have, wanted, "write all blocks with the same columns"
            )
        count = left["count"] + right["count"]
        share = right["count"] / count.clamp(min=1).to(left["mean"].dtype)
        delta_D = right["mean"] - left["mean"]
        scatter_DD = (left["scatter"] + right["scatter"]) + _outer(delta_D, delta_D) * (left["count"] * share)
        is_left_empty, is_right_empty = left["count"] == 0, right["count"] == 0
        mean_D = torch.where(delta_D.isfinite(), left["mean"] + delta_D * share, left["mean"] + right["mean"])
        mean_D = torch.where(is_right_empty, left["mean"], mean_D)
        scatter_DD = torch.where(is_right_empty, left["scatter"], scatter_DD)
        return {
            "count": count,
            "mean": torch.where(is_left_empty, right["mean"], mean_D),
            "scatter": torch.where(is_left_empty, right["scatter"], scatter_DD),
            "nan_count": left["nan_count"] + right["nan_count"],
        }

    def guard(self, partial: Partial) -> None:
        """Raise NaNFound under the policy `raise` (rows that hold NaN are counted)."""
        refuse_nan(", ".join(self.columns), partial["nan_count"], self.nan_policy)

    def present(self, partial: Partial) -> dict[str, torch.Tensor]:
        """count, mean, covariance, correlation. Raises EmptyDataset when no row is left, or too few for ddof."""
        if not partial or int(partial["count"]) <= self.ddof:
            raise EmptyDataset(f"The covariance of {', '.join(self.columns)} with ddof={self.ddof}")
        self.guard(partial)
        covariance_DD = partial["scatter"] / (partial["count"] - self.ddof)
        spread_D = covariance_DD.diagonal().sqrt()
        correlation_DD = covariance_DD / _outer(spread_D, spread_D)
        return {
            "count": partial["count"],
            "mean": partial["mean"],
            "covariance": covariance_DD,
            "correlation": correlation_DD,
        }


@dataclass(frozen=True, slots=True)
class PrincipalComponents:
    """Largest variances [K], their directions as columns [D, K], and their shares of the total variance [K]."""

    variances: torch.Tensor
    directions: torch.Tensor
    shares: torch.Tensor


def principal_components(covariance_DD: torch.Tensor, *, count: int | None = None) -> PrincipalComponents:
    """Eigenvectors of a covariance matrix, largest variance first; O(D³) FLOPs, once per dataset.

    The sign of each direction is fixed (its entry of largest magnitude is positive), so that two runs agree.
    """
    width = covariance_DD.shape[0]
    if covariance_DD.dim() != 2 or covariance_DD.shape[1] != width:
        raise ShapeMismatch(
            "The covariance matrix", tuple(covariance_DD.shape), "square", "pass present()['covariance']"
        )
    kept = width if count is None else count
    if not 1 <= kept <= width:
        raise BadSetting("count", kept, f"between 1 and {width}, the number of columns")
    variances_D, directions_DD = torch.linalg.eigh(covariance_DD)
    variances_K = variances_D.flip(0)[:kept].clamp(min=0)
    directions_DK = directions_DD.flip(1)[:, :kept]
    largest_1K = directions_DK.abs().argmax(dim=0, keepdim=True)
    directions_DK = directions_DK * directions_DK.gather(0, largest_1K).sign()
    total = covariance_DD.diagonal().sum()
    return PrincipalComponents(variances=variances_K, directions=directions_DK, shares=variances_K / total)


def _outer(left_D: torch.Tensor, right_D: torch.Tensor) -> torch.Tensor:
    """Outer product by one elementwise multiplication, so that no library's product decides the bits."""
    return left_D.unsqueeze(1) * right_D.unsqueeze(0)
