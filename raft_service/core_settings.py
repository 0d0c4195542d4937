"""From a node's settings, in milliseconds, to the core's, in ticks."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

from raft_service.config import NodeSettings
from raft_service.raft.config import Config
from raft_service.ticker import Ticker

log = logging.getLogger(__name__)


def make_ticker(settings: NodeSettings, *, on_tick: Callable[[], None]) -> Ticker:
    """The clock of the core. A process that is late by an election timeout was paused, not surrounded by silence."""
    return Ticker(
        tick_s=settings.tick_ms / 1000,
        stall_s=settings.election_timeout_min_ms / 1000,
        backlog_max=max(1, settings.election_timeout_min_ms // settings.tick_ms // 2),
        on_tick=on_tick,
    )


def core_config(settings: NodeSettings, *, applied: int, rng: random.Random) -> Config:
    """The core draws timeouts of election_tick + randrange(election_tick); ours spread over the configured range."""
    tick_ms = settings.tick_ms
    heartbeat_tick = max(1, settings.heartbeat_ms // tick_ms)
    election_tick = max(heartbeat_tick + 1, settings.election_timeout_min_ms // tick_ms)
    spread = max(1, settings.election_timeout_max_ms // tick_ms - election_tick)
    return Config(
        id=settings.me.node_id,
        election_tick=election_tick,
        heartbeat_tick=heartbeat_tick,
        randrange=lambda _: rng.randrange(spread),
        disable_proposal_forwarding=True,
        applied=applied,
        trace=lambda line: log.debug("%s", line),
    )
