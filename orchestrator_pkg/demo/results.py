"""Brings the demo's results out of the object store, since the demo's own server keeps them in memory only."""

from __future__ import annotations

import csv
from pathlib import Path

from orchestrator_pkg.config import StoreSettings

# Small results as safetensors files that torch, numpy and others read.
TENSORS = ("lineitem_pricing_summary", "matrix_statistics", "matrix_components")
SUMMARY = "lineitem_pricing_summary"


def save_results(settings: StoreSettings, folder: Path) -> list[Path]:
    """Writes the results as .safetensors and query 1's answer as .csv into folder; returns the files."""
    from orchestrator_pkg.io_managers import asset_dataset_key
    from orchestrator_pkg.pipelines.lineitem import summary_rows
    from orchestrator_pkg.publish import open_dataset
    from orchestrator_pkg.store import open_store

    folder.mkdir(parents=True, exist_ok=True)
    store, files = open_store(settings), []
    for name in TENSORS:
        (block,) = open_dataset(store, asset_dataset_key([name]))
        path = folder / f"{name}.safetensors"
        path.write_bytes(store.get(block.info.key))
        files.append(path)
        if name == SUMMARY:
            rows = summary_rows(block.load())
            path = folder / f"{name}.csv"
            with path.open("w", newline="") as out:
                writer = csv.DictWriter(out, fieldnames=list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
            files.append(path)
    return files
