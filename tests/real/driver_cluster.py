"""Three drivers in one process, on real sockets and real disks, around the simplest machine: a list."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import grpc.aio

from raft_service.config import NodeSettings
from raft_service.driver import RaftDriver
from raft_service.rpc.channel import SERVER_OPTIONS
from raft_service.rpc.peers import PeerTransport
from raft_service.storage.disk import Disk

# gRPC's asyncio layer belongs to one event loop for the life of the process.
RUNNER = asyncio.Runner()


class ListMachine:
    """Appends every entry; the result is its place."""

    def __init__(self) -> None:
        self.items: list[bytes] = []

    def apply(self, index: int, data: bytes) -> object:
        self.items.append(data)
        return len(self.items)

    def snapshot(self) -> bytes:
        return json.dumps([item.decode() for item in self.items]).encode()

    def restore(self, data: bytes) -> None:
        self.items = [item.encode() for item in json.loads(data)]


class TestNode:
    """One node with its server."""

    __test__ = False

    def __init__(self, settings: NodeSettings, *, disk: Disk | None = None) -> None:
        self.machine = ListMachine()
        self.fatal: list[BaseException] = []
        self.leadership: list[bool] = []
        self.transport = PeerTransport(settings)
        self.driver = RaftDriver(settings, self.machine, self.transport, on_fatal=self.fatal.append, disk=disk)
        self.driver.on_leadership(self.leadership.append)
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        self.transport.add_to(self._server)
        self._server.add_insecure_port(settings.bind_address)

    async def start(self) -> None:
        await self._server.start()
        await self.driver.start()

    async def stop(self) -> None:
        await self.driver.stop()
        await self._server.stop(None)

    async def crash(self) -> None:
        """The sockets close and nothing more is written, as when the process is killed."""
        await self._server.stop(None)
        await self.driver.abandon()


class Cluster:
    """A cluster in a directory."""

    def __init__(self, directory: Path, *, size: int = 3, **settings: object) -> None:
        ports = _free_ports(size)
        peers = ",".join(f"cp-{number}=127.0.0.1:{port}" for number, port in enumerate(ports, start=1))
        self.settings = [
            NodeSettings(
                _env_file=None,
                RAFT_NODE_NAME=f"cp-{number}",
                RAFT_PEERS=peers,
                RAFT_DATA_DIR=directory / f"cp-{number}",
                **settings,
            )
            for number in range(1, size + 1)
        ]
        self.nodes: list[TestNode | None] = [None] * size

    async def start(self, position: int, *, disk: Disk | None = None) -> TestNode:
        node = TestNode(self.settings[position], disk=disk)
        self.nodes[position] = node
        await node.start()
        return node

    async def start_all(self) -> None:
        await asyncio.gather(*(self.start(position) for position in range(len(self.nodes))))

    async def crash(self, node: TestNode) -> int:
        position = self.nodes.index(node)
        self.nodes[position] = None
        await node.crash()
        return position

    async def stop_all(self) -> None:
        for node in self.running():
            await node.crash()

    def running(self) -> list[TestNode]:
        return [node for node in self.nodes if node is not None]

    async def leader(self) -> TestNode:
        await until(lambda: any(node.driver.is_leader for node in self.running()), "a leader")
        return max((n for n in self.running() if n.driver.is_leader), key=lambda n: n.driver.term)

    async def converged(self, items: int) -> None:
        """Waits until all running nodes hold the same list of at least so many items."""

        def is_converged() -> bool:
            lists = [node.machine.items for node in self.running()]
            return len(lists[0]) >= items and all(one == lists[0] for one in lists)

        await until(is_converged, f"{items} items on all nodes")


async def until(condition: Callable[[], bool], what: str, *, timeout_s: float = 15) -> None:
    """Waits for a condition; fails with its name."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.005)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
