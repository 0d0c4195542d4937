"""The form of a result: machine, versions and rows, as JSON, with a Markdown table beside it."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "results"
PACKAGES = ("dagster", "grpcio", "protobuf", "torch")


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison; ratio is how many times better we are than the peer, and ok whether that is what was wanted."""

    name: str
    ours: float
    peer: float
    peer_name: str
    ratio: float
    wanted: float
    ok: bool
    unit: str


def compare(*, name: str, ours: float, peer: float, peer_name: str, wanted: float, unit: str) -> Row:
    """A row for a quantity of which less is better."""
    ratio = peer / ours
    return Row(name, round(ours, 4), round(peer, 4), peer_name, round(ratio, 2), wanted, ratio >= wanted, unit)


def write(name: str, rows: Sequence[Row]) -> str:
    """Writes results/NAME.json and NAME.md; returns the table."""
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "system": platform.system()}
    versions = {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}
    FOLDER.mkdir(exist_ok=True)
    content = {"machine": machine, "versions": versions, "rows": [asdict(row) for row in rows]}
    (FOLDER / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
    lines = ["| what | ours | peer | | ratio | wanted | |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        verdict = "ok" if row.ok else "missed"
        numbers = (
            f"{row.ours:g} {row.unit} | {row.peer:g} {row.unit} | {row.peer_name} | {row.ratio:g} × | {row.wanted:g} ×"
        )
        lines.append(f"| {row.name} | {numbers} | {verdict} |")
    about = ", ".join(f"{key} {value}" for key, value in (machine | versions).items())
    table = "\n".join(lines)
    (FOLDER / f"{name}.md").write_text(f"{table}\n\nMeasured on: {about}.\n")
    return table
