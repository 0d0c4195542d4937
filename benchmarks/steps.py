"""`make bench-steps`: what a step costs beside its own work, in our warm slots and under Dagster's own executors.

Each job runs STEPS trivial steps; the cost of a step is the run's duration divided by the number of steps, so it has
everything in it: placing, starting, events, and what the executor does in between. All store their events in SQLite, in
one fresh Dagster home. Ours and multiprocess have two places each.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg

from benchmarks import step_jobs
from benchmarks.results_file import compare, write

# The first run of each pays for starting processes and loading code; the others are what users feel.
RUNS = 2 if os.environ.get("QUICK") else 5
# multiprocess takes a second or two a step.
RUNS_MULTIPROCESS = 1
WANTED_OVER_MULTIPROCESS = 20.0
# Two slots against one process; they share two cores with the orchestrator and the control plane.
WANTED_OVER_IN_PROCESS = 1.0


def seconds_per_step(instance: dg.DagsterInstance, job: Callable[[], dg.JobDefinition], *, runs: int) -> float:
    """Median over the runs."""
    measured = []
    for _ in range(runs):
        started = time.perf_counter()
        with dg.execute_job(dg.reconstructable(job), instance=instance) as result:
            if not result.success:
                raise SystemExit(f"{job.__name__} failed, so there is nothing to measure; see the events above.")
        measured.append((time.perf_counter() - started) / step_jobs.STEPS)
        print(f"  {job.__name__}: {measured[-1] * 1000:.1f} ms a step", flush=True)
    return statistics.median(measured)


def main() -> None:
    """Measures, writes the results, prints the table; exit status 1 with STRICT=1 when a wanted ratio is missed."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
        with dg.DagsterInstance.from_config(folder) as instance:
            seconds_per_step(instance, step_jobs.warm, runs=1)  # starts the embedded control plane and its slots
            ours = seconds_per_step(instance, step_jobs.warm, runs=RUNS)
            in_process = seconds_per_step(instance, step_jobs.in_process, runs=RUNS)
            multiprocess = seconds_per_step(instance, step_jobs.multiprocess, runs=RUNS_MULTIPROCESS)
    rows = [
        compare(
            name=name,
            ours=ours * 1000,
            peer=peer * 1000,
            peer_name=peer_name,
            wanted=wanted,
            unit="ms a step",
        )
        for name, peer, peer_name, wanted in (
            ("trivial step, warm slot", multiprocess, "multiprocess (forkserver)", WANTED_OVER_MULTIPROCESS),
            ("trivial step, warm slot", in_process, "in_process", WANTED_OVER_IN_PROCESS),
        )
    ]
    print(write("steps", rows))
    if os.environ.get("STRICT") and not all(row.ok for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
