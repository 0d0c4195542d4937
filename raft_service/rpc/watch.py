"""A client's watch: events that arrived and wait for their reader, and the index to resume from."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from orchestrator_proto import task_pb2

# Event batches that may wait for a slow reader. Beyond it the watch is ended at the server and resumed by index once
# the reader caught up, so a slow reader costs this much memory and no more.
WAITING_EVENTS_MAX = 256


class Watch:
    """Read it with `next`; the link feeds it."""

    def __init__(self, prefix: str, from_index: int, *, resume: Callable[[Watch], None]) -> None:
        """Starts unread. `resume` is called when the reader caught up after an overflow."""
        self.prefix = prefix
        # Everything up to here was received.
        self.index = from_index
        self.is_overflown = False
        self.is_closed = False
        self._resume = resume
        self._events: deque[task_pb2.WatchEvents] = deque()
        self._error: Exception | None = None
        self._arrived = asyncio.Event()

    def push(self, events: task_pb2.WatchEvents) -> None:
        """Takes what the server sent; what a deposed leader tells of the past is dropped."""
        if events.index < self.index:
            return
        self.index = events.index
        self._events.append(events)
        self.is_overflown = len(self._events) >= WAITING_EVENTS_MAX
        self._arrived.set()

    def fail(self, error: Exception) -> None:
        """Lets the reader's next call raise."""
        self._error = error
        self._arrived.set()

    async def next(self, timeout_s: float | None = None) -> task_pb2.WatchEvents | None:
        """The next events, or None when none came within timeout_s (None: waits for ever) or the watch was closed.

        Raises:
            RequestRefused: the watch itself is wrong.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not self._events and self._error is None and not self.is_closed:
                    self._arrived.clear()
                    await self._arrived.wait()
        except TimeoutError:
            return None
        if self._events:
            events = self._events.popleft()
            if self.is_overflown and not self._events:
                self.is_overflown = False
                self._resume(self)
            return events
        if self._error is not None:
            raise self._error
        return None

    def close(self) -> None:
        """Ends the watch; a waiting reader gets None."""
        self.is_closed = True
        self._arrived.set()
