"""Sums and products that no order of additions can change: cut floats into integer slices.

Floating-point addition is not associative, so a sum by atomics, or a matrix product by a vendor's library, may change
its bits with the number of threads, the device or the version. Integers do not have that problem. So each value is
scaled by a power of two to below 1 and cut into slices of b bits, each an integer:

    x = 2^e (q1 2^-b + q2 2^-2b + ... + rest),   e the exponent of the largest |x|, common to all rows.

Cutting is exact (scaling by powers of two, rounding to integers, exact subtraction). Sums of the q are then exact: in
int64 as long as b + log2(rows) <= 62, and in a float64 matrix product as long as 2b + log2(rows) <= 53. What is lost is
the rest below the last slice, a constant far under float64's own rounding. This is the idea of Ozaki, Ogita, Oishi and
Rump (Numerical Algorithms 59, 2012) for products, and of reproducible summation (Demmel and Nguyen, 2013).

Shape suffixes: N rows, G groups, D columns.
"""

from __future__ import annotations

import torch

SUM_BITS = 40  # 2 slices cover 80 bits below the largest value
SUM_ROWS_MAX = 1 << 22  # 40 + 22 = 62 bits: no int64 sum can overflow
GRAM_BITS = 20  # 3 slices cover 60 bits
GRAM_ROWS_MAX = 1 << 12  # 2 * 20 + 12 = 52 bits: each sum of products is an exact float64

_EXPONENT_BIAS = 1023
_EXPONENT_MAX = 1000  # beyond 2^±1000 a further scaling could overflow; such values are scaled less, still exactly


def power_of_two(exponent: torch.Tensor) -> torch.Tensor:
    """2^exponent as float64, exactly, on any device: the exponent bits are written directly."""
    return ((exponent + _EXPONENT_BIAS) << 52).view(torch.float64)


def exponent_above(largest: torch.Tensor) -> torch.Tensor:
    """An int64 e with largest < 2^e, read from the bits of a non-negative finite float64; 0 for zero."""
    exponent = (largest.view(torch.int64) >> 52) - _EXPONENT_BIAS + 1
    return torch.where(largest > 0, exponent.clamp(-_EXPONENT_MAX, _EXPONENT_MAX), torch.zeros_like(exponent))


def group_sums(values_N: torch.Tensor, codes_N: torch.Tensor, n_groups: int) -> torch.Tensor:
    """Sum of the float64 values of each group, [G], the same bits whatever the order of additions.

    Absolute error: rows · 2^-80 · largest value, and one rounding to float64. Infinities and NaN reach their group.
    Bytes: about 10 passes over 8·N.
    """
    total_G = values_N.new_zeros(n_groups)
    for first in range(0, values_N.shape[0], SUM_ROWS_MAX):
        piece_N = values_N[first : first + SUM_ROWS_MAX]
        total_G = total_G + _piece_group_sums(piece_N, codes_N[first : first + SUM_ROWS_MAX], n_groups)
    return total_G


def _piece_group_sums(values_N: torch.Tensor, codes_N: torch.Tensor, n_groups: int) -> torch.Tensor:
    finite_N = values_N.isfinite()
    clean_N = torch.where(finite_N, values_N, 0.0)
    exponent = exponent_above(clean_N.abs().amax())
    scaled_N = clean_N * power_of_two(-exponent)
    high_N = torch.round(scaled_N * 2.0**SUM_BITS)
    low_N = torch.round((scaled_N - high_N * 2.0**-SUM_BITS) * 2.0 ** (2 * SUM_BITS))
    high_G = _integer_group_sums(high_N.to(torch.int64), codes_N, n_groups)
    low_G = _integer_group_sums(low_N.to(torch.int64), codes_N, n_groups)
    sums_G = high_G.double() * 2.0**-SUM_BITS + low_G.double() * 2.0 ** (-2 * SUM_BITS)
    # What is not finite has no order to get wrong: any order of adding infinities and NaN ends in the same class.
    special_G = values_N.new_zeros(n_groups).index_add_(0, codes_N, torch.where(finite_N, 0.0, values_N))
    special_G = torch.where(special_G.isnan(), torch.nan, special_G)
    return sums_G * power_of_two(exponent) + special_G


def _integer_group_sums(values_N: torch.Tensor, codes_N: torch.Tensor, n_groups: int) -> torch.Tensor:
    return values_N.new_zeros(n_groups).index_add_(0, codes_N, values_N)


def exact_integer_group_sums(
    values_N: torch.Tensor, codes_N: torch.Tensor, n_groups: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Exact sums of int64 values per group as limbs (high_G, low_G): sum = high · 2^32 + low, 0 <= low < 2^32.

    Two limbs, because 64 bits can overflow in the middle of a dataset whose final sum is fine. Up to 2^31 rows.
    """
    low_G = _integer_group_sums(values_N & 0xFFFFFFFF, codes_N, n_groups)
    high_G = _integer_group_sums(values_N >> 32, codes_N, n_groups)
    return normalize_limbs(high_G, low_G)


def normalize_limbs(high: torch.Tensor, low: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Carry what exceeds 32 bits in the low limb into the high one."""
    return high + (low >> 32), low & 0xFFFFFFFF


def sliced_gram(values_ND: torch.Tensor) -> torch.Tensor:
    """XᵀX of at most 4096 rows in float64 with bits that depend on the values only; exactly symmetric.

    Four products instead of one: q1q1, q1q2, q1q3, q2q2 (the mirrored ones are transposes). Error about
    rows · 2^-60 · largest², relative to each pair of columns. Columns with infinities or NaN become NaN.
    """
    rows, width = values_ND.shape
    assert rows <= GRAM_ROWS_MAX, "a longer piece could leave the exact range of float64"
    if rows == 0:
        return values_ND.new_zeros((width, width))
    finite_D = values_ND.isfinite().all(dim=0)
    clean_ND = torch.where(finite_D, values_ND, 0.0)
    exponent_D = exponent_above(clean_ND.abs().amax(dim=0))
    first_ND, second_ND, third_ND = _three_slices(clean_ND * power_of_two(-exponent_D))
    unit = 2.0**-GRAM_BITS
    cross_DD = first_ND.T @ second_ND
    far_DD = first_ND.T @ third_ND
    fourth_DD = (far_DD + far_DD.T) + second_ND.T @ second_ND
    product_DD = (fourth_DD * unit + (cross_DD + cross_DD.T)) * unit + first_ND.T @ first_ND
    scale_D = power_of_two(exponent_D)
    product_DD = product_DD * (unit * unit) * scale_D.unsqueeze(0) * scale_D.unsqueeze(1)
    both_finite_DD = finite_D.unsqueeze(0) & finite_D.unsqueeze(1)
    return torch.where(both_finite_DD, product_DD, torch.nan)


def sliced_product(a_MK: torch.Tensor, b_KN: torch.Tensor) -> torch.Tensor:
    """A·B in float64 with bits that depend on the values only, for an inner dimension of at most 4096.

    Six products instead of one. Error about K · 2^-60 · (largest of A's row) · (largest of B's column). A row of A or a
    column of B with infinities or NaN makes its row or column of the result NaN.
    """
    assert a_MK.shape[1] <= GRAM_ROWS_MAX, "a longer inner dimension could leave the exact range of float64"
    if a_MK.shape[1] == 0:
        return a_MK.new_zeros((a_MK.shape[0], b_KN.shape[1]))
    finite_M, finite_N = a_MK.isfinite().all(dim=1), b_KN.isfinite().all(dim=0)
    a_MK = torch.where(finite_M.unsqueeze(1), a_MK, 0.0)
    b_KN = torch.where(finite_N, b_KN, 0.0)
    scale_M, scale_N = exponent_above(a_MK.abs().amax(dim=1)), exponent_above(b_KN.abs().amax(dim=0))
    a1, a2, a3 = _three_slices(a_MK * power_of_two(-scale_M).unsqueeze(1))
    b1, b2, b3 = _three_slices(b_KN * power_of_two(-scale_N))
    unit = 2.0**-GRAM_BITS
    far_MN = (a1 @ b3 + a3 @ b1) + a2 @ b2
    product_MN = (far_MN * unit + (a1 @ b2 + a2 @ b1)) * unit + a1 @ b1
    product_MN = product_MN * (unit * unit) * power_of_two(scale_M).unsqueeze(1) * power_of_two(scale_N)
    return torch.where(finite_M.unsqueeze(1) & finite_N, product_MN, torch.nan)


def _three_slices(scaled_ND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    step = 2.0**GRAM_BITS
    first_ND = torch.round(scaled_ND * step)
    rest_ND = scaled_ND * step - first_ND
    second_ND = torch.round(rest_ND * step)
    third_ND = torch.round((rest_ND * step - second_ND) * step)
    return first_ND, second_ND, third_ND
