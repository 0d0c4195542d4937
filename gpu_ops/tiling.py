"""How a product C = A·B is cut into tiles. Edges may be ragged: the last tile of a dimension is what is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from gpu_ops.errors import BadSetting, ShapeMismatch

# load(rows, columns) -> that part of a matrix, on any device
TileLoader = Callable[[slice, slice], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Tiling:
    """A is m x k, B is k x n, C is m x n; tile sizes may exceed the matrix."""

    m: int
    k: int
    n: int
    tile_m: int
    tile_k: int
    tile_n: int

    def __post_init__(self) -> None:
        sizes = {name: getattr(self, name) for name in ("m", "k", "n", "tile_m", "tile_k", "tile_n")}
        if min(sizes.values()) < 1:
            raise BadSetting("a size of the tiling", sizes, "1 or more, each")

    @property
    def grid(self) -> tuple[int, int, int]:
        """Numbers of tiles along m, k, n."""
        return -(-self.m // self.tile_m), -(-self.k // self.tile_k), -(-self.n // self.tile_n)

    @property
    def output_tiles(self) -> list[tuple[int, int]]:
        """All tiles (i, j) of C, row by row."""
        rows, _, columns = self.grid
        return [(i, j) for i in range(rows) for j in range(columns)]

    @property
    def flops(self) -> int:
        """Multiplications and additions of the whole product."""
        return 2 * self.m * self.k * self.n

    def bytes_read(self, itemsize: int) -> int:
        """Bytes that the C-stationary order reads: A once per column of tiles, B once per row of tiles."""
        rows, _, columns = self.grid
        return itemsize * (columns * self.m * self.k + rows * self.k * self.n)

    def rows(self, i: int) -> slice:
        """Rows of A and C in tile row i."""
        return slice(i * self.tile_m, min((i + 1) * self.tile_m, self.m))

    def inner(self, p: int) -> slice:
        """Columns of A and rows of B in inner tile p."""
        return slice(p * self.tile_k, min((p + 1) * self.tile_k, self.k))

    def columns(self, j: int) -> slice:
        """Columns of B and C in tile column j."""
        return slice(j * self.tile_n, min((j + 1) * self.tile_n, self.n))


def load_checked(name: str, load: TileLoader, rows: slice, columns: slice) -> torch.Tensor:
    """Load a tile; raises ShapeMismatch if the loader returned another shape."""
    tile = load(rows, columns)
    wanted = (rows.stop - rows.start, columns.stop - columns.start)
    if tuple(tile.shape) != wanted:
        raise ShapeMismatch(f"A tile of {name}", tuple(tile.shape), wanted, "correct the loader or the tiling")
    return tile
