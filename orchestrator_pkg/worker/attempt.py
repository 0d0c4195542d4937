"""One attempt on this worker, from its assignment to its end."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NewType

# (cluster epoch, log index of the placement)
TokenKey = tuple[int, int]
# Task id and token: one entry of the log may place many attempts, which then have the same token.
AttemptKey = tuple[str, TokenKey]
SlotKind = NewType("SlotKind", str)

# How a slot executes: in its own process, or in a clean child of it.
WARM = "warm"
FORK = "fork"

RUN = SlotKind("run")
STEP = SlotKind("step")


class Phase(enum.Enum):
    """How far an attempt is."""

    WAITING = "waiting"  # no slot yet: nothing of it has happened
    STARTING = "starting"  # handed to a slot, whose handler has not begun
    RUNNING = "running"  # foreign code runs
    REPORTING = "reporting"  # its outcome is on the way to the control plane
    SETTLED = "settled"  # its report was answered; the slot writes what follows from the answer
    ENDED = "ended"  # nothing of it is left here


@dataclass(slots=True, kw_only=True, eq=False)
class Attempt:
    """What the agent knows of one attempt. Changed by the slot pool only."""

    task_id: str
    token: TokenKey
    number: int
    kind: SlotKind
    mode: str
    code_key: str
    gpus_needed: int
    # JSON text for the handler.
    payload: str
    # Boot clock, when the assignment arrived.
    received_at_ns: int

    phase: Phase = Phase.WAITING
    # Stopped because the lease ran out.
    is_frozen: bool = False
    # The task was canceled: whatever happens to the slot now is no loss.
    is_canceled: bool = False
    # The token is not valid any more: end without a word.
    is_discarded: bool = False
    # A slot is being replaced for it, because a fork needs a parent that has executed nothing itself.
    awaits_clean_slot: bool = False
    # Why the worker itself ended it, said instead of what the slot's death looked like; empty: it did not.
    stop_reason: str = ""
    # GPU indexes that it holds.
    gpus: tuple[int, ...] = field(default=())

    @property
    def key(self) -> AttemptKey:
        """What tells this attempt from all others."""
        return self.task_id, self.token

    @property
    def has_begun(self) -> bool:
        """True once a slot has it."""
        return self.phase is not Phase.WAITING

    @property
    def needs_no_report(self) -> bool:
        """True when the ledger has ended the attempt already."""
        return self.is_canceled or self.is_discarded
