"""The loop that renews the worker's lease.

One heartbeat at a time, on a connection of its own, so that no large result stands in its way. A failed one is repeated
soon and at another node (the client changes nodes on each failure). The time that counts is read just before sending.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Protocol

from orchestrator_pkg.worker.control_plane import UNREACHABLE, ControlPlane, RequestRefused, pause
from orchestrator_pkg.worker.metrics import WorkerMetrics
from orchestrator_pkg.worker.shared_deadline import boot_time_ns
from orchestrator_proto import worker_pb2

logger = logging.getLogger(__name__)

# A heartbeat costs one round trip and one of the leader's; without an answer in 2 s another node is the better guess.
TIMEOUT_S_MAX = 2.0
# At least three tries fit into a lease.
TIMEOUT_LEASE_SHARE = 1 / 3
# Between failed tries: soon, but not a storm of a thousand workers on a new leader.
RETRY_PAUSE_S_MAX = 0.5
RETRY_PAUSE_LEASE_SHARE = 1 / 20


class HeartbeatHost(Protocol):
    """What the loop needs from its worker."""

    def heartbeat_request(self, sequence: int) -> worker_pb2.HeartbeatRequest:
        """What to send now."""

    def acknowledged(
        self, request: worker_pb2.HeartbeatRequest, response: worker_pb2.HeartbeatResponse, *, sent_at_ns: int
    ) -> None:
        """The lease is renewed from `sent_at_ns` (boot clock)."""

    async def unknown(self) -> None:
        """The ledger does not know this incarnation: discard everything and register again."""


class Heartbeats:
    """Sends heartbeats until it is cancelled."""

    def __init__(self, *, client: ControlPlane, host: HeartbeatHost, metrics: WorkerMetrics) -> None:
        self._client = client
        self._host = host
        self._metrics = metrics
        self._sequence = 0
        self._wake = asyncio.Event()
        self._is_failing = False
        self._lease_s = 0.0

    def wake(self) -> None:
        """Sends the next one now: there is news."""
        self._wake.set()

    async def run(self, *, lease_ms: int) -> None:
        """The loop. `lease_ms` is the lease that the registration granted."""
        self._lease_s = lease_ms / 1000
        while True:
            self._wake.clear()
            interval_s = await self._beat()
            if interval_s is None:
                await pause(min(RETRY_PAUSE_S_MAX, self._lease_s * RETRY_PAUSE_LEASE_SHARE))
                continue
            try:
                await asyncio.wait_for(self._wake.wait(), interval_s)
            except TimeoutError:
                pass  # No news: the next one is due.

    async def _beat(self) -> float | None:
        """One heartbeat: seconds to the next, or None when it failed."""
        self._sequence += 1
        request = self._host.heartbeat_request(self._sequence)
        sent_at_ns = boot_time_ns()
        try:
            response = await self._client.heartbeat(
                request, timeout_s=min(TIMEOUT_S_MAX, self._lease_s * TIMEOUT_LEASE_SHARE)
            )
        except (*UNREACHABLE, RequestRefused) as error:
            self._failed(str(error))
            return None
        self._metrics.heartbeats.labels(outcome="acknowledged").inc()
        if self._is_failing:
            logger.info("the control plane answers again")
            self._is_failing = False
        if not response.is_known:
            await self._host.unknown()
            return 0.0
        self._lease_s = response.lease_ms / 1000
        self._host.acknowledged(request, response, sent_at_ns=sent_at_ns)
        return response.heartbeat_interval_ms / 1000

    def _failed(self, error: str) -> None:
        self._metrics.heartbeats.labels(outcome="failed").inc()
        if not self._is_failing:
            logger.warning("no heartbeat is acknowledged any more: %s", error)
            self._is_failing = True
