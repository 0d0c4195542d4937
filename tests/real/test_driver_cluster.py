"""The driver with all that is real: three nodes, loopback gRPC, fsync."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from driver_cluster import RUNNER, Cluster, TestNode, until

from raft_service.driver import NotLeader, Overloaded, ProposalUnknown

pytestmark = pytest.mark.real


def run(directory: Path, scenario: Callable[[Cluster], Awaitable[None]], **settings: object) -> None:
    """Runs a scenario on a fresh cluster, and takes the cluster down whatever happens."""

    async def main() -> None:
        cluster = Cluster(directory, **settings)
        try:
            await scenario(cluster)
            assert all(node.fatal == [] for node in cluster.running())
        finally:
            await cluster.stop_all()

    RUNNER.run(main())


async def propose_many(node: TestNode, prefix: str, count: int) -> None:
    outcomes = await asyncio.gather(*(node.driver.propose(f"{prefix}{i}".encode()) for i in range(count)))
    assert sorted(outcomes) == outcomes, "entries are applied in the order of their proposals"


def test_leader_is_lost_and_comes_back_from_disk(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start_all()
        old = await cluster.leader()
        await propose_many(old, "a", 1000)
        position = await cluster.crash(old)
        started = time.monotonic()
        new = await cluster.leader()
        gap_ms = (time.monotonic() - started) * 1000
        await propose_many(new, "b", 100)
        await cluster.start(position)
        await cluster.converged(1100)
        expected = [f"a{i}".encode() for i in range(1000)] + [f"b{i}".encode() for i in range(100)]
        assert new.machine.items == expected
        print(f"new leader after {gap_ms:.0f} ms")

    run(tmp_path, scenario)


def test_crash_is_noticed_long_before_the_election_timeout(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start_all()
        old = await cluster.leader()
        await cluster.converged(0)
        await until(lambda: all(all(n.transport.connected().values()) for n in cluster.running()), "all streams")
        started = time.monotonic()
        await cluster.crash(old)
        await cluster.leader()
        assert time.monotonic() - started < 1.5, "the survivors waited for the election timeout of 2 s"

    run(tmp_path, scenario, RAFT_ELECTION_TIMEOUT_MIN_MS=2000, RAFT_ELECTION_TIMEOUT_MAX_MS=4000)


def test_whole_cluster_restarts_with_everything_acknowledged(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start_all()
        await propose_many(await cluster.leader(), "a", 50)
        for node in cluster.running():
            await cluster.crash(node)
        await cluster.start_all()
        await propose_many(await cluster.leader(), "b", 1)
        await cluster.converged(51)

    run(tmp_path, scenario)


def test_node_behind_the_log_catches_up_by_snapshot(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        follower = next(node for node in cluster.running() if node is not leader)
        position = await cluster.crash(follower)
        for batch in range(8):
            await propose_many(leader, f"{batch}-", 100)
        await until(lambda: leader.driver.first_index > 200, "compaction")
        back = await cluster.start(position)
        await cluster.converged(800)
        assert back.driver.first_index > 200, "it did not get the old entries one by one"
        await cluster.crash(back)
        await cluster.start(position)
        await cluster.converged(800)

    run(tmp_path, scenario, RAFT_SNAPSHOT_ENTRIES=100)


def test_transfer_moves_leadership_and_tells_both(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start_all()
        old = await cluster.leader()
        await old.driver.propose(b"x")
        await old.driver.transfer_leader(None)
        new = await cluster.leader()
        assert new is not old
        assert (old.leadership, new.leadership) == ([True, False], [True])
        with pytest.raises(NotLeader) as refused:
            await old.driver.propose(b"y")
        assert refused.value.leader is not None
        assert refused.value.leader.node_id == new.driver.status().raft.id

    run(tmp_path, scenario)


def test_leader_without_quorum_serves_nothing(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        await leader.driver.read_barrier()
        for node in cluster.running():
            if node is not leader:
                await cluster.crash(node)
        read = asyncio.ensure_future(leader.driver.read_barrier())
        write = asyncio.ensure_future(leader.driver.propose(b"x"))
        await until(lambda: not leader.driver.is_leader, "stepping down")
        with pytest.raises(NotLeader):
            await read
        with pytest.raises(ProposalUnknown):
            await write
        assert leader.machine.items == []

    run(tmp_path, scenario)


def test_one_node_alone_is_a_cluster(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        assert await leader.driver.propose(b"x") == 1
        await leader.driver.read_barrier()

    run(tmp_path, scenario, size=1)


def test_proposals_are_refused_before_they_are_too_many_or_too_large(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        with pytest.raises(Overloaded, match="maximum"):
            await leader.driver.propose(bytes(9 * 1024 * 1024))
        with pytest.raises(ValueError, match="needs data"):
            await leader.driver.propose(b"")

    run(tmp_path, scenario, size=1)


def test_throughput_and_latency_are_printed(tmp_path: Path) -> None:
    async def scenario(cluster: Cluster) -> None:
        await cluster.start_all()
        leader = await cluster.leader()
        await propose_many(leader, "warm", 500)
        print(f"{await rate_per_s(leader, outstanding=128, seconds=2):.0f} proposals/s with 128 outstanding")
        print(f"p50 {1000 * await p50_s(leader, count=300):.2f} ms with one outstanding")

    run(tmp_path, scenario)


async def rate_per_s(leader: TestNode, *, outstanding: int, seconds: float) -> float:
    done = 0
    started = time.monotonic()

    async def client() -> None:
        nonlocal done
        while time.monotonic() - started < seconds:
            await leader.driver.propose(b"x" * 200)
            done += 1

    await asyncio.gather(*(client() for _ in range(outstanding)))
    assert done > outstanding
    return done / (time.monotonic() - started)


async def p50_s(leader: TestNode, *, count: int) -> float:
    times = []
    for _ in range(count):
        started = time.perf_counter()
        await leader.driver.propose(b"x" * 200)
        times.append(time.perf_counter() - started)
    return sorted(times)[count // 2]
