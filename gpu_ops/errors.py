"""Every error of this package: one sentence that says what is wrong and what cures it.

GpuOpsError
├── EmptyDataset      nothing to present: no block, or no value left
├── NotNumeric        a column whose dtype cannot be added up
├── NaNFound          NaN under the policy that refuses it
├── ShapeMismatch     columns or partials that do not fit each other
├── ColumnMissing     a block without a column that the combiner reads
├── BadSetting        an argument outside its range
├── CodeOutOfRange    a group code outside 0..n-1
├── SumOverflow       an exact sum beyond 64 bits
├── TreeBroken        a block counted twice, or missing between two others
├── LawBroken         a combiner that is no monoid
└── DeviceMemoryFull  one block does not fit into the device
"""

from __future__ import annotations

from collections.abc import Iterable

import torch


class GpuOpsError(ValueError):
    """Base of all errors that a user of this package can cause and cure."""


class EmptyDataset(GpuOpsError):
    """There is nothing to present."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} of no values is undefined; give at least one block with at least one row.")


class NotNumeric(GpuOpsError):
    """A column holds booleans or complex numbers where real numbers are needed."""

    def __init__(self, column: str, dtype: torch.dtype, *, wanted: str = "an integer or floating dtype") -> None:
        super().__init__(f"Column {column!r} has dtype {dtype}; convert it to {wanted} first.")


class NaNFound(GpuOpsError):
    """NaN met the policy `raise`."""

    def __init__(self, column: str, count: int) -> None:
        super().__init__(
            f"Column {column!r} holds {count} NaN; clean the data, or choose nan_policy='omit' or 'propagate'."
        )


class ShapeMismatch(GpuOpsError):
    """Two shapes that must agree do not."""

    def __init__(self, what: str, have: object, wanted: object, cure: str) -> None:
        super().__init__(f"{what} is {have} where {wanted} is needed; {cure}.")


class ColumnMissing(GpuOpsError):
    """A block lacks a column."""

    def __init__(self, column: str, present: Iterable[str]) -> None:
        names = ", ".join(sorted(present)) or "none"
        super().__init__(f"The block has no column {column!r} (it has: {names}); correct the column's name.")


class BadSetting(GpuOpsError):
    """An argument is outside its range."""

    def __init__(self, name: str, value: object, wanted: str) -> None:
        super().__init__(f"{name} is {value}; it must be {wanted}.")


class CodeOutOfRange(GpuOpsError):
    """A group code is negative or not below the number of codes."""

    def __init__(self, rows: int, keys: Iterable[str]) -> None:
        names = ", ".join(keys)
        super().__init__(
            f"{rows} rows have a code outside 0..n-1 in {names}; raise the number of codes, or encode the keys again."
        )


class SumOverflow(GpuOpsError):
    """An exact integer sum does not fit into 64 bits."""

    def __init__(self, column: str) -> None:
        super().__init__(
            f"The exact sum of column {column!r} exceeds 64 bits; use a coarser scale, or give the column as float64."
        )


class TreeBroken(GpuOpsError):
    """The nodes of a tree overlap, or leave a gap."""


class LawBroken(GpuOpsError):
    """A combiner does not obey a law of monoids, so its result would depend on the schedule."""

    def __init__(self, law: str, detail: str) -> None:
        super().__init__(f"The law '{law}' is broken: {detail}; correct the combiner's merge.")


class DeviceMemoryFull(GpuOpsError):
    """One block alone does not fit into the device's memory."""

    def __init__(self, block_bytes: int, device: torch.device) -> None:
        super().__init__(
            f"A block of {block_bytes} bytes and its working memory do not fit into {device}; write smaller blocks."
        )
