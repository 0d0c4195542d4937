"""What one applied entry says to its callers: an outcome for each command, and the changes to act upon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from orchestrator_proto import ledger_pb2 as pb


@dataclass(frozen=True, slots=True)
class WorkerOutcome:
    """Of register, drain, lose and forget worker.

    known: the command's worker, in the command's incarnation, is in the books and not lost. After ForgetWorker: still
    there. state: after the command. reason: why the command did nothing; empty when it took effect or repeated one.
    """

    known: bool
    state: pb.WorkerState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SubmitOutcome:
    """One state a task, in order; UNSPECIFIED for a spec that was refused."""

    states: tuple[pb.TaskState, ...]


@dataclass(frozen=True, slots=True)
class PlaceOutcome:
    """One token or None a placement, in order, and beside it "" or the reason of the refusal."""

    tokens: tuple[pb.Token | None, ...]
    refusals: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ReportOutcome:
    """Of finish_task and lose_attempt. accepted: what was reported is what counts, also when it is a repeat."""

    accepted: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class CancelOutcome:
    """Tasks that this command canceled, children included."""

    canceled: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ForgetOutcome:
    """How many tasks the command removed."""

    forgotten: int


@dataclass(frozen=True, slots=True)
class LeaseOutcome:
    """granted: the asker has what it wants. owner: who holds the lease now, or "". token: of the hold, if granted."""

    granted: bool
    owner: str
    token: pb.Token | None = None


Outcome: TypeAlias = (
    WorkerOutcome | SubmitOutcome | PlaceOutcome | ReportOutcome | CancelOutcome | ForgetOutcome | LeaseOutcome
)


@dataclass(frozen=True, slots=True)
class PlacedAttempt:
    """A new valid attempt: work to push to its worker."""

    worker_id: str
    incarnation: int
    task_id: str
    token: pb.Token
    number: int


@dataclass(frozen=True, slots=True)
class EndedAttempt:
    """An attempt that is not valid any more."""

    worker_id: str
    incarnation: int
    task_id: str
    token: pb.Token
    state: pb.AttemptState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Changes:
    """What one entry changed, each id once, in the order of its first change."""

    tasks: tuple[str, ...] = ()
    workers: tuple[str, ...] = ()
    placed: tuple[PlacedAttempt, ...] = ()
    # Lost, canceled and superseded ones: their workers must stop them.
    ended: tuple[EndedAttempt, ...] = ()
    # Those whose result was accepted: nothing to stop.
    finished: tuple[EndedAttempt, ...] = ()
    # Tasks that the entry removed; not in `tasks`.
    forgotten: tuple[str, ...] = ()
    # Tasks of which the entry refused a placement; the planner gives their reservations back.
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Applied:
    """Answer of Ledger.apply(): one outcome a command, in order, and all changes together."""

    outcomes: tuple[Outcome, ...]
    changes: Changes
