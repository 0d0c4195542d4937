"""One place for a slot: keeps a process in it and takes attempts through that process, one at a time."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from orchestrator_pkg.worker.attempt import FORK, Attempt, Phase, SlotKind
from orchestrator_pkg.worker.slot import Slot, SlotOptions
from orchestrator_pkg.worker.slot_messages import (
    Assign,
    Done,
    Finish,
    FinishAnswer,
    GiveBack,
    SlotProtocolError,
    SlotReady,
    Started,
    StartFailed,
)

logger = logging.getLogger(__name__)

# After the answer to its result a slot only tears down the step's resources and tidies up, which takes seconds at most;
# a slot that hangs there holds a place which the ledger counts as free, so it is replaced. Nothing is lost: the
# orchestrator publishes and stores the outcome from the ledger.
SETTLED_S_MAX = 120.0
# A process whose socket has closed is about to end by itself; waiting for it keeps the true cause of its death.
END_S_MAX = 1.0


class SlotStartFailed(Exception):
    """The process ended before it was ready; the message is the last line of its error."""


class SeatHost(Protocol):
    """What a seat needs from its pool."""

    def wait_for_work(self, seat: Seat) -> asyncio.Future[Attempt]:
        """The seat is idle: answers with its next attempt some time."""

    def take_back(self, attempt: Attempt) -> None:
        """The attempt that the seat was given has not begun; queue it again, in front."""

    def started(self, attempt: Attempt) -> None:
        """The handler begins."""

    async def report_result(self, attempt: Attempt, finish: Finish) -> FinishAnswer:
        """Reports until the control plane has answered."""

    def report_loss(self, attempt: Attempt, reason: str, *, is_returned: bool) -> None:
        """The attempt ended without a result; reports it in the background."""

    def left(self, attempt: Attempt) -> None:
        """The slot has nothing to do with the attempt any more."""


class Seat:
    """One place of a pool."""

    def __init__(self, *, kind: SlotKind, number: int, host: SeatHost, options: SlotOptions, tasks_max: int) -> None:
        self.kind = kind
        self.number = number
        self.slot: Slot | None = None
        self.attempt: Attempt | None = None
        # True from the process's SlotReady on.
        self.is_ready = False
        # True when the last process did at least one task.
        self.was_useful = False
        self._host = host
        self._options = options
        self._tasks_max = tasks_max
        self._kill_timer: asyncio.TimerHandle | None = None

    async def occupy(self) -> str:
        """One process's life, from its start until it died or must be replaced; tells why it ended.

        Raises:
            SlotStartFailed: it was never ready.
        """
        try:
            slot = self.slot = await Slot.start(kind=self.kind, options=self._options)
        except OSError as error:
            raise SlotStartFailed(f"slot cannot be started: {error}") from None
        try:
            await self._until_ready(slot)
            return await self._serve(slot)
        finally:
            self.is_ready = False
            self.was_useful = slot.tasks_done > 0
            slot.kill()
            await slot.ended()
            self.slot = None

    async def _until_ready(self, slot: Slot) -> None:
        message = await slot.receive()
        if isinstance(message, StartFailed):
            raise SlotStartFailed(message.error)
        if not isinstance(message, SlotReady):
            raise SlotStartFailed(f"slot did not start: {await _end_of(slot)}")
        self.is_ready = True

    async def _serve(self, slot: Slot) -> str:
        while True:
            attempt = await self._next_attempt(slot)
            if attempt is None:
                return await slot.ended()
            if attempt.mode == FORK and not slot.is_clean:
                self.attempt = None
                attempt.awaits_clean_slot = True
                self._host.take_back(attempt)
                return "a fork needs a clean parent"
            end = await self._execute(slot, attempt)
            if end:
                return end
            if self._tasks_max and slot.tasks_done >= self._tasks_max:
                return f"it has done WORKER_SLOT_TASKS_MAX={self._tasks_max} tasks"

    async def _next_attempt(self, slot: Slot) -> Attempt | None:
        """The next attempt; None when the process ended while it was idle."""
        work = self._host.wait_for_work(self)
        exited = asyncio.ensure_future(slot.exited.wait())
        try:
            waited: set[asyncio.Future[Any]] = {work, exited}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        finally:
            exited.cancel()
            is_given = work.done()
            work.cancel()
        if not is_given:
            return None
        if slot.exited.is_set():
            self.attempt = None
            self._host.take_back(work.result())
            return None
        return work.result()

    async def _execute(self, slot: Slot, attempt: Attempt) -> str:
        """Takes one attempt through the process; why the process must be replaced, or ""."""
        slot.tasks_done += 1
        slot.is_clean = slot.is_clean and attempt.mode == FORK
        try:
            await slot.send(_assign(attempt))
            return await self._follow(slot, attempt)
        except SlotProtocolError as error:
            self._lost(attempt, f"its payload cannot be handed to a slot: {error}")
            return "it was not given its task"
        finally:
            self.attempt = None
            self._stop_timer()
            self._host.left(attempt)

    async def _follow(self, slot: Slot, attempt: Attempt) -> str:
        while True:
            message = await slot.receive()
            if isinstance(message, Started):
                self._begin(slot, attempt)
            elif isinstance(message, Finish):
                await self._finish(slot, attempt, message)
            elif isinstance(message, GiveBack):
                self._lost(attempt, message.reason, is_returned=True)
            elif isinstance(message, Done):
                return self._done(slot, attempt, message)
            else:
                end = await _end_of(slot)
                self._lost(attempt, end)
                return end

    def _begin(self, slot: Slot, attempt: Attempt) -> None:
        if attempt.phase is Phase.STARTING:
            attempt.phase = Phase.RUNNING
        self._host.started(attempt)
        if attempt.is_canceled:
            slot.interrupt()

    async def _finish(self, slot: Slot, attempt: Attempt, finish: Finish) -> None:
        if attempt.phase is not Phase.RUNNING:
            await slot.send(FinishAnswer(accepted=False, reason="the attempt has ended already"))
            return
        attempt.phase = Phase.REPORTING
        answer = await self._host.report_result(attempt, finish)
        attempt.phase = Phase.SETTLED
        # A canceled attempt has its shorter grace already.
        if not attempt.is_canceled:
            self._kill_after(SETTLED_S_MAX, slot)
        await slot.send(answer)

    def _done(self, slot: Slot, attempt: Attempt, done: Done) -> str:
        slot.memory_bytes = done.memory_bytes
        if attempt.code_key and attempt.mode != FORK:
            slot.code_keys.add(attempt.code_key)
        if done.restored:
            logger.debug("slot %d put back after %s: %s", slot.pid, attempt.task_id, ", ".join(done.restored))
        self._lost(attempt, done.error or "its handler returned without a result")
        return done.recycle

    def _lost(self, attempt: Attempt, reason: str, *, is_returned: bool = False) -> None:
        """Reports a loss unless a report is on its way, was answered, or is not wanted."""
        if attempt.phase in (Phase.STARTING, Phase.RUNNING):
            self._host.report_loss(attempt, attempt.stop_reason or reason, is_returned=is_returned)

    def give(self, attempt: Attempt) -> None:
        """Notes the next attempt, before the process is told: from here on orders find it here."""
        self.attempt = attempt
        attempt.phase = Phase.STARTING

    def cancel(self, *, grace_s: float) -> None:
        """Interrupts the attempt at hand, and kills its process when that does not help within `grace_s`."""
        if self.slot is None or self.attempt is None or self.attempt.is_canceled:
            return
        self.attempt.is_canceled = True
        self.thaw()
        self._kill_after(grace_s, self.slot)
        if self.attempt.phase is Phase.RUNNING:
            self.slot.interrupt()

    def stop(self, reason: str) -> None:
        """Kills the process because the worker ends; the attempt is reported lost for that reason."""
        if self.slot is not None and self.attempt is not None:
            self.attempt.stop_reason = reason
            self.slot.kill()

    def discard(self) -> None:
        """Kills the process of an attempt whose token is not valid any more."""
        if self.slot is not None and self.attempt is not None:
            self.attempt.is_discarded = True
            self.slot.kill()

    def freeze(self) -> None:
        """Stops the process while it has an attempt."""
        if self.slot is not None and self.attempt is not None and not self.attempt.is_frozen:
            self.attempt.is_frozen = True
            self.slot.freeze()

    def thaw(self) -> None:
        """Lets a frozen process go on."""
        if self.slot is not None and self.attempt is not None and self.attempt.is_frozen:
            self.attempt.is_frozen = False
            self.slot.thaw()

    def _kill_after(self, delay_s: float, slot: Slot) -> None:
        self._stop_timer()
        self._kill_timer = asyncio.get_running_loop().call_later(delay_s, slot.kill)

    def _stop_timer(self) -> None:
        if self._kill_timer is not None:
            self._kill_timer.cancel()
            self._kill_timer = None


def _assign(attempt: Attempt) -> Assign:
    return Assign(
        task_id=attempt.task_id,
        kind=attempt.kind,
        epoch=attempt.token[0],
        index=attempt.token[1],
        attempt_number=attempt.number,
        mode=attempt.mode,
        gpus=attempt.gpus,
        payload=attempt.payload,
    )


async def _end_of(slot: Slot) -> str:
    """Waits for the end of a process whose socket has closed; kills it when it does not come."""
    try:
        return await asyncio.wait_for(slot.ended(), END_S_MAX)
    except TimeoutError:
        slot.kill()
        return f"{await slot.ended()} after it had closed its socket"
