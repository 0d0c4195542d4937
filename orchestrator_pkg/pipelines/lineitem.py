"""TPC-H lineitem: Parquet to blocks, then query 1's pricing summary by map/reduce, in exact integers.

Query 1 sums, for each return flag and line status of the items shipped up to 1998-09-02, the quantity, the price, the
discounted price and the discounted, taxed price. With prices in cents and rates in percent all four are integers:

    disc_price = price · (100 - discount)              in 1/10,000
    tax_amount = disc_price · tax                      in 1/1,000,000
    charge     = disc_price · 100 + tax_amount         in 1/1,000,000, formed at the very end

Bound: TPC-H prices stay below 10,495,000 cents and taxes below 9 percent, so a row adds at most 1.05e9 to disc_price
and 8.4e9 to tax_amount. 64 bits hold 9.2e18, that is 1.1e9 rows in one group: scale factor 180 even if all its rows
fell into one group. (The charge itself would overflow near scale factor 80; hence the split.) gpu_ops refuses an
overflow, it never wraps.
"""

# Dagster reads annotations at run time, so they must not become strings: no `from __future__ import annotations`.

import datetime
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import pyarrow as pa
import torch
from dagster import (
    AssetExecutionContext,
    Config,
    MaterializeResult,
    MetadataValue,
    TableRecord,
    asset,
)

from gpu_ops import GroupBySum
from orchestrator_pkg.blocks import Block
from orchestrator_pkg.dataset import BlockStream
from orchestrator_pkg.failures import BadInput, plain_failures
from orchestrator_pkg.mapreduce import map_reduce_asset
from orchestrator_pkg.pipelines import columns, plots
from orchestrator_pkg.pipelines.raw_data import (
    batches,
    generate_lineitem,
    open_parquet,
    raw_key,
    require_columns,
    scale_factor,
    upload,
)
from orchestrator_pkg.resources import StoreResource
from orchestrator_pkg.store import BlockStore

GROUP = "lineitem"
# 38 bytes a row: 2.5 MB a block, ten blocks at scale factor 0.1. Leaves of the tree: changing it changes no bit here,
# for integer sums are exact.
BLOCK_ROWS = 65_536
FLAGS = ("A", "N", "R")
STATUSES = ("F", "O")
NUMBERS = {
    "quantity": "l_quantity",
    "price": "l_extendedprice",
    "discount": "l_discount",
    "tax": "l_tax",
}
NEEDED = (*NUMBERS.values(), "l_returnflag", "l_linestatus", "l_shipdate")
# 90 days before 1998-12-01, query 1's validation parameter.
LAST_SHIP_DATE = datetime.date(1998, 9, 2)
_LAST_SHIP_DAY = (LAST_SHIP_DATE - datetime.date(1970, 1, 1)).days


class IngestConfig(Config):
    """What to ingest. An empty raw_key means the generated file of the scale factor SF."""

    raw_key: str = ""
    block_rows: int = BLOCK_ROWS
    nan_policy: Literal["raise", "omit"] = "raise"


@asset(group_name=GROUP, description="TPC-H lineitem as Parquet in the raw prefix, by tpchgen-cli; SF sets the scale.")
def lineitem_raw(store: StoreResource) -> MaterializeResult[None]:
    """Generates the file in data/raw and uploads it."""
    with plain_failures():
        scale = scale_factor()
        path, key = generate_lineitem(scale), raw_key(scale)
        stored = upload(store.open(), path, key)
    return MaterializeResult(
        metadata={
            "key": key,
            "scale_factor": float(scale),
            "bytes": stored.size_bytes,
            "checksum": f"crc32c:{stored.crc32c or 0:08x}",
            "path": MetadataValue.path(str(path)),
        }
    )


@asset(group_name=GROUP, deps=[lineitem_raw], description="The columns of query 1 as integers, in safetensors blocks.")
def lineitem_blocks(context: AssetExecutionContext, config: IngestConfig, store: StoreResource) -> BlockStream:
    """Reads Parquet from the store batch by batch; written by the I/O manager while it is read."""
    with plain_failures():
        if config.block_rows < 1:
            raise BadInput(f"block_rows is {config.block_rows}; write 1 or more, such as {BLOCK_ROWS}.")
        key = config.raw_key or raw_key(scale_factor())
        opened = store.open()
        with open_parquet(opened, key) as parquet:
            require_columns(parquet, key, NEEDED)
            if not parquet.metadata.num_rows:
                raise BadInput(f"{key} holds no rows; upload a file with data.")
            context.log.info(f"{key}: {parquet.metadata.num_rows} rows")
    attributes = {
        "raw_key": key,
        "raw_etag": opened.head(key).etag,
        "flags": list(FLAGS),
        "statuses": list(STATUSES),
        "nan_policy": config.nan_policy,
    }
    return BlockStream(ingest(opened, key, config), attributes)


def ingest(store: BlockStore, key: str, config: IngestConfig) -> Iterator[Block]:
    """Blocks of a Parquet object. Raises BadInput."""
    with open_parquet(store, key) as parquet:
        for batch in batches(parquet, key, NEEDED, config.block_rows):
            kept = columns.without_missing(batch) if config.nan_policy == "omit" else batch
            if kept.num_rows:
                yield to_block(kept)


def to_block(batch: pa.RecordBatch) -> Block:
    """One batch as tensors: int64 columns in hundredths, uint8 codes, the ship day as int32. Raises BadInput."""
    block = {name: columns.hundredths(batch.column(source), source) for name, source in NUMBERS.items()}
    block["flag"] = columns.codes(batch.column("l_returnflag"), "l_returnflag", FLAGS)
    block["status"] = columns.codes(batch.column("l_linestatus"), "l_linestatus", STATUSES)
    block["ship_day"] = columns.days(batch.column("l_shipdate"), "l_shipdate")
    return block


def pricing_columns(block: Block) -> Block:
    """The map: what query 1 sums. Rows out of the period get a group of their own instead of being cut out, so that
    no device has to tell the host how many rows are left."""
    disc_price = block["price"] * (100 - block["discount"])
    return {
        "flag": block["flag"],
        "status": block["status"],
        "is_late": (block["ship_day"] > _LAST_SHIP_DAY).to(torch.uint8),
        "quantity": block["quantity"],
        "price": block["price"],
        "discount": block["discount"],
        "disc_price": disc_price,
        "tax_amount": disc_price * block["tax"],
    }


def pricing_summary(sums: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Query 1's rows in its order: groups of the period that have items, by flag and status."""
    kept = torch.nonzero((sums["key.is_late"] == 0) & (sums["count"] > 0)).reshape(-1)
    names = {name: name.removeprefix("key.") for name in sums if name != "key.is_late"}
    return {new: sums[old][kept].contiguous() for old, new in names.items()}


def summary_rows(summary: Mapping[str, torch.Tensor]) -> list[dict[str, Any]]:
    """The summary for people and for checks: words for codes, sums as exact integers in their units."""
    rows = []
    for at in range(summary["count"].shape[0]):
        numbers = {name: int(tensor[at]) for name, tensor in summary.items()}
        disc_price_e4 = numbers["sum.disc_price"]
        rows.append(
            {
                "flag": FLAGS[numbers["flag"]],
                "status": STATUSES[numbers["status"]],
                "sum_qty_e2": numbers["sum.quantity"],
                "sum_base_price_e2": numbers["sum.price"],
                "sum_disc_price_e4": disc_price_e4,
                "sum_charge_e6": disc_price_e4 * 100 + numbers["sum.tax_amount"],
                "sum_discount_e2": numbers["sum.discount"],
                "count": numbers["count"],
            }
        )
    return rows


def describe_summary(result: Mapping[str, torch.Tensor]) -> Mapping[str, Any]:
    """A table of the summary and a plot of the revenue."""
    rows = summary_rows(result)
    records = [TableRecord(_shown(row)) for row in rows]
    revenue = {f"{row['flag']}/{row['status']}": row["sum_charge_e6"] / 1e12 for row in rows}
    return {
        "pricing_summary": MetadataValue.table(records),
        "plot": plots.bars(revenue, title="Charge by flag/status", unit="millions"),
    }


def _shown(row: Mapping[str, Any]) -> dict[str, str | int | float]:
    count = row["count"]
    return {
        "l_returnflag": row["flag"],
        "l_linestatus": row["status"],
        "sum_qty": _decimal(row["sum_qty_e2"], 2),
        "sum_base_price": _decimal(row["sum_base_price_e2"], 2),
        "sum_disc_price": _decimal(row["sum_disc_price_e4"], 4),
        "sum_charge": _decimal(row["sum_charge_e6"], 6),
        "avg_qty": round(row["sum_qty_e2"] / count / 100, 2),
        "avg_price": round(row["sum_base_price_e2"] / count / 100, 2),
        "avg_disc": round(row["sum_discount_e2"] / count / 100, 2),
        "count_order": count,
    }


def _decimal(value: int, digits: int) -> str:
    whole, rest = divmod(value, 10**digits)
    return f"{whole}.{rest:0{digits}d}"


lineitem_pricing_summary = map_reduce_asset(
    name="lineitem_pricing_summary",
    source="lineitem_blocks",
    combiner=GroupBySum(
        keys={"flag": len(FLAGS), "status": len(STATUSES), "is_late": 2},
        values=("quantity", "price", "discount", "disc_price", "tax_amount"),
    ),
    map_block=pricing_columns,
    present=pricing_summary,
    describe_result=describe_summary,
    group_name=GROUP,
    description="TPC-H query 1: sums and counts by return flag and line status, exact to the last digit.",
)

ASSETS = (lineitem_raw, lineitem_blocks, lineitem_pricing_summary)
