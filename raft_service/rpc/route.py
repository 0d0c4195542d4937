"""Which node a client talks to next: the leader it was told of, or the next of its list, with growing pauses."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from raft_service.rpc.errors import ControlPlaneUnavailable

# First pause after all nodes were tried once. Much below an election, so that the new leader is found soon.
PAUSE_MIN_S = 0.02
# Tries with the first pause before it grows: as long as elections usually take.
QUICK_TRIES = 20
# Longest pause: bounds what hundreds of clients do to a control plane that is down, and the delay once it is back.
PAUSE_MAX_S = 0.5
# Growth of the pause from one try to the next.
PAUSE_FACTOR = 1.6
# How long an address that broke or refused is passed over, also when others still call it the leader: they may not
# know yet that it died.
SUSPECT_S = 0.5


class Route:
    """The address to use now. Each connection of a client has a route of its own."""

    def __init__(self, endpoints: Sequence[str]) -> None:
        """Begins at the first endpoint.

        Raises:
            ControlPlaneUnavailable: there is none.
        """
        if not endpoints:
            raise ControlPlaneUnavailable("No address of a control plane is given; set ORCHESTRATOR_ADDR=host:port.")
        self.endpoints = tuple(endpoints)
        self.address = self.endpoints[0]
        # What went wrong last, for people.
        self.problem = ""
        self._tries = 0
        # When an address failed otherwise than by not leading, on the monotonic clock.
        self._failed_at: dict[str, float] = {}

    def succeeded(self) -> None:
        """The address answered as a leader."""
        self._tries = 0

    def failed(self, problem: str, *, is_redirected: bool = False, leader: str = "") -> float:
        """The address did not serve. Moves to the leader if one was named, otherwise to the next endpoint.

        Args:
            problem: for people.
            is_redirected: it answered, but does not lead.
            leader: who does, host:port, as far as it knows.

        Returns:
            How long to pause before the next try, in s: zero until every node had its turn, then growing, with jitter.
        """
        self.problem = f"{self.address}: {problem}"
        if not is_redirected:
            self._failed_at[self.address] = time.monotonic()
        if leader and leader != self.address and not self._is_suspect(leader):
            self.address = leader
        else:
            self.address = self._next()
        self._tries += 1
        rounds = self._tries - len(self.endpoints)
        if rounds < 0:
            return 0.0
        growth = PAUSE_FACTOR ** min(max(0, rounds - QUICK_TRIES), QUICK_TRIES)
        return min(PAUSE_MAX_S, PAUSE_MIN_S * growth) * random.uniform(0.5, 1.0)

    def _is_suspect(self, address: str) -> bool:
        failed_at = self._failed_at.get(address)
        return failed_at is not None and time.monotonic() - failed_at < SUSPECT_S

    def _next(self) -> str:
        """The endpoint after the present one, passing over suspects while there are others."""
        place = self.endpoints.index(self.address) if self.address in self.endpoints else -1
        after = [self.endpoints[(place + step) % len(self.endpoints)] for step in range(1, len(self.endpoints) + 1)]
        return next((endpoint for endpoint in after if not self._is_suspect(endpoint)), after[0])
