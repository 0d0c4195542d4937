"""Sums and counts per group, for keys that are small integer codes: the shape of TPC-H query 1.

Money and quantities are best given as integers (cents): their sums are exact, whatever the order, and carried in two
limbs so that nothing overflows on the way. Floats are summed by integer slices (`slices.py`): no atomic addition of
floats, so the bits do not follow the order in which threads arrive.

Shape suffixes: N rows, G groups (the product of the numbers of codes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import torch

from gpu_ops.columns import integer_column, vector_column
from gpu_ops.combiner import Block, Partial
from gpu_ops.errors import BadSetting, CodeOutOfRange, EmptyDataset, ShapeMismatch, SumOverflow
from gpu_ops.nan_policy import NanPolicy, policy_of, refuse_nan
from gpu_ops.slices import exact_integer_group_sums, group_sums, normalize_limbs

# 16 Mi groups x (count + 2 limbs) x 8 bytes = 384 MiB a partial: more calls for sorting, not for a table per partial.
GROUPS_MAX = 1 << 24


class GroupBySum:
    """count and sums of value columns for each combination of key codes.

    `keys` maps each key column to its number of codes, 0..n-1; the last key varies fastest.
    """

    def __init__(
        self, *, keys: Mapping[str, int], values: Sequence[str] = (), nan_policy: str | NanPolicy = NanPolicy.RAISE
    ) -> None:
        if not keys or any(n_codes < 1 for n_codes in keys.values()):
            raise BadSetting("keys", dict(keys), "a map of at least one column to its number of codes, 1 or more")
        self.n_groups = prod(keys.values())
        if self.n_groups > GROUPS_MAX:
            raise BadSetting("the number of groups", self.n_groups, f"at most {GROUPS_MAX}")
        self.keys = dict(keys)
        self.values = tuple(values)
        self.nan_policy = policy_of(nan_policy)

    def zero(self) -> Partial:
        """The empty partial."""
        return {}

    def lift(self, block: Block) -> Partial:
        """Group sums of one block. Reads each key once, an integer column about 4 times, a float about 10 times."""
        codes_N, is_bad_N = self._codes(block)
        n_slots = self.n_groups + 1  # one more group takes the rows with a bad code, so that no index is out of range
        ones_N = torch.ones_like(codes_N)
        counts = ones_N.new_zeros(n_slots).index_add_(0, codes_N, ones_N)
        partial = {"count": counts[: self.n_groups], "bad_codes": is_bad_N.sum()}
        for name in self.values:
            column_N = vector_column(block, name)
            if column_N.shape[0] != codes_N.shape[0]:
                rows = codes_N.shape[0]
                raise ShapeMismatch(f"The length of {name!r}", column_N.shape[0], rows, "write it from the same rows")
            if column_N.dtype.is_floating_point:
                partial |= self._lift_float(name, column_N.to(torch.float64), codes_N)
            else:
                high, low = exact_integer_group_sums(column_N.to(torch.int64), codes_N, n_slots)
                partial |= {f"high.{name}": high[: self.n_groups], f"low.{name}": low[: self.n_groups]}
        return partial

    def _codes(self, block: Block) -> tuple[torch.Tensor, torch.Tensor]:
        columns = {name: integer_column(block, name) for name in self.keys}
        lengths = {name: column.shape[0] for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ShapeMismatch(
                "The number of rows per key", lengths, "one number", "write the keys from the same rows"
            )
        first = next(iter(columns.values()))
        codes_N = torch.zeros_like(first)
        is_bad_N = torch.zeros_like(first, dtype=torch.bool)
        for name, n_codes in self.keys.items():
            is_bad_N = is_bad_N | (columns[name] < 0) | (columns[name] >= n_codes)
            codes_N = codes_N * n_codes + columns[name]
        return torch.where(is_bad_N, self.n_groups, codes_N), is_bad_N

    def _lift_float(self, name: str, values_N: torch.Tensor, codes_N: torch.Tensor) -> Partial:
        n_slots = self.n_groups + 1
        nan_N = values_N.isnan()
        partial = {f"nan.{name}": nan_N.sum()}
        if self.nan_policy is NanPolicy.OMIT:
            values_N = torch.where(nan_N, 0.0, values_N)
            counted_N = (~nan_N).to(torch.int64)
            counts = counted_N.new_zeros(n_slots).index_add_(0, codes_N, counted_N)
            partial[f"count.{name}"] = counts[: self.n_groups]
        partial[f"sum.{name}"] = group_sums(values_N, codes_N, n_slots)[: self.n_groups]
        return partial

    def merge(self, left: Partial, right: Partial) -> Partial:
        """Add group by group; exact for counts and integer columns."""
        if not left or not right:
            return right or left
        if left.keys() != right.keys():
            odd = sorted(left.keys() ^ right.keys())
            raise ShapeMismatch(
                "The kind of a value column", odd, "the same in all blocks", "give each block one dtype"
            )
        merged = {key: left[key] + right[key] for key in left}
        for name in self.values:
            if f"low.{name}" in merged:
                high, low = normalize_limbs(merged[f"high.{name}"], merged[f"low.{name}"])
                merged |= {f"high.{name}": high, f"low.{name}": low}
        return merged

    def guard(self, partial: Partial) -> None:
        """Raise CodeOutOfRange or NaNFound."""
        if bad_rows := int(partial["bad_codes"]):
            raise CodeOutOfRange(bad_rows, self.keys)
        for name in self.values:
            if f"nan.{name}" in partial:
                refuse_nan(name, partial[f"nan.{name}"], self.nan_policy)

    def present(self, partial: Partial) -> dict[str, torch.Tensor]:
        """`key.NAME` codes, `count`, `sum.NAME` of all G groups, the empty ones too; under `omit` also `count.NAME`.

        Integer columns give int64. Raises EmptyDataset, NaNFound, CodeOutOfRange, SumOverflow.
        """
        if not partial:
            raise EmptyDataset(f"The sums by {', '.join(self.keys)}")
        self.guard(partial)
        answer = self._key_columns(partial["count"].device)
        answer["count"] = partial["count"]
        for name in self.values:
            if f"low.{name}" in partial:
                answer[f"sum.{name}"] = _joined(name, partial[f"high.{name}"], partial[f"low.{name}"])
            else:
                answer |= {key: partial[key] for key in (f"sum.{name}", f"count.{name}") if key in partial}
        return answer

    def _key_columns(self, device: torch.device) -> dict[str, torch.Tensor]:
        rest_G = torch.arange(self.n_groups, device=device)
        columns: dict[str, torch.Tensor] = {}
        for name, n_codes in reversed(self.keys.items()):
            columns[f"key.{name}"] = rest_G % n_codes
            rest_G = rest_G // n_codes
        return {f"key.{name}": columns[f"key.{name}"] for name in self.keys}


def _joined(name: str, high_G: torch.Tensor, low_G: torch.Tensor) -> torch.Tensor:
    limit = 1 << 31
    if bool(((high_G >= limit) | (high_G < -limit)).any()):
        raise SumOverflow(name)
    return (high_G << 32) + low_G
