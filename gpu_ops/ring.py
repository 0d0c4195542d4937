"""The ring: reader threads fill reused host buffers ahead of the consumer, in the order that it asked for.

A reader takes a free slot first and the next position second, both under one lock. So the position that the consumer
waits for always owns a slot, and the ring cannot lock up, however slow a single read is. A failed read is kept at its
position and raised when the consumer arrives there.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import torch

from gpu_ops.source import BlockSource, Layout

STOP_TIMEOUT_S = 30.0  # longest that stopping waits for a reader that is inside the source


class Filled(NamedTuple):
    """A slot that holds a block."""

    slot: int
    layout: Layout


class Ring:
    """Slots between reader threads and one consumer, for one pass over some block indexes."""

    def __init__(self, source: BlockSource, slots: Sequence[torch.Tensor], indexes: Sequence[int]) -> None:
        self.indexes = indexes
        self.wait_seconds = 0.0
        self._source = source
        self._slots = slots
        self._changed = threading.Condition()  # guards everything below
        self._free = deque(range(len(slots)))
        self._full: dict[int, Filled] = {}  # by position in indexes
        self._failures: dict[int, BaseException] = {}
        self._next_position = 0
        self._is_stopped = False
        self._threads: list[threading.Thread] = []

    def start(self, readers: int) -> None:
        """Start the reader threads; no more than there are blocks."""
        for number in range(min(readers, len(self.indexes))):
            thread = threading.Thread(target=self._read, name=f"block-reader-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def stop(self) -> None:
        """Let the readers end and wait for them; a reader stuck in the source is left behind after 30 s."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._threads = []

    def take(self, position: int) -> Filled:
        """Wait for the block at a position. Raises what its read raised."""
        asked = time.perf_counter()
        with self._changed:
            self._changed.wait_for(lambda: position in self._full or position in self._failures)
            self.wait_seconds += time.perf_counter() - asked
            if position in self._failures:
                raise self._failures[position]
            return self._full.pop(position)

    def is_ready(self, position: int) -> bool:
        """Whether `take` would return at once."""
        with self._changed:
            return position in self._full or position in self._failures

    def put_back(self, position: int, filled: Filled) -> None:
        """Undo a `take`: the slot still holds the block."""
        with self._changed:
            self._full[position] = filled

    def give_back(self, slot: int) -> None:
        """The consumer has no more use for the slot: it may be filled again."""
        with self._changed:
            self._free.append(slot)
            self._changed.notify_all()

    def _claim(self) -> tuple[int, int] | None:
        """The next position and a slot for it; None when all is read or the pass was stopped."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_stopped or self._is_all_read() or bool(self._free))
            if self._is_stopped or self._is_all_read():
                return None
            position = self._next_position
            self._next_position += 1
            return position, self._free.popleft()

    def _is_all_read(self) -> bool:
        return self._next_position >= len(self.indexes)

    def _read(self) -> None:
        while (claim := self._claim()) is not None:
            position, slot = claim
            try:
                layout = self._source.fill(self.indexes[position], memoryview(self._slots[slot].numpy().data))
            except BaseException as failure:  # noqa: BLE001 - the edge of a thread: kept, and raised in the consumer
                with self._changed:
                    self._failures[position] = failure
                    self._changed.notify_all()
                return
            with self._changed:
                self._full[position] = Filled(slot=slot, layout=layout)
                self._changed.notify_all()
