"""The end of the worker's lease in memory that the agent writes and every slot reads.

Eight bytes in an anonymous file that the slots inherit. A slot asks before each event it stores, so the question must
cost nothing and need no answer from an agent that may itself be stopped. CLOCK_BOOTTIME goes on while a machine sleeps,
so a laptop that wakes up after an hour finds its lease over.
"""

from __future__ import annotations

import mmap
import os
import time

SIZE_BYTES = 8


def boot_time_ns() -> int:
    """Nanoseconds since boot, sleep included: the clock of all leases on this machine."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class SharedDeadline:
    """One deadline in ns of the boot clock; zero: no lease."""

    def __init__(self, fd: int) -> None:
        """Maps the file `fd`, which `create` made; the caller keeps the descriptor."""
        self.fd = fd
        self._map = mmap.mmap(fd, SIZE_BYTES)
        # A cast view stores one whole machine word, so that a reader never sees half of a new deadline.
        self._word = memoryview(self._map).cast("q")

    @classmethod
    def create(cls) -> SharedDeadline:
        """A new deadline, zero, in a file that exists in memory only and that children may inherit."""
        fd = os.memfd_create("lease", os.MFD_CLOEXEC)
        os.ftruncate(fd, SIZE_BYTES)
        return cls(fd)

    def write(self, deadline_ns: int) -> None:
        """Moves the deadline, at once for all slots."""
        self._word[0] = deadline_ns

    def read(self) -> int:
        """The deadline now."""
        return self._word[0]

    def is_over(self) -> bool:
        """True when the lease has ended or was never given."""
        return boot_time_ns() >= self._word[0]

    def close(self) -> None:
        """Unmaps the memory and closes the descriptor."""
        self._word.release()
        self._map.close()
        os.close(self.fd)
