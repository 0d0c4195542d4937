"""Counts the core's ticks on the monotonic clock, and notices when this process was paused."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


class Ticker:
    """Ticks that have passed and are not yet taken.

    Args:
        tick_s: length of a tick.
        stall_s: lateness that counts as a pause of the process.
        backlog_max: ticks kept at most. Who comes back late hears of the leader's heartbeats only after it took the
            ticks, so a backlog must stay well below an election timeout.
        on_tick: called when there are ticks to take.
    """

    def __init__(self, *, tick_s: float, stall_s: float, backlog_max: int, on_tick: Callable[[], None]) -> None:
        self.last_stall_ms = 0.0
        self.stalls = 0
        self._tick_s = tick_s
        self._stall_s = stall_s
        self._backlog_max = backlog_max
        self._on_tick = on_tick
        self._ticks = 0

    def take(self) -> int:
        """The ticks since the last call."""
        ticks, self._ticks = self._ticks, 0
        return ticks

    async def run(self) -> None:
        """Counts until canceled."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(self._tick_s)
            now = time.monotonic()
            last = self._count(last, now)
            self._on_tick()

    def _count(self, last: float, now: float) -> float:
        """Returns the time up to which ticks are counted now."""
        late_s = now - last - self._tick_s
        if late_s > self._stall_s:
            self.last_stall_ms = late_s * 1000
            self.stalls += 1
            log.warning("the process was paused; stall_ms=%.0f", self.last_stall_ms)
            self._ticks = 1
            return now
        passed = int((now - last) / self._tick_s)
        self._ticks = min(self._ticks + passed, self._backlog_max)
        return last + passed * self._tick_s
