"""Parquet columns as exact integers: decimals, integers and floats become hundredths, words become codes.

Money in floats would make every sum depend on the order of addition. As integers all sums are exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from orchestrator_pkg.failures import BadInput

# Decimal128(18, 2): all of it fits the low 64 bits.
_DIGITS = 18
# A float that stands for hundredths is off by rounding only.
_FLOAT_TOLERANCE = 1e-6


def hundredths(column: pa.Array, name: str) -> torch.Tensor:
    """A numeric column times 100 as int64, exactly.

    Raises:
        BadInput: not numeric, missing values or NaN, or more than two decimals.
    """
    refuse_missing(column, name)
    if pa.types.is_floating(column.type):
        return _from_float(column, name)
    if not (pa.types.is_decimal(column.type) or pa.types.is_integer(column.type)):
        raise BadInput(f"Column {name} is of type {column.type}, not numeric; write it as decimal, integer or double.")
    try:
        return _low_words(column.cast(pa.decimal128(_DIGITS, 2)))
    except pa.ArrowInvalid:
        raise BadInput(f"Column {name} has more than two decimals or {_DIGITS} digits; round it first.") from None


def _low_words(column: pa.Array) -> torch.Tensor:
    """The low 64 bits of each 128-bit decimal; the high ones only repeat the sign."""
    words = np.frombuffer(column.buffers()[1], dtype=np.int64).reshape(-1, 2)
    return torch.from_numpy(words[column.offset : column.offset + len(column), 0].copy())


def _from_float(column: pa.Array, name: str) -> torch.Tensor:
    scaled = column.to_numpy(zero_copy_only=False).astype(np.float64) * 100
    whole = np.rint(scaled)
    if not np.isfinite(scaled).all() or np.abs(scaled - whole).max(initial=0) > _FLOAT_TOLERANCE * 100:
        raise BadInput(f"Column {name} has infinite values or more than two decimals; round it first.")
    return torch.from_numpy(whole.astype(np.int64))


def refuse_missing(column: pa.Array, name: str) -> None:
    """Raises BadInput for nulls and NaN."""
    missing = count_missing(column)
    if missing:
        raise BadInput(
            f"Column {name} has {missing} missing values (null or NaN); clean the file, or set the config "
            "nan_policy: omit to leave those rows out."
        )


def count_missing(column: pa.Array) -> int:
    """Number of nulls and NaN."""
    return int(pc.sum(pc.is_null(column, nan_is_null=True)).as_py() or 0)


def codes(column: pa.Array, name: str, words: Sequence[str]) -> torch.Tensor:
    """The position of each word in `words`, as uint8. Raises BadInput for another word or type."""
    refuse_missing(column, name)
    is_text = pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
    if not (is_text or pa.types.is_string_view(column.type) or pa.types.is_dictionary(column.type)):
        raise BadInput(f"Column {name} is of type {column.type}, not text; write it as text.")
    found = pc.index_in(column.cast(pa.string()), value_set=pa.array(words))
    if found.null_count:
        other = pc.filter(column.cast(pa.string()), pc.is_null(found))[0].as_py()
        raise BadInput(f"Column {name} holds {other!r}, known are {', '.join(words)}; correct the file.")
    return torch.from_numpy(found.to_numpy().astype(np.uint8))


def days(column: pa.Array, name: str) -> torch.Tensor:
    """Days since 1970 as int32. Raises BadInput for what is no date."""
    refuse_missing(column, name)
    if not (pa.types.is_date(column.type) or pa.types.is_timestamp(column.type)):
        raise BadInput(f"Column {name} is of type {column.type}, not a date; write it as date32.")
    return torch.from_numpy(column.cast(pa.date32()).cast(pa.int32()).to_numpy().copy())


def without_missing(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Only the rows that have all values."""
    keep: pa.Array | None = None
    for column in batch.columns:
        is_there = pc.invert(pc.is_null(column, nan_is_null=True))
        keep = is_there if keep is None else pc.and_(keep, is_there)
    return batch.filter(keep)
