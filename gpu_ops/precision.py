"""How sums are formed: in which dtype, in which order, and how far the bits are promised.

On a stream, accuracy is free: device memory reads about 90 times as fast as the bus delivers, so a float64 sum in a
fixed order cannot be seen in the end-to-end time. Therefore float64 and a fixed order are the default.

Three levels (the names of CUDA's CUB library):

not_guaranteed  the library's own reduction, fastest; its order may follow the number of threads.
run_to_run      the library sums pieces of a fixed length, one output per piece, and the pieces are joined by pairwise
                halving. Same bits for one device class and torch version, whatever the number of threads. Products
                are the library's on CUDA; on the CPU they are made of integer slices, since the CPU library splits a
                product over threads and its bits follow their number (seen with 1, 2 and 3 threads).
gpu_to_gpu      halving all the way by elementwise additions, and products of integer slices (`slices.py`). Only
                operations that IEEE 754 defines to the last bit: same bits on CPU and CUDA.

Shape suffixes: N rows, R pieces, C rows a piece, D columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

import torch

from gpu_ops.errors import BadSetting
from gpu_ops.slices import sliced_gram, sliced_product

# One piece: 4096 rows x 8 bytes = 32 KiB of one column, in the first-level cache; below torch's 32768-element threshold
# for splitting one sum over threads.
PIECE_ROWS = 4096


class Determinism(StrEnum):
    """How far equal bits are promised."""

    NOT_GUARANTEED = "not_guaranteed"
    RUN_TO_RUN = "run_to_run"
    GPU_TO_GPU = "gpu_to_gpu"


@dataclass(frozen=True, slots=True)
class Precision:
    """Accumulation dtype, promised level, and whether TF32 may be used for float32 products."""

    determinism: Determinism = Determinism.RUN_TO_RUN
    accumulate: torch.dtype = torch.float64
    is_tf32_allowed: bool = False

    def __post_init__(self) -> None:
        if self.accumulate not in {torch.float64, torch.float32}:
            raise BadSetting("accumulate", self.accumulate, "torch.float64 or torch.float32")
        if self.determinism not in set(Determinism):
            raise BadSetting("determinism", repr(self.determinism), "not_guaranteed, run_to_run or gpu_to_gpu")
        if self.determinism == Determinism.GPU_TO_GPU and (self.is_tf32_allowed or self.accumulate != torch.float64):
            raise BadSetting("gpu_to_gpu", "with float32 or TF32", "used with float64 and without TF32")


def column_sums(values_ND: torch.Tensor, precision: Precision) -> torch.Tensor:
    """Sums over the rows, in the order of the level: [N] -> [], [N, D] -> [D]. dtype stays.

    Bytes: run_to_run reads 8·N·D once; gpu_to_gpu moves about 3 times as much (N + N/2 + N/4 ...).
    """
    if precision.determinism == Determinism.NOT_GUARANTEED:
        return values_ND.sum(dim=0)
    if precision.determinism == Determinism.GPU_TO_GPU:
        return halving_sum(values_ND)
    return _pieced_sum(values_ND)


def halving_sum(values_ND: torch.Tensor) -> torch.Tensor:
    """Add the second half onto the first until one row is left: log2(N) elementwise additions, error O(log N)."""
    rows = values_ND.shape[0]
    if rows == 0:
        return values_ND.new_zeros(values_ND.shape[1:])
    if rows == 1:
        return values_ND[0].clone()
    kept = rows - rows // 2
    sums = values_ND[:kept].clone()
    sums[: rows - kept] += values_ND[kept:]
    while kept > 1:
        half = kept // 2
        sums[:half] += sums[kept - half : kept]  # the two parts never overlap: half <= kept - half
        kept -= half
    return sums[0].clone()


def _pieced_sum(values_ND: torch.Tensor) -> torch.Tensor:
    pieces = values_ND.shape[0] // PIECE_ROWS
    if pieces == 0:
        return halving_sum(values_ND)
    whole_RCD = values_ND[: pieces * PIECE_ROWS].reshape(pieces, PIECE_ROWS, *values_ND.shape[1:])
    sums_RD = whole_RCD.sum(dim=1)
    tail_D = halving_sum(values_ND[pieces * PIECE_ROWS :])
    return halving_sum(torch.cat([sums_RD, tail_D.unsqueeze(0)]))


def gram(values_ND: torch.Tensor, precision: Precision) -> torch.Tensor:
    """XᵀX as an exactly symmetric [D, D], added up over pieces of rows in a fixed order.

    FLOPs: 2·N·D² with the library's product, 4 times that with slices; bytes: 8·N·D read once if D² fits the cache.
    """
    rows, width = values_ND.shape
    total_DD = values_ND.new_zeros((width, width))
    with matmul_settings(precision):
        for first in range(0, rows, PIECE_ROWS):
            piece_CD = values_ND[first : first + PIECE_ROWS]
            if _is_library_used(values_ND, precision):
                product_DD = piece_CD.T @ piece_CD
                total_DD += (product_DD + product_DD.T) / 2
            else:
                total_DD += sliced_gram(piece_CD.double()).to(total_DD.dtype)
    return total_DD


def product(a_MK: torch.Tensor, b_KN: torch.Tensor, precision: Precision) -> torch.Tensor:
    """A·B at the promised level, in the accumulation dtype: [M, N].

    FLOPs: 2·M·K·N with the library's product, 6 times that with slices.
    """
    a_MK, b_KN = a_MK.to(precision.accumulate), b_KN.to(precision.accumulate)
    if _is_library_used(a_MK, precision):
        with matmul_settings(precision):
            return a_MK @ b_KN
    total_MN = a_MK.new_zeros((a_MK.shape[0], b_KN.shape[1]))
    for first in range(0, a_MK.shape[1], PIECE_ROWS):
        end = first + PIECE_ROWS
        total_MN += sliced_product(a_MK[:, first:end].double(), b_KN[first:end].double()).to(total_MN.dtype)
    return total_MN


def _is_library_used(values: torch.Tensor, precision: Precision) -> bool:
    """Whether the library's own product keeps the promise for a tensor on this device."""
    if precision.determinism == Determinism.RUN_TO_RUN:
        return values.is_cuda
    return precision.determinism == Determinism.NOT_GUARANTEED


@contextmanager
def matmul_settings(precision: Precision) -> Iterator[None]:
    """TF32 as the precision asks for, inside the block only: a warm process must not inherit it."""
    matmul_before = torch.backends.cuda.matmul.allow_tf32
    cudnn_before = torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision.is_tf32_allowed
    torch.backends.cudnn.allow_tf32 = precision.is_tf32_allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul_before
        torch.backends.cudnn.allow_tf32 = cudnn_before
