"""Asset checks: every result of the shipped pipelines is compared with an answer that was found in another way."""

# Dagster reads annotations at run time, so they must not become strings: no `from __future__ import annotations`.

import importlib.util
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from dagster import AssetCheckResult, AssetIn, asset_check

from gpu_ops import freivalds
from orchestrator_pkg.dataset import Dataset
from orchestrator_pkg.failures import plain_failures
from orchestrator_pkg.pipelines.lineitem import (
    LAST_SHIP_DATE,
    NEEDED,
    lineitem_blocks,
    lineitem_pricing_summary,
    summary_rows,
)
from orchestrator_pkg.pipelines.matrices import (
    factor_of,
    matrix_a,
    matrix_components,
    matrix_product,
    matrix_statistics,
    samples_of,
    spectrum_plot,
    tile_loader,
    tiling_of,
)
from orchestrator_pkg.pipelines.raw_data import open_parquet
from orchestrator_pkg.resources import StoreResource

# Rounding of a few thousand float64 operations, relative to the largest value.
RELATIVE_TOLERANCE = 1e-10
FREIVALDS_ROUNDS = 40

# Written out here once more, not shared with the pipeline: an oracle must not repeat the pipeline's mistakes.
QUERY_1 = f"""
select l_returnflag, l_linestatus, sum(l_quantity), sum(l_extendedprice),
       sum(l_extendedprice * (1 - l_discount)), sum(l_extendedprice * (1 - l_discount) * (1 + l_tax)),
       sum(l_discount), count(*)
from items where l_shipdate <= date '{LAST_SHIP_DATE}'
group by l_returnflag, l_linestatus order by l_returnflag, l_linestatus
"""


@asset_check(
    asset=lineitem_pricing_summary,
    additional_ins={"blocks": AssetIn("lineitem_blocks")},
    description="Query 1 computed by DuckDB (or pyarrow) from the Parquet file, digit by digit.",
)
def matches_query_1(
    lineitem_pricing_summary: dict[str, torch.Tensor], blocks: Dataset, store: StoreResource
) -> AssetCheckResult:
    """Reads the raw file again, from the beginning."""
    with plain_failures(), open_parquet(store.open(), str(blocks.attributes["raw_key"])) as parquet:
        table = parquet.read(columns=list(NEEDED))
    if blocks.attributes["nan_policy"] == "omit":
        table = table.drop_null()
    oracle, wanted = query_1(table)
    found = summary_rows(lineitem_pricing_summary)
    differences = [f"{ours} != {theirs}" for ours, theirs in zip(found, wanted, strict=False) if ours != theirs]
    return AssetCheckResult(
        passed=not differences and len(found) == len(wanted),
        metadata={"oracle": oracle, "groups": len(wanted), "differences": "; ".join(differences) or "none"},
    )


def query_1(table: pa.Table) -> tuple[str, list[dict[str, Any]]]:
    """Query 1 of a table, in the form of summary_rows, and the name of the engine that computed it."""
    if importlib.util.find_spec("duckdb") is not None:
        return "DuckDB", [_exact_row(row) for row in _by_duckdb(table)]
    return "pyarrow", [_exact_row(row) for row in _by_pyarrow(table)]


def _by_duckdb(table: pa.Table) -> list[tuple[Any, ...]]:
    import duckdb

    with duckdb.connect() as connection:
        connection.register("items", table)
        return connection.execute(QUERY_1).fetchall()


def _by_pyarrow(table: pa.Table) -> list[tuple[Any, ...]]:
    # Narrow decimals, for a product has the digits of both factors and 38 are the limit.
    texts = {name: table[name].cast(pa.string()) for name in ("l_returnflag", "l_linestatus")}
    plain = pa.table({name: texts.get(name, table[name]) for name in NEEDED})
    kept = plain.filter(pc.less_equal(plain["l_shipdate"], pa.scalar(LAST_SHIP_DATE)))
    price = kept["l_extendedprice"].cast(pa.decimal128(12, 2))
    one = pa.scalar(Decimal("1.00"), pa.decimal128(4, 2))
    disc_price = pc.multiply(price, pc.subtract(one, kept["l_discount"].cast(pa.decimal128(4, 2))))
    charge = pc.multiply(disc_price, pc.add(one, kept["l_tax"].cast(pa.decimal128(4, 2))))
    wide = {
        "flag": kept["l_returnflag"],
        "status": kept["l_linestatus"],
        "quantity": kept["l_quantity"],
        "price": price,
        "disc_price": disc_price,
        "charge": charge,
        "discount": kept["l_discount"],
    }
    summed = ("quantity", "price", "disc_price", "charge", "discount")
    grouped = pa.table(wide).group_by(["flag", "status"])
    result = grouped.aggregate([*((name, "sum") for name in summed), ([], "count_all")])
    ordered = result.sort_by([("flag", "ascending"), ("status", "ascending")])
    names = ["flag", "status", *(f"{name}_sum" for name in summed), "count_all"]
    return list(zip(*(ordered[name].to_pylist() for name in names), strict=True))


def _exact_row(row: tuple[Any, ...]) -> dict[str, Any]:
    flag, status, quantity, price, disc_price, charge, discount, count = row
    return {
        "flag": flag,
        "status": status,
        "sum_qty_e2": _scaled(quantity, 2),
        "sum_base_price_e2": _scaled(price, 2),
        "sum_disc_price_e4": _scaled(disc_price, 4),
        "sum_charge_e6": _scaled(charge, 6),
        "sum_discount_e2": _scaled(discount, 2),
        "count": int(count),
    }


def _scaled(value: Decimal | float, digits: int) -> int:
    """An exact decimal as an integer; a float (a file written with doubles) to the nearest."""
    return round(Decimal(value).scaleb(digits))


@asset_check(asset=lineitem_blocks, description="As many rows in the blocks as in the Parquet file.")
def has_all_rows(lineitem_blocks: Dataset, store: StoreResource) -> AssetCheckResult:
    """With nan_policy omit, no more rows than the file has."""
    with plain_failures(), open_parquet(store.open(), str(lineitem_blocks.attributes["raw_key"])) as parquet:
        wanted = parquet.metadata.num_rows
    found = lineitem_blocks.manifest.rows
    is_omitting = lineitem_blocks.attributes["nan_policy"] == "omit"
    return AssetCheckResult(
        passed=found == wanted or (is_omitting and found < wanted),
        metadata={"rows_in_file": wanted, "rows_in_blocks": found},
    )


@asset_check(
    asset=matrix_statistics,
    additional_ins={"samples": AssetIn("matrix_samples")},
    description="Mean and covariance as prescribed; the trace of the covariance is the sum of the variances.",
)
def has_known_covariance(matrix_statistics: dict[str, torch.Tensor], samples: Dataset) -> AssetCheckResult:
    """Compares with the closed form, and two independent ways with each other."""
    truth = samples_of(samples.attributes)
    covariance = matrix_statistics["pairs.covariance"]
    errors = {
        "covariance": _error(covariance, truth.covariance()),
        "mean": _error(matrix_statistics["moments.mean"], truth.mean),
        "trace": _error(covariance.trace(), matrix_statistics["moments.variance"].sum()),
    }
    return _within(errors, {"rows": samples.manifest.rows})


@asset_check(
    asset=matrix_components,
    additional_ins={"samples": AssetIn("matrix_samples")},
    description="The variances of the components are the prescribed spectrum, their directions orthonormal.",
)
def has_known_spectrum(matrix_components: dict[str, torch.Tensor], samples: Dataset) -> AssetCheckResult:
    """Also: the variances add up to the trace."""
    truth, directions = samples_of(samples.attributes), matrix_components["directions"]
    unit = torch.eye(directions.shape[1], dtype=directions.dtype)
    errors = {
        "spectrum": _error(matrix_components["variances"], truth.variances),
        "trace": _error(matrix_components["variances"].sum(), truth.covariance().trace()),
        "orthonormal": _error(directions.T @ directions, unit),
    }
    return _within(errors, {})


@asset_check(asset=matrix_a, description="The stored factor has the prescribed singular values.")
def has_known_singular_values(matrix_a: Dataset) -> AssetCheckResult:
    """Reads all tiles back; costs O(n³), so for the shipped size only."""
    with plain_failures():
        tiling, load = tiling_of(matrix_a.attributes), tile_loader(matrix_a)
        bands = [_band(load, tiling.rows(i), tiling) for i in range(tiling.grid[0])]
        found = torch.linalg.svdvals(torch.cat(bands))
    wanted = factor_of(matrix_a.attributes).singular_values
    return _within({"singular_values": _error(found, wanted)}, {"plot": spectrum_plot(found, wanted)})


def _band(load: Any, rows: slice, tiling: Any) -> torch.Tensor:
    return torch.cat([load(rows, tiling.columns(j)) for j in range(tiling.grid[2])], dim=1)


@asset_check(
    asset=matrix_product,
    additional_ins={"left": AssetIn("matrix_a"), "right": AssetIn("matrix_b")},
    description="Freivalds' check of C = A·B; a wrong entry passes with probability 2^-40.",
)
def passes_freivalds(matrix_product: Dataset, left: Dataset, right: Dataset) -> AssetCheckResult:
    """Reads every matrix once."""
    with plain_failures():
        result = freivalds(
            tiling_of(matrix_product.attributes),
            load_a=tile_loader(left),
            load_b=tile_loader(right),
            load_c=tile_loader(matrix_product),
            rounds=FREIVALDS_ROUNDS,
        )
    return AssetCheckResult(
        passed=result.is_equal,
        metadata={"worst_share_of_bound": result.worst, "miss_probability": result.miss_probability},
    )


@asset_check(
    asset=matrix_product,
    additional_ins={"left": AssetIn("matrix_a"), "right": AssetIn("matrix_b")},
    description="trace(A·B) is the sum of A times B transposed, entry by entry.",
)
def has_known_trace(matrix_product: Dataset, left: Dataset, right: Dataset) -> AssetCheckResult:
    """O(n²) work on the stored tiles."""
    with plain_failures():
        tiling = tiling_of(matrix_product.attributes)
        a, b, c = tile_loader(left), tile_loader(right), tile_loader(matrix_product)
        pairs = [(tiling.rows(i), tiling.rows(j)) for i in range(tiling.grid[0]) for j in range(tiling.grid[0])]
        wanted = sum(float((a(rows, columns) * b(columns, rows).T).sum()) for rows, columns in pairs)
        scale = sum(float((a(rows, columns) * b(columns, rows).T).abs().sum()) for rows, columns in pairs)
        diagonal = [tiling.rows(i) for i in range(tiling.grid[0])]
        found = sum(float(c(part, part).trace()) for part in diagonal)
    return _within({"trace": abs(found - wanted) / scale}, {"found": found, "wanted": wanted})


def _error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """Largest difference, relative to the largest wanted value."""
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-300))


def _within(errors: Mapping[str, float], more: Mapping[str, Any]) -> AssetCheckResult:
    """Passed when all errors are within the tolerance; NaN is not."""
    passed = all(error <= RELATIVE_TOLERANCE for error in errors.values())
    named = {f"error_{name}": error for name, error in errors.items()}
    return AssetCheckResult(passed=passed, metadata={**named, "tolerance": RELATIVE_TOLERANCE, **more})


CHECKS = (
    has_all_rows,
    matches_query_1,
    has_known_covariance,
    has_known_spectrum,
    has_known_singular_values,
    passes_freivalds,
    has_known_trace,
)
