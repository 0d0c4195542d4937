"""Reading a block's columns: each check answers with a sentence instead of a wrong number.

Shape suffixes: N rows of the block, D columns of a matrix.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gpu_ops.combiner import Block
from gpu_ops.errors import ColumnMissing, NotNumeric, ShapeMismatch

# Integers up to 2^53 are exact in float64; larger ones are rounded to the nearest when a statistic works in floats.
_REFUSED = frozenset({torch.bool, torch.complex32, torch.complex64, torch.complex128})
_DIMENSIONS_MAX = 2  # a column is a vector, or a matrix with one row per row of the block


def numeric_column(block: Block, name: str) -> torch.Tensor:
    """The column as it is, [N] or [N, D]. Raises ColumnMissing, NotNumeric, ShapeMismatch."""
    if name not in block:
        raise ColumnMissing(name, block)
    column = block[name]
    if column.dtype in _REFUSED:
        raise NotNumeric(name, column.dtype)
    if not 1 <= column.dim() <= _DIMENSIONS_MAX:
        raise ShapeMismatch(
            f"The number of dimensions of column {name!r}", column.dim(), "1 or 2", "reshape it to [rows] or [rows, d]"
        )
    return column


def vector_column(block: Block, name: str) -> torch.Tensor:
    """The column as [N]; a matrix is refused."""
    column = numeric_column(block, name)
    if column.dim() != 1:
        raise ShapeMismatch(f"The shape of column {name!r}", tuple(column.shape), "[rows]", "name one column of it")
    return column


def integer_column(block: Block, name: str) -> torch.Tensor:
    """The column as int64 [N]; floats are refused."""
    column = vector_column(block, name)
    if column.dtype.is_floating_point:
        raise NotNumeric(name, column.dtype, wanted="an integer dtype")
    return column.to(torch.int64)


def matrix_of(block: Block, names: Sequence[str], dtype: torch.dtype) -> torch.Tensor:
    """The columns side by side as [N, D] in the given dtype; each name is a vector or a matrix of the block."""
    columns = [numeric_column(block, name) for name in names]
    rows = {name: column.shape[0] for name, column in zip(names, columns, strict=True)}
    if len(set(rows.values())) > 1:
        raise ShapeMismatch("The number of rows per column", rows, "one number", "write the columns from the same rows")
    parts = [column.to(dtype).reshape(column.shape[0], -1) for column in columns]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def row_numbers(block: Block, name: str, rows: int) -> torch.Tensor:
    """Global row numbers as int64 [N]: the column itself, or counted on from its single element."""
    if name not in block:
        raise ColumnMissing(name, block)
    numbers = block[name]
    if numbers.dtype.is_floating_point or numbers.dtype in _REFUSED:
        raise NotNumeric(name, numbers.dtype, wanted="int64")
    numbers = numbers.to(torch.int64).reshape(-1)
    if numbers.shape[0] == rows:
        return numbers
    if numbers.shape[0] == 1:
        return numbers + torch.arange(rows, dtype=torch.int64, device=numbers.device)
    raise ShapeMismatch(
        f"The length of {name!r}",
        numbers.shape[0],
        f"{rows} or 1",
        "give one number per row, or the first row's number",
    )
