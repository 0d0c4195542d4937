"""Inside the embedded control plane's process: one node and one worker in one event loop, and when to stop."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from orchestrator_pkg.config import WorkerSettings, load
from orchestrator_pkg.step_tasks import ENDED
from raft_service.config import NodeSettings
from raft_service.rpc.errors import ControlPlaneUnavailable

if TYPE_CHECKING:
    from orchestrator_pkg.embedded import PlaneFiles
    from raft_service.rpc.client import AsyncClient

NODE_NAME = "embedded"
# How often to look whether anybody still uses it; costs one file lock.
LOOK_S = 1.0
# Commands in a row (a test, a script) find the slots still warm.
LINGER_S = 5.0
# More slots than cores only share them; more than this is rarely wanted on a laptop.
STEP_SLOTS_MAX = 4
RUN_SLOTS = 10
# What slots import before their first task, on top of WORKER_PRELOAD.
PRELOAD = "orchestrator_pkg.slot_preload"
# Where clients and slots of this process find the control plane.
ADDRESS_VARIABLE = "ORCHESTRATOR_ADDR"


async def run_plane(files: PlaneFiles, *, ready: Callable[[str], None]) -> None:
    """Serves until nobody needs it.

    Args:
        files: where it lives.
        ready: called with the address once it serves.
    """
    from orchestrator_pkg.worker.agent import WorkerAgent
    from raft_service.server import Node

    address = f"unix:{files.socket}"
    files.socket.unlink(missing_ok=True)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    node = Node(_node_settings(files, address))
    await node.start()
    # The slots inherit it: the executor in a run slot is a client like any other.
    os.environ[ADDRESS_VARIABLE] = address
    agent = WorkerAgent(_worker_settings(address))
    await agent.start()
    files.address_file.write_text(address + "\n")
    ready(address)
    try:
        await _until_unused(files, address, stop)
    finally:
        await agent.stop()
        await node.stop()


def _node_settings(files: PlaneFiles, address: str) -> NodeSettings:
    return load(
        NodeSettings,
        node_name=NODE_NAME,
        peers=f"{NODE_NAME}={address}",
        listen_addr=address,
        data_dir=files.root / "node",
        cluster_id="embedded",
        # Alone, it elects itself; the shortest timeout the settings admit.
        election_timeout_min_ms=50,
        election_timeout_max_ms=100,
        heartbeat_ms=20,
        tick_ms=10,
        metrics_port=-1,
        debug_http_port=-1,
    )


def _worker_settings(address: str) -> WorkerSettings:
    settings = load(WorkerSettings)
    given = settings.model_fields_set
    return load(
        WorkerSettings,
        orchestrator_addr=address,
        name=settings.name or f"{NODE_NAME}-{os.uname().nodename}",
        run_slots=settings.run_slots if "run_slots" in given else RUN_SLOTS,
        step_slots=settings.step_slots if "step_slots" in given else min(os.cpu_count() or 1, STEP_SLOTS_MAX),
        preload=f"{settings.preload},{PRELOAD}",
        metrics_port=-1,
        debug_http_port=-1,
    )


async def _until_unused(files: PlaneFiles, address: str, stop: asyncio.Event) -> None:
    """Returns when a signal came, the folder is gone, or nobody needs the plane and no new user can come."""
    from raft_service.rpc.client import AsyncClient

    client = AsyncClient((address,), name=NODE_NAME)
    unused_since: float | None = None
    try:
        while not await _wait(stop, LOOK_S):
            if not files.plane_lock.exists():
                print("the folder is gone; stopping", file=sys.stderr)
                return
            lock = os.open(files.users_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if not _taken(lock) or await _has_work(client):
                os.close(lock)
                unused_since = None
                continue
            unused_since = unused_since or time.monotonic()
            if time.monotonic() - unused_since >= LINGER_S:
                return  # The lock stays held until the process ends: a new user waits for that.
            os.close(lock)
    finally:
        await client.close()


async def _wait(stop: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True


def _taken(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _has_work(client: AsyncClient) -> bool:
    try:
        return any(view.state not in ENDED for view in await client.task_status())
    except ControlPlaneUnavailable:
        return False
