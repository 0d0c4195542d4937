"""`make demo`: the shipped pipelines on a local cluster whose leader is killed on the way."""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from orchestrator_pkg.demo.board import TaskBoard
from orchestrator_pkg.demo.deployment import NODE_NAMES, WORKER_CLOUDS, LocalDeployment
from orchestrator_pkg.demo.failover import QUEUED_MIN, LeaderKiller, current_leader
from orchestrator_pkg.demo.graphql import DagsterWeb, GraphQLFailed
from orchestrator_pkg.demo.processes import StartFailed
from orchestrator_pkg.demo.report import RunReport, print_summary, read_run
from orchestrator_pkg.demo.results import save_results
from orchestrator_proto import ledger_pb2
from raft_service.config import ConfigError
from raft_service.rpc.client import Client, ControlPlaneUnavailable, RequestRefused

RESULTS_DIR = "data/processed/demo"
JOBS = ("lineitem", "matrices")
# The demo takes well under 90 s; a run that is still going after this hangs.
RUN_TIMEOUT_S = 600.0
POLL_S = 0.25
ENDED = ("SUCCESS", "FAILURE", "CANCELED")

console = Console(soft_wrap=True)


class DemoFailed(Exception):
    """The demo did not show what it should; the message says what was missing."""


def start_cluster(deployment: LocalDeployment) -> None:
    """Starts everything at once and waits until all of it serves."""
    console.print(f"Object store: {deployment.start_store()}.", highlight=False)
    for name in NODE_NAMES:
        deployment.spawn_node(name)
    for name, cloud in WORKER_CLOUDS.items():
        deployment.spawn_worker(name, cloud=cloud)
    deployment.spawn_webserver()
    with console.status("Starting three control-plane nodes, two workers and Dagster's webserver ..."):
        for name in NODE_NAMES:
            deployment.wait_node(name)
        for name in WORKER_CLOUDS:
            deployment.wait_worker(name)
        deployment.wait_webserver()


def describe(deployment: LocalDeployment, client: Client) -> None:
    """Says who runs where."""
    leader, term = current_leader(client)
    nodes = ", ".join(f"{node.name} ({node.address})" for node in deployment.nodes.values())
    workers = ", ".join(f"{name} [{cloud}]" for name, cloud in WORKER_CLOUDS.items())
    console.print(f"Control plane: {nodes}; {leader} leads in term {term}.", highlight=False)
    console.print(f"Workers: {workers}. Dagster UI: {deployment.web_url}", highlight=False, markup=False)


def follow_runs(web: DagsterWeb, board: TaskBoard, run_ids: dict[str, str]) -> None:
    """Shows a bar for each run until all have ended.

    Raises:
        DemoFailed: a run did not end in time.
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps, {task.fields[state]}"),
        TimeElapsedColumn(),
    )
    deadline = time.monotonic() + RUN_TIMEOUT_S
    with Progress(*columns, console=console, transient=not console.is_terminal) as progress:
        bars = {job: progress.add_task(job, total=None, state="starting") for job in run_ids}
        statuses = dict.fromkeys(run_ids, "")
        while any(status not in ENDED for status in statuses.values()):
            if time.monotonic() > deadline:
                raise DemoFailed(f"The runs did not end within {RUN_TIMEOUT_S:.0f} s: {statuses}.")
            for job, run_id in run_ids.items():
                statuses[job] = web.run_status(run_id)
                _update_bar(progress, bars[job], board, run_id, statuses[job])
            time.sleep(POLL_S)


def _update_bar(progress: Progress, bar: object, board: TaskBoard, run_id: str, status: str) -> None:
    views = board.views(run_id)
    queued = sum(view.state == ledger_pb2.TASK_STATE_QUEUED for view in views)
    running = sum(view.state == ledger_pb2.TASK_STATE_PLACED for view in views)
    state = status.lower() if status in ENDED else f"{running} running, {queued} queued"
    progress.update(bar, completed=len(views) - queued - running, total=len(views) or None, state=state)  # type: ignore[arg-type]


def run_pipelines(deployment: LocalDeployment, client: Client) -> list[RunReport]:
    """Launches the jobs, kills the leader under way, and returns what Dagster recorded.

    Raises:
        DemoFailed: something that the demo promises did not happen.
    """
    started = time.monotonic()
    board = TaskBoard(client)
    killer = LeaderKiller(deployment, client, board, lambda text: console.print(text, highlight=False))
    board.start()
    killer.start()
    web = DagsterWeb(deployment.web_url)
    run_ids = {job: web.launch_job(job) for job in JOBS}
    try:
        follow_runs(web, board, run_ids)
    finally:
        killer.join()
        board.stop()
    runs = [read_run(deployment.dagster_home, job=job, run_id=run_id) for job, run_id in run_ids.items()]
    placed_after = killer.seen.placed_after(board) if killer.seen else 0
    print_summary(console, runs, killer.seen, placed_after=placed_after, seconds=time.monotonic() - started)
    if killer.error is not None:
        raise DemoFailed(f"The take-over went wrong: {killer.error}")
    if killer.seen is None:
        raise DemoFailed(f"No moment came with a step running and {QUEUED_MIN} queued, so no leader was killed.")
    if placed_after < QUEUED_MIN:
        raise DemoFailed(
            f"The new leader placed {placed_after} of the queued steps; at least {QUEUED_MIN} were wanted."
        )
    incomplete = [run.job for run in runs if not run.is_complete]
    if incomplete:
        raise DemoFailed(f"Not everything materialized and passed its checks: {', '.join(incomplete)}.")
    return runs


def keep_running(deployment: LocalDeployment) -> None:
    """Leaves the cluster up, with the daemon, until Ctrl-C."""
    deployment.spawn_daemon()
    console.print(f"Left running. Dagster UI: {deployment.web_url}", highlight=False)
    for node in deployment.nodes.values():
        if node.process is not None and node.process.is_running:
            console.print(
                f"  {node.name}: http://127.0.0.1:{node.process.ready.get('debug_http_port')}",
                highlight=False,
            )
    console.print(f"  export ORCHESTRATOR_ADDR={','.join(deployment.endpoints)}", highlight=False)
    console.print("Press Ctrl-C to stop it all.")
    threading.Event().wait()


def run_demo(folder: Path, *, keep: bool, env: dict[str, str]) -> None:
    """Runs the demo below folder and stops whatever it started."""
    deployment = LocalDeployment(folder=folder, project=Path.cwd(), extra_env=env)
    console.print(f"Data and logs: {folder}", highlight=False)
    try:
        start_cluster(deployment)
        with Client(deployment.endpoints, name="demo") as client:
            describe(deployment, client)
            run_pipelines(deployment, client)
        settings = deployment.store_settings()
        files = save_results(settings, deployment.project / RESULTS_DIR)
        fate = "" if keep or deployment.store is None else ", and go with that server"
        console.print(f"Blocks are in {settings.location}{fate}. Results are in {RESULTS_DIR}/:", highlight=False)
        console.print("  " + ", ".join(file.name for file in files), highlight=False)
        if keep:
            keep_running(deployment)
    finally:
        with console.status("Stopping everything ..."):
            deployment.stop()


@click.command()
@click.option("--keep", is_flag=True, help="Leave the cluster and the Dagster UI running until Ctrl-C.")
@click.option("--scale", type=float, default=None, help="TPC-H scale factor of the lineitem pipeline; default 0.1.")
@click.option("--folder", type=click.Path(path_type=Path, file_okay=False), help="Data and logs; default: a new one.")
def main(keep: bool, scale: float | None, folder: Path | None) -> None:
    """Run the shipped pipelines on a local cluster and kill the leader under way.

    \b
    Examples:
      orchestrator demo
      orchestrator demo --keep
      orchestrator demo --scale 1
    """
    if not Path("definitions.py").exists():
        raise click.ClickException("definitions.py is not here; run the demo in the project's folder.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    env = {"SF": str(scale)} if scale is not None else {}
    where = folder or Path(tempfile.mkdtemp(prefix="orchestrator-demo-"))
    try:
        run_demo(where.resolve(), keep=keep, env=env)
    except KeyboardInterrupt:
        console.print("Stopped.")
        raise SystemExit(0 if keep else 130) from None
    except (
        DemoFailed,
        StartFailed,
        GraphQLFailed,
        ConfigError,
        ControlPlaneUnavailable,
        RequestRefused,
    ) as error:
        raise click.ClickException(f"{error}\nLogs: {where}/logs") from None
    console.print("[green]Everything materialized and every check passed.[/green]")


if __name__ == "__main__":
    main()
