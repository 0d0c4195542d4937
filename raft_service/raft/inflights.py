"""The window of appends sent to one follower and not yet acknowledged, bounded in messages and bytes."""

from __future__ import annotations

from collections import deque

from .errors import InvariantBroken


class Inflights:
    """Sent appends in order: the last index of each, and its bytes."""

    __slots__ = ("_messages", "bytes", "max_bytes", "max_messages")

    def __init__(self, *, max_messages: int, max_bytes: int = 0) -> None:
        """`max_bytes` 0 means no limit in bytes."""
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.bytes = 0
        self._messages: deque[tuple[int, int]] = deque()

    def add(self, *, index: int, size: int) -> None:
        """Record an append that ends at `index`. Raises InvariantBroken when the window is full already."""
        if self.is_full():
            raise InvariantBroken("an append was sent into a full window")
        self._messages.append((index, size))
        self.bytes += size

    def free_up_to(self, index: int) -> None:
        """Forget the appends that end at or before `index`."""
        messages = self._messages
        while messages and messages[0][0] <= index:
            self.bytes -= messages.popleft()[1]

    def is_full(self) -> bool:
        """True when no further append may be sent. One append may overshoot the byte limit."""
        return len(self._messages) >= self.max_messages or 0 < self.max_bytes <= self.bytes

    def reset(self) -> None:
        """Forget all."""
        self._messages.clear()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._messages)
