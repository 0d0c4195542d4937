"""Longer and longer pauses between starts of slot processes that fail, so that a broken import does not spin."""

from __future__ import annotations

import asyncio
import random

# The first pause is short, for most failures are one-off; 30 s notices a repaired machine soon enough.
PAUSE_S_MIN = 0.5
PAUSE_S_MAX = 30.0


class StartBackoff:
    """The pause before the next start of one kind of slot."""

    def __init__(self) -> None:
        self.failures = 0

    def failed(self) -> None:
        """Counts a start that came to nothing."""
        self.failures += 1

    def succeeded(self) -> None:
        """A process did its work: the next start needs no pause."""
        self.failures = 0

    def pause_s(self) -> float:
        """How long to wait before the next start; 0 after a success."""
        if self.failures == 0:
            return 0.0
        # The exponent is bounded because 2.0**2000 overflows after a long night of failures.
        pause = min(PAUSE_S_MAX, PAUSE_S_MIN * 2.0 ** min(self.failures - 1, 10))
        return pause * random.uniform(0.75, 1.25)

    async def wait(self) -> None:
        """Sleeps for the pause."""
        await asyncio.sleep(self.pause_s())
