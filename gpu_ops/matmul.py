"""The product of two matrices that fit nowhere: C = A·B, tile by tile, from the store.

C-stationary: one tile of C stays on the device while the tiles of A's row and B's column stream past it, so C is
written once and never read. For a square product of size n with tiles of side t the bytes read are
2·n³/t·itemsize; at 55 GB/s of bus and 67 TFLOP/s of float64 a tile side of about 10,000 hides the transfers behind the
arithmetic. The order of the inner tiles is fixed, so each tile of C has the same bits whoever computes it, as far as
`precision` promises; on the CPU that costs six products for one, unless the level is not_guaranteed.

Names of tensors: a_MK, b_KN, c_MN with M, K, N the sides of one tile.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from gpu_ops.combiner import Block
from gpu_ops.device import best_device
from gpu_ops.errors import NotNumeric
from gpu_ops.precision import Precision, product
from gpu_ops.source import CallSource
from gpu_ops.stream import StreamEngine
from gpu_ops.tiling import TileLoader, Tiling, load_checked

_WIDEST_ITEM_BYTES = 8  # float64: slots are made for it, since the dtype is known only when the first tile arrives


def product_tiles(
    tiling: Tiling,
    *,
    load_a: TileLoader,
    load_b: TileLoader,
    device: torch.device | str | None = None,
    tiles: Sequence[tuple[int, int]] | None = None,
    precision: Precision | None = None,
    depth: int = 3,
    readers: int = 1,
) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yield (i, j, tile of C) for the given output tiles, or all; each tile is on the device and the caller's own.

    Sums are formed in `precision.accumulate` (float64 by default). Loaders are called from reader threads. Memory on
    the device: one tile of C, up to four pairs of tiles of A and B. Raises ShapeMismatch for a tile of another shape.
    """
    precision = precision or Precision()
    chosen = list(tiling.output_tiles if tiles is None else tiles)
    _, inner, _ = tiling.grid

    def load(step: int) -> Block:
        i, j = chosen[step // inner]
        p = step % inner
        a_MK = load_checked("A", load_a, tiling.rows(i), tiling.inner(p))
        b_KN = load_checked("B", load_b, tiling.inner(p), tiling.columns(j))
        return {"a": _real("A", a_MK), "b": _real("B", b_KN)}

    pair_bytes = _WIDEST_ITEM_BYTES * tiling.tile_k * (tiling.tile_m + tiling.tile_n)
    source = CallSource(load, pair_bytes)
    with StreamEngine(source, device=best_device(device), depth=depth, readers=readers) as engine:
        steps = engine.blocks(range(len(chosen) * inner))
        for i, j in chosen:
            c_MN: torch.Tensor | None = None
            for _ in range(inner):
                _, block = next(steps)
                part_MN = product(block["a"], block["b"], precision)
                c_MN = part_MN if c_MN is None else c_MN.add_(part_MN)
            assert c_MN is not None, "a grid has at least one inner tile"
            yield i, j, c_MN
        steps.close()


def _real(name: str, tile: torch.Tensor) -> torch.Tensor:
    if tile.dtype.is_complex or tile.dtype == torch.bool:
        raise NotNumeric(name, tile.dtype)
    return tile
