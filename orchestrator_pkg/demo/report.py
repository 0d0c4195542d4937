"""What Dagster's event log says about the demo's runs, and the summary table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from orchestrator_pkg.demo.failover import Failover


@dataclass(frozen=True, slots=True)
class AssetLine:
    """One materialization; numbers that its asset did not report are zero."""

    name: str
    blocks: int
    bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RunReport:
    """One run as Dagster's event log has it."""

    job: str
    run_id: str
    status: str
    seconds: float
    assets: tuple[AssetLine, ...]
    # Name and whether it passed.
    checks: tuple[tuple[str, bool], ...]
    # Assets that the job plans to materialize.
    planned: frozenset[str]

    @property
    def is_complete(self) -> bool:
        """True when it succeeded, materialized all that it planned, and every check passed."""
        materialized = {asset.name for asset in self.assets}
        return self.status == "SUCCESS" and self.planned <= materialized and all(ok for _, ok in self.checks)


def read_run(dagster_home: Path, *, job: str, run_id: str) -> RunReport:
    """Reads one run from Dagster's storage in dagster_home."""
    from dagster import DagsterInstance

    with DagsterInstance.from_config(str(dagster_home)) as instance:
        record = instance.get_run_record_by_id(run_id)
        assert record is not None
        events = [entry.dagster_event for entry in instance.all_logs(run_id) if entry.dagster_event]
    assets, checks, planned = [], [], set()
    for event in events:
        if event.is_step_materialization:
            assets.append(_asset_line(event.step_materialization_data.materialization))
        elif event.is_asset_materialization_planned:
            planned.add(event.asset_materialization_planned_data.asset_key.to_user_string())
        elif event.event_type_value == "ASSET_CHECK_EVALUATION":
            evaluation = event.asset_check_evaluation_data
            checks.append((f"{evaluation.asset_key.to_user_string()}: {evaluation.check_name}", evaluation.passed))
    return RunReport(
        job=job,
        run_id=run_id,
        status=record.dagster_run.status.value,
        seconds=(record.end_time or 0.0) - (record.start_time or 0.0),
        assets=tuple(assets),
        checks=tuple(checks),
        planned=frozenset(planned),
    )


def _asset_line(materialization: Any) -> AssetLine:
    values = {key: value.value for key, value in materialization.metadata.items() if hasattr(value, "value")}
    return AssetLine(
        name=materialization.asset_key.to_user_string(),
        blocks=int(values.get("blocks", 0)),
        bytes=int(values.get("bytes", 0)),
        seconds=float(values.get("seconds", 0.0)),
    )


def print_summary(
    console: Console,
    runs: Sequence[RunReport],
    failover: Failover | None,
    *,
    placed_after: int,
    seconds: float,
) -> None:
    """Prints assets, checks, and the story of the leader."""
    table = Table(title="Assets", title_justify="left", box=None, header_style="bold", pad_edge=False)
    for column in ("job", "asset"):
        table.add_column(column)
    for column in ("blocks", "bytes", "seconds", "GB/s"):
        table.add_column(column, justify="right")
    for run in runs:
        for asset in run.assets:
            table.add_row(run.job, asset.name, *_numbers(asset))
    console.print(table)
    checks = [check for run in runs for check in run.checks]
    passed = sum(ok for _, ok in checks)
    console.print(f"Checks: {passed} of {len(checks)} passed.")
    for name, ok in checks:
        console.print(f"  {'ok    ' if ok else 'FAILED'}  {name}", highlight=False)
    if failover is not None:
        console.print(
            f"Leader: {failover.leader_before} before, {failover.leader_after} after; "
            f"{failover.leaderless_ms:.0f} ms without a leader, next command committed after "
            f"{failover.next_commit_ms:.0f} ms; {placed_after} of {len(failover.queued_at_kill)} steps that were "
            "queued at the kill were placed by the new leader.",
            highlight=False,
        )
    console.print(f"Runs: {', '.join(f'{run.job} {run.status} in {run.seconds:.1f} s' for run in runs)}.")
    console.print(f"All of it took {seconds:.1f} s.")


def _numbers(asset: AssetLine) -> tuple[str, ...]:
    rate = f"{asset.bytes / asset.seconds / 1e9:.2f}" if asset.seconds and asset.bytes else ""
    return (
        str(asset.blocks or ""),
        f"{asset.bytes:,}" if asset.bytes else "",
        f"{asset.seconds:.2f}" if asset.seconds else "",
        rate,
    )
