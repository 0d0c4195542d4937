"""One entry while it is being applied: its index, its time, and the changes gathered on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from orchestrator_proto import ledger_pb2 as pb

from .books import Books
from .outcomes import Changes, EndedAttempt, Outcome, PlacedAttempt
from .task import Task
from .worker import Worker

# Bits of `arrival` that number the tasks of one entry. A million of the smallest specs would not fit in an entry.
_ARRIVAL_PLACE_BITS = 20


class Stage:
    """What the handlers work on. Lives for one entry."""

    def __init__(self, books: Books, index: int, now_ms: int) -> None:
        """Begins the entry at `index`, at leader time `now_ms`."""
        self.books = books
        self.index = index
        self.now_ms = now_ms
        self._submits = 0
        # Dictionaries serve as sets that keep their order.
        self._tasks: dict[str, None] = {}
        self._workers: dict[str, None] = {}
        self._placed: list[PlacedAttempt] = []
        self._ended: list[EndedAttempt] = []
        self._finished: list[EndedAttempt] = []
        self._forgotten: dict[str, None] = {}
        self._refused: dict[str, None] = {}

    def token(self) -> pb.Token:
        """The token of everything that this entry grants."""
        return pb.Token(epoch=self.books.epoch, index=self.index)

    def next_arrival(self) -> int:
        """The arrival number of the entry's next task."""
        place = min(self._submits, (1 << _ARRIVAL_PLACE_BITS) - 1)
        self._submits += 1
        return (self.index << _ARRIVAL_PLACE_BITS) | place

    def touch_task(self, task: Task) -> None:
        """Notes that a task changed."""
        task.changed_index = self.index
        self._tasks[task.task_id] = None

    def touch_worker(self, worker_id: str) -> None:
        """Notes that a worker's record changed or went."""
        self._workers[worker_id] = None

    def note_placed(self, task: Task, attempt: pb.Attempt) -> None:
        """Notes a new valid attempt."""
        self._placed.append(
            PlacedAttempt(
                worker_id=attempt.worker_id,
                incarnation=attempt.worker_incarnation,
                task_id=task.task_id,
                token=attempt.token,
                number=attempt.number,
            )
        )

    def note_ended(self, task: Task, attempt: pb.Attempt) -> None:
        """Notes that an attempt is not valid any more."""
        ended = EndedAttempt(
            worker_id=attempt.worker_id,
            incarnation=attempt.worker_incarnation,
            task_id=task.task_id,
            token=attempt.token,
            state=attempt.state,
            reason=attempt.reason,
        )
        (self._finished if attempt.state == pb.ATTEMPT_STATE_FINISHED else self._ended).append(ended)

    def note_forgotten(self, task_id: str) -> None:
        """Notes that a task was removed."""
        self._tasks.pop(task_id, None)
        self._forgotten[task_id] = None

    def note_refused(self, task_id: str) -> None:
        """Notes that a placement of a task was refused."""
        self._refused[task_id] = None

    def worker_of(self, attempt: pb.Attempt) -> Worker:
        """The worker that a valid attempt is on."""
        return self.books.workers[attempt.worker_id]

    def changes(self) -> Changes:
        """All that was noted."""
        return Changes(
            tasks=tuple(self._tasks),
            workers=tuple(self._workers),
            placed=tuple(self._placed),
            ended=tuple(self._ended),
            finished=tuple(self._finished),
            forgotten=tuple(self._forgotten),
            refused=tuple(self._refused),
        )


# Applies one kind of command; the second argument is that kind's message.
Handler: TypeAlias = Callable[[Stage, Any], Outcome]
