"""Matrices whose answer is known: statistics and principal components of a dataset, and a blocked product.

`matrix_samples` has exactly the sample covariance that its spectrum prescribes, so the checks compare with the truth
and not with another program. The factors of the product have known singular values.
"""

# Dagster reads annotations at run time, so they must not become strings: no `from __future__ import annotations`.

import functools
import os
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from dagster import AssetExecutionContext, Config, MetadataValue, asset

from gpu_ops import (
    Covariance,
    MinMax,
    Moments,
    SpectralDataset,
    SpectralMatrix,
    TileLoader,
    Tiling,
    best_device,
    compose,
    principal_components,
    product_tiles,
)
from orchestrator_pkg.blocks import Block
from orchestrator_pkg.dataset import BlockStream, Dataset
from orchestrator_pkg.failures import BadInput, plain_failures
from orchestrator_pkg.mapreduce import map_reduce_asset
from orchestrator_pkg.pipelines import plots
from orchestrator_pkg.pipelines.raw_data import data_folder

GROUP = "matrices"
# Tiles kept while a product runs: every one is used once per column (or row) of tiles. 64 tiles of 256 x 256 float64
# are 32 MiB.
TILES_HELD_MAX = 64
# A copy of a factor for other tools is written up to this size only.
COPY_BYTES_MAX = 1 << 30
_COMPONENTS = 10


class SamplesConfig(Config):
    """Size of the dataset: 131,072 x 64 float64 are 67 MB in 16 blocks of 4 MB."""

    rows: int = 131_072
    columns: int = 64
    block_rows: int = 8_192
    seed: int = 1


class FactorConfig(Config):
    """Size of a square factor and of its tiles: 1024² float64 are 8 MB in 16 tiles of 512 KB."""

    size: int = 1_024
    tile: int = 256


def sample_variances(columns: int) -> torch.Tensor:
    """Variances of the principal components [D]: each 0.9 times the one before, from 100."""
    return 100.0 * 0.9 ** torch.arange(columns, dtype=torch.float64)


def singular_values(size: int) -> torch.Tensor:
    """Singular values of a factor [D]: evenly from 2 down to 1, so that the product is well conditioned."""
    return torch.linspace(2.0, 1.0, size, dtype=torch.float64)


def samples_of(attributes: Mapping[str, Any]) -> SpectralDataset:
    """The generator that made a dataset, from its attributes."""
    columns = int(attributes["columns"])
    mean = torch.arange(columns, dtype=torch.float64) / 8
    return SpectralDataset(int(attributes["rows"]), columns, sample_variances(columns), mean, int(attributes["seed"]))


def factor_of(attributes: Mapping[str, Any]) -> SpectralMatrix:
    """The generator that made a factor, from its attributes."""
    size = int(attributes["size"])
    return SpectralMatrix(size, size, singular_values(size), int(attributes["seed"]))


@asset(group_name=GROUP, description="Rows with a known mean and sample covariance; any block can be made again.")
def matrix_samples(config: SamplesConfig) -> BlockStream:
    """Made block by block while the I/O manager writes."""
    with plain_failures():
        if config.block_rows < 1 or config.rows % config.block_rows:
            raise BadInput(f"rows={config.rows} is no multiple of block_rows={config.block_rows}; change one of them.")
        attributes = {"rows": config.rows, "columns": config.columns, "seed": config.seed}
        made = samples_of(attributes)
    starts = range(0, config.rows, config.block_rows)
    return BlockStream(({"x": made.row_block(start, config.block_rows)} for start in starts), attributes)


def describe_statistics(result: Mapping[str, torch.Tensor]) -> Mapping[str, Any]:
    """A plot of the columns' spread."""
    return {
        "rows_counted": int(result["moments.count"].reshape(-1)[0]),
        "plot": plots.lines(
            {
                "std": result["moments.std"].tolist(),
                "min": result["range.min"].tolist(),
                "max": result["range.max"].tolist(),
            },
            title="Columns of the samples",
            unit="value",
        ),
    }


matrix_statistics = map_reduce_asset(
    name="matrix_statistics",
    source="matrix_samples",
    combiner=compose(moments=Moments(column="x"), range=MinMax(column="x"), pairs=Covariance(columns=("x",))),
    describe_result=describe_statistics,
    group_name=GROUP,
    description="Moments, extrema and covariance of all columns in one pass over the blocks.",
)


@asset(group_name=GROUP, description="Principal components of the samples, from the covariance.")
def matrix_components(
    context: AssetExecutionContext, matrix_statistics: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """All variances, their shares, and the leading directions."""
    with plain_failures():
        found = principal_components(matrix_statistics["pairs.covariance"])
    context.add_output_metadata(
        {
            "leading_variance": float(found.variances[0]),
            "share_of_first_10": float(found.shares[:_COMPONENTS].sum()),
            "plot": plots.lines(
                {
                    "found": found.variances.tolist(),
                    "prescribed": sample_variances(found.variances.shape[0]).tolist(),
                },
                title="Variances of the principal components",
                unit="variance",
                is_log=True,
            ),
        }
    )
    return {"variances": found.variances, "shares": found.shares, "directions": found.directions}


def _factor(name: str, config: FactorConfig, seed: int) -> BlockStream:
    attributes = {"size": config.size, "tile": config.tile, "seed": seed}
    with plain_failures():
        matrix, tiling = factor_of(attributes), tiling_of(attributes)
        if 8 * config.size**2 <= COPY_BYTES_MAX:
            _keep_copy(f"{name}-{config.size}.npy", matrix, tiling)
    blocks = ({"tile": matrix.tile(tiling.rows(i), tiling.columns(j))} for i, j in tiling.output_tiles)
    return BlockStream(blocks, attributes)


def _keep_copy(name: str, matrix: SpectralMatrix, tiling: Tiling) -> None:
    """A .npy beside the store, for NumPy and friends; complete or absent."""
    target = data_folder("matrices") / name
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".writing-") as folder:
        path = os.path.join(folder, name)
        shape = (matrix.rows, matrix.columns)
        view = np.lib.format.open_memmap(path, mode="w+", dtype=np.float64, shape=shape)
        for i in range(tiling.grid[0]):
            rows = tiling.rows(i)
            view[rows] = matrix.row_block(rows.start, rows.stop - rows.start).numpy()
        view.flush()
        del view
        os.replace(path, target)


@asset(group_name=GROUP, description="Left factor with known singular values, in tiles; a .npy copy in data/matrices.")
def matrix_a(config: FactorConfig) -> BlockStream:
    """Tiles row by row."""
    return _factor("a", config, seed=11)


@asset(group_name=GROUP, description="Right factor with known singular values, in tiles; a .npy copy in data/matrices.")
def matrix_b(config: FactorConfig) -> BlockStream:
    """Tiles row by row."""
    return _factor("b", config, seed=12)


def tiling_of(attributes: Mapping[str, Any]) -> Tiling:
    """How square matrices of the pipeline are cut."""
    size, tile = int(attributes["size"]), int(attributes["tile"])
    return Tiling(m=size, k=size, n=size, tile_m=tile, tile_k=tile, tile_n=tile)


def tile_loader(matrix: Dataset) -> TileLoader:
    """Reads tiles of a stored matrix, each from the store once while it is held."""
    tiling = tiling_of(matrix.attributes)
    across = tiling.grid[2]

    @functools.lru_cache(maxsize=TILES_HELD_MAX)
    def tile(index: int) -> torch.Tensor:
        return matrix[index].load()["tile"]

    def load(rows: slice, columns: slice) -> torch.Tensor:
        return tile((rows.start // tiling.tile_m) * across + columns.start // tiling.tile_n)

    return load


@asset(group_name=GROUP, description="C = A·B, tile by tile, with float64 sums in a fixed order.")
def matrix_product(context: AssetExecutionContext, matrix_a: Dataset, matrix_b: Dataset) -> BlockStream:
    """Each tile is written as soon as it is done."""
    with plain_failures():
        tiling, device = tiling_of(matrix_a.attributes), best_device()
        if tiling != tiling_of(matrix_b.attributes):
            raise BadInput(
                "matrix_a and matrix_b have different sizes or tiles; materialize both with the same config."
            )
    context.add_output_metadata({"flops": tiling.flops, "device": str(device)})
    tiles = product_tiles(tiling, load_a=tile_loader(matrix_a), load_b=tile_loader(matrix_b), device=device)
    return BlockStream(_blocks_of(tiles), dict(matrix_a.attributes))


def _blocks_of(tiles: Iterator[tuple[int, int, torch.Tensor]]) -> Iterator[Block]:
    for _, _, tile in tiles:
        yield {"tile": tile}


def spectrum_plot(found: torch.Tensor, wanted: torch.Tensor) -> MetadataValue:
    """Found and prescribed singular values."""
    return plots.lines({"found": found.tolist(), "prescribed": wanted.tolist()}, title="Singular values", unit="value")


ASSETS = (matrix_samples, matrix_statistics, matrix_components, matrix_a, matrix_b, matrix_product)
