"""Three real nodes on loopback: what clients and workers see of them, also when processes die."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cluster import LocalCluster, wait_until

from orchestrator_pkg.demo.processes import free_ports
from orchestrator_proto import admin_pb2, worker_pb2
from orchestrator_proto import ledger_pb2 as pb
from raft_service.rpc.client import AsyncClient, Client, ControlPlaneUnavailable, RequestRefused

pytestmark = [pytest.mark.real, pytest.mark.timeout(90)]

# Short, so that the loss of a worker is seen within a test.
HEARTBEAT_S = 0.3
MISSES = 3
LEASE_ENV = {"WORKER_HEARTBEAT_INTERVAL_S": str(HEARTBEAT_S), "WORKER_HEARTBEAT_MISS_LIMIT": str(MISSES)}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    with LocalCluster(tmp_path_factory.mktemp("cluster"), env=LEASE_ENV) as running:
        yield running


@pytest.fixture
def client(cluster: LocalCluster) -> Client:
    return cluster.client()


def step(name: str, *, payload: bytes = b"{}") -> pb.TaskSpec:
    return pb.TaskSpec(task_id=f"step/{name}", kind=pb.TASK_KIND_STEP, payload=payload)


class FakeWorker:
    """A worker without slots: it registers, sends heartbeats, and collects what it is told."""

    def __init__(self, client: AsyncClient, worker_id: str, *, step_slots: int = 4) -> None:
        self.client = client
        self.worker_id = worker_id
        self.incarnation = time.time_ns()
        self.slots = step_slots
        self.started: dict[str, worker_pb2.Assignment] = {}
        self.orders: list[worker_pb2.Order] = []
        self.changed = asyncio.Event()
        self.tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        request = worker_pb2.RegisterWorkerRequest(
            worker_id=self.worker_id,
            incarnation=self.incarnation,
            labels={"cloud": "aws", "worker": self.worker_id},
            capacity=pb.Resources(run_slots=1, step_slots=self.slots),
        )
        answer = await self.client.register_worker(request)
        assert answer.lease_ms == round(HEARTBEAT_S * MISSES * 1000)
        self.tasks = [asyncio.create_task(self.beat()), asyncio.create_task(self.listen())]

    def heartbeat(self, sequence: int = 1) -> worker_pb2.HeartbeatRequest:
        running = [
            worker_pb2.RunningAttempt(
                task_id=each.spec.task_id, token=each.token, phase=worker_pb2.ATTEMPT_PHASE_RUNNING
            )
            for each in self.started.values()
        ]
        return worker_pb2.HeartbeatRequest(
            worker_id=self.worker_id, incarnation=self.incarnation, sequence=sequence, attempts=running
        )

    async def beat(self) -> None:
        sequence = 0
        while True:
            sequence += 1
            await self.client.heartbeat(self.heartbeat(sequence), timeout_s=10)
            await asyncio.sleep(HEARTBEAT_S)

    async def listen(self) -> None:
        while True:
            try:
                async for batch in self.client.assignments(self.worker_id, self.incarnation):
                    self.take(batch)
            except ControlPlaneUnavailable:
                continue  # as a real worker: open it again

    def take(self, batch: worker_pb2.AssignmentBatch) -> None:
        for assignment in batch.start:
            self.started[assignment.spec.task_id] = assignment
        self.orders.extend(batch.orders)
        self.changed.set()

    async def has(self, condition: Callable[[FakeWorker], Any]) -> Any:
        """Waits until the condition holds of this worker."""
        async with asyncio.timeout(20):
            while not (value := condition(self)):
                self.changed.clear()
                await self.changed.wait()
        return value

    async def assignment(self, task_id: str) -> worker_pb2.Assignment:
        return await self.has(lambda worker: worker.started.get(task_id))

    async def fall_silent(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)


@asynccontextmanager
async def fake_worker(cluster: LocalCluster, worker_id: str, *, step_slots: int = 4) -> AsyncIterator[FakeWorker]:
    """A worker that drains at the end, so that it takes nothing from the next test."""
    client = AsyncClient(cluster.endpoints, name=worker_id)
    worker = FakeWorker(client, worker_id, step_slots=step_slots)
    await worker.start()
    try:
        yield worker
    finally:
        await worker.fall_silent()
        try:
            await client.drain_worker(worker_id)
        except RequestRefused:
            pass  # the test lost it
        await client.close()


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def get_json(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)


# ---------------------------------------------------------------------------------------------------- in good times


def test_nodes_say_that_they_are_ready(cluster: LocalCluster) -> None:
    for name, process in cluster.processes.items():
        assert process.ready["role"] == "node"
        assert process.ready["name"] == name
        assert process.ready["address"] == cluster.address(name)


def test_all_nodes_agree_on_the_leader(cluster: LocalCluster, client: Client) -> None:
    leader = cluster.leader()
    answers = [answer for _, answer in client.statuses()]
    assert all(isinstance(answer, admin_pb2.StatusResponse) for answer in answers)
    assert {answer.leader_name for answer in answers if not isinstance(answer, str)} == {leader}
    assert len(answers[0].members) == 3  # type: ignore[union-attr]


def test_submit_is_durable_and_repeatable(client: Client) -> None:
    assert client.submit_tasks([step("once/a/0")]) == [pb.TASK_STATE_QUEUED]
    assert client.submit_tasks([step("once/a/0")]) == [pb.TASK_STATE_QUEUED]
    (view,) = client.task_status(["step/once/a/0"])
    assert view.state == pb.TASK_STATE_QUEUED
    assert "worker" in view.waiting_reason
    assert client.cancel_tasks(prefix="step/once/", reason="test over") == 1
    assert client.forget_tasks(prefix="step/once/") == 1
    (view,) = client.task_status(["step/once/a/0"])
    assert view.state == pb.TASK_STATE_UNSPECIFIED


def test_a_bad_request_is_refused_with_a_sentence(client: Client) -> None:
    with pytest.raises(RequestRefused, match=r"kind 0 is not known"):
        client.submit_tasks([pb.TaskSpec(task_id="step/bad/a/0")])
    with pytest.raises(RequestRefused, match="prefix"), client.watch_tasks("") as watch:
        watch.next(10)


def test_many_requests_in_flight_are_all_answered(cluster: LocalCluster) -> None:
    async def work() -> None:
        client = AsyncClient(cluster.endpoints, name="many")
        states = await asyncio.gather(*(client.submit_tasks([step(f"many/{i}/0")]) for i in range(500)))
        assert states == [[pb.TASK_STATE_QUEUED]] * 500
        assert len(await client.task_status(prefix="step/many/")) == 500
        assert await client.cancel_tasks(prefix="step/many/") == 500
        await client.close()

    run(work())


def test_work_is_pushed_reported_once_and_watched(cluster: LocalCluster, client: Client) -> None:
    async def work() -> None:
        async with fake_worker(cluster, "worker-life") as worker:
            states = await asyncio.to_thread(client.submit_tasks, [step("life/a/0", payload=b"data")])
            assert states == [pb.TASK_STATE_QUEUED]  # as of its submit; the same entry placed it
            assignment = await worker.assignment("step/life/a/0")
            assert assignment.spec.payload == b"data"
            assert assignment.attempt_number == 1
            result = pb.TaskResult(succeeded=True, payload=b"42")
            first = await worker.client.report_result("step/life/a/0", assignment.token, result)
            again = await worker.client.report_result("step/life/a/0", assignment.token, result)
            stale = pb.Token(epoch=1, index=assignment.token.index + 1000)
            other = await worker.client.report_result("step/life/a/0", stale, result)
            assert (first.accepted, again.accepted, other.accepted) == (True, True, False)
            assert other.reason

    with client.watch_tasks("step/life/") as watch:
        assert watch.next(10) is not None  # the watch is open
        run(work())
        seen: list[pb.TaskView] = []
        while not seen or seen[-1].state != pb.TASK_STATE_SUCCEEDED:
            events = watch.next(10)
            assert events is not None, f"no end seen, only {[view.state for view in seen]}"
            seen += events.tasks
        assert seen[-1].result.payload == b"42"
        assert events is not None
        resumed = client.watch_tasks("step/life/", from_index=events.index)
        first = resumed.next(10)
        assert first is not None
        assert not first.tasks, "a resumed watch tells again what was told"
        resumed.close()


def test_heartbeats_judge_each_attempt(cluster: LocalCluster) -> None:
    async def work() -> None:
        async with fake_worker(cluster, "worker-judge") as worker:
            await worker.client.submit_tasks([step("judge/a/0"), step("judge/b/0")])
            good = await worker.assignment("step/judge/a/0")
            gone = await worker.assignment("step/judge/b/0")
            assert await worker.client.cancel_tasks(["step/judge/b/0"], reason="not needed") == 1
            order = (await worker.has(lambda each: each.orders))[0]
            assert (order.kind, order.task_id) == (worker_pb2.ORDER_KIND_CANCEL, "step/judge/b/0")
            request = worker.heartbeat(99)
            request.attempts.add(task_id="step/never/known/0", token=pb.Token(epoch=1, index=1))
            answer = await worker.client.heartbeat(request, timeout_s=5)
            assert answer.is_known
            assert answer.sequence == 99
            assert list(answer.go_on) == [good.token]
            kinds = {each.task_id: each.kind for each in answer.orders}
            assert kinds == {
                gone.spec.task_id: worker_pb2.ORDER_KIND_CANCEL,
                "step/never/known/0": worker_pb2.ORDER_KIND_DISCARD,
            }
            await worker.client.report_result(good.spec.task_id, good.token, pb.TaskResult(succeeded=True))

    run(work())


def test_a_silent_worker_is_lost_and_its_work_placed_elsewhere(cluster: LocalCluster) -> None:
    async def work() -> None:
        async with fake_worker(cluster, "worker-silent", step_slots=1) as silent:
            await silent.client.submit_tasks([step("silent/a/0")])
            first = await silent.assignment("step/silent/a/0")
            async with fake_worker(cluster, "worker-heir", step_slots=1) as heir:
                await silent.fall_silent()
                second = await heir.assignment("step/silent/a/0")
                assert second.attempt_number == 2
                assert second.token.index > first.token.index
                late = await silent.client.report_result("step/silent/a/0", first.token, pb.TaskResult(succeeded=True))
                assert not late.accepted
                assert "lost" in late.reason
                answer = await silent.client.heartbeat(silent.heartbeat(), timeout_s=5)
                assert not answer.is_known
                done = await heir.client.report_result("step/silent/a/0", second.token, pb.TaskResult(succeeded=True))
                assert done.accepted

    run(work())


def test_leases_have_one_owner(client: Client) -> None:
    assert client.hold_lease("owner/test", "me", 60_000).granted
    taken = client.hold_lease("owner/test", "you", 60_000)
    assert (taken.granted, taken.owner) == (False, "me")
    task = step("owned/a/0")
    task.owner_lease = "owner/test"
    client.submit_tasks([task])
    assert client.release_lease("owner/test", "me").granted
    (view,) = client.task_status(["step/owned/a/0"])
    assert view.state == pb.TASK_STATE_CANCELED


def test_pages_and_metrics(cluster: LocalCluster) -> None:
    leader = cluster.leader()
    status = get_json(cluster.debug_url(leader) + "/status")
    assert status["node"]["name"] == leader
    assert status["is_serving"] is True
    assert len(status["node"]["members"]) == 3
    assert get_json(cluster.debug_url(leader) + "/healthz") == {"status": "ok"}
    assert get_json(cluster.debug_url(leader) + "/readyz") == {"ready": True}
    with urllib.request.urlopen(cluster.debug_url(leader), timeout=5) as page:
        assert b"<h2>Queue</h2>" in page.read()
    with urllib.request.urlopen(cluster.metrics_url(leader), timeout=5) as text:
        assert b"orchestrator_is_leader 1.0" in text.read()


# ---------------------------------------------------------------------------------------------------- when things break


def test_sigkill_of_the_leader_costs_less_than_two_seconds(cluster: LocalCluster, client: Client) -> None:
    client.submit_tasks([step("kill/before/0")])
    leader = cluster.leader()
    cluster.kill(leader)
    began = time.monotonic()
    client.submit_tasks([step("kill/after/0")])
    gap_s = time.monotonic() - began
    print(f"write gap after SIGKILL of the leader: {gap_s * 1000:.0f} ms")
    assert gap_s < 2
    assert [view.spec.task_id for view in client.task_status(prefix="step/kill/")] == [
        "step/kill/after/0",
        "step/kill/before/0",
    ]
    cluster.restart(leader)
    index = max(answer.commit_index for _, answer in client.statuses() if not isinstance(answer, str))
    wait_until(
        lambda: all(not isinstance(answer, str) and answer.applied_index >= index for _, answer in client.statuses()),
        what=f"{leader} caught up after its restart",
    )
    client.cancel_tasks(prefix="step/kill/")


def test_sigterm_of_the_leader_hands_over(cluster: LocalCluster, client: Client) -> None:
    async def work() -> None:
        async with fake_worker(cluster, "worker-term") as worker:
            await worker.client.submit_tasks([step("term/a/0")])
            assignment = await worker.assignment("step/term/a/0")
            leader = await asyncio.to_thread(cluster.leader)
            ending = asyncio.create_task(asyncio.to_thread(cluster.terminate, leader))
            began = time.monotonic()
            slowest_s = 0.0
            while not ending.done():
                asked = time.monotonic()
                await worker.client.hold_lease("term", "me", 1000)
                slowest_s = max(slowest_s, time.monotonic() - asked)
            print(f"slowest write while the leader ends: {slowest_s * 1000:.0f} ms")
            assert ending.result() == 0
            assert slowest_s < 1
            assert time.monotonic() - began < 5
            report = await worker.client.report_result("step/term/a/0", assignment.token, pb.TaskResult(succeeded=True))
            assert report.accepted, "a change of the leader cost an attempt"
            cluster.restart(leader)  # in this thread: a node dies with the thread that started it

    run(work())


def test_transfer_by_hand(cluster: LocalCluster, client: Client) -> None:
    leader = cluster.leader()
    other = next(name for name in cluster.names if name != leader)
    assert client.transfer_leader(other) == other
    assert cluster.leader(other_than=leader) == other
    with pytest.raises(RequestRefused, match="No member is called"):
        client.transfer_leader("nobody")


def test_a_watch_goes_on_with_the_next_leader(cluster: LocalCluster, client: Client) -> None:
    with client.watch_tasks("step/moved/") as watch:
        assert watch.next(10) is not None
        client.submit_tasks([step("moved/a/0")])
        leader = cluster.leader()
        other = next(name for name in cluster.names if name != leader)
        client.transfer_leader(other)
        client.submit_tasks([step("moved/b/0")])
        seen: set[str] = set()
        while seen != {"step/moved/a/0", "step/moved/b/0"}:
            events = watch.next(10)
            assert events is not None, f"only {seen} seen"
            seen |= {view.spec.task_id for view in events.tasks}
    client.cancel_tasks(prefix="step/moved/")


# ---------------------------------------------------------------------------------------------------- bad input


def test_a_client_without_a_control_plane_says_so() -> None:
    (port,) = free_ports(1)
    with (
        Client([f"127.0.0.1:{port}"], name="lonely", deadline_s=0.5) as client,
        pytest.raises(ControlPlaneUnavailable, match=rf"No control plane answered at 127.0.0.1:{port} within 0.5 s"),
    ):
        client.submit_tasks([step("nobody/a/0")])


def start_node(tmp_path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    (port,) = free_ports(1)
    defaults = ["--name", "x", "--peers", f"x=127.0.0.1:{port}", "--data-dir", str(tmp_path / "data")]
    defaults += ["--metrics-port", "0", "--debug-http-port", "0"]
    command = [sys.executable, "-m", "raft_service", *defaults, *options]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("what", ["grpc", "metrics", "page"])
def test_a_used_port_is_one_sentence(cluster: LocalCluster, tmp_path: Path, what: str) -> None:
    used = cluster.processes[cluster.names[0]].ready
    options = {
        "grpc": ["--listen", used["address"]],
        "metrics": ["--metrics-port", str(used["metrics_port"])],
        "page": ["--debug-http-port", str(used["debug_http_port"])],
    }[what]
    done = start_node(tmp_path, *options)
    assert done.returncode == 2
    assert "is in use; stop what listens there" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_used_data_directory_is_one_sentence(cluster: LocalCluster, tmp_path: Path) -> None:
    done = start_node(tmp_path, "--data-dir", str(cluster.folder / cluster.names[0]))
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr
