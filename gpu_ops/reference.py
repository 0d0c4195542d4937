"""The same answers the plain way: loops and exact sums that nobody has to trust, for tests and for reading.

Each function takes whole columns as NumPy arrays and is as slow as it looks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np


def moments(values: np.ndarray, *, ddof: int = 1) -> tuple[int, float, float]:
    """Count, mean and variance from exactly rounded sums (math.fsum), in two passes."""
    numbers = [float(value) for value in values]
    count = len(numbers)
    mean = math.fsum(numbers) / count
    correction = math.fsum(value - mean for value in numbers)
    squares = math.fsum((value - mean) ** 2 for value in numbers) - correction**2 / count
    return count, mean, squares / (count - ddof) if count > ddof else math.nan


def covariance(rows: np.ndarray, *, ddof: int = 1) -> np.ndarray:
    """Covariance entry by entry from exactly rounded sums."""
    width = rows.shape[1]
    means = [math.fsum(rows[:, column]) / len(rows) for column in range(width)]
    result = np.empty((width, width))
    for i in range(width):
        for j in range(width):
            products = ((float(row[i]) - means[i]) * (float(row[j]) - means[j]) for row in rows)
            result[i, j] = math.fsum(products) / (len(rows) - ddof)
    return result


def group_by_sum(
    keys: Mapping[str, np.ndarray], values: Mapping[str, np.ndarray]
) -> dict[tuple[int, ...], dict[str, int | float]]:
    """Count and sums per combination of keys that occurs: Python integers for integers, fsum for floats."""
    members: dict[tuple[int, ...], list[int]] = {}
    for row, codes in enumerate(zip(*keys.values(), strict=True)):
        members.setdefault(tuple(int(code) for code in codes), []).append(row)
    return {
        codes: {"count": len(rows)} | {f"sum.{name}": _sum(column[rows]) for name, column in values.items()}
        for codes, rows in members.items()
    }


def _sum(values: np.ndarray) -> int | float:
    if np.issubdtype(values.dtype, np.integer):
        return sum(int(value) for value in values)
    return math.fsum(float(value) for value in values)


def histogram(values: np.ndarray, edges: np.ndarray) -> tuple[list[int], int, int]:
    """Counts per half-open interval (the last one closed), and what lies below and above."""
    counts = [0] * (len(edges) - 1)
    below = above = 0
    for value in values:
        if value < edges[0]:
            below += 1
        elif value > edges[-1]:
            above += 1
        else:
            inside = [number for number in range(len(counts)) if edges[number] <= value < edges[number + 1]]
            counts[inside[0] if inside else -1] += 1
    return counts, below, above


def top_k(values: np.ndarray, count: int, *, is_largest: bool = True) -> tuple[list[float], list[int]]:
    """The best values and their row numbers by sorting everything; ties to the smaller row number."""
    sign = -1 if is_largest else 1
    order = sorted(range(len(values)), key=lambda row: (sign * values[row], row))[:count]
    return [values[row] for row in order], order


def product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Three loops with exactly rounded sums."""
    result = np.empty((left.shape[0], right.shape[1]))
    for i in range(left.shape[0]):
        for j in range(right.shape[1]):
            result[i, j] = math.fsum(float(a) * float(b) for a, b in zip(left[i], right[:, j], strict=True))
    return result
