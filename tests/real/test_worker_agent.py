"""Real workers with real slots under a real control plane: one node, short leases."""

from __future__ import annotations

import itertools
import json
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster import LocalCluster, wait_until

from orchestrator_pkg.demo.processes import ManagedProcess
from orchestrator_proto import ledger_pb2 as pb
from raft_service.rpc.client import Client

pytestmark = pytest.mark.real

HERE = Path(__file__).parent
ENDED = (pb.TASK_STATE_SUCCEEDED, pb.TASK_STATE_FAILED, pb.TASK_STATE_CANCELED)
# A lease of 1.5 s: short enough for a test, long enough for two busy cores.
LEASE = {"WORKER_HEARTBEAT_INTERVAL_S": "0.5", "WORKER_HEARTBEAT_MISS_LIMIT": "3"}


class Bench:
    """A control plane of one node, the workers of one test, and shorthand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cluster = LocalCluster(folder, size=1, env=LEASE)
        self.cluster.start()
        self.client: Client = self.cluster.client()
        self.workers: list[ManagedProcess] = []
        self._numbers = itertools.count(1)

    def worker(self, *options: str, wait: bool = True, **env: str) -> ManagedProcess:
        name = f"worker-{len(self.workers) + 1}"
        process = ManagedProcess(
            name=name,
            command=[
                *(sys.executable, "-m", "orchestrator_pkg.worker.agent"),
                *("--name", name, "--address", ",".join(self.cluster.endpoints)),
                *("--handler", "slot_handlers:execute", "--preload", "json", "--gpus", "0"),
                *("--run-slots", "1", "--step-slots", "1", "--metrics-port", "0", "--debug-http-port", "0"),
                *options,
            ],
            env={**self.cluster.environment("cp-1"), "PYTHONPATH": str(HERE), **env},
            cwd=self.folder,
            log_dir=self.folder,
            is_announcing=True,
        )
        self.workers.append(process)
        if wait:
            process.wait_ready()
        return process

    def submit(self, do: str = "echo", *, mode: int = pb.SLOT_MODE_WARM, **payload: Any) -> str:
        task_id = f"step/test/{next(self._numbers)}"
        body = json.dumps({"do": do, "file": str(self.notes(task_id)), **payload}).encode()
        self.client.submit_tasks([pb.TaskSpec(task_id=task_id, kind=pb.TASK_KIND_STEP, payload=body, mode=mode)])
        return task_id

    def notes(self, task_id: str) -> Path:
        """Where the handler writes what happens to it."""
        return self.folder / f"{task_id.replace('/', '-')}.notes"

    def view(self, task_id: str) -> pb.TaskView:
        return self.client.task_status([task_id], with_payload=True)[0]

    def ended(self, task_id: str) -> pb.TaskView:
        return wait_until(
            lambda: view if (view := self.view(task_id)).state in ENDED else None, what=f"{task_id} has ended"
        )

    def result(self, task_id: str) -> dict[str, Any]:
        view = self.ended(task_id)
        assert view.state == pb.TASK_STATE_SUCCEEDED, view
        payload: dict[str, Any] = json.loads(view.result.payload)
        return payload

    def noted(self, task_id: str, word: str) -> int:
        """Waits until the handler has noted this; its process id."""
        path = self.notes(task_id)
        line = wait_until(
            lambda: next((line for line in _lines(path) if line.split()[1] == word), ""), what=f"{task_id} noted {word}"
        )
        return int(line.split()[0])

    def close(self) -> None:
        for worker in self.workers:
            worker.send(signal.SIGCONT)
            worker.kill()
        self.cluster.stop()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path)
    yield bench
    bench.close()


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def _is_stopped(pid: int) -> bool:
    return psutil.Process(pid).status() == psutil.STATUS_STOPPED


def test_a_worker_executes_tasks_in_warm_slots_and_shows_it(bench: Bench) -> None:
    worker = bench.worker()
    first, second = bench.result(bench.submit(echo=1)), bench.result(bench.submit(echo=2))
    assert (first["echo"], second["echo"]) == (1, 2)
    assert first["pid"] == second["pid"]
    assert first["parent_pid"] == worker.pid

    page = f"http://127.0.0.1:{worker.ready['debug_http_port']}"
    assert _get(f"{page}/healthz") == (200, "ok\n")
    assert _get(f"{page}/readyz") == (200, "ready\n")
    status = json.loads(_get(f"{page}/status")[1])
    assert status["lease"]["state"] == "held"
    assert [slot["pid"] for slot in status["slots"]] == [first["pid"]]
    metrics = _get(f"http://127.0.0.1:{worker.ready['metrics_port']}/metrics")[1]
    assert 'orchestrator_worker_attempts_ended_total{kind="step",outcome="succeeded"} 2.0' in metrics


def test_a_slot_that_crashes_is_reported_by_its_signal_and_replaced(bench: Bench) -> None:
    bench.worker()
    crashing = bench.submit("segfault")
    view = bench.ended(crashing)
    assert view.state == pb.TASK_STATE_FAILED
    assert view.attempts
    assert all("SIGSEGV" in attempt.reason for attempt in view.attempts), view.attempts
    assert bench.result(bench.submit(echo=1))["echo"] == 1


def test_cancel_interrupts_and_then_kills(bench: Bench) -> None:
    bench.worker(WORKER_CANCEL_GRACE_S="0.3")
    polite = bench.submit("wait")
    bench.noted(polite, "started")
    bench.client.cancel_tasks([polite], reason="test")
    bench.noted(polite, "interrupted")

    stubborn = bench.submit("stubborn")
    pid = bench.noted(stubborn, "started")
    bench.client.cancel_tasks([stubborn], reason="test")
    wait_until(lambda: not psutil.pid_exists(pid), what="the stubborn slot is killed")
    for task_id in (polite, stubborn):
        assert bench.view(task_id).state == pb.TASK_STATE_CANCELED
        assert len(bench.view(task_id).attempts) == 1
    assert bench.result(bench.submit())["pid"] != pid


def test_fork_mode_runs_in_a_child_of_the_slot(bench: Bench) -> None:
    worker = bench.worker()
    results = [bench.result(bench.submit(mode=pb.SLOT_MODE_FORK)) for _ in range(2)]
    assert results[0]["pid"] != results[1]["pid"]
    assert results[0]["parent_pid"] == results[1]["parent_pid"] != worker.pid


def test_slots_die_with_their_agent(bench: Bench) -> None:
    worker = bench.worker()
    task_id = bench.submit("wait")
    bench.noted(task_id, "started")
    slots = psutil.Process(worker.pid).children(recursive=True)
    assert slots
    worker.kill()
    _, alive = psutil.wait_procs(slots, timeout=10)
    assert not alive


def test_the_task_of_a_killed_worker_runs_on_another(bench: Bench) -> None:
    worker = bench.worker()
    gate = bench.folder / "gate"
    task_id = bench.submit("wait", until=str(gate))
    first = bench.noted(task_id, "started")
    bench.worker()
    worker.kill()
    gate.touch()
    assert bench.result(task_id)["pid"] != first
    attempts = bench.view(task_id).attempts
    assert [attempt.worker_id for attempt in attempts] == ["worker-1", "worker-2"]
    assert attempts[0].state == pb.ATTEMPT_STATE_LOST


def test_an_outage_of_the_control_plane_freezes_and_costs_nothing(bench: Bench) -> None:
    bench.worker()
    gate = bench.folder / "gate"
    task_id = bench.submit("wait", until=str(gate))
    pid = bench.noted(task_id, "started")
    bench.cluster.kill("cp-1")
    wait_until(lambda: _is_stopped(pid), what="the slot is frozen (state T)")
    bench.cluster.restart("cp-1")
    wait_until(lambda: not _is_stopped(pid), what="the slot goes on")
    gate.touch()
    assert bench.result(task_id)["pid"] == pid
    assert len(bench.view(task_id).attempts) == 1


def test_a_result_waits_for_the_control_plane(bench: Bench) -> None:
    bench.worker()
    gate = bench.folder / "gate"
    task_id = bench.submit("wait", until=str(gate))
    pid = bench.noted(task_id, "started")
    bench.cluster.kill("cp-1")
    gate.touch()
    bench.noted(task_id, "released")
    bench.cluster.restart("cp-1")
    assert bench.result(task_id)["pid"] == pid
    assert bench.noted(task_id, "finish") == pid


def test_a_worker_that_was_declared_lost_discards_and_begins_anew(bench: Bench) -> None:
    worker = bench.worker()
    gate = bench.folder / "gate"
    task_id = bench.submit("wait", until=str(gate))
    bench.noted(task_id, "started")
    worker.send(signal.SIGSTOP)
    wait_until(lambda: bench.view(task_id).state == pb.TASK_STATE_QUEUED, what="the worker is lost")
    worker.send(signal.SIGCONT)
    wait_until(lambda: len(bench.view(task_id).attempts) == 2, what="the task is placed again")
    gate.touch()
    assert bench.result(task_id)["attempt_number"] == 2
    states = [attempt.state for attempt in bench.view(task_id).attempts]
    assert states == [pb.ATTEMPT_STATE_LOST, pb.ATTEMPT_STATE_FINISHED]


def test_sigterm_drains(bench: Bench) -> None:
    worker = bench.worker()
    gate = bench.folder / "gate"
    running = bench.submit("wait", until=str(gate))
    bench.noted(running, "started")
    worker.request_stop()
    page = f"http://127.0.0.1:{worker.ready['debug_http_port']}"
    wait_until(lambda: _get(f"{page}/readyz") == (503, "draining\n"), what="it drains")
    later = bench.submit()
    assert worker.is_running
    gate.touch()
    bench.result(running)
    assert worker.wait_stopped() == 0
    assert bench.view(later).state == pb.TASK_STATE_QUEUED
    assert bench.view(later).infra_losses == 0


def test_past_the_drain_deadline_work_is_handed_over(bench: Bench) -> None:
    worker = bench.worker("--drain-deadline-s", "0")
    task_id = bench.submit("wait")
    pid = bench.noted(task_id, "started")
    worker.request_stop()
    assert worker.wait_stopped() == 0
    assert not psutil.pid_exists(pid)
    view = bench.view(task_id)
    assert view.state == pb.TASK_STATE_QUEUED
    assert view.attempts[0].reason == "worker worker-1 ended before it"


def test_a_slot_that_cannot_start_says_why(bench: Bench) -> None:
    worker = bench.worker("--preload", "no_such_module")
    view = bench.ended(bench.submit())
    assert view.state == pb.TASK_STATE_FAILED
    assert "slot cannot import no_such_module" in view.attempts[0].reason
    page = f"http://127.0.0.1:{worker.ready['debug_http_port']}"
    status, words = _get(f"{page}/readyz")
    assert (status, "no_such_module" in words) == (503, True)


def test_a_worker_waits_for_a_control_plane_that_is_not_there_yet(bench: Bench) -> None:
    bench.cluster.kill("cp-1")
    worker = bench.worker(wait=False)
    bench.cluster.restart("cp-1")
    assert worker.wait_ready()["role"] == "worker"
    assert bench.result(bench.submit(echo=3))["echo"] == 3
