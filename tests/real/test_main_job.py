"""The main job under fire: real processes, the leader killed, then a worker, and the numbers still right.

It runs at the default scale: a smaller one has too few blocks for steps to queue up.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator_pkg.demo.board import STEP_PREFIX, TaskBoard
from orchestrator_pkg.demo.deployment import NODE_NAMES, WORKER_CLOUDS, LocalDeployment
from orchestrator_pkg.demo.failover import LeaderKiller
from orchestrator_pkg.demo.graphql import DagsterWeb
from orchestrator_pkg.demo.report import read_run
from orchestrator_proto import ledger_pb2
from raft_service.rpc.client import Client

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

PROJECT = Path(__file__).resolve().parents[2]
JOBS = ("lineitem", "matrices")
RUN_TIMEOUT_S = 100.0
# A short lease, so that a killed worker is missed after 1.5 s and not after 15.
FAST_LIVENESS = {"WORKER_HEARTBEAT_INTERVAL_S": "0.5", "WORKER_HEARTBEAT_MISS_LIMIT": "3"}


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[LocalDeployment]:
    cluster = LocalDeployment(folder=tmp_path, project=PROJECT, extra_env=FAST_LIVENESS)
    try:
        cluster.start_store()
        for name in NODE_NAMES:
            cluster.spawn_node(name)
        for name, cloud in WORKER_CLOUDS.items():
            cluster.spawn_worker(name, cloud=cloud)
        cluster.spawn_webserver()
        for name in NODE_NAMES:
            cluster.wait_node(name)
        for name in WORKER_CLOUDS:
            cluster.wait_worker(name)
        cluster.wait_webserver()
        yield cluster
    finally:
        cluster.stop()


def running_on(board: TaskBoard, worker: str) -> bool:
    return any(
        view.state == ledger_pb2.TASK_STATE_PLACED and view.attempts[-1].worker_id == worker for view in board.views()
    )


def kill_while_busy(deployment: LocalDeployment, client: Client, board: TaskBoard, victim: str) -> str:
    """Kills a worker while the ledger says that it holds a step, and returns that step's task id.

    The agent is stopped first: from then on it can report nothing, so that what it holds is lost with it.
    """
    agent = deployment.workers[victim]
    while True:
        assert board.wait_for(lambda: running_on(board, victim), RUN_TIMEOUT_S), "no step ran on the victim"
        agent.send(signal.SIGSTOP)
        client.hold_lease("test/barrier", "test", 60_000)  # whatever the agent sent before is committed by now
        views = client.task_status(prefix=STEP_PREFIX)
        held = [view for view in views if view.state == ledger_pb2.TASK_STATE_PLACED]
        mine = [view.spec.task_id for view in held if view.attempts[-1].worker_id == victim]
        if mine:
            agent.kill()
            return mine[0]
        agent.send(signal.SIGCONT)


def wait_for_end(web: DagsterWeb, run_id: str) -> str:
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while (status := web.run_status(run_id)) not in ("SUCCESS", "FAILURE", "CANCELED"):
        assert time.monotonic() < deadline, f"run {run_id} is still {status} after {RUN_TIMEOUT_S} s"
        time.sleep(0.2)
    return status


def test_run_survives_the_leader_and_a_worker(deployment: LocalDeployment) -> None:
    web = DagsterWeb(deployment.web_url)
    with Client(deployment.endpoints, name="test") as client:
        board = TaskBoard(client)
        killer = LeaderKiller(deployment, client, board, say=print)
        board.start()
        killer.start()
        run_ids = {job: web.launch_job(job) for job in JOBS}
        assert board.wait_for(lambda: killer.seen is not None or killer.error is not None, RUN_TIMEOUT_S)
        killer.join()
        assert killer.error is None
        assert killer.seen is not None
        held = kill_while_busy(deployment, client, board, "worker-gcp-1")
        statuses = {job: wait_for_end(web, run_id) for job, run_id in run_ids.items()}
        placed_after = killer.seen.placed_after(board)
        (lost,) = (view for view in board.views() if view.spec.task_id == held)
        board.stop()
    assert statuses == dict.fromkeys(JOBS, "SUCCESS")
    assert killer.seen.leader_after not in ("", killer.seen.leader_before)
    assert placed_after >= 1
    assert lost.attempts[0].state == ledger_pb2.ATTEMPT_STATE_LOST
    assert lost.state == ledger_pb2.TASK_STATE_SUCCEEDED
    for job, run_id in run_ids.items():
        run = read_run(deployment.dagster_home, job=job, run_id=run_id)
        assert run.is_complete, run
        assert run.checks, "the job has no checks, so nobody looked at the numbers"
