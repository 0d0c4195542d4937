"""The driver on a disk that fails or fills up, and peers that do not belong here."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from driver_cluster import RUNNER, Cluster, until

from raft_service.driver import Overloaded, ProposalUnknown
from raft_service.storage.disk import Disk
from raft_service.storage.errors import DiskFailed

pytestmark = pytest.mark.real


class SwitchedDisk(Disk):
    """Fails when told to."""

    def __init__(self) -> None:
        self.is_full = False
        self.is_broken = False

    def allocate(self, fd: int, *, start: int, length: int) -> None:
        if self.is_full:
            raise OSError(errno.ENOSPC, "no space")
        super().allocate(fd, start=start, length=length)

    def sync_data(self, fd: int) -> None:
        if self.is_broken:
            raise OSError(errno.EIO, "broken")
        super().sync_data(fd)


def run(cluster: Cluster, scenario: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        try:
            await scenario()
        finally:
            await cluster.stop_all()

    RUNNER.run(main())


def test_failed_sync_ends_the_node_and_the_others_go_on(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    disks = [SwitchedDisk() for _ in range(3)]

    async def scenario() -> None:
        await asyncio.gather(*(cluster.start(position, disk=disk) for position, disk in enumerate(disks)))
        leader = await cluster.leader()
        await leader.driver.propose(b"before")
        disks[cluster.nodes.index(leader)].is_broken = True
        with pytest.raises(ProposalUnknown):
            await leader.driver.propose(b"during")
        assert [type(error) for error in leader.fatal] == [DiskFailed]
        await cluster.crash(leader)
        successor = await cluster.leader()
        await successor.driver.propose(b"after")
        assert successor.machine.items in ([b"before", b"after"], [b"before", b"during", b"after"])

    run(cluster, scenario)


def test_full_disk_steps_aside_and_comes_back(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    disks = [SwitchedDisk() for _ in range(3)]
    large = b"x" * 1024 * 1024

    async def fill() -> None:
        leader = await cluster.leader()
        disks[cluster.nodes.index(leader)].is_full = True
        while True:
            await leader.driver.propose(large)

    async def scenario() -> None:
        await asyncio.gather(*(cluster.start(position, disk=disk) for position, disk in enumerate(disks)))
        stuck = await cluster.leader()
        with pytest.raises((ProposalUnknown, Overloaded)):
            await fill()
        with pytest.raises(Overloaded, match="Free some space"):
            await stuck.driver.propose(b"refused")
        assert "full" in stuck.driver.status().disk_full
        await until(lambda: any(n.driver.is_leader for n in cluster.running() if n is not stuck), "a successor")
        successor = next(node for node in cluster.running() if node.driver.is_leader)
        await successor.driver.propose(b"meanwhile")
        disks[cluster.nodes.index(stuck)].is_full = False
        await until(lambda: b"meanwhile" in stuck.machine.items, "the node with space again")
        await cluster.converged(2)
        assert stuck.fatal == []
        assert stuck.driver.status().disk_full == ""

    run(cluster, scenario)


def test_only_node_recovers_from_a_full_disk(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, size=1)
    disk = SwitchedDisk()

    async def scenario() -> None:
        node = await cluster.start(0, disk=disk)
        await cluster.leader()
        disk.is_full = True
        with pytest.raises((ProposalUnknown, Overloaded)):
            await asyncio.gather(*(node.driver.propose(b"x" * 1024 * 1024) for _ in range(20)))
        disk.is_full = False
        await until(lambda: node.driver.is_leader, "the leader again")
        await node.driver.propose(b"y")
        assert node.machine.items[-1] == b"y"

    run(cluster, scenario)


def test_node_of_another_cluster_is_let_in_nowhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cluster = Cluster(tmp_path)

    async def scenario() -> None:
        cluster.settings[2] = cluster.settings[2].model_copy(update={"cluster_id": "other"})
        await cluster.start_all()
        leader = await cluster.leader()
        await leader.driver.propose(b"x")
        stranger = cluster.nodes[2]
        assert stranger is not None
        assert leader is not stranger
        await until(lambda: "correct RAFT_CLUSTER_ID or RAFT_PEERS" in caplog.text, "the reason in the log")
        assert stranger.machine.items == []
        assert not any(stranger.transport.connected().values())

    with caplog.at_level(logging.INFO):
        run(cluster, scenario)
