"""The ledger's record of one task and its attempts."""

from __future__ import annotations

from dataclasses import dataclass, field

from orchestrator_proto import ledger_pb2 as pb

from .demand import Demand, demand_of

ENDED_STATES = frozenset({pb.TASK_STATE_SUCCEEDED, pb.TASK_STATE_FAILED, pb.TASK_STATE_CANCELED})
TASK_STATES = (pb.TASK_STATE_QUEUED, pb.TASK_STATE_PLACED, *sorted(ENDED_STATES))

# Losses that a task may suffer when it does not say; three machines in a row are more likely the task's fault.
INFRA_LOSSES_MAX_DEFAULT = 3


@dataclass(slots=True)
class Task:
    """A task from its submit until it is forgotten. Changed by apply only; others read."""

    spec: pb.TaskSpec
    submitted_at_ms: int
    # Orders tasks by their submit: log index and place within the entry.
    arrival: int
    state: pb.TaskState = pb.TASK_STATE_QUEUED
    # Oldest first.
    attempts: list[pb.Attempt] = field(default_factory=list)
    # Only when SUCCEEDED or FAILED.
    result: pb.TaskResult | None = None
    infra_losses: int = 0
    # Leader time of its end; zero before.
    ended_at_ms: int = 0
    # Log index of its last change.
    changed_index: int = 0
    # Derived from spec.
    demand: Demand = field(init=False)

    def __post_init__(self) -> None:
        self.demand = demand_of(self.spec)

    @property
    def task_id(self) -> str:
        """Its id, chosen by the submitter."""
        return self.spec.task_id

    @property
    def is_ended(self) -> bool:
        """True once it has a result or was canceled."""
        return self.state in ENDED_STATES

    @property
    def infra_losses_max(self) -> int:
        """Losses that it survives; one more fails it."""
        return self.spec.infra_losses_max or INFRA_LOSSES_MAX_DEFAULT

    def valid_attempts(self) -> list[pb.Attempt]:
        """Attempts whose token is valid, oldest first."""
        return [attempt for attempt in self.attempts if attempt.state == pb.ATTEMPT_STATE_PLACED]

    def find_attempt(self, token: pb.Token) -> pb.Attempt | None:
        """The attempt with this token, or None."""
        for attempt in reversed(self.attempts):
            if attempt.token == token:
                return attempt
        return None

    def to_record(self) -> pb.TaskRecord:
        """The record for a snapshot."""
        return pb.TaskRecord(
            spec=self.spec,
            state=self.state,
            attempts=self.attempts,
            result=self.result,
            infra_losses=self.infra_losses,
            submitted_at_ms=self.submitted_at_ms,
            ended_at_ms=self.ended_at_ms,
            changed_index=self.changed_index,
            arrival=self.arrival,
        )

    @classmethod
    def from_record(cls, record: pb.TaskRecord) -> Task:
        """A task from a snapshot. Copies, for a part of a message keeps the whole message in memory."""
        spec = pb.TaskSpec()
        spec.CopyFrom(record.spec)
        return cls(
            spec=spec,
            submitted_at_ms=record.submitted_at_ms,
            arrival=record.arrival,
            state=record.state,
            attempts=[_copy_of(attempt) for attempt in record.attempts],
            result=_result_of(record),
            infra_losses=record.infra_losses,
            ended_at_ms=record.ended_at_ms,
            changed_index=record.changed_index,
        )

    def to_view(self, *, with_payload: bool) -> pb.TaskView:
        """The task as clients see it; payloads of spec and result only when asked for."""
        view = pb.TaskView(
            spec=self.spec,
            state=self.state,
            attempts=self.attempts,
            result=self.result,
            infra_losses=self.infra_losses,
            submitted_at_ms=self.submitted_at_ms,
            ended_at_ms=self.ended_at_ms,
            changed_index=self.changed_index,
        )
        if not with_payload:
            view.spec.ClearField("payload")
            if self.result is not None:
                view.result.ClearField("payload")
        return view


def _copy_of(attempt: pb.Attempt) -> pb.Attempt:
    copy = pb.Attempt()
    copy.CopyFrom(attempt)
    return copy


def _result_of(record: pb.TaskRecord) -> pb.TaskResult | None:
    if not record.HasField("result"):
        return None
    result = pb.TaskResult()
    result.CopyFrom(record.result)
    return result


def state_name(state: pb.TaskState) -> str:
    """The state in lower case, such as "queued"."""
    return pb.TaskState.Name(state).removeprefix("TASK_STATE_").lower()


def attempt_state_name(state: pb.AttemptState) -> str:
    """The state in lower case, such as "superseded"."""
    return pb.AttemptState.Name(state).removeprefix("ATTEMPT_STATE_").lower()
