"""Holds a named lease while a process outside a slot orchestrates a run; when it dies, its tasks are canceled."""

from __future__ import annotations

import socket
import threading
import uuid
from types import TracebackType
from typing import Protocol

from raft_service.rpc.errors import ControlPlaneUnavailable

# Three renewals fit into the lease, so one lost message costs nothing.
LEASE_TTL_MS = 15_000
RENEW_S = 5.0


class LeaseClient(Protocol):
    """The part of the client that this needs."""

    def hold_lease(self, name: str, owner: str, ttl_ms: int) -> object:
        """Takes or renews."""

    def release_lease(self, name: str, owner: str) -> object:
        """Gives up; its tasks are canceled."""


class OwnerLease:
    """A lease with a thread that renews it. Use as a context manager."""

    def __init__(self, client: LeaseClient) -> None:
        self.name = f"owner/{uuid.uuid4()}"
        self._owner = f"{socket.gethostname()}/{self.name}"
        self._client = client
        self._stop = threading.Event()
        # The prefix lets a slot's audit know that this thread is meant to be there.
        self._thread = threading.Thread(target=self._renew, name="orchestrator-owner-lease", daemon=True)

    def __enter__(self) -> OwnerLease:
        self._client.hold_lease(self.name, self._owner, LEASE_TTL_MS)
        self._thread.start()
        return self

    def _renew(self) -> None:
        while not self._stop.wait(RENEW_S):
            try:
                self._client.hold_lease(self.name, self._owner, LEASE_TTL_MS)
            except ControlPlaneUnavailable:
                continue  # No leader, no expiry either: the next try is as good.

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        try:
            self._client.release_lease(self.name, self._owner)
        except ControlPlaneUnavailable:
            pass  # It expires by itself.
