"""Count, mean and variance in one pass, merged by Chan, Golub and LeVeque's formula (1979).

The sum of squares minus the square of the sum loses all digits when the mean is large against the spread: NIST's set
NumAcc4 then has none right. Here each block is centred by its own mean first, and two partials are joined by

    mean = mean_a + δ n_b / n,    m2 = m2_a + m2_b + δ² n_a n_b / n,    δ = mean_b - mean_a,

which keeps about as many digits as the data themselves carry.

Shape suffixes: N rows, D columns (a 2-D column gives one result per column; a 1-D column gives scalars).
"""

from __future__ import annotations

import torch

from gpu_ops.columns import numeric_column
from gpu_ops.combiner import Block, Partial
from gpu_ops.errors import EmptyDataset
from gpu_ops.nan_policy import NanPolicy, policy_of, refuse_nan
from gpu_ops.precision import Precision, column_sums


class Moments:
    """count, mean, variance and std of a column, in float64."""

    def __init__(
        self,
        column: str,
        *,
        nan_policy: str | NanPolicy = NanPolicy.RAISE,
        precision: Precision | None = None,
        ddof: int = 1,
    ) -> None:
        self.column = column
        self.nan_policy = policy_of(nan_policy)
        self.precision = precision or Precision()
        self.ddof = ddof

    def zero(self) -> Partial:
        """The empty partial."""
        return {}

    def lift(self, block: Block) -> Partial:
        """Corrected two-pass moments of one block. About 4·N·D FLOPs and 4 passes over the block in device memory."""
        column = numeric_column(block, self.column)
        if column.shape[0] == 0:
            return {}
        values_ND = column.to(self.precision.accumulate)
        nan_ND = values_ND.isnan()
        nan_D = nan_ND.sum(dim=0)
        if self.nan_policy is NanPolicy.OMIT:
            count_D = column.shape[0] - nan_D
            mean_D, m2_D = self._centred(torch.where(nan_ND, 0.0, values_ND), count_D, nan_ND)
        else:
            count_D = torch.full_like(nan_D, column.shape[0])
            mean_D, m2_D = self._centred(values_ND, count_D, None)
        return {"count": count_D, "mean": mean_D, "m2": m2_D, "nan_count": nan_D}

    def _centred(
        self, values_ND: torch.Tensor, count_D: torch.Tensor, left_out_ND: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        divisor_D = count_D.clamp(min=1).to(values_ND.dtype)
        mean_D = column_sums(values_ND, self.precision) / divisor_D
        centred_ND = values_ND - mean_D
        if left_out_ND is not None:
            centred_ND = torch.where(left_out_ND, 0.0, centred_ND)
        # What the rounded mean left behind: zero in exact arithmetic, so it corrects both results.
        rest_D = column_sums(centred_ND, self.precision)
        m2_D = column_sums(centred_ND * centred_ND, self.precision) - rest_D * (rest_D / divisor_D)
        # An infinite value leaves NaN as the rest; the mean is infinite then, and needs no correction.
        return mean_D + torch.where(rest_D.isfinite(), rest_D, 0.0) / divisor_D, m2_D.clamp(min=0)

    def merge(self, left: Partial, right: Partial) -> Partial:
        """Chan's formula; a side without values leaves the other as it is, infinities included."""
        if not left or not right:
            return right or left
        count_D = left["count"] + right["count"]
        total_D = count_D.clamp(min=1).to(left["mean"].dtype)
        share_D = right["count"] / total_D
        delta_D = right["mean"] - left["mean"]
        mean_D = torch.where(delta_D.isfinite(), left["mean"] + delta_D * share_D, left["mean"] + right["mean"])
        m2_D = (left["m2"] + right["m2"]) + delta_D * delta_D * (left["count"] * share_D)
        return {
            "count": count_D,
            "mean": _choose(left, right, "mean", mean_D),
            "m2": _choose(left, right, "m2", m2_D),
            "nan_count": left["nan_count"] + right["nan_count"],
        }

    def guard(self, partial: Partial) -> None:
        """Raise NaNFound under the policy `raise`."""
        refuse_nan(self.column, partial["nan_count"], self.nan_policy)

    def present(self, partial: Partial) -> dict[str, torch.Tensor]:
        """count (int64), mean, variance, std. A variance of too few values is NaN. Raises EmptyDataset, NaNFound."""
        if not partial or not bool(partial["count"].any()):
            raise EmptyDataset(f"The mean of column {self.column!r}")
        self.guard(partial)
        freedom_D = partial["count"] - self.ddof
        variance_D = torch.where(freedom_D > 0, partial["m2"] / freedom_D.clamp(min=1), torch.nan)
        mean_D = torch.where(partial["count"] > 0, partial["mean"], torch.nan)
        return {"count": partial["count"], "mean": mean_D, "variance": variance_D, "std": variance_D.sqrt()}


def _choose(left: Partial, right: Partial, key: str, merged: torch.Tensor) -> torch.Tensor:
    """The merged value where both sides have values, otherwise the side that has."""
    one_sided = torch.where(left["count"] == 0, right[key], left[key])
    return torch.where((left["count"] == 0) | (right["count"] == 0), one_sided, merged)
