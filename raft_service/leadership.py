"""Whether this node leads, who does otherwise, and how often that changed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from raft_service.config import Member
from raft_service.driver import RaftDriver
from raft_service.leader import Leader
from raft_service.metrics import Metrics
from raft_service.upkeep import Upkeep

log = logging.getLogger(__name__)

# How long a request waits here for a leader to be elected before its client is told to try elsewhere: an election.
SETTLE_S_MAX = 0.5
# How often to look who leads: for the history on the status page and for requests that wait.
LOOK_S = 0.02
# Changes kept for the page.
CHANGES_KEPT = 20


@dataclass(frozen=True, slots=True)
class LeaderChange:
    """A leader came. gap_ms: how long this node knew of none before; at_ms: since the epoch."""

    at_ms: int
    term: int
    leader: str
    gap_ms: int


class Leadership:
    """Makes a Leader when this node begins to lead and drops it when that ends."""

    def __init__(
        self,
        *,
        node_id: int,
        driver: RaftDriver,
        make_leader: Callable[[], Leader],
        metrics: Metrics,
    ) -> None:
        """Follows the driver from now on."""
        self.leader: Leader | None = None
        self.changes: deque[LeaderChange] = deque(maxlen=CHANGES_KEPT)
        self._node_id = node_id
        self._driver = driver
        self._make_leader = make_leader
        self._metrics = metrics
        self._upkeep: asyncio.Task[None] | None = None
        self._seen = (0, 0)
        self._leaderless_since = time.monotonic()
        self._settled = asyncio.Event()
        driver.on_leadership(self._changed)

    def _changed(self, is_leader: bool) -> None:
        if self.leader is not None:
            self.leader.close()
            self.leader = None
        if self._upkeep is not None:
            self._upkeep.cancel()
            self._upkeep = None
        if is_leader:
            self.leader = self._make_leader()
            self._upkeep = asyncio.get_running_loop().create_task(Upkeep(self.leader).run(), name="upkeep")
            self._upkeep.add_done_callback(_log_failure)
        self._look()

    async def run(self) -> None:
        """Looks who leads until canceled."""
        while True:
            self._look()
            await asyncio.sleep(LOOK_S)

    def close(self) -> None:
        """Drops the leader, if any."""
        self._changed(False)

    def _look(self) -> None:
        known = self._driver.leader
        now = (known.node_id if known else 0, self._driver.term if known else 0)
        if now[0] and now != self._seen:
            gap_s = time.monotonic() - self._leaderless_since if self._leaderless_since else 0.0
            self._note(LeaderChange(int(time.time() * 1000), now[1], known.name if known else "", round(gap_s * 1000)))
            self._leaderless_since = 0.0
        elif not now[0] and self._seen[0]:
            self._leaderless_since = time.monotonic()
        self._seen = now
        if self.leader is not None or self.elsewhere() is not None:
            self._settled.set()
        else:
            self._settled.clear()

    def _note(self, change: LeaderChange) -> None:
        self.changes.append(change)
        self._metrics.leader_changes.inc()
        log.info("leader known; leader=%s term=%d gap_ms=%d", change.leader, change.term, change.gap_ms)

    def elsewhere(self) -> Member | None:
        """The other node that leads as far as known, or None."""
        known = self._driver.leader
        return known if known is not None and known.node_id != self._node_id else None

    async def settled(self) -> Leader | None:
        """The Leader if this node leads, otherwise None; waits a little when nobody is known to lead."""
        if self.leader is None and self.elsewhere() is None:
            self._settled.clear()
            try:
                async with asyncio.timeout(SETTLE_S_MAX):
                    await self._settled.wait()
            except TimeoutError:
                # No election ended in time: the caller is told that nobody leads.
                return None
        return self.leader


def _log_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.critical("the leader's upkeep died", exc_info=task.exception())
