"""Short ways to write ledger commands in tests, and a ledger that numbers its entries itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from orchestrator_proto import ledger_pb2 as pb
from raft_service.scheduler.ledger import Ledger
from raft_service.scheduler.outcomes import Applied, Outcome

MINUTE_MS = 60_000


def run_spec(task_id: str = "run/r1", **fields: object) -> pb.TaskSpec:
    """A run task; `fields` are those of TaskSpec."""
    return pb.TaskSpec(task_id=task_id, kind=pb.TASK_KIND_RUN, **fields)  # type: ignore[arg-type]


def step_spec(task_id: str = "step/r1/a/0", **fields: object) -> pb.TaskSpec:
    """A step task without a parent, unless `fields` name one."""
    return pb.TaskSpec(task_id=task_id, kind=pb.TASK_KIND_STEP, **fields)  # type: ignore[arg-type]


def hard(key: str, *values: str) -> pb.LabelConstraint:
    """A label that a worker must have."""
    return pb.LabelConstraint(key=key, values=values)


def soft(key: str, *values: str) -> pb.LabelConstraint:
    """A label that a worker had better have."""
    return pb.LabelConstraint(key=key, values=values, soft=True)


def register(
    worker_id: str = "w1",
    *,
    incarnation: int = 1,
    cloud: str = "aws",
    labels: Mapping[str, str] | None = None,
    pools: Mapping[str, int] | None = None,
    **capacity: int,
) -> pb.Command:
    """A worker with two run slots and two step slots, unless `capacity` (fields of Resources) says otherwise."""
    amounts = {"run_slots": 2, "step_slots": 2, **capacity}
    registration = pb.RegisterWorkerCommand(
        worker_id=worker_id,
        incarnation=incarnation,
        address=f"{worker_id}:8080",
        labels={"cloud": cloud, "worker": worker_id, **(labels or {})},
        capacity=pb.Resources(**amounts, pools=pools or {}),
    )
    return pb.Command(register_worker=registration)


def drain(worker_id: str = "w1", *, undo: bool = False) -> pb.Command:
    """No new attempts, or back into service."""
    return pb.Command(drain_worker=pb.DrainWorkerCommand(worker_id=worker_id, undo=undo))


def lose(worker_id: str = "w1", *, incarnation: int = 1, reason: str = "silent for 15 s") -> pb.Command:
    """The worker's lease ran out."""
    command = pb.LoseWorkerCommand(worker_id=worker_id, incarnation=incarnation, reason=reason)
    return pb.Command(lose_worker=command)


def forget_worker(worker_id: str = "w1") -> pb.Command:
    """Strike a lost worker."""
    return pb.Command(forget_worker=pb.ForgetWorkerCommand(worker_id=worker_id))


def submit(*specs: pb.TaskSpec) -> pb.Command:
    """Queue tasks."""
    return pb.Command(submit_tasks=pb.SubmitTasksCommand(tasks=specs))


def place(*placements: pb.Placement) -> pb.Command:
    """Start attempts."""
    return pb.Command(place_tasks=pb.PlaceTasksCommand(placements=placements))


def on(task_id: str, worker_id: str = "w1", *, incarnation: int = 1) -> pb.Placement:
    """One placement."""
    return pb.Placement(task_id=task_id, worker_id=worker_id, worker_incarnation=incarnation)


def token(index: int, *, epoch: int = 1) -> pb.Token:
    """The token of what entry `index` granted."""
    return pb.Token(epoch=epoch, index=index)


def finish(task_id: str, index: int, *, succeeded: bool = True, payload: bytes = b"", error: str = "") -> pb.Command:
    """A result of the attempt that entry `index` placed."""
    result = pb.TaskResult(succeeded=succeeded, payload=payload, error=error)
    return pb.Command(finish_task=pb.FinishTaskCommand(task_id=task_id, token=token(index), result=result))


def lose_attempt(task_id: str, index: int, *, reason: str = "killed", is_returned: bool = False) -> pb.Command:
    """The death or the return of the attempt that entry `index` placed."""
    command = pb.LoseAttemptCommand(task_id=task_id, token=token(index), reason=reason, is_returned=is_returned)
    return pb.Command(lose_attempt=command)


def cancel(*task_ids: str, reason: str = "asked for") -> pb.Command:
    """End tasks."""
    return pb.Command(cancel_tasks=pb.CancelTasksCommand(task_ids=task_ids, reason=reason))


def forget(*task_ids: str) -> pb.Command:
    """Drop ended tasks."""
    return pb.Command(forget_tasks=pb.ForgetTasksCommand(task_ids=task_ids))


def hold(name: str = "owner/1", owner: str = "cli", *, ttl_ms: int = 15_000) -> pb.Command:
    """Take or renew a lease."""
    return pb.Command(hold_lease=pb.HoldLeaseCommand(name=name, owner=owner, ttl_ms=ttl_ms))


def release(name: str = "owner/1", owner: str = "cli") -> pb.Command:
    """End the hold."""
    return pb.Command(release_lease=pb.ReleaseLeaseCommand(name=name, owner=owner))


def expire(name: str = "owner/1", owner: str = "cli", *, index: int) -> pb.Command:
    """The hold that entry `index` granted ran out."""
    return pb.Command(expire_lease=pb.ExpireLeaseCommand(name=name, owner=owner, token=token(index)))


def entry(commands: Sequence[pb.Command], *, at_ms: int = 0) -> pb.LedgerEntry:
    """One entry of the log."""
    return pb.LedgerEntry(version=1, leader_time_ms=at_ms, commands=commands)


class Book:
    """A ledger with the entries that made it: `book(command, ...)` applies them as the next entry."""

    def __init__(self, *commands: pb.Command) -> None:
        """Applies `commands`, if any, as entry 1."""
        self.ledger = Ledger()
        self.log: list[tuple[int, pb.LedgerEntry]] = []
        self.now_ms = 1_000
        if commands:
            self(*commands)

    def __call__(self, *commands: pb.Command) -> Applied:
        """Applies the commands as one entry, one index and 1 ms after the last."""
        self.now_ms += 1
        index = self.ledger.applied_index + 1
        new = entry(commands, at_ms=self.now_ms)
        self.log.append((index, new))
        return self.ledger.apply(index, new)

    def only(self, command: pb.Command) -> Outcome:
        """Applies one command as an entry of its own and returns its outcome."""
        (outcome,) = self(command).outcomes
        return outcome

    def state(self, task_id: str) -> pb.TaskState:
        """The state of a task; UNSPECIFIED when it is not known."""
        return self.ledger.view(task_id).state

    def bytes(self) -> bytes:
        """The whole ledger in a form that is equal for equal ledgers, without the index applied."""
        snapshot = self.ledger.snapshot()
        snapshot.ClearField("applied_index")
        snapshot.ClearField("leader_time_ms")
        return snapshot.SerializeToString(deterministic=True)
