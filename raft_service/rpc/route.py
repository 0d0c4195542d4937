"""Which node a client talks to next: the leader it was told of, or the next of its list, with growing pauses."""

from __future__ import annotations

import random
from collections.abc import Sequence

from raft_service.rpc.errors import ControlPlaneUnavailable

# First pause after all nodes were tried once. Much below an election, so that the new leader is found soon.
PAUSE_MIN_S = 0.02
# Longest pause: bounds what hundreds of clients do to a control plane that is down, and the delay once it is back.
PAUSE_MAX_S = 0.5
# Growth of the pause from one try to the next.
PAUSE_FACTOR = 1.6


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
        self._position = 0
        self._tries = 0

    def succeeded(self) -> None:
        """The address answered as a leader."""
        self._tries = 0

    def failed(self, problem: str, *, leader: str = "") -> float:
        """The address did not serve. Moves to the leader if one was named, otherwise to the next endpoint.

        Returns:
            How long to pause before the next try, in s: zero until every node had its turn, then growing, with jitter.
        """
        self.problem = f"{self.address}: {problem}"
        if leader and leader != self.address:
            self.address = leader
        else:
            self._position = (self._position + 1) % len(self.endpoints)
            self.address = self.endpoints[self._position]
        self._tries += 1
        rounds = self._tries - len(self.endpoints)
        if rounds < 0:
            return 0.0
        pause_s = min(PAUSE_MAX_S, PAUSE_MIN_S * PAUSE_FACTOR ** min(rounds, 20))
        return pause_s * random.uniform(0.5, 1.0)
