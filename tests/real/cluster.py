"""Real control-plane processes on free loopback ports, for tests: started, killed, stopped, restarted."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from orchestrator_pkg.demo.processes import ManagedProcess, free_ports
from orchestrator_proto import admin_pb2
from raft_service.rpc.client import Client

# Long enough for elections on two busy cores; a test that needs longer hangs.
WAIT_S = 20.0
# Between two looks at a condition.
POLL_S = 0.01
# Variables of ours that a cluster sets itself, so that the caller's shell does not leak into it.
OWN_PREFIXES = ("RAFT_", "WORKER_", "ORCHESTRATOR_", "METRICS_PORT", "DEBUG_HTTP_PORT")

T = TypeVar("T")


def wait_until(condition: Callable[[], T], *, what: str, timeout_s: float = WAIT_S) -> T:
    """Waits until the condition gives something true, and returns that. Raises AssertionError after timeout_s."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"after {timeout_s:.0f} s still not: {what}"
        time.sleep(POLL_S)


class LocalCluster:
    """Nodes cp-1 ... cp-N below one folder. As a context manager it stops whatever still runs.

    Args:
        folder: where data directories and logs go.
        size: how many nodes.
        env: variables for all nodes that win over the defaults here.
    """

    def __init__(self, folder: Path, *, size: int = 3, env: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.names = tuple(f"cp-{number}" for number in range(1, size + 1))
        self.ports = dict(zip(self.names, free_ports(size), strict=True))
        self.processes: dict[str, ManagedProcess] = {}
        self._extra_env = dict(env or {})
        self._clients: list[Client] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    # ------------------------------------------------------------------------------------------ where things are

    @property
    def endpoints(self) -> tuple[str, ...]:
        """host:port of all nodes."""
        return tuple(self.address(name) for name in self.names)

    def address(self, name: str) -> str:
        """host:port of one node."""
        return f"127.0.0.1:{self.ports[name]}"

    def debug_url(self, name: str) -> str:
        """Where the node's page is, while it runs."""
        return f"http://127.0.0.1:{self.processes[name].ready['debug_http_port']}"

    def metrics_url(self, name: str) -> str:
        """Where the node's metrics are, while it runs."""
        return f"http://127.0.0.1:{self.processes[name].ready['metrics_port']}/metrics"

    def environment(self, name: str) -> dict[str, str]:
        """The caller's environment without our variables, and the node's own."""
        env = {key: value for key, value in os.environ.items() if not key.startswith(OWN_PREFIXES)}
        env |= {
            "RAFT_NODE_NAME": name,
            "RAFT_PEERS": ",".join(f"{each}={self.address(each)}" for each in self.names),
            "RAFT_DATA_DIR": str(self.folder / name),
            "METRICS_PORT": "0",
            "DEBUG_HTTP_PORT": "0",
        }
        return env | self._extra_env

    # ------------------------------------------------------------------------------------------ start and stop

    def spawn(self, name: str) -> ManagedProcess:
        """Starts one node without waiting for it."""
        process = ManagedProcess(
            name=name,
            command=[sys.executable, "-m", "raft_service"],
            env=self.environment(name),
            cwd=self.folder,
            log_dir=self.folder,
            is_announcing=True,
        )
        self.processes[name] = process
        return process

    def start(self) -> None:
        """Starts all nodes and waits until one leads."""
        for name in self.names:
            self.spawn(name)
        for process in self.processes.values():
            process.wait_ready()
        self.leader()

    def restart(self, name: str) -> None:
        """Starts a node that has ended, on its old data, and waits until it serves."""
        self.spawn(name).wait_ready()

    def kill(self, name: str) -> None:
        """SIGKILL, and waits for the end."""
        self.processes[name].kill()

    def terminate(self, name: str) -> int:
        """SIGTERM, and waits for the end; returns the exit status."""
        self.processes[name].request_stop()
        return self.processes[name].wait_stopped()

    def pause(self, name: str) -> None:
        """SIGSTOP."""
        self.processes[name].send(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """SIGCONT."""
        self.processes[name].send(signal.SIGCONT)

    def stop(self) -> None:
        """Ends clients and nodes."""
        for client in self._clients:
            client.close()
        running = [process for process in self.processes.values() if process.is_running]
        for process in running:
            process.send(signal.SIGCONT)
            process.request_stop()
        for process in running:
            process.wait_stopped()

    # ------------------------------------------------------------------------------------------ talking to it

    def client(self, *, name: str = "test", deadline_s: float = WAIT_S) -> Client:
        """A client of all nodes, closed with the cluster."""
        client = Client(self.endpoints, name=name, deadline_s=deadline_s)
        self._clients.append(client)
        return client

    def leader(self, *, other_than: str = "") -> str:
        """Waits until a running node leads and returns its name."""
        client = Client(self.endpoints, name="leader-finder", deadline_s=WAIT_S)
        try:
            return wait_until(
                lambda: next((name for name in leading_names(client) if name != other_than), ""),
                what=f"a node other than {other_than!r} leads",
            )
        finally:
            client.close()


def leading_names(client: Client) -> list[str]:
    """Names of the nodes that say they lead."""
    return [
        answer.name
        for _, answer in client.statuses()
        if not isinstance(answer, str) and answer.role == admin_pb2.NODE_ROLE_LEADER
    ]
