"""The k largest or smallest values, with ties broken by row number, so the answer depends on the data only.

Shape suffixes: N rows of the block, K kept rows (fewer while fewer were seen).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gpu_ops.columns import row_numbers, vector_column
from gpu_ops.combiner import Block, Partial
from gpu_ops.errors import BadSetting, ColumnMissing, EmptyDataset
from gpu_ops.nan_policy import NanPolicy, policy_of, refuse_nan

COUNT_MAX = 1 << 20  # a partial is sorted at each merge; more is a sort, not a selection


class TopK:
    """values [K], positions [K] and carried columns of the rows with the largest (or smallest) values.

    Row numbers come from `position_column`; without it there are no positions, and ties keep the order of the blocks.
    Under `propagate` NaN counts as larger than every number.
    """

    def __init__(
        self,
        column: str,
        count: int,
        *,
        is_largest: bool = True,
        position_column: str | None = None,
        carry: Sequence[str] = (),
        nan_policy: str | NanPolicy = NanPolicy.RAISE,
    ) -> None:
        if not 1 <= count <= COUNT_MAX:
            raise BadSetting("count", count, f"between 1 and {COUNT_MAX}")
        self.column = column
        self.count = count
        self.is_largest = is_largest
        self.position_column = position_column
        self.carry = tuple(carry)
        self.nan_policy = policy_of(nan_policy)

    def zero(self) -> Partial:
        """The empty partial."""
        return {}

    def lift(self, block: Block) -> Partial:
        """Select from one block: a library selection finds the threshold; only rows that reach it are sorted."""
        values_N = vector_column(block, self.column)
        rows = values_N.shape[0]
        if rows == 0:
            return {}
        nan_N = values_N.isnan()
        kept_N = self._candidates(values_N, nan_N)
        partial = {"values": values_N[kept_N], "nan_count": nan_N.sum()}
        if self.position_column is not None:
            partial["positions"] = row_numbers(block, self.position_column, rows)[kept_N]
        for name in self.carry:
            if name not in block:
                raise ColumnMissing(name, block)
            partial[f"carry.{name}"] = block[name][kept_N]
        return self._best(partial)

    def _candidates(self, values_N: torch.Tensor, nan_N: torch.Tensor) -> torch.Tensor:
        """Rows at or beyond the k-th value, ties included. The number of rows is read back from the device."""
        usable_N = ~nan_N if self.nan_policy is NanPolicy.OMIT else torch.ones_like(nan_N)
        if self.nan_policy is not NanPolicy.OMIT and bool(nan_N.any()):
            return usable_N  # NaN has no threshold: sort all rows of this rare block
        usable_values = values_N[usable_N]
        if usable_values.shape[0] <= self.count:
            return usable_N
        threshold = usable_values.topk(self.count, largest=self.is_largest, sorted=False).values
        if self.is_largest:
            return usable_N & (values_N >= threshold.amin())
        return usable_N & (values_N <= threshold.amax())

    def _best(self, partial: Partial) -> Partial:
        """Sort by value, then by position, and cut. Both sorts are stable, so the earlier order survives ties."""
        order = torch.arange(partial["values"].shape[0], device=partial["values"].device)
        if "positions" in partial:
            order = partial["positions"].argsort(stable=True)
        by_value = partial["values"][order].argsort(stable=True, descending=self.is_largest)
        order = order[by_value][: self.count]
        return {key: value if key == "nan_count" else value[order] for key, value in partial.items()}

    def merge(self, left: Partial, right: Partial) -> Partial:
        """Join and select again: O(K log K)."""
        if not left or not right:
            return right or left
        joined = {key: torch.cat([left[key], right[key]]) for key in left if key != "nan_count"}
        return self._best({**joined, "nan_count": left["nan_count"] + right["nan_count"]})

    def guard(self, partial: Partial) -> None:
        """Raise NaNFound under the policy `raise`."""
        refuse_nan(self.column, partial["nan_count"], self.nan_policy)

    def present(self, partial: Partial) -> dict[str, torch.Tensor]:
        """values, positions, carry.NAME, best first. Raises EmptyDataset, NaNFound."""
        if not partial or partial["values"].shape[0] == 0:
            raise EmptyDataset(f"The top {self.count} of column {self.column!r}")
        self.guard(partial)
        return {key: value for key, value in partial.items() if key != "nan_count"}
