"""How long this worker may act: pure arithmetic on the send time of the last acknowledged heartbeat.

The leader lets a lease run from the moment it *received* a heartbeat; the worker counts from the moment it *sent* it,
which is earlier. So whatever the network did in between, the worker stops before the leader may hand its work to
somebody else. Three things happen as a lease ages, in this order:

    sent            2/3 of the lease           a little before the end      end
     |  take and run work  |  run, take nothing new  |  frozen (SIGSTOP)     |  the leader may place it again

Taking no new work early leaves room for a few failed heartbeats without starting what must be frozen at once. Freezing
saves work, it is no fence: the fence is the token that every result carries. All times are nanoseconds of one clock
that the caller reads (CLOCK_BOOTTIME, which runs on while a machine sleeps).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

NS_PER_MS = 1_000_000
# One third of the lease is one missed heartbeat at the default of three misses.
TAKING_SHARE = 2 / 3
# Stopping a process group takes microseconds, but a busy event loop may be late; a tenth of the lease, at most 1 s.
FREEZE_MARGIN_SHARE = 0.1
FREEZE_MARGIN_NS_MAX = 1_000 * NS_PER_MS


class LeaseState(enum.Enum):
    """What the worker may do now."""

    NONE = "none"  # never acknowledged: take nothing
    HELD = "held"  # take and run work
    ENDING = "ending"  # run what is there, take nothing new
    OVER = "over"  # freeze what runs


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Ends of the three periods of one lease, in ns."""

    taking_ns: int
    freeze_ns: int
    end_ns: int


def deadlines(*, sent_at_ns: int, lease_ms: int) -> Deadlines:
    """Deadlines of a lease of `lease_ms` whose heartbeat was sent at `sent_at_ns`."""
    lease_ns = lease_ms * NS_PER_MS
    margin_ns = min(int(lease_ns * FREEZE_MARGIN_SHARE), FREEZE_MARGIN_NS_MAX)
    return Deadlines(
        taking_ns=sent_at_ns + int(lease_ns * TAKING_SHARE),
        freeze_ns=sent_at_ns + lease_ns - margin_ns,
        end_ns=sent_at_ns + lease_ns,
    )


class Lease:
    """The lease of one worker incarnation. Knows no clock: every question carries the time."""

    def __init__(self) -> None:
        self._sent_at_ns: int | None = None
        self._deadlines: Deadlines | None = None

    def acknowledged(self, *, sent_at_ns: int, lease_ms: int) -> bool:
        """Counts an acknowledged heartbeat or registration; False when a later one was counted before."""
        if self._sent_at_ns is not None and sent_at_ns < self._sent_at_ns:
            return False
        self._sent_at_ns = sent_at_ns
        self._deadlines = deadlines(sent_at_ns=sent_at_ns, lease_ms=lease_ms)
        return True

    def lost(self) -> None:
        """Forgets the lease: the leader does not know this incarnation any more."""
        self._sent_at_ns = None
        self._deadlines = None

    @property
    def deadlines(self) -> Deadlines | None:
        """The present deadlines; None before the first acknowledgement."""
        return self._deadlines

    def state(self, now_ns: int) -> LeaseState:
        """What may be done at `now_ns`."""
        if self._deadlines is None:
            return LeaseState.NONE
        if now_ns < self._deadlines.taking_ns:
            return LeaseState.HELD
        if now_ns < self._deadlines.freeze_ns:
            return LeaseState.ENDING
        return LeaseState.OVER

    def next_change_ns(self, now_ns: int) -> int | None:
        """When `state` will change without another acknowledgement; None: never."""
        state = self.state(now_ns)
        if self._deadlines is None or state is LeaseState.OVER:
            return None
        return self._deadlines.taking_ns if state is LeaseState.HELD else self._deadlines.freeze_ns

    def age_ns(self, now_ns: int) -> int | None:
        """Time since the last acknowledged heartbeat was sent; None: there was none."""
        return None if self._sent_at_ns is None else now_ns - self._sent_at_ns
