"""The client of the control plane for synchronous code: launcher, executor, command line. Safe in any thread."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from orchestrator_proto import admin_pb2, task_pb2, worker_pb2
from orchestrator_proto import ledger_pb2 as pb
from raft_service.config import TlsFiles
from raft_service.rpc.async_client import AsyncClient
from raft_service.rpc.client_thread import client_thread
from raft_service.rpc.errors import ControlPlaneError, ControlPlaneUnavailable, RequestRefused
from raft_service.rpc.watch import Watch

__all__ = [
    "AsyncClient",
    "Client",
    "ControlPlaneError",
    "ControlPlaneUnavailable",
    "RequestRefused",
    "TaskWatch",
]

T = TypeVar("T")


class TaskWatch:
    """A watch for synchronous code; made by Client.watch_tasks."""

    def __init__(self, client: Client, watch: Watch) -> None:
        """Wraps an open watch."""
        self._client = client
        self._watch = watch

    def next(self, timeout_s: float | None) -> task_pb2.WatchEvents | None:
        """The next events, or None when none came within timeout_s (None: waits for ever) or it was closed.

        Raises:
            RequestRefused: the watch itself is wrong.
        """
        return self._client.run(lambda _: self._watch.next(timeout_s))

    def close(self) -> None:
        """Ends the watch; a reader in another thread gets None."""
        self._client.run(lambda client: _close_watch(client, self._watch))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


async def _open_watch(client: AsyncClient, prefix: str, from_index: int) -> Watch:
    return client.open_watch(prefix, from_index)


async def _close_watch(client: AsyncClient, watch: Watch) -> None:
    client.close_watch(watch)


class Client:
    """AsyncClient's methods, blocking; see there for what each does and raises.

    The constructor does no network and starts no thread. In a forked child the client starts afresh.
    """

    def __init__(
        self, endpoints: Sequence[str], *, name: str, tls: TlsFiles | None = None, deadline_s: float = 30.0
    ) -> None:
        """As AsyncClient."""
        self._endpoints = tuple(endpoints)
        self._name = name
        self._tls = tls
        self._deadline_s = deadline_s
        self._lock = threading.Lock()
        self._pid = 0
        self._client: AsyncClient | None = None
        if not self._endpoints:
            self._make()  # raises the sentence

    def _make(self) -> AsyncClient:
        return AsyncClient(self._endpoints, name=self._name, tls=self._tls, deadline_s=self._deadline_s)

    def run(self, work: Callable[[AsyncClient], Coroutine[Any, Any, T]]) -> T:
        """Runs a coroutine of the asyncio client on the process's client loop and waits for it."""
        if self._pid != os.getpid():
            # First use, or the first in a forked child, where a lock held by another thread would stay held.
            self._lock = threading.Lock() if self._pid else self._lock
            with self._lock:
                if self._pid != os.getpid():
                    self._client = self._make()
                    self._pid = os.getpid()
        client = self._client
        if client is None:
            raise ControlPlaneUnavailable("The client is closed; make a new one.")
        try:
            return client_thread().run(work(client))
        except (ControlPlaneUnavailable, RequestRefused) as error:
            # The sentence says what to do; the way through this library's threads says nothing to its callers.
            raise error.with_traceback(None) from None

    def close(self) -> None:
        """Ends all connections; requests in other threads end with ControlPlaneUnavailable."""
        if self._pid == os.getpid() and self._client is not None:
            self.run(lambda client: client.close())
        self._client = None
        self._pid = os.getpid()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # ------------------------------------------------------------------------------------------ tasks

    def submit_tasks(self, specs: Iterable[pb.TaskSpec]) -> list[int]:
        """Queues tasks, durably once it returns; gives one TaskState each."""
        return self.run(lambda client: client.submit_tasks(specs))

    def task_status(
        self, task_ids: Sequence[str] = (), prefix: str = "", limit: int = 0, with_payload: bool = False
    ) -> list[pb.TaskView]:
        """Reads tasks, linearizably, by id or prefix."""
        return self.run(
            lambda client: client.task_status(task_ids=task_ids, prefix=prefix, limit=limit, with_payload=with_payload)
        )

    def watch_tasks(self, prefix: str, from_index: int = 0) -> TaskWatch:
        """Opens a watch at once; read it with next, end it with close."""
        return TaskWatch(self, self.run(lambda client: _open_watch(client, prefix, from_index)))

    def cancel_tasks(self, task_ids: Sequence[str] = (), prefix: str = "", reason: str = "") -> int:
        """Ends tasks that have not ended; returns how many."""
        return self.run(lambda client: client.cancel_tasks(task_ids=task_ids, prefix=prefix, reason=reason))

    def report_result(self, task_id: str, token: pb.Token, result: pb.TaskResult) -> task_pb2.ReportReply:
        """Reports the outcome of an attempt."""
        return self.run(lambda client: client.report_result(task_id, token, result))

    def report_loss(
        self, task_id: str, token: pb.Token, reason: str, is_returned: bool = False
    ) -> task_pb2.ReportReply:
        """Reports that an attempt died or is handed back."""
        return self.run(lambda client: client.report_loss(task_id, token, reason, is_returned=is_returned))

    def hold_lease(self, name: str, owner: str, ttl_ms: int) -> task_pb2.LeaseReply:
        """Takes or renews a named lease for ttl_ms from now."""
        return self.run(lambda client: client.hold_lease(name, owner, ttl_ms))

    def release_lease(self, name: str, owner: str) -> task_pb2.LeaseReply:
        """Gives a named lease up; its unfinished tasks are canceled."""
        return self.run(lambda client: client.release_lease(name, owner))

    def forget_tasks(self, task_ids: Sequence[str] = (), prefix: str = "") -> int:
        """Lets the ledger drop ended tasks now; returns how many."""
        return self.run(lambda client: client.forget_tasks(task_ids=task_ids, prefix=prefix))

    # ------------------------------------------------------------------------------------------ worker and people

    def register_worker(self, request: worker_pb2.RegisterWorkerRequest) -> worker_pb2.RegisterWorkerResponse:
        """Enters a worker process in the ledger."""
        return self.run(lambda client: client.register_worker(request))

    def heartbeat(self, request: worker_pb2.HeartbeatRequest, timeout_s: float) -> worker_pb2.HeartbeatResponse:
        """Renews the worker's lease."""
        return self.run(lambda client: client.heartbeat(request, timeout_s))

    def statuses(self) -> list[tuple[str, admin_pb2.StatusResponse | str]]:
        """Asks every endpoint how it is; gives (endpoint, answer or the error in words)."""
        return self.run(lambda client: client.statuses())

    def list_workers(self) -> list[admin_pb2.WorkerView]:
        """All workers as the leader sees them."""
        return self.run(lambda client: client.list_workers())

    def drain_worker(self, worker_id: str, undo: bool = False) -> int:
        """Gives a worker nothing new, or takes it back into service; returns its WorkerState."""
        return self.run(lambda client: client.drain_worker(worker_id, undo=undo))

    def transfer_leader(self, to: str = "") -> str:
        """Moves leadership; returns who leads now."""
        return self.run(lambda client: client.transfer_leader(to))
