"""The pool of slots: gives each attempt a process, and keeps the processes alive, warm and clean.

Step slots are started with the worker and replaced when they end. Run slots are started when a run needs one, up to
their number, and then kept. An attempt that finds no free slot waits here: the ledger hands out a place as soon as a
result is committed, a moment before the slot that earned it has cleared up.

Everything runs on one event loop, so nothing here is locked; a method without `await` is atomic.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

from orchestrator_pkg.worker.attempt import FORK, RUN, STEP, Attempt, AttemptKey, Phase, SlotKind, TokenKey
from orchestrator_pkg.worker.metrics import WorkerMetrics
from orchestrator_pkg.worker.seat import Seat, SlotStartFailed
from orchestrator_pkg.worker.shared_deadline import boot_time_ns
from orchestrator_pkg.worker.slot import SlotOptions
from orchestrator_pkg.worker.slot_messages import Finish, FinishAnswer
from orchestrator_pkg.worker.start_backoff import StartBackoff

logger = logging.getLogger(__name__)

# Ended tokens that are remembered, so that a late assignment does not start them again. One that is older than ten
# thousand others was answered by the leader long ago.
ENDED_TOKENS_MAX = 10_000
# How often one task may be handed back from here without counting a loss. The leader may place it here again at once,
# and a task that no slot of ours can execute would go round for ever.
RETURNS_MAX = 3
# Tasks whose returns are counted; the oldest is forgotten.
RETURNED_TASKS_MAX = 1_000


class Reporter(Protocol):
    """Tells the control plane how attempts ended; both calls last until it has answered."""

    async def result(self, attempt: Attempt, finish: Finish) -> FinishAnswer:
        """Reports an outcome."""

    async def loss(self, attempt: Attempt, reason: str, *, is_returned: bool) -> None:
        """Reports an end without outcome."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """Sizes and limits of a pool; times in seconds."""

    run_slots: int
    step_slots: int
    gpus: int
    tasks_max: int
    cancel_grace_s: float


class SlotPool:
    """All slots of one worker."""

    def __init__(
        self, *, slot_options: SlotOptions, options: PoolOptions, reporter: Reporter, metrics: WorkerMetrics
    ) -> None:
        # Attempts that have not ended.
        self.attempts: dict[AttemptKey, Attempt] = {}
        # The last start of a kind that failed, in words; no entry while starts succeed.
        self.start_errors: dict[SlotKind, str] = {}
        self.is_taking = False
        self._slot_options = slot_options
        self._options = options
        self._reporter = reporter
        self._metrics = metrics
        self._sizes = {RUN: options.run_slots, STEP: options.step_slots}
        self._seats: dict[SlotKind, list[Seat]] = {RUN: [], STEP: []}
        self._idle: dict[SlotKind, list[tuple[Seat, asyncio.Future[Attempt]]]] = {RUN: [], STEP: []}
        self._waiting: dict[SlotKind, deque[Attempt]] = {RUN: deque(), STEP: deque()}
        self._backoffs = {RUN: StartBackoff(), STEP: StartBackoff()}
        self._free_gpus = list(range(options.gpus))
        self._ended: OrderedDict[AttemptKey, None] = OrderedDict()
        self._returns: OrderedDict[str, int] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._no_attempts = asyncio.Event()
        self._no_attempts.set()

    # ---------------------------------------------------------------------------------------- life

    def start(self) -> None:
        """Starts the step slots."""
        for _ in range(self._sizes[STEP]):
            self._add_seat(STEP)

    async def stop(self) -> None:
        """Kills all slots and waits for their end. Attempts that run are reported by nobody: hand them over before."""
        tasks = list(self._tasks)
        slots = [seat.slot for seat in self.seats if seat.slot is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Also those whose keeper was cancelled while it waited for their end.
        for slot in slots:
            slot.kill()
            await slot.ended()

    @property
    def seats(self) -> list[Seat]:
        """All places, run slots first."""
        return [*self._seats[RUN], *self._seats[STEP]]

    @property
    def code_keys(self) -> list[str]:
        """Code that some slot has loaded."""
        return sorted({key for seat in self.seats if seat.slot is not None for key in seat.slot.code_keys})

    async def until_empty(self) -> None:
        """Waits until no attempt is left."""
        await self._no_attempts.wait()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_ended)

    def _spawned_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.critical("a slot's keeper failed; this is a defect", exc_info=task.exception())

    def _add_seat(self, kind: SlotKind) -> None:
        seat = Seat(
            kind=kind,
            number=len(self._seats[kind]),
            host=self,
            options=self._slot_options,
            tasks_max=self._options.tasks_max,
        )
        self._seats[kind].append(seat)
        self._spawn(self._keep(seat))

    async def _keep(self, seat: Seat) -> None:
        """Puts one process after the other into the place; a run slot's place is given up when no run waits."""
        backoff = self._backoffs[seat.kind]
        try:
            while True:
                await backoff.wait()
                await self._occupy(seat, backoff)
                if seat.kind == RUN and not self._waiting[RUN]:
                    return
        finally:
            self._seats[seat.kind].remove(seat)

    async def _occupy(self, seat: Seat, backoff: StartBackoff) -> None:
        try:
            end = await seat.occupy()
        except SlotStartFailed as error:
            backoff.failed()
            self._start_failed(seat.kind, str(error))
            return
        finally:
            self._idle[seat.kind] = [entry for entry in self._idle[seat.kind] if entry[0] is not seat]
        if not seat.was_useful:
            backoff.failed()
        logger.info("%s slot %d is replaced: %s", seat.kind, seat.number, end)
        self._metrics.slots_replaced.labels(kind=seat.kind).inc()

    def _start_failed(self, kind: SlotKind, error: str) -> None:
        logger.error("a %s %s", kind, error)
        self.start_errors[kind] = error
        self._metrics.slot_starts_failed.labels(kind=kind).inc()
        # Another slot of the kind that works takes what waits; without one waiting would be for nothing.
        if not any(seat.is_ready for seat in self._seats[kind]):
            for attempt in list(self._waiting[kind]):
                self._waiting[kind].remove(attempt)
                self.report_loss(attempt, error, is_returned=False)

    # ---------------------------------------------------------------------------------------- work in

    def accept(self, attempt: Attempt) -> bool:
        """Queues a new attempt; False when it is known already (the control plane repeats itself)."""
        if attempt.key in self.attempts or attempt.key in self._ended:
            return False
        self.attempts[attempt.key] = attempt
        self._no_attempts.clear()
        self._waiting[attempt.kind].append(attempt)
        self._dispatch(attempt.kind)
        return True

    def set_taking(self, *, is_taking: bool) -> None:
        """Lets waiting attempts start, or not."""
        self.is_taking = is_taking
        for kind in (RUN, STEP):
            self._dispatch(kind)

    def return_waiting(self, reason: str) -> None:
        """Hands back all attempts that have not begun."""
        for queue in self._waiting.values():
            while queue:
                self.report_loss(queue.popleft(), reason, is_returned=True)

    def stop_running(self, reason: str) -> None:
        """Kills what runs, reported lost for this reason: the worker ends."""
        for seat in self.seats:
            seat.stop(reason)

    def _dispatch(self, kind: SlotKind) -> None:
        """Gives waiting attempts to idle slots, and starts run slots as far as that is not enough."""
        queue, idle = self._waiting[kind], self._idle[kind]
        for attempt in list(queue) if self.is_taking else ():
            best = _best_seat(idle, attempt)
            if best is None or attempt.gpus_needed > len(self._free_gpus):
                continue
            queue.remove(attempt)
            attempt.gpus = tuple(self._free_gpus[: attempt.gpus_needed])
            del self._free_gpus[: attempt.gpus_needed]
            seat, work = idle.pop(best)
            seat.give(attempt)
            work.set_result(attempt)
        if kind == RUN and self.is_taking:
            starting = sum(not seat.is_ready for seat in self._seats[RUN])
            room = self._sizes[RUN] - len(self._seats[RUN])
            for _ in range(min(len(queue) - starting, room)):
                self._add_seat(RUN)

    # ---------------------------------------------------------------------------------------- what seats ask for

    def wait_for_work(self, seat: Seat) -> asyncio.Future[Attempt]:
        """Enters an idle seat. A process that has done a task works, so starts need no pause any more."""
        if seat.slot is not None and seat.slot.tasks_done:
            self._backoffs[seat.kind].succeeded()
        self.start_errors.pop(seat.kind, None)
        work: asyncio.Future[Attempt] = asyncio.get_running_loop().create_future()
        self._idle[seat.kind].append((seat, work))
        self._dispatch(seat.kind)
        return work

    def take_back(self, attempt: Attempt) -> None:
        """Queues an attempt again whose process ended before it was told."""
        self._release_gpus(attempt)
        if attempt.needs_no_report:
            self._end(attempt, "ended by order")
        else:
            attempt.phase = Phase.WAITING
            attempt.is_frozen = False
            self._waiting[attempt.kind].appendleft(attempt)
            self._dispatch(attempt.kind)

    def started(self, attempt: Attempt) -> None:
        """Measures how long the attempt took to start."""
        self._metrics.start_seconds.labels(kind=attempt.kind).observe((boot_time_ns() - attempt.received_at_ns) / 1e9)

    async def report_result(self, attempt: Attempt, finish: Finish) -> FinishAnswer:
        """Reports an outcome; lasts until the control plane has answered."""
        answer = await self._reporter.result(attempt, finish)
        outcome = "refused" if not answer.accepted else "succeeded" if finish.succeeded else "failed"
        self._metrics.attempts_ended.labels(kind=attempt.kind, outcome=outcome).inc()
        return answer

    def report_loss(self, attempt: Attempt, reason: str, *, is_returned: bool) -> None:
        """Reports an end without outcome in the background, unless the ledger has ended the attempt already."""
        if attempt.needs_no_report:
            self._end(attempt, "canceled" if attempt.is_canceled else "discarded")
            return
        is_returned = is_returned and self._may_return(attempt.task_id)
        logger.warning("%s %s: %s", attempt.task_id, "is handed back" if is_returned else "is lost", reason)
        attempt.phase = Phase.REPORTING
        self._spawn(self._report_loss(attempt, reason, is_returned=is_returned))

    def _may_return(self, task_id: str) -> bool:
        """Counts a return; False when the task came back too often."""
        count = self._returns.pop(task_id, 0) + 1
        self._returns[task_id] = count
        if len(self._returns) > RETURNED_TASKS_MAX:
            self._returns.popitem(last=False)
        return count <= RETURNS_MAX

    async def _report_loss(self, attempt: Attempt, reason: str, *, is_returned: bool) -> None:
        await self._reporter.loss(attempt, reason, is_returned=is_returned)
        self._end(attempt, "returned" if is_returned else "lost")

    def left(self, attempt: Attempt) -> None:
        """The slot is done with the attempt: its GPUs are free, and nothing more will come of it."""
        self._release_gpus(attempt)
        if attempt.phase is Phase.SETTLED or attempt.needs_no_report:
            self._end(attempt, "" if attempt.phase is Phase.SETTLED else "ended by order")

    def _release_gpus(self, attempt: Attempt) -> None:
        if attempt.gpus:
            self._free_gpus = sorted([*self._free_gpus, *attempt.gpus])
            attempt.gpus = ()
            self._dispatch(STEP)

    def _end(self, attempt: Attempt, outcome: str) -> None:
        if attempt.phase is Phase.ENDED:
            return
        attempt.phase = Phase.ENDED
        if outcome:
            self._metrics.attempts_ended.labels(kind=attempt.kind, outcome=outcome).inc()
        self.attempts.pop(attempt.key, None)
        self._ended[attempt.key] = None
        if len(self._ended) > ENDED_TOKENS_MAX:
            self._ended.popitem(last=False)
        if not self.attempts:
            self._no_attempts.set()

    # ---------------------------------------------------------------------------------------- orders

    def cancel(self, key: AttemptKey, reason: str) -> None:
        """Ends an attempt whose task was canceled: SIGINT, after the grace SIGKILL; nothing is reported."""
        attempt = self._orderable(key)
        if attempt is None:
            return
        logger.info("%s is canceled: %s", attempt.task_id, reason)
        seat = self._seat_of(attempt)
        if seat is not None:
            seat.cancel(grace_s=self._options.cancel_grace_s)
        else:
            self._drop_waiting(attempt, "canceled")

    def discard(self, key: AttemptKey, reason: str) -> None:
        """Kills an attempt whose token is not valid any more; nothing is reported."""
        attempt = self._orderable(key)
        if attempt is None:
            return
        logger.warning("%s is discarded: %s", attempt.task_id, reason)
        seat = self._seat_of(attempt)
        if seat is not None:
            seat.discard()
        else:
            self._drop_waiting(attempt, "discarded")

    def discard_all(self, reason: str) -> None:
        """Kills all attempts that orders may end: this worker was declared lost."""
        for key in list(self.attempts):
            self.discard(key, reason)

    def _orderable(self, key: AttemptKey) -> Attempt | None:
        """The attempt, unless its report decides alone: an order may be older than the result that it overtakes."""
        attempt = self.attempts.get(key)
        if attempt is None or attempt.phase in (Phase.REPORTING, Phase.SETTLED):
            return None
        return attempt

    def _seat_of(self, attempt: Attempt) -> Seat | None:
        return next((seat for seat in self._seats[attempt.kind] if seat.attempt is attempt), None)

    def _drop_waiting(self, attempt: Attempt, outcome: str) -> None:
        if attempt in self._waiting[attempt.kind]:
            self._waiting[attempt.kind].remove(attempt)
        self._end(attempt, outcome)

    # ---------------------------------------------------------------------------------------- lease

    def freeze(self) -> None:
        """Stops every slot that has an attempt: the lease is about to end."""
        self.set_taking(is_taking=False)
        for seat in self.seats:
            seat.freeze()

    def go_on(self, *, asked: set[TokenKey], allowed: set[TokenKey]) -> None:
        """The lease was renewed: of the frozen attempts those `allowed` go on and the others that were `asked` die."""
        for seat in self.seats:
            attempt = seat.attempt
            if attempt is None or not attempt.is_frozen:
                continue
            if attempt.phase is Phase.SETTLED or attempt.token in allowed:
                seat.thaw()
            elif attempt.token in asked:
                self.discard(attempt.key, "it was frozen and may not go on")
        self.set_taking(is_taking=True)


def _best_seat(idle: list[tuple[Seat, asyncio.Future[Attempt]]], attempt: Attempt) -> int | None:
    """Index of the idle seat that suits the attempt best; None: it has to wait.

    Best is a slot that has the attempt's code loaded, or a clean one for a fork; otherwise the one used last, whose
    caches are warm.
    """
    for index in reversed(range(len(idle))):
        slot = idle[index][0].slot
        if slot is None:
            continue
        if slot.is_clean if attempt.mode == FORK else bool(attempt.code_key) and attempt.code_key in slot.code_keys:
            return index
    return len(idle) - 1 if idle and not attempt.awaits_clean_slot else None
